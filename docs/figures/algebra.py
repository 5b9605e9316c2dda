"""Draws the picture of docs/algebra.md: ``python docs/figures/algebra.py [FILE.svg]``."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

INK, QUIET, STAGE, PRIOR = "#1d2730", "#66717c", "#dce8f3", "#f3e6d3"
DISTORTION, RATE = "#a63d2f", "#2c6e91"

#: Where each edge stands, its name and its space.
EDGES = ((0.0, "$x = z_0$", "Codes"), (4.0, "$z_1$", "Real"), (8.0, "$z_2$", "Real"))
#: Where each box stands, and what is in it.
BOXES = ((2.0, "latent", "stage 1", STAGE), (6.0, "bijection", "stage 2", STAGE), (10.0, "normal", "prior", PRIOR))
#: Where each term stands, in the order of the ledger, with the view that it belongs to.
TERMS = (
    (0.95, r"$\log p(x \mid z_1)$", DISTORTION),
    (2.95, r"$-\;\log q(z_1 \mid x)$", RATE),
    (6.0, r"$+\;\log\,\left|\det\,dz_2/dz_1\right|$", RATE),
    (10.0, r"$+\;\log p(z_2)$", RATE),
)


def draw() -> Figure:
    """The stack ``[latent, bijection], normal``: edges, stages, prior, and what each adds to L."""
    figure = Figure(figsize=(9.2, 3.0))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-1.1, 11.3), ylim=(-2.35, 1.7))
    axes.axis("off")
    for at, name, space in EDGES:
        axes.plot([at], [0.3], "o", color=INK, markersize=8)
        axes.text(at, 0.72, name, ha="center", color=INK, fontsize=14)
        axes.text(at, -0.2, space, ha="center", color=QUIET, fontsize=10)
    for at, name, place, colour in BOXES:
        _box(axes, at, name, place, colour)
    for left in (0.0, 2.0, 4.0, 6.0, 8.0):
        _arrows(axes, left, left + 2.0)
    for at, text, colour in TERMS:
        axes.text(at, -1.2, text, ha="center", va="center", color=colour, fontsize=13)
    axes.text(-0.9, -1.2, "$L\\;=$", color=INK, fontsize=14, va="center")
    axes.text(5.0, 1.4, "up, inference: each step adds its terms", ha="center", color=INK, fontsize=11)
    _legend(axes)
    return figure


def _box(axes: Axes, at: float, name: str, place: str, colour: str) -> None:
    box = FancyBboxPatch((at - 0.75, -0.25), 1.5, 1.1, "round,pad=0.08", facecolor=colour, edgecolor=INK, linewidth=1)
    axes.add_patch(box)
    axes.text(at, 0.5, name, ha="center", va="center", color=INK, fontsize=12)
    axes.text(at, 0.06, place, ha="center", va="center", color=QUIET, fontsize=10)
    axes.plot([at, at], [-0.45, -0.9], color=QUIET, linewidth=0.9, linestyle=":")


def _arrows(axes: Axes, left: float, right: float) -> None:
    """Up above and down below, between an edge and a box."""
    start, end = (left + 0.2, right - 0.9) if left % 4 == 0 else (left + 0.9, right - 0.2)
    axes.annotate("", (end, 0.42), (start, 0.42), arrowprops={"arrowstyle": "-|>", "color": INK})
    axes.annotate("", (start, 0.18), (end, 0.18), arrowprops={"arrowstyle": "-|>", "color": QUIET, "linestyle": "--"})


def _legend(axes: Axes) -> None:
    axes.text(-0.9, -2.0, "distortion: minus this", color=DISTORTION, fontsize=11, va="center")
    axes.text(2.35, -2.0, "rate of $z_1$: minus these", color=RATE, fontsize=11, va="center")
    axes.text(11.1, -2.0, "dashed: down, generation", color=QUIET, fontsize=11, va="center", ha="right")


def main() -> None:
    """Writes the picture beside this script, or where the first argument says."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_suffix(".svg")
    metadata = {"Date": None} if path.suffix == ".svg" else None
    # Letters as outlines look the same everywhere; a fixed salt and no date make two drawings of one script equal.
    with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": "compose", "mathtext.fontset": "stix"}):
        draw().savefig(path, format=path.suffix.removeprefix("."), facecolor="white", metadata=metadata)


if __name__ == "__main__":
    main()
