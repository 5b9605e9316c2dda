"""Writes the page of five families, five problems and six answers, in English and in French, with its figures.

    python docs/answers/answers.py                     the pages, from docs/answers/results.json
    python docs/answers/answers.py --collect FOLDER    first the results, from the finished ablations in FOLDER

Tables, figures and what sentences quote of a variant come from ``results.json``, which holds nothing but what the
ablations found. What a sentence claims of them is required where it stands, ``{{ require(...) }}``: with results that
say otherwise no page is written. Typed by hand are what a question sets (steps, seconds, codes), and what was measured
elsewhere: longer trainings, of the pages linked there; scores of training images, by ``compose evaluate --split train``
of those cells; points spread evenly beside modes, by tests/run/test_rivals.py; one question on a slower machine.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
DOCS = HERE.parent
RESULTS = HERE / "results.json"
#: Language -> where its page goes, and the way from there to the figures.
PAGES = {"en": ("five-families.md", "figures"), "fr": ("fr/cinq-familles.md", "../figures")}
QUESTIONS = (
    "prior",
    "fashion-prior",
    "posterior",
    "invertible",
    "adversarial",
    "adversarial_stacked",
    "autoregressive",
    "fashion-autoregressive",
    "mhvae",
)
#: Questions whose samples are shown: the variants that are set above each other.
SAMPLES = {"adversarial": ("model=GAN, lr=3e-3", "model=paired and regularised, lr=3e-3", "model=VAE-GAN, lr=3e-3")}

VIEWS = ("distortion", "rate")
COLOURS = {"lower": "#0072B2", "higher": "#D55E00", "not shown": "0.5"}

COST = "`{command}`: {cells} trainings, {minutes} minutes of one thread in all"

Record = dict[str, Any]


def collect(folder: Path) -> Record:
    """What the finished ablations in a folder found, by question and variant.

    Raises:
        SystemExit: one of them is not finished.
    """
    from compose.ablation.folder import Folder
    from compose.ablation.results import results_of

    found: Record = {}
    for name in QUESTIONS:
        if not (folder / name).is_dir():
            continue
        results = results_of(Folder(folder / name))
        if results.missing:
            raise SystemExit(f"{folder / name} is not finished: {len(results.missing)} trainings are missing.")
        found[name] = {
            "command": results.plan.command,
            "base": results.base.label,
            "measure": results.judged_by,
            "cells": len(results.plan.cells),
            "seconds": round(sum(each.own_seconds for out in results.outcomes for each in out.scored.values())),
            "variants": {outcome.label: _variant(outcome) for outcome in results.outcomes},
        }
    return found


def _variant(outcome: Any) -> Record:
    from compose.ablation.measure import MEASURES

    assert not outcome.failed, f"{outcome.label}: {outcome.failed}"
    numbers = {name: _rounded((outcome.mean(name), outcome.spread(name))) for name in MEASURES}
    first = outcome.first.scores["measures"]
    return {
        "values": outcome.planned.values,
        "kind": str(outcome.first.kind),
        "numbers": {name: pair for name, pair in numbers.items() if pair[0] is not None},
        **{view: _rounded([outcome.view(view)])[0] for view in VIEWS},
        "calls": (first.get("sampling") or {}).get("network evaluations"),
        "warned": f"{len(outcome.warned)} / {len(outcome.scored)}",
        "K": outcome.first.split.get("K"),
        "steps": round(sum(map(_steps, outcome.scored.values())) / len(outcome.scored)),
        "closed form": outcome.planned.closed_form,
        "parameters": outcome.planned.parameters,
        "effects": {
            name: {
                "value": _rounded([effect.value])[0],
                "examples": effect.examples and _rounded(effect.examples),
                "seeds": effect.seeds and _rounded(effect.seeds),
                "direction": effect.direction,
            }
            for name, effect in outcome.effects.items()
        },
    }


def _steps(scored: Any) -> int:
    """Steps of all phases of a training."""
    ends = {line["phase"]: line["step"] for line in scored.run.metrics()}
    return sum(ends.values())


def _rounded(values: Any) -> list[Any]:
    return [None if value is None else float(f"{value:.8g}") for value in values]


@dataclass(frozen=True)
class Language:
    """How a language says numbers and findings.

    Args:
        code: Its name.
        point: Between whole and parts.
        thousands: Between thousands.
        comma: Between the two ends of an interval.
        words: English word or label -> what stands for it.
    """

    code: str
    point: str = "."
    thousands: str = ","
    comma: str = ", "
    words: Mapping[str, str] = field(default_factory=dict)

    def word(self, text: str) -> str:
        """What stands for a word or label."""
        return self.words.get(text, text)

    def number(self, value: float | None, digits: int = 2, signed: bool = False) -> str:
        """A number as the language writes it; empty for none."""
        return "" if value is None else f"{value:{'+' if signed else ''}.{digits}f}".replace(".", self.point)

    def interval(self, ends: list[float] | None, digits: int = 2) -> str:
        """``[low, high]``; empty for none."""
        return "" if ends is None else "[" + self.comma.join(self.number(end, digits, True) for end in ends) + "]"


ENGLISH = Language("en")
FRENCH = Language(
    "fr",
    ",",
    "\N{NARROW NO-BREAK SPACE}",
    " ; ",
    {
        "variant": "variante",
        "effect": "effet",
        "over examples": "sur les exemples",
        "over seeds": "sur les graines",
        "finding": "constat",
        "lower": "plus bas",
        "higher": "plus haut",
        "not shown": "non établi",
        "base": "référence",
        "exact": "exacte",
        "weight": "poids",
        "subweight": "sous-poids",
        "bound": "borne",
        "none": "aucune",
        COST: "`{command}` : {cells} entraînements, {minutes} minutes d'un fil en tout",
        "L is": "L est",
        "distortion": "distorsion",
        "rate": "débit",
        "parameters": "paramètres",
        "steps": "pas",
        "modes found": "modes trouvés",
        "high quality": "près d'un mode",
        "reverse KL": "KL inverse",
        "Frechet distance": "distance de Fréchet",
        "microseconds a sample": "microsecondes par échantillon",
        "calls a sample": "appels par échantillon",
        "seeds with a warning": "graines avec avertissement",
        "closed-form KL": "KL en forme close",
        "yes": "oui",
        "no": "non",
        "less that of": "écart avec",
        "normal": "normale",
        "mixture": "mélange",
        "mixture (components 32)": "mélange de 32",
        "vamp (components 100)": "vamp de 100",
        "flow (layers 4)": "flot de 4 couches",
        "flow": "flot",
        "normal q, normal p": "q normale, p normale",
        "flow q, normal p": "q flot, p normale",
        "normal q, flow p": "q normale, p flot",
        "flow q, flow p": "q flot, p flot",
        "ladder": "échelle",
        "flow on pixels": "flot sur les pixels",
        "of half the depth": "deux fois moins profond",
        "of twice the depth": "deux fois plus profond",
        "augmented": "augmenté",
        "flow inside a VAE": "flot dans un VAE",
        "paired and regularised": "apparié et régularisé",
        "masked codes": "codes masqués",
        "one by one": "un par un",
        "in any order": "dans un ordre quelconque",
        "learned, T=2": "appris, T = 2",
        "learned, T=4": "appris, T = 4",
        "learned, T=8": "appris, T = 8",
        "fixed, T=4": "fixe, T = 4",
        "fixed, T=16": "fixe, T = 16",
        "fixed, T=64": "fixe, T = 64",
        "fixed, T=64, a U-Net": "fixe, T = 64, U-Net",
    },
)
LANGUAGES = {each.code: each for each in (ENGLISH, FRENCH)}


@dataclass(frozen=True)
class Page:
    """What a page may say.

    Args:
        results: Of the ablations.
        language: Of the page.
        figures: The way from the page to the figures.
    """

    results: Record
    language: Language
    figures: str

    def variant(self, name: str, label: str) -> Record:
        """The record of a variant."""
        return self.results[name]["variants"][label]

    def named(self, name: str, label: str) -> str:
        """A variant by its values: that of the first axis, and of the others with their names."""
        first, *more = self.variant(name, label)["values"].items()
        return ", ".join([self.language.word(first[1]), *(f"{axis} {value}" for axis, value in more)])

    def value(self, name: str, label: str, measure: str = "", digits: int = 2) -> str:
        """A number of a variant, with its standard deviation over seeds."""
        if measure in VIEWS:
            return self.language.number(self.variant(name, label)[measure], digits)
        mean, spread = self.variant(name, label)["numbers"][measure or self.results[name]["measure"]]
        said = self.language.number(mean, digits)
        return said if spread is None else f"{said} ± {self.language.number(spread, digits)}"

    def micro(self, name: str, label: str) -> str:
        """Microseconds that a sample takes."""
        return self.language.number(1e6 * self.variant(name, label)["numbers"]["seconds a sample"][0], 0)

    def steps(self, name: str, label: str) -> str:
        """Steps of its training, the mean over seeds."""
        return f"{self.variant(name, label)['steps']:,}".replace(",", self.language.thousands)

    def calls(self, name: str, label: str) -> str:
        """Calls of networks that a sample takes."""
        return str(self.variant(name, label)["calls"])

    def effect(self, name: str, label: str, measure: str = "") -> str:
        """What a change did, with its intervals."""
        measure = measure or self.results[name]["measure"]
        found, word, digits = self.variant(name, label)["effects"][measure], self.language.word, _digits(measure)
        over = [
            f"{self.language.interval(found[key], digits)} {word(said)}"
            for key, said in (("examples", "over examples"), ("seeds", "over seeds"))
            if found[key] is not None
        ]
        nats = " nats" if measure in ("-ELBO", "NLL") else ""
        return f"{self.language.number(found['value'], digits, True)}{nats} ({self.language.comma.join(over)})"

    def require(self, name: str, label: str, direction: str, measure: str = "") -> str:
        """Requires the direction that a sentence claims; nothing is written.

        Raises:
            ValueError: the results say otherwise.
        """
        measure = measure or self.results[name]["measure"]
        came = self.variant(name, label)["effects"][measure]["direction"]
        if came != direction:
            raise ValueError(f"{name}, {label}: the page says {direction} of {measure}, the results say {came}")
        return ""

    def above(self, name: str, measure: str, *labels: str) -> str:
        """Requires that the means of a measure or view fall from each label to the next; nothing is written.

        Raises:
            ValueError: the results say otherwise.
        """
        variants = [self.variant(name, label) for label in labels]
        means = [each[measure] if measure in VIEWS else each["numbers"][measure][0] for each in variants]
        if any(one <= other for one, other in pairwise(means)):
            raise ValueError(f"{name}: {measure} of {', '.join(labels)} does not fall: {means}")
        return ""

    def table(self, name: str, *columns: str) -> str:
        """The table of a question: each variant with its effect, and further columns."""
        of, word = self.results[name], self.language.word
        measure, nats = of["measure"], ", nats"
        heads = ["variant", "L is", measure, "effect", "over examples", "over seeds", "finding", *columns]
        rows = []
        for label, variant in of["variants"].items():
            effect = variant["effects"].get(measure, {})
            digits = _digits(measure)
            base = f" ({word('base')})" if label == of["base"] else ""
            row = [
                self.named(name, label) + base,
                word(variant["kind"]),
                self.value(name, label, digits=digits) if measure in variant["numbers"] else "",
                self.language.number(effect.get("value"), digits, True),
                self.language.interval(effect.get("examples"), digits),
                self.language.interval(effect.get("seeds"), digits),
                word(effect.get("direction", "")),
                *(self._column(name, label, column) for column in columns),
            ]
            rows.append(row)
        kept = [i for i in range(len(heads)) if any(row[i] for row in rows)]
        said = [self._draws(name, word(head)) + (nats if head in ("-ELBO", "NLL") else "") for head in heads]
        lines = [said, ["---"] * len(heads), *rows]
        return "\n".join("| " + " | ".join(line[i] for i in kept) + " |" for line in lines)

    def _draws(self, name: str, head: str) -> str:
        """The head of a column; of NLL with how many draws of each example it was estimated from."""
        variants = self.results[name]["variants"].values() if head == "NLL" else ()
        counts = {
            each["K"] for each in variants if each.get("K") and each["kind"] != "exact" and "NLL" in each["numbers"]
        }
        return f"{head}(K = {', '.join(map(str, sorted(counts)))})" if counts else head

    def _column(self, name: str, label: str, column: str) -> str:
        variant, number = self.variant(name, label), self.language.number
        if column == "microseconds a sample":
            return self.micro(name, label)
        if column == "calls a sample":
            return self.calls(name, label)
        if column == "steps":
            return self.steps(name, label)
        if column in VIEWS:
            return number(variant[column])
        if column == "seeds with a warning":
            return variant["warned"]
        if column == "closed-form KL":
            return self.language.word(variant["closed form"])
        if column == "parameters":
            return f"{variant['parameters']:,}".replace(",", self.language.thousands)
        return self.value(name, label, column, _digits(column)) if column in variant["numbers"] else ""

    def figure(self, name: str, said: str) -> str:
        """The figure of a question's effects."""
        return f"![{said}]({self.figures}/answers-{name}-{self.language.code}.svg)"

    def cost(self, name: str) -> str:
        """The command of a question with what it took: trainings, and minutes of one thread in all of them."""
        of = self.results[name]
        minutes = self.language.number(of["seconds"] / 60, 0)
        return self.language.word(COST).format(command=of["command"], cells=of["cells"], minutes=minutes)

    def text(self) -> str:
        """The page."""
        from jinja2 import Environment, StrictUndefined

        pages = Environment(undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
        template = (HERE / f"{self.language.code}.md.jinja").read_text(encoding="utf-8")
        known = ("value", "micro", "steps", "calls", "effect", "require", "above", "table", "figure", "cost")
        given = {"figures": self.figures, "questions": QUESTIONS}
        return pages.from_string(template).render(given, **{name: getattr(self, name) for name in known})

    def draw(self, name: str, file: Path) -> None:
        """Draws what each change did to the measure that decides, with its intervals."""
        import matplotlib
        from matplotlib.figure import Figure

        of, word = self.results[name], self.language.word
        measure, digits = of["measure"], _digits(of["measure"])
        shown = [(label, each["effects"].get(measure)) for label, each in of["variants"].items()]
        rows = [(label, effect) for label, effect in shown if effect is not None]
        with matplotlib.rc_context({"svg.hashsalt": "answers", "svg.fonttype": "none", "font.size": 10}):
            figure = Figure(figsize=(7.2, 0.9 + 0.4 * len(rows)), layout="constrained")
            axes = figure.subplots()
            axes.axvline(0, color="black", linewidth=0.8)
            for row, (_, effect) in enumerate(reversed(rows)):
                colour = (
                    "0.5" if effect["direction"] == "not shown" else "#0072B2" if effect["value"] < 0 else "#D55E00"
                )
                for key, width in (("seeds", 1.2), ("examples", 4.0)):
                    if effect[key] is not None:
                        axes.plot(effect[key], [row, row], color=colour, linewidth=width, solid_capstyle="butt")
                axes.plot([effect["value"]], [row], "o", color=colour, markersize=5)
                said = self.language.number(effect["value"], digits, True)
                axes.annotate(said, (effect["value"], row), (0, 6), textcoords="offset points", ha="center", fontsize=8)
            axes.set_yticks(range(len(rows)), [self.named(name, label) for label, _ in reversed(rows)])
            axes.set_ylim(-0.5, len(rows) - 0.2)
            axes.spines[["top", "right"]].set_visible(False)
            nats = ", nats" if measure in ("-ELBO", "NLL") else ""
            axes.set_xlabel(f"{word(measure)}{nats}, {word('less that of')} {self.named(name, of['base'])}")
            figure.savefig(file, metadata={"Date": None})


def _digits(measure: str) -> int:
    return {"modes found": 1, "Frechet distance": 2}.get(measure, 2)


def one_above_the_other(folder: Path, name: str, file: Path) -> None:
    """The samples of some variants' first trainings, one above the other."""
    from matplotlib.figure import Figure
    from matplotlib.image import imread

    from compose.ablation.folder import Folder

    labels, asked = SAMPLES[name], Folder(folder / name)
    figure = Figure(figsize=(6.0, 2.2 * len(labels)), layout="constrained")
    for axes, label in zip(figure.subplots(len(labels)), labels, strict=True):
        address = next(address for address, each, _ in asked.plan.cells if each == label)
        axes.imshow(imread(asked.cell(address) / "figures" / "samples.png"))
        variant = next(each for each in asked.plan.variants if each.label == label)
        axes.set_title(next(iter(variant.values.values())), fontsize=10)
        axes.axis("off")
    figure.savefig(file, dpi=100)


def main() -> None:
    """Collects where asked to, and writes both pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collect", metavar="FOLDER", type=Path, help="where the ablations lie, as runs/ablations")
    parser.add_argument("--to", metavar="DIR", type=Path, default=DOCS, help="where the pages go; docs by default")
    given = parser.parse_args()
    figures = given.to / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    if given.collect:
        # A question that was not asked anew keeps its answer.
        anew = collect(given.collect)
        answers = json.loads(RESULTS.read_text(encoding="utf-8")) | anew
        RESULTS.write_text(json.dumps(answers, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        for name in SAMPLES.keys() & anew.keys():
            one_above_the_other(given.collect, name, figures / f"answers-{name}.png")
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    for code, (file, way) in PAGES.items():
        page = Page(results, LANGUAGES[code], way)
        (given.to / file).parent.mkdir(parents=True, exist_ok=True)
        (given.to / file).write_text(page.text(), encoding="utf-8")
        for name in QUESTIONS:
            page.draw(name, figures / f"answers-{name}-{code}.svg")


if __name__ == "__main__":
    main()
