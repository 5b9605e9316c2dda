"""Commands about what there is: parts, recipes, new part."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from compose.cli.options import Plugins, show, table

if TYPE_CHECKING:
    from compose.core.declare import Part


def parts(
    which: Annotated[str | None, typer.Argument(metavar="[ROLE|NAME]", help="A role, or the name of a part.")] = None,
    plugin: Plugins = None,
) -> None:
    """List the parts there are, or say everything about one.

    \b
    Examples:
      compose parts
      compose parts density
      compose parts flow
      compose parts mine --plugin parts.py
    """
    from compose.core import registry

    found = [(role, name) for role in registry.ROLES for name in registry.names(role)]
    named = [(role, name) for role, name in found if which == name]
    if named:
        for role, name in named:
            _describe(registry.load(role, name))
        return
    listed = [(role, name) for role, name in found if which in (None, role)]
    if not listed:
        raise _unknown(str(which), found)
    rows = [(role, name, _first_line(registry.load(role, name))) for role, name in listed]
    show(table(["role", "name", ""], rows))


def recipes() -> None:
    """List the shipped recipes and what each scored, and the shipped questions.

    \b
    Examples:
      compose recipes
    """
    from compose.ablation.question import read_ablation, shipped_ablations
    from compose.recipe.shipped import find, header, recipes_root, shipped

    rows = []
    for name in shipped():
        path = find(name)
        rows.append((name, "" if path is None else header(path)["note"]))
    show(table(["recipe", "time and score, as its first line says"], rows), "", f"in {recipes_root()}")
    show("compose train RECIPE runs one; compose check RECIPE draws it.", "")
    asked = [(name, read_ablation(name).ablation.question) for name in shipped_ablations()]
    show(table(["ablation", "asks"], asked), "", "compose ablate ABLATION answers one; --dry-run shows its grid.")


def new_part(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What recipes will call it: my_prior.")],
    role: Annotated[str, typer.Option("--role", help="density, stage, net, quantizer or objective.")] = "density",
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="The plugin; NAME.py by default.")] = None,
) -> None:
    """Write a part that works as it is, and its test: a start for one of your own.

    \b
    Examples:
      compose new part my_prior
      compose new part my_net --role net --out parts/my_net.py
    """
    from compose.recipe.scaffold import scaffold

    plugin, test = scaffold(name, role, out)
    use = {
        "density": f"model.prior={name}",
        "stage": f"'model.stages=[latent, {name}]'",
        "net": f"model.stages.0.encoder={name}",
        "quantizer": f"model.stages.0.quantizer={name}",
        "objective": f"train.0.objective={name}",
    }[role]
    recipe = "vqvae" if role == "quantizer" else "vae"
    show(
        f"wrote {plugin}, a {role} that works as it is, and {test}, its contracts",
        "",
        f"  compose parts {name} --plugin {plugin}",
        f"  python -m pytest {test}",
        f"  compose check {recipe} {use} --plugin {plugin}",
        f"  compose train {recipe} {use} train.0.steps=200 --plugin {plugin}",
    )


def _first_line(part: type[Part]) -> str:
    from compose.recipe.fits import first_line

    return first_line(part)


def _unknown(which: str, found: list[tuple[str, str]]) -> Exception:
    from difflib import get_close_matches

    from compose.core import registry
    from compose.core.errors import ComposeError

    near = get_close_matches(which, [*registry.ROLES, *(name for _, name in found)], 1)
    meant = f" Did you mean '{near[0]}'?" if near else ""
    return ComposeError(f"There is no part and no role called {which!r}.{meant} 'compose parts' lists all.")


def _describe(part: type[Part]) -> None:
    """Everything that a declaration says of itself."""
    import inspect

    from compose.recipe.schema import options

    show(f"{part.type} ({part.role})", "", inspect.cleandoc(part.__doc__ or "").replace("``", ""), "")
    facts = [*_facts(part), ("source", part.source), ("declared in", part.__module__)]
    show(table(["", ""], [fact for fact in facts if fact[1]]), "")
    rows = [(*each[:3], " ".join(each.meaning.replace("``", "").split())) for each in options(part)]
    show(table(["option", "wanted", "default", "meaning"], rows) if rows else "It has no options.")


def _facts(part: type[Part]) -> list[tuple[str, str]]:
    """What a density or stage declares of its places, on some spaces it could stand on."""
    from compose.core.declare import Slot
    from compose.core.roles import DensityPart, StagePart
    from compose.core.spaces import Codes, Real

    spaces = (Real((16,)), Real((1, 8, 8)), Codes((1, 8, 8), 17), Codes((1, 8, 8), 2), Codes((8,), 512, ordered=False))
    whole = not part.needs_options()
    if issubclass(part, StagePart) and whole:
        stage = part()
        slots = [slot for slot in (Slot("stage", space) for space in spaces) if _fits(stage, slot)]
        gives = [f"{slot.space} -> {stage.above(slot.space)}" for slot in slots]
        return [("gives", "\n".join(gives)), ("adds", ", ".join(stage.terms())), ("kind", _kinds(stage, slots))]
    if not issubclass(part, DensityPart):
        return []
    needs = [("a condition", part.needs_condition), ("the posterior of the stage below", part.needs_posterior)]
    facts = [
        ("scores", " or ".join(space.__name__ for space in part.takes)),
        ("needs", ", ".join(what for what, needed in needs if needed)),
        ("gradient of draws", part.gradient if part.gradient == "pathwise" else f"{part.gradient}: no posterior"),
    ]
    if whole:
        density = part()
        likely = [Slot("likelihood", space, density.features(space)) for space in spaces if density.features(space)]
        slots = [slot for slot in likely if _fits(density, slot)]
        wants = [f"{slot.condition}, to score {slot.space}" for slot in slots]
        facts += [("conditioned by", "\n".join(wants)), ("kind", _kinds(density, slots))]
    return facts


def _fits(part: Part, slot: Any) -> bool:
    return not any(list(inner.misfits(place)) for _, inner, place in part.walk(slot))


def _kinds(part: Any, slots: list[Any]) -> str:
    return ", ".join(f"{kind}: {kind.promise}" for kind in sorted({part.kind(slot) for slot in slots}))
