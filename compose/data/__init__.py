"""Data sets: examples as codes, with the protocol under which they are scored."""
