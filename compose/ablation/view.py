"""What a folder of cells looks like while it is worked on: a row a variant, a column a seed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from compose.ablation.folder import DEAD, Folder
from compose.recipe.recipe import Recipe
from compose.run.progress import console


@contextmanager
def watching(folder: Folder, shown: bool) -> Iterator[None]:
    """Shows where every cell stands, until the block is left; it reads files, whoever does the work."""
    if not shown:
        yield
        return
    picture = Picture(folder)
    with Live(get_renderable=picture.draw, console=console, refresh_per_second=1, transient=True):
        yield


class Picture:
    """The grid as a table of states.

    Args:
        folder: Of the ablation.
    """

    def __init__(self, folder: Folder) -> None:
        self.folder, self.began = folder, time.monotonic()
        self.recipes = {variant.label: variant.with_seed(0) for variant in folder.plan.variants}
        self.before = sum(folder.record(address) is not None for address, _, _ in folder.plan.cells)
        self.ended: dict[str, str] = {}

    def draw(self) -> Group:
        """The table as things stand now."""
        plan = self.folder.plan
        seeds = sorted({seed for _, _, seed in plan.cells})
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        table.add_column(plan.name, overflow="fold")
        for seed in seeds:
            table.add_column(f"seed {seed}", justify="right")
        states = {(label, seed): self.state(address, label) for address, label, seed in plan.cells}
        for variant in plan.variants:
            table.add_row(variant.label, *(states.get((variant.label, seed), "") for seed in seeds))
        return Group(table, Text(self.summary()))

    def state(self, address: str, label: str) -> str:
        """Where a cell stands, in a word or a number."""
        if address not in self.ended:
            record = self.folder.record(address)
            if record is None:
                return self._at_work(address, label)
            self.ended[address] = "failed" if record["state"] == "failed" else self._scored(address)
        return self.ended[address]

    def summary(self) -> str:
        """How many have ended, and about how long the rest takes."""
        plan = self.folder.plan
        ended = sum(self.folder.record(address) is not None for address, _, _ in plan.cells)
        text = f"{ended} of {len(plan.cells)} cells have ended"
        if (new := ended - self.before) and ended < len(plan.cells):
            left = (time.monotonic() - self.began) / new * (len(plan.cells) - ended)
            text += f"; about {left / 60:.0f} min left" if left > 90 else f"; about {left:.0f} s left"
        return text

    def _scored(self, address: str) -> str:
        scores = self.folder.run(address).scores()
        cost = scores["splits"].get("test", {}).get("-ELBO")
        return "done" if cost is None else f"-ELBO {cost:.2f}"

    def _at_work(self, address: str, label: str) -> str:
        beat = self.folder.beat(address)
        share = progress_of(self.folder, address, self.recipes[label])
        if beat is None or beat["seconds"] > DEAD:
            return f"stopped at {share:.0%}" if share else "·"
        return f"{share:.0%}" if share < 1 else "scoring"


def progress_of(folder: Folder, address: str, recipe: Recipe) -> float:
    """The share of its training that a cell has behind it, by its log."""
    file = folder.cell(address) / "metrics.jsonl"
    try:
        with file.open("rb") as log:
            log.seek(max(0, file.stat().st_size - 4096))
            lines = log.read().decode(errors="replace").split("\n")[1 if log.tell() > 4096 else 0 : -1]
        last = json.loads(lines[-1]) if lines else None
    except (OSError, ValueError):
        return 0.0
    if last is None:
        return 0.0
    phase = recipe.train[last["phase"]]
    if phase.steps is not None:
        here = last["step"] / phase.steps
    else:
        here = (last.get("seconds") or 0.0) / phase.seconds if phase.seconds else 0.0
    return min(1.0, (last["phase"] + min(1.0, here)) / len(recipe.train))
