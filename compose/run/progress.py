"""Live progress: a bar, and the loss taken apart by term."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

console = Console(stderr=True)


def note(text: str) -> None:
    """Says something beside what is drawn, on stderr."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


class Display:
    """A bar over a phase and the last losses below it.

    Args:
        shown: Whether to draw anything.
        live: What draws; none where nothing is shown.
        bar: The bar.
    """

    def __init__(self, shown: bool) -> None:
        self.shown = shown
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self.line = Text("")
        self.live = Live(Group(self.bar, self.line), console=console, refresh_per_second=4) if shown else None
        self.task: Any = None

    def phase(self, title: str) -> None:
        """Starts a new bar."""
        if self.task is not None:
            self.bar.update(self.task, completed=1.0)
        self.task = self.bar.add_task(title, total=1.0)

    def update(self, done: float, values: Mapping[str, float]) -> None:
        """Moves the bar to a share of the budget and shows values in nats per example."""
        if not self.shown:
            return
        self.bar.update(self.task, completed=min(1.0, done))
        if values:
            self.line.plain = "   ".join(f"{name} {value:.2f}" for name, value in values.items())

    def note(self, text: str) -> None:
        """Prints a line above the bar."""
        if self.shown:
            console.print(text, highlight=False)


@contextmanager
def display(shown: bool) -> Iterator[Display]:
    """The display of a training."""
    view = Display(shown)
    if view.live is None:
        yield view
        return
    with view.live:
        yield view


@contextmanager
def counting(title: str, total: int, shown: bool) -> Iterator[Callable[[int], None]]:
    """A bar over a known amount of work; gives a function that is told what was done."""
    if not shown:
        yield lambda done: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda done: bar.advance(task, done)
