"""Commands about one recipe: check, fits, equation, schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compose.cli.options import Overrides, Plugins, RecipeRef, show, table
from compose.core.kinds import Kind

if TYPE_CHECKING:
    from compose.recipe.check import Checked
    from compose.recipe.equation import Equation

IMPLICIT = "The model is implicit: it has samples, and no likelihood"


def check(
    recipe: RecipeRef,
    overrides: Overrides = None,
    cost: Annotated[bool, typer.Option("--cost", help="Add parameters and FLOPs of each part.")] = False,
    plugin: Plugins = None,
) -> None:
    """Find every fault of a recipe; if there is none, draw its stack.

    The prior is on top and the data below. On every edge stand its space and the kind: what the model above promises
    about the log-probability of an item there.

    \b
    Examples:
      compose check vae_flow_prior
      compose check vae_flow_prior model.prior=mixture model.stages.0.dim=8
      compose check mine.yaml --cost --plugin parts.py
    """
    from compose.recipe.draw import draw

    checked = _checked(recipe, overrides)
    costs = _costs(checked) if cost else {}
    headers = ["", "what", "kind", "key path", *(["parameters", "FLOPs"] if cost else [])]
    rows = [
        (
            f"{line.label}" if line.path else f"{line.label} |",
            line.what,
            "" if line.kind is None else str(line.kind),
            line.path,
            *(costs.get(line.path, ("", "")) if cost else ()),
        )
        for line in draw(checked)
    ]
    kind = checked.recipe.model.kind(checked.slot)
    promise = f"L, the log weight of an example, is {kind.spoken}: {checked.recipe.model.promise(checked.slot)}"
    show(table(headers, rows, right=("parameters", "FLOPs")), "", IMPLICIT if kind is Kind.NONE else promise)
    if cost:
        parameters, flops = costs["model"]
        of = "one sample" if kind is Kind.NONE else "log_prob of one example"
        show(f"{parameters} parameters; {flops} FLOPs for {of} (matrix products and convolutions)")
        if costs[""][0]:
            show(f"FLOPs were {costs[''][0]}")


def fits(
    recipe: RecipeRef,
    overrides: Overrides = None,
    at: Annotated[str, typer.Option("--at", metavar="PATH", help="Where a part stands: model.prior.")] = "model.prior",
    why: Annotated[bool, typer.Option("--why", help="Add the parts that do not fit, and why.")] = False,
    plugin: Plugins = None,
) -> None:
    """Say which parts fit at a place of a recipe.

    Each registered part is put there with its defaults, and the whole recipe is checked: so 'compose check RECIPE
    PATH=NAME' passes for every name that is listed, and for no other.

    \b
    Examples:
      compose fits vae_flow_prior --at model.prior
      compose fits vae_flow_prior --at model.stages.0.likelihood --why
      compose fits hvae --at train.0.objective
    """
    from compose.recipe.fits import survey
    from compose.recipe.read import read_tree

    found = survey(read_tree(recipe, overrides or ()), at)
    fitting = [fit for fit in found if fit.fits]
    rows = [(fit.name, "" if fit.kind is None else str(fit.kind), fit.note) for fit in fitting]
    show(table([f"fits at {at}", "kind", ""], rows) if rows else f"Nothing fits at {at} with its defaults.")
    if why:
        show("", table(["does not", "because"], [(fit.name, fit.note) for fit in found if not fit.fits]))


def equation(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe, or a run directory.")],
    overrides: Overrides = None,
    run: Annotated[
        Path | None, typer.Option("--run", metavar="RUN", help="Add the nats of each term in a run.")
    ] = None,
    split: Annotated[str, typer.Option("--split", help="The split that the nats are of.")] = "test",
    plugin: Plugins = None,
) -> None:
    """Write out the bound of a recipe, each term with its part.

    Terms have the names of the ledger. With a run, the mean of each over the examples of a split is added, in nats.

    \b
    Examples:
      compose equation vae_flow_prior
      compose equation vae_flow_prior model.prior=vamp
      compose equation vae_flow_prior --run runs/vae_flow_prior
      compose equation runs/vae_flow_prior
    """
    from compose.recipe.equation import equation as composed

    if (Path(recipe) / "recipe.yaml").is_file():
        run, recipe = run or Path(recipe), str(Path(recipe) / "recipe.yaml")
    checked = _checked(recipe, overrides)
    found = composed(checked)
    if found.kind is Kind.NONE:
        show(IMPLICIT)
        return
    nats = {} if run is None else _nats(run, split, found)
    kind = found.kind
    promise = checked.recipe.model.promise(checked.slot)
    show(found.text, *_where(found), "", found.latex, "", f"L is {kind.spoken}: {promise}", "")
    view = {name: group for group, names in found.views.items() for name in names}
    rows = [
        (
            term.name,
            term.formula.text,
            term.path,
            "" if term.kind is None else str(term.kind),
            view[term.name],
            *([f"{kind.tilde}{nats[term.name]:.2f}"] if nats else []),
        )
        for term in found.terms
    ]
    headers = ["term", "formula", "part", "kind", "counts to", *([f"nats ({split})"] if nats else [])]
    show(table(headers, rows, right=headers[5:]), "", *_views(found, nats))


def schema(
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Where to write it.")] = None,
    plugin: Plugins = None,
) -> None:
    """Print the JSON schema of recipes, for editors.

    An editor that knows it completes keys and names and underlines what is wrong. For one that reads modelines, put
    '# yaml-language-server: $schema=recipe.schema.json' into a recipe.

    \b
    Examples:
      compose schema --out recipe.schema.json
      compose schema --plugin parts.py > recipe.schema.json
    """
    from compose.core.errors import ComposeError
    from compose.recipe.schema import schema as composed

    text = json.dumps(composed(), indent=1)
    if out is None:
        typer.echo(text)
        return
    try:
        out.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise ComposeError(f"{out} cannot be written: {error.strerror}.") from error
    show(f"wrote {out}")


def _checked(recipe: str, overrides: list[str] | None) -> Checked:
    """The recipe, or its faults raised."""
    from compose.core.errors import RecipeError
    from compose.recipe.check import check as find_faults

    checked = find_faults(recipe, overrides or ())
    if checked.faults:
        raise RecipeError(checked.faults)
    return checked


def _costs(checked: Checked) -> dict[str, tuple[str, str]]:
    """Parameters and FLOPs by key path; under '' how they were counted."""
    from compose.recipe.cost import cost

    found = cost(checked)
    return {"": (found.note, ""), **{each.path: (f"{each.parameters:,}", f"{each.flops:,}") for each in found.parts}}


def _where(found: Equation) -> list[str]:
    """The equations of models inside, each below the one it stands in."""
    return [
        line for inner in found.where for line in (f"  where {inner.text}", *(f"  {deep}" for deep in _where(inner)))
    ]


def _nats(run: Path, split: str, found: Equation) -> dict[str, float]:
    from compose.core.errors import RunError
    from compose.run.directory import Run

    scores = Run(run).scores()["splits"]
    if split not in scores:
        raise RunError(f"{run} was not scored on {split!r}; there is: {', '.join(scores)}.")
    nats = scores[split]["terms"]
    if list(nats) != [term.name for term in found.terms]:
        raise RunError(f"{run} is no run of this recipe: its terms are {', '.join(nats)}.")
    return nats


def _views(found: Equation, nats: dict[str, float]) -> list[str]:
    """Each view as the sum of its terms, with a minus sign a cost."""
    lines = []
    for view, names in found.views.items():
        value = f" = {found.kind.tilde}{-sum(nats[name] for name in names):.2f}" if nats else ""
        lines.append(f"{view} = -({' + '.join(names)}){value}")
    total = f" = {found.kind.tilde}{-sum(nats.values()):.2f}" if nats else ""
    return [*lines, f"{' + '.join(found.views)} = -L{total}"]
