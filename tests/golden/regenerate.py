"""Writes the golden curves anew: python tests/golden/regenerate.py [RECIPE ...]

A changed number is a break: CHANGELOG.md gives the old value and the new one.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from curves import FILE, curve, golden, names
from rich.console import Console

from compose.core.errors import RecipeError


def main(chosen: list[str]) -> None:
    say, known = Console(soft_wrap=True, highlight=False).print, golden()
    kept = {name: known[name] for name in names() if name in known}
    for name in chosen or names():
        with tempfile.TemporaryDirectory() as folder:
            try:
                found = curve(name, Path(folder))
            except RecipeError as error:
                say(f"{name}: kept as it was\n    {error}")
                continue
        changed = "unchanged" if found == known.get(name) else "changed" if name in known else "new"
        say(f"{name}: {changed}, {found['loss'][0]:.3f} to {found['loss'][-1]:.3f} nats")
        kept[name] = found
    FILE.write_text(json.dumps({name: kept[name] for name in sorted(kept)}, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
