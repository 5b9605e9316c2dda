"""Lets ``python -m compose`` do what the command ``compose`` does."""

from compose.cli import main

if __name__ == "__main__":
    main()
