"""The figures of a report, each as an SVG that needs nothing beside it."""

from __future__ import annotations

import base64
from collections.abc import Callable
from io import BytesIO
from typing import Any

from compose.ablation.results import Outcome, Results
from compose.ablation.words import unit

Draw = Callable[[Any, Results], bool]

#: Okabe and Ito's colours, which stay apart for colour-blind eyes; the base is black.
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#7F7F7F")

_STYLE: Any = {
    "svg.hashsalt": "compose",
    "font.size": 10,
    "axes.spines.right": False,
    "axes.spines.top": False,
}


def figures(results: Results) -> list[tuple[str, str]]:
    """What can be drawn of these results: a caption and the picture as a data URI each."""
    found = []
    for caption, draw in FIGURES:
        if (picture := _drawn(draw, results)) is not None:
            found.append((caption.format(judged=results.judged_by, base=results.base.label), picture))
    return found


def samples(results: Results) -> list[tuple[str, str]]:
    """The samples of each variant's first training: its label and the picture as a data URI."""
    found = []
    for outcome in results.outcomes:
        if outcome.first is not None and (file := outcome.first.run.path / "figures" / "samples.png").is_file():
            found.append((f"{outcome.label}, seed {outcome.first.seed}", _uri(file.read_bytes(), "png")))
    return found


def _drawn(draw: Draw, results: Results) -> str | None:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        if not draw(figure, results):
            return None
        out = BytesIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    return _uri(out.getvalue(), "svg+xml")


def _uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _colour(results: Results, outcome: Outcome) -> str:
    return COLOURS[results.outcomes.index(outcome) % len(COLOURS)]


def _effects(figure: Any, results: Results) -> bool:
    compared = list(results.effects())
    if not compared:
        return False
    figure.set_size_inches(6.4, 1.2 + 0.45 * len(compared))
    axes = figure.subplots()
    axes.axvline(0, color="black", linewidth=0.8)
    for row, (outcome, effect) in enumerate(reversed(compared)):
        colour = _colour(results, outcome)
        for interval, shift, width in ((effect.seeds, 0.12, 1.2), (effect.examples, -0.12, 3.5)):
            if interval is not None:
                axes.plot(interval, [row + shift] * 2, color=colour, linewidth=width, solid_capstyle="butt")
        axes.plot(list(effect.per_seed.values()), [row + 0.12] * len(effect.per_seed), "|", color=colour, markersize=7)
        axes.plot([effect.value], [row], "o", color=colour, markersize=5)
    axes.set_yticks(range(len(compared)), [outcome.label for outcome, _ in reversed(compared)])
    axes.set_ylim(-0.6, len(compared) - 0.4)
    axes.set_xlabel(f"{_axis(results.judged_by)},\nless that of {results.base.label}")
    return True


def _axis(measure: str) -> str:
    return f"{measure}, {unit(measure).strip()}" if unit(measure) else measure


def _rate(figure: Any, results: Results) -> bool:
    both = [(each, each.view("rate"), each.view("distortion")) for each in results.outcomes if not each.apart]
    found = [(each, rate, cost) for each, rate, cost in both if rate is not None and cost is not None]
    if len(found) < 2:
        return False
    axes = figure.subplots()
    for outcome, rate, distortion in found:
        axes.plot([rate], [distortion], "o", color=_colour(results, outcome), label=outcome.label)
    low, high = axes.get_xlim()
    totals = {round(rate + distortion, 1) for _, rate, distortion in found}
    for total in (min(totals), max(totals)):
        axes.plot([low, high], [total - low, total - high], color="0.8", linewidth=0.8, zorder=0)
    axes.set_xlim(low, high)
    axes.set(xlabel="rate, nats", ylabel="distortion, nats")
    axes.legend(frameon=False, fontsize=8)
    return True


def _quality(figure: Any, results: Results) -> bool:
    measure = "Frechet distance" if results.base.mean("Frechet distance") is not None else results.judged_by
    told = [each for each in results.outcomes if not each.apart and measure not in each.blank]
    both = [(each, each.mean("seconds a sample"), each.mean(measure)) for each in told]
    found = [(each, seconds, value) for each, seconds, value in both if seconds is not None and value is not None]
    if not found or measure == "seconds a sample":
        return False
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes = figure.subplots()
    for outcome, seconds, value in found:
        axes.plot([seconds], [value], "o", color=_colour(results, outcome), label=outcome.label)
    spent = [seconds for _, seconds, _ in found]
    if max(spent) > 10 * min(spent):
        axes.set_xscale("log")
        # Its own labels stand on each other where a decade or two are shown.
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel="seconds a sample, in batches of 500", ylabel=_axis(measure))
    axes.legend(frameon=False, fontsize=8)
    return True


def _curves(figure: Any, results: Results) -> bool:
    axes = figure.subplots()
    for outcome in results.outcomes:
        if outcome.first is None or outcome.apart:
            continue
        steps, values = _validation(outcome.first.run.metrics())
        if values:
            axes.plot(steps, values, marker=".", color=_colour(results, outcome), label=outcome.label)
    if not axes.lines:
        return False
    best = [min(line.get_ydata()) for line in axes.lines]
    late = [line.get_ydata()[len(line.get_ydata()) // 4] for line in axes.lines]
    # The first looks are so much dearer than the last that they would hide everything.
    room = max(*late, *(line.get_ydata()[-1] for line in axes.lines)) - min(best)
    if room > 0:
        axes.set_ylim(min(best) - 0.05 * room, min(best) + 1.1 * room)
    axes.set(xlabel="step", ylabel="validation cost, nats")
    axes.legend(frameon=False, fontsize=8)
    return True


def _validation(lines: list[dict[str, Any]]) -> tuple[list[int], list[float]]:
    """Steps over all phases, and what training selects on there."""
    steps, values, before, last = [], [], 0, (0, 0)
    for line in lines:
        if line["phase"] != last[0]:
            before += last[1]
        last = (line["phase"], line["step"])
        for name in ("validation -ELBO", "validation -ELBO to N(0, I)", "validation distortion"):
            if line.get(name) is not None:
                steps.append(before + line["step"])
                values.append(line[name])
    return steps, values


FIGURES: tuple[tuple[str, Draw], ...] = (
    (
        "What each change does to {judged}, against {base}: the point is the mean over seeds, the thick line 95 % over "
        "test examples, the thin one 95 % over seeds, the ticks single seeds.",
        _effects,
    ),
    ("Distortion against rate; along a grey line -ELBO is the same.", _rate),
    ("Quality against the time that a sample takes.", _quality),
    ("What training is judged by on the validation set: the first seed of each.", _curves),
)
