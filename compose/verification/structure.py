"""Checks of how the model computes: up and down, row by row, in either mode, with what it refuses."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from compose.core import registry
from compose.core.declare import Slot
from compose.core.kinds import Kind
from compose.core.model import ModelDensity
from compose.core.roles import Density, DensityPart, Stage, to_features
from compose.core.spaces import Codes, Real
from compose.data.source import Split
from compose.run.evaluate import score
from compose.testing.noise import Noise, Tape
from compose.testing.subject import ROWS, draw
from compose.verification.report import Finding, check, unchecked
from compose.verification.tiny import Tiny, apart


@check
def round_trip(tiny: Tiny) -> Iterator[Finding]:
    """Every bijection comes back to where it was, in both directions; dequantised codes fall back into their cells."""
    for name, stage, label in _stages(tiny):
        if not stage.draws or (isinstance(stage.below, Real) and _certain(stage, label)):
            x, z, off = draw(stage.below, ROWS), draw(stage.above, ROWS), 0.0
            # What is drawn anew on one of the ways comes back on the other one alone.
            if stage.below.dim <= stage.above.dim:
                off = apart(stage.generate(stage.infer(x, label).z, label), x)
            if stage.below.dim >= stage.above.dim:
                off = max(off, apart(stage.infer(stage.generate(z, label), label).z, z))
            yield Finding(name, off, 1e-6, f"off by {off:.2g} at most")
        elif isinstance(stage.below, Codes) and _certain(stage, label):
            missed, count = _missed(stage, label)
            yield Finding(name, float(missed), 0.0, f"{missed} codes left their cells, of {count}")


def _certain(stage: Stage, label: Tensor | None) -> bool:
    """Whether a stage that draws comes down without chance, as dequantisation does."""
    return stage.down(draw(stage.above, 1), None if label is None else label[:1])[0] is None


def _missed(stage: Stage, label: Tensor | None) -> tuple[int, int]:
    """How many codes do not come back, with noise at both ends of a cell and between; of how many."""
    x, missed, ends = draw(stage.below, 12 * ROWS), 0, (0.0, 0.25, 0.5, 0.75, 1 - 2**-24)
    many = None if label is None else label[:1].expand(len(x))
    for u in ends:
        with Noise(lambda count, by, shape, kwargs, u=u: torch.full(shape, u, dtype=kwargs["dtype"])):
            missed += int((stage.generate(stage.infer(x, many).z, many) != x).sum())
    return missed, len(ends) * x.numel()


@check
def one_likelihood(tiny: Tiny) -> Iterator[Finding]:
    """What a stage scores on its way up is the density that it draws from on its way down."""
    model = tiny.build()
    for i, stage in enumerate(_flat(model), 1):
        name, label = f"stage {i}", tiny.label(ROWS) if model.by_label else None
        if not stage.draws or stage.inner:
            continue
        x = draw(stage.below, ROWS)
        step = stage.infer(x, label)
        density, given = stage.down(step.z, label)
        if density is None or "log_likelihood" not in step.terms:
            continue
        if density.kind is not Kind.EXACT:
            yield unchecked(name, f"the likelihood is only {density.kind.spoken}, which draws noise of its own")
            continue
        with torch.no_grad():
            off = apart(step.terms["log_likelihood"], density.log_prob(x, given))
        yield Finding(name, off, 1e-9, f"off by {off:.2g} at most, relative")


@check
def log_dets(tiny: Tiny) -> Iterator[Finding]:
    """The log-det of every bijection is that of its Jacobian, as torch differentiates it."""
    for name, stage, label in _stages(tiny):
        if stage.draws or stage.below.dim != stage.above.dim:
            continue
        x, one = draw(stage.below, 6), None if label is None else label[:1]
        found = stage.infer(x, None if label is None else label[:6]).terms["log_det"].detach()
        wanted = torch.stack([_log_jacobian(stage, row[None], one) for row in x])
        worst = float(torch.nan_to_num((found - wanted).abs(), nan=torch.inf).max())
        yield Finding(name, worst, 1e-9, f"off by {worst:.2g} nats at most")


def _log_jacobian(stage: Stage, row: Tensor, label: Tensor | None) -> Tensor:
    jacobian = torch.autograd.functional.jacobian(lambda x: stage.infer(x, label).z, row)
    assert isinstance(jacobian, Tensor)
    return torch.linalg.slogdet(jacobian.reshape(stage.above.dim, stage.below.dim)).logabsdet


@check
def rows(tiny: Tiny) -> Iterator[Finding]:
    """The score of an example, or a sample, depends neither on those beside it nor on how the work is cut."""
    model = tiny.build()
    x, c = tiny.data(ROWS)
    tape = Tape()
    with torch.no_grad(), tape.record():
        together = tiny.computed(model, x, c)
    off = 0.0
    for some in (torch.randperm(len(x)), torch.tensor([3]), torch.arange(5, 12)):
        with torch.no_grad(), tape.play(some):
            off = max(off, apart(tiny.computed(model, x[some], None if c is None else c[some]), together[some]))
    yield Finding("alone, against in a batch", off, 1e-9, f"off by {off:.2g} at most, relative")
    if not tiny.scored:
        return
    once, again = (score(model, Split(x, c), 2, tiny.seed, rows=size).elbo for size in (1000, 5))
    yield Finding(
        "chunks of 5 rows, against 1000", apart(again, once), 1e-6, f"off by {apart(again, once):.2g} at most"
    )


@check
def training_mode(tiny: Tiny) -> Iterator[Finding]:
    """Training and evaluation mode compute the same number, unless a part declares otherwise."""
    declared = [f"{part.type}: {part.training_differs}" for _, part, _ in tiny.walk() if part.training_differs]
    of = "train against eval mode"
    if declared:
        yield unchecked(of, "; ".join(declared))
        return
    x, c = tiny.data(ROWS)
    tape, found = Tape(), []
    for training in (False, True):
        model = tiny.build(training=training)
        with torch.no_grad(), tape.run():
            found.append(tiny.computed(model, x, c))
    yield Finding(of, apart(found[1], found[0]), 1e-12, f"off by {apart(found[1], found[0]):.2g} at most")


@check
def cached(tiny: Tiny) -> Iterator[Finding]:
    """What is drawn step by step, from a cache, is drawn with the log-probability that it is scored with at once."""
    for name, density in tiny.model.named_modules():
        if isinstance(density, Density) and density.incremental and density.kind is Kind.EXACT:
            c = None if density.condition is None else draw(density.condition, ROWS)
            x, said = density.draw(ROWS, c)
            with torch.no_grad():
                off = apart(density.log_prob(x, c), said)
            yield Finding(f"model.{name}", off, 1e-9, f"off by {off:.2g} at most, relative")


@check
def polarity(tiny: Tiny) -> Iterator[Finding]:
    """What enters with a minus sign must be exact: every density that is not is refused for that, before any weight."""
    for path, _, slot in tiny.walk():
        if not slot.negative:
            continue
        taken, refused = [], 0
        for part in _inexact(slot):
            if any("must be exact" in reason.message for reason in part.misfits(slot)):
                refused += 1
            else:
                taken.append(part.type)
        said = f"{refused} inexact densities refused" + (f", taken: {', '.join(taken)}" if taken else "")
        yield Finding(f"model.{path}", float(len(taken)), 0.0, said)


def _inexact(slot: Slot) -> Iterator[DensityPart]:
    """Densities over a slot's space that promise less than an exact log-probability, a latent model among them."""
    for name in registry.names("density"):
        declared = registry.load("density", name)
        assert issubclass(declared, DensityPart)
        if declared.needs_options():
            continue
        forms = [{}, {"stages": ["latent"]}] if name == "model" else [{}]
        for part in map(declared.model_validate, forms):
            if isinstance(slot.space, part.takes) and part.kind(slot) is not Kind.EXACT:
                yield part


