"""Starts a part of one's own: a file that declares it and already works, and its test."""

from __future__ import annotations

import keyword
import re
from pathlib import Path
from string import Template

from compose.core import registry
from compose.core.errors import ComposeError

_TEMPLATES = Path(__file__).with_name("templates")
ROLES = ("density", "stage", "net", "quantizer", "objective")


def scaffold(name: str, role: str = "density", out: str | Path | None = None) -> tuple[Path, Path]:
    """Writes a plugin that declares a part, and beside it a test that runs the contracts of its role.

    Args:
        name: What recipes will call the part: lower case, ``my_prior``.
        role: What it is: density, stage, net, quantizer or objective.
        out: The plugin's file; ``NAME.py`` in the current folder by default.

    Returns:
        The plugin and its test.

    Raises:
        ComposeError: the name is no name or is taken, the role is unknown, or a file exists already.
    """
    if role not in ROLES:
        raise ComposeError(f"There is no scaffold for the role {role!r}; wanted one of {', '.join(ROLES)}.")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise ComposeError(f"{name!r} cannot name a part; wanted lower-case letters, digits and '_', as in my_prior.")
    if name in registry.names(role):
        raise ComposeError(f"There is a {role} called {name!r} already; choose another name.")
    plugin = Path(f"{name}.py" if out is None else out)
    test = plugin.with_name(f"test_{plugin.stem}.py")
    if plugin.suffix != ".py":
        raise ComposeError(f"{plugin} does not end in .py; wanted a Python file.")
    for file in (plugin, test):
        if file.exists():
            raise ComposeError(f"{file} exists already; choose another --out.")
    words = {"name": name, "Name": _camel(name), "role": role, "file": plugin.name}
    for file, template in ((plugin, role), (test, "test")):
        text = Template((_TEMPLATES / f"{template}.txt").read_text(encoding="utf-8")).substitute(words)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        except OSError as error:
            raise ComposeError(f"{file} cannot be written: {error.strerror}.") from error
    return plugin, test


def _camel(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))
