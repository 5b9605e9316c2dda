"""What an ablation set out to do, as its folder remembers it."""

from __future__ import annotations

from dataclasses import dataclass

from compose.ablation.grid import Grid
from compose.core.kinds import Kind
from compose.core.meta import without_memory
from compose.recipe.build import build_model
from compose.recipe.changes import changes
from compose.recipe.check import Checked, check_declared, check_tree
from compose.recipe.equation import equation
from compose.recipe.recipe import Recipe
from compose.recipe.text import parse_text
from compose.recipe.write import to_yaml


@dataclass(frozen=True)
class Planned:
    """A variant as its folder remembers it.

    Args:
        label: What tables call it.
        values: The label of its value on each axis; empty for a base beside the grid.
        recipe: Its recipe, as YAML.
        changes: The key paths at which it differs from the base, with both values.
        equation: The bound it composes; empty where there is no likelihood.
        parameters: How many numbers its model trains.
        flops: Of ``log_prob`` of one example, or of one sample where there is no likelihood.
        closed_form: Whether the KL to its prior has a closed form, ``yes`` or ``no``; empty where there is no latent.
    """

    label: str
    values: dict[str, str]
    recipe: str
    changes: list[list[str]]
    equation: str
    parameters: int
    flops: int
    closed_form: str = ""

    def with_seed(self, seed: int) -> Recipe:
        """What one of its trainings trains."""
        return check_tree(parse_text(self.recipe, self.label)).recipe.model_copy(update={"seed": seed})


def planned(label: str, values: dict[str, str], recipe: Recipe, base: Recipe, parameters: int, flops: int) -> Planned:
    """A variant, with its differences from the base and the bound that it composes."""
    differ = [list(change) for change in changes(base, recipe)]
    checked = check_declared(recipe)
    found = equation(checked)
    written = "" if found.kind is Kind.NONE else found.text
    return Planned(label, values, to_yaml(recipe, full=True), differ, written, parameters, flops, _closed_form(checked))


@dataclass(frozen=True)
class Plan:
    """What an ablation set out to do.

    Args:
        name: What it is called.
        question: What is asked.
        of: The recipe that the base is.
        base: The label of the variant that all others are set against.
        judged_by: The number that answers; empty where that follows from what there is.
        budget: What each cell may spend, in words.
        command: What made it.
        variants: The base first.
        cells: ``(address, label of the variant, seed)`` each.
        faulty: What was refused: label and why.
    """

    name: str
    question: str
    of: str
    base: str
    judged_by: str
    budget: str
    command: str
    variants: list[Planned]
    cells: list[tuple[str, str, int]]
    faulty: dict[str, str]


def plan_of(grid: Grid, command: str, before: Plan | None = None) -> Plan:
    """What a grid sets out to do.

    Args:
        grid: All cells.
        command: What made it.
        before: What its folder had planned; a variant that has a cell there is not counted again.
    """
    ablation = grid.asked.ablation
    base = grid.variants[grid.base].recipe
    known = {} if before is None else _counted(before)
    variants = []
    for each in grid.variants.values():
        found = next((known[cell.id] for cell in grid.cells if cell.label == each.label and cell.id in known), None)
        parameters, flops = found or (each.counted().parameters, each.counted().flops)
        variants.append(planned(each.label, each.values, each.recipe, base, parameters, flops))
    return Plan(
        name=grid.asked.name,
        question=ablation.question,
        of=ablation.base,
        base=grid.base,
        judged_by=ablation.judged_by or "",
        budget=budget_said(grid),
        command=command,
        variants=variants,
        cells=[(cell.id, cell.label, cell.seed) for cell in grid.cells],
        faulty={label: "; ".join(fault.message for fault in faults) for label, faults in grid.faulty.items()},
    )


def _counted(plan: Plan) -> dict[str, tuple[int, int]]:
    """Parameters and FLOPs by the address of a cell, which stands for the recipe, the data and the code."""
    counts = {variant.label: (variant.parameters, variant.flops) for variant in plan.variants}
    return {address: counts[label] for address, label, _ in plan.cells}


def budget_said(grid: Grid) -> str:
    """What each cell may spend, in words."""
    budget = grid.asked.ablation.budget
    if budget is None:
        return "each trains as its recipe says"
    if budget.steps is not None:
        return f"{budget.steps:,} steps each"
    return f"{budget.seconds:g} seconds of training each" if budget.seconds else f"{budget.flops:.3g} FLOPs each"


def _closed_form(checked: Checked) -> str:
    """Whether the KL between the last latent's posterior and the prior has a closed form."""
    with without_memory():
        model = build_model(checked.recipe.model, checked.space, checked.labels)
    if model.kind is Kind.NONE or not any(stage.draws for stage in model.stack):
        return ""
    return "yes" if model.closes and model.stack[-1].closed_form else "no"
