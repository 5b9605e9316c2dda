"""What commands share: arguments, options, and how tables are printed."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import RenderableType


def _load_plugins(files: list[Path] | None) -> list[Path] | None:
    if files:
        from compose.core.registry import load_plugin

        for file in files:
            load_plugin(file)
    return files


RecipeRef = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe file, or the name of a shipped recipe.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="PATH=VALUE", help="Changes, as in model.prior=flow or train.0.steps=100."),
]
RunRef = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]
Plugins = Annotated[
    list[Path] | None,
    typer.Option("--plugin", metavar="FILE", callback=_load_plugins, help="A Python file that declares parts."),
]

Threads = Annotated[int | None, typer.Option("--threads", help="Threads of a process on the CPU.")]
Accelerator = Annotated[str, typer.Option("--accelerator", help="cpu, gpu or auto.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Draw no progress.")]

#: Wide enough for a key path beside a sentence, where no terminal says how wide it is.
WIDTH = 160


def show(*renderables: RenderableType) -> None:
    """Prints to stdout, as wide as the terminal; square brackets are no markup."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False, markup=False, emoji=False)
    with console.capture() as captured:
        for each in renderables:
            console.print(each, soft_wrap=isinstance(each, str))
    # Tables are padded to their width, which would wrap in a narrower window and litter a file.
    typer.echo("\n".join(line.rstrip() for line in captured.get().split("\n")), nl=False)


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str] = ()) -> RenderableType:
    """A plain table; columns named in ``right`` hold numbers."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", show_header=any(headers))
    for header in headers:
        made.add_column(header, justify="right" if header in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*row)
    return made
