"""The recipes that come with compose, by name."""

from __future__ import annotations

import re
from difflib import get_close_matches
from pathlib import Path, PurePath

from compose.core.errors import Fault, RecipeError

_PACKAGE = Path(__file__).resolve().parent.parent
_ABLATIONS = "ablations"


def recipes_root() -> Path:
    """The folder of shipped recipes: inside the installed package, else at the top of a checkout."""
    packaged = _PACKAGE / "_recipes"
    return packaged if packaged.is_dir() else _PACKAGE.parent / "recipes"


def shipped() -> list[str]:
    """Names of the shipped recipes, ``vae`` or ``fashion/vae``, sorted; ablations are not among them."""
    root = recipes_root()
    names = (path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.yaml"))
    return sorted(name for name in names if not name.startswith(f"{_ABLATIONS}/"))


def find(name: str) -> Path | None:
    """The file of a shipped recipe, its name written with or without ``.yaml``; none outside the folder of recipes."""
    root = recipes_root()
    path = root / (name if name.endswith(".yaml") else f"{name}.yaml")
    try:
        if ".." in PurePath(name).parts or not path.is_file():
            return None
        return path if path.resolve().is_relative_to(root.resolve()) else None
    except (OSError, ValueError):  # a name too long for the file system, or with a null character in it
        return None


def closest(ref: str) -> list[str]:
    """Up to three names of shipped recipes that ``ref`` may have meant, the likeliest first."""
    name = ref.removesuffix(".yaml").removeprefix("recipes/")
    names = shipped()
    near = [*get_close_matches(name, names, cutoff=0.5), *get_close_matches(PurePath(name).name, names, cutoff=0.5)]
    return list(dict.fromkeys(near))[:3]


def header(path: str | Path) -> dict[str, str]:
    """What the first line of a recipe says of it.

    Returns:
        ``command``, the line up to the first wide gap, where it calls compose; ``note``, the rest: time and score.
        Empty where nothing is said.

    Raises:
        RecipeError: the file cannot be read.
    """
    try:
        with Path(path).open(encoding="utf-8", errors="replace") as file:
            line = file.readline(1000)
    except (OSError, ValueError) as error:
        raise RecipeError([Fault("", f"The recipe cannot be read: {error}.", where=str(path))]) from error
    said = line.strip().lstrip("#").strip() if line.startswith("#") else ""
    if not said.startswith("compose "):
        return {"command": "", "note": said}
    command, _, note = re.sub(r"\s{2,}", "\n", said).partition("\n")
    return {"command": command, "note": re.sub(r"\s+", " ", note)}
