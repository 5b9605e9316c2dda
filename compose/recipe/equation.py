"""The bound that a recipe composes, written out: each term as a formula, by its name in the ledger, with its part."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from compose.core.declare import Part, Slot, in_recipe
from compose.core.kinds import Kind
from compose.core.roles import StagePart
from compose.core.terms import views
from compose.parts.densities.model import Model
from compose.recipe.check import Checked, kind_of

#: What latents are called: those of a model, of a model inside it, and so on. ``u`` is noise, ``y`` the class label.
_LETTERS = "zvwabcdefghijklmnopqrst"


class Formula(NamedTuple):
    """A formula in plain text and in LaTeX."""

    text: str
    latex: str


@dataclass(frozen=True)
class Term:
    """One term of L.

    Args:
        name: Its name in the ledger, as ``evaluate_terms`` returns it: ``z1.minus_log_q``.
        formula: With its sign: ``- log q_normal(z1 | x)``.
        path: Key path of the part it comes from: ``model.stages.0.posterior``.
        part: That part's name in recipes.
        kind: What that part promises there.
    """

    name: str
    formula: Formula
    path: str
    part: str
    kind: Kind | None


@dataclass(frozen=True)
class Equation:
    """A model's log weight as the sum of its terms.

    Args:
        left: What the sum is: ``L``, or the density that a nested model is.
        terms: From the data upward.
        kind: What the sum promises.
        where: The equations of models that stand inside as priors or likelihoods.
    """

    left: Formula
    terms: tuple[Term, ...]
    kind: Kind
    where: tuple[Equation, ...] = ()

    @property
    def text(self) -> str:
        """``L = log p_categorical(x | z1) - log q_normal(z1 | x) + log p_normal(z1)``."""
        return f"{self.left.text} = {_sum(term.formula.text for term in self.terms)}"

    @property
    def latex(self) -> str:
        """The same, for a paper."""
        return f"{self.left.latex} = {_sum(term.formula.latex for term in self.terms)}"

    @property
    def views(self) -> dict[str, list[str]]:
        """The terms of ``distortion`` and of each ``rate``, by name; with a minus sign these costs sum to ``-L``."""
        return views([term.name for term in self.terms])


def equation(checked: Checked) -> Equation:
    """The bound of a recipe that was checked and has no fault."""
    return _equation(checked.recipe.model, checked.slot, "model", Formula("L", "L"), "x", ())


def latent(depth: int, i: int) -> str:
    """What the item above stage ``i`` is called in a model that stands in ``depth`` others."""
    return f"{_LETTERS[depth % len(_LETTERS)]}{i}"


def _equation(
    model: Model, slot: Slot, path: str, left: Formula, x: str, given: tuple[str, ...], depth: int = 0
) -> Equation:
    """The equation of a model at ``path`` whose datum is called ``x``; ``given`` is what conditions it.

    Without terms where the model has no likelihood.
    """
    if model.kind(slot) is Kind.NONE:
        return Equation(left, (), Kind.NONE)
    found = list(_terms(model, slot, path, x, given, depth))
    where = tuple(inner for _, inner in found if inner is not None)
    return Equation(left, tuple(term for term, _ in found), model.kind(slot), where)


def _terms(
    model: Model, slot: Slot, path: str, x: str, given: tuple[str, ...], depth: int
) -> Iterator[tuple[Term, Equation | None]]:
    """Every term, from the data upward, with the equation of a model that it is made of."""
    below, edge = x, "x"
    for i, (key, (part, place)) in enumerate(model.nested(slot).items(), 1):
        at = f"{path}.{key}"
        if not isinstance(part, StagePart):
            yield _density(f"{edge}.log_prior", part, place, at, below, given, _label(part, place), depth)
            return
        above = latent(depth, i)
        # A stage that draws noise and then maps it: the noise is what it draws, and what its log-det is of.
        drawn = f"u{above[1:]}" if {"minus_log_q", "log_det"} <= part.terms().keys() else above
        label = _label(part, place)
        for name, key_of_source in part.terms().items():
            source, there = part.nested(place)[key_of_source] if key_of_source else (part, place)
            where = in_recipe(f"{at}.{key_of_source}" if key_of_source else at)
            level, _, term = name.rpartition(".")
            higher = [*(f"{above}.{each}" for each in _levels(part) if each > int(level or 0)), above]
            if term == "log_likelihood":
                what, of = (f"z{i}.{level}", f"{above}.{level}") if level else (edge, below)
                higher = higher[:1] if part.markov else higher
                yield _density(f"{what}.{term}", source, there, where, of, (*higher, *label), (), depth)
                continue
            if term == "minus_log_q":
                of, known = (f"{above}.{level}", [below, *higher]) if level else (drawn, [below])
                if part.markov:
                    lower = [each for each in _levels(part) if not level or each < int(level)]
                    known = [f"{above}.{lower[-1]}" if lower else below]
                formula = _log_q(source, of, (*known, *label))
            else:
                formula = _log_det(above, drawn, below)
            yield Term(f"z{i}.{name}", formula, where, source.type, kind_of(source, there)), None
        below, edge = above, f"z{i}"


def _levels(part: StagePart) -> list[int]:
    """The edges that a stage draws inside, counted from below."""
    return sorted({int(name.split(".")[0]) for name in part.terms() if "." in name})


def _density(
    name: str, part: Part, slot: Slot, path: str, x: str, given: tuple[str, ...], label: tuple[str, ...], depth: int
) -> tuple[Term, Equation | None]:
    """The log-probability of ``x``, and where a model gives it, that model's own equation.

    What is ``given`` conditions all of a model; its ``label`` only those parts inside that take it.
    """
    formula = _log("p", part, x, (*given, *label))
    inner = _equation(part, slot, path, formula, x, given, depth + 1) if isinstance(part, Model) else None
    return Term(name, formula, path, part.type, kind_of(part, slot)), inner


def _log_q(part: Part, z: str, given: tuple[str, ...]) -> Formula:
    formula = _log("q", part, z, given)
    return Formula(f"- {formula.text}", f"- {formula.latex}")


def _log_det(above: str, drawn: str, below: str) -> Formula:
    bottom = below if drawn == above else drawn
    ratio = rf"\frac{{\partial {_symbol(above)}}}{{\partial {_symbol(bottom)}}}"
    return Formula(f"log|det d{above}/d{bottom}|", rf"\log\left|\det {ratio}\right|")


def _log(letter: str, part: Part, x: str, given: tuple[str, ...]) -> Formula:
    bar, tall = (f" | {', '.join(given)}", rf" \mid {', '.join(map(_symbol, given))}") if given else ("", "")
    name = part.type.replace("_", r"\_")
    return Formula(f"log {letter}_{part.type}({x}{bar})", rf"\log {letter}_{{\mathrm{{{name}}}}}({_symbol(x)}{tall})")


def _label(part: Part, slot: Slot) -> tuple[str, ...]:
    """The class label, where the part takes it, or of a model a part inside it."""
    if isinstance(part, Model):
        return ("y",) if any(_label(*inner) for inner in part.nested(slot).values()) else ()
    return ("y",) if slot.labels is not None and getattr(part, "labels", False) else ()


def _symbol(variable: str) -> str:
    return variable if len(variable) == 1 else f"{variable[0]}_{{{variable[1:]}}}"


def _sum(formulas: Iterator[str]) -> str:
    first, *rest = formulas
    return " ".join([first, *(each if each.startswith("- ") else f"+ {each}" for each in rest)])