def _flat(model: ModelDensity) -> list[Stage]:
    """The stages of a model and of the models that close it."""
    inner = _flat(model.prior) if isinstance(model.prior, ModelDensity) else []
    return [*model.stack, *inner]


def _stages(tiny: Tiny) -> Iterator[tuple[str, Stage, Tensor | None]]:
    """Every stage with its name, and labels for it."""
    for i, stage in enumerate(_flat(tiny.model), 1):
        if stage.implicit:
            continue
        yield f"stage {i}", stage, tiny.label(ROWS) if tiny.model.by_label else None


@check
def rounding(tiny: Tiny) -> Iterator[Finding]:
    """What an implicit model samples is what its critics see of it: the same item, rounded to levels."""
    if tiny.scored:
        return
    model, space, tape = tiny.build(), tiny.space, Tape()
    x, c = tiny.data(12 * ROWS)
    with torch.no_grad(), tape.run():
        _, seen = model.meet(x, c)
    with tape.play():
        drawn = model.sample(len(x), c)
    space.check(drawn)
    off, half = apart(to_features(drawn, space, seen.dtype), seen), 0.0
    if isinstance(space, Codes):
        space.check_values(drawn)
        half = 0.5 / (space.size - 1)
    yield Finding("samples, against what a critic sees", off, half + 1e-9, f"off by {off:.2g} at most")


CHECKS = (round_trip, one_likelihood, log_dets, rows, training_mode, cached, rounding, polarity)
