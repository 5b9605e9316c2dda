"""Ladders: against the single latent they contain, level by level, and where they are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from compose.core import random
from compose.core.declare import Slot
from compose.core.gaussians import Gaussian
from compose.core.model import ModelDensity
from compose.core.objective import Objective
from compose.core.spaces import Codes, Real, Space
from compose.core.terms import total
from compose.data.digits import Digits
from compose.nets.mlp import MLP
from compose.parts.densities.model import Model
from compose.parts.objectives.elbo import ELBO
from compose.parts.stages.ladder import Ladder, LadderStage
from compose.recipe.check import model_slot
from compose.run.health import units
from compose.testing.noise import Tape
from compose.testing.variants import shake

IMAGE = Codes((1, 4, 4), 3)
NET = {"type": "mlp", "hidden": [8]}


def built(stage: dict[str, Any], prior: Any = "normal", space: Space = IMAGE, labels: Codes | None = None) -> Any:
    """A model of one stage, shaken, in float64."""
    nets = {"encoder": NET, "decoder": NET}
    part = Model.model_validate({"stages": [{**nets, **stage}], "prior": prior})
    slot = model_slot(space, labels)
    assert [reason for _, inner, place in part.walk(slot) for reason in inner.misfits(place)] == []
    with random.region(0):
        return shake(part.build(slot).double())


def stage_of(model: ModelDensity) -> LadderStage:
    stage = model.stack[0]
    assert isinstance(stage, LadderStage)
    return stage


def items(n: int = 6) -> Tensor:
    return torch.randint(3, (n, 1, 4, 4))


@pytest.mark.parametrize("prior", ["normal", {"type": "vamp", "components": 4}, {"type": "flow", "layers": 2}])
def test_one_level_is_the_latent(prior: Any):
    """The same nets in the same order, so the same weights, draws and terms."""
    ladder, latent = built({"type": "ladder", "levels": [3]}, prior), built({"type": "latent", "dim": 3}, prior)
    x, tape = items(), Tape()
    for mode in ("path", "kl"):
        found = []
        for model in (ladder, latent):
            with torch.no_grad(), tape.run():
                found.append(model.evaluate_terms(x, mode=mode).terms)
        assert list(found[0]) == list(found[1])
        for name, value in found[0].items():
            assert torch.equal(value, found[1][name]), name


def test_nets_between_levels_are_declared_apart():
    options = {"type": "ladder", "levels": [3, 2, 2], "width": 5}
    alike, apart = built({**options, "between": NET}), built(options)
    one, other = stage_of(alike), stage_of(apart)
    nets = [*one.encoder, *one.between[:4], *one.decoder, *one.between[4:]]
    for net, like in zip(nets, [*other.encoder, *other.decoder], strict=True):
        net.load_state_dict(like.state_dict())
    x, tape = items(), Tape()
    found = []
    for model in (alike, apart):
        with torch.no_grad(), tape.run():
            found.append(model.evaluate_terms(x).terms)
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())
    narrow = stage_of(built({**options, "between": {"type": "mlp", "hidden": [4]}}))
    widths = [next(net.parameters()).shape[0] for net in (*narrow.encoder, *narrow.decoder, *narrow.between)]
    assert widths == [8, 8, *[4] * 6]


def test_nothing_lies_between_one_level():
    (misfit,) = Ladder.model_validate({"levels": [3], "between": "mlp"}).misfits(Slot("stage", IMAGE))
    assert misfit.key == "between" and "leave 'between' out" in misfit.message


def test_a_posterior_that_adds_nothing_costs_nothing():
    model = built({"type": "ladder", "levels": [3, 2, 2], "width": 5})
    stage = stage_of(model)
    with torch.no_grad():
        for net in list(stage.encoder)[stage.top + 1 :]:
            for parameter in net.parameters():
                parameter.zero_()
    for mode in ("path", "kl"):
        terms = model.evaluate_terms(items(), mode=mode).terms
        for level in ("z1.1", "z1.2"):
            rate = terms[f"{level}.minus_log_q"] + terms[f"{level}.log_likelihood"]
            torch.testing.assert_close(rate, torch.zeros_like(rate), rtol=0, atol=1e-12)
        assert (terms["z1.minus_log_q"] + terms["z1.log_prior"]).abs().max() > 1e-3


def test_terms_come_in_the_order_of_the_data():
    model = built({"type": "ladder", "levels": [3, 2, 2]})
    ledger = model.evaluate_terms(items())
    assert list(ledger.terms) == [
        "x.log_likelihood",
        *("z1.1.minus_log_q", "z1.1.log_likelihood", "z1.2.minus_log_q", "z1.2.log_likelihood"),
        *("z1.minus_log_q", "z1.log_prior"),
    ]


def test_every_level_reaches_the_likelihood():
    """The state of the pass down carries all levels, so x depends on each of them given the others."""
    stage = stage_of(built({"type": "ladder", "levels": [3, 2, 2]}))
    levels = [torch.randn(4, z, dtype=torch.float64, requires_grad=True) for z in (2, 2, 3)]
    _, params = stage.down(levels[0], None, levels[1:])
    for level in torch.autograd.grad(params.sum(), levels):
        assert (level != 0).any()


@pytest.mark.parametrize("grid", [(), (2, 2)])
def test_levels_add_to_the_state(grid: tuple[int, ...]):
    """Where nets between levels give nothing, each level has the state of the one before."""
    net = {"type": "conv", "channels": 4, "halvings": 1} if grid else "mlp"
    levels = [[2, *grid], [1, *grid], [2, *grid], 3] if grid else [3, 2, 2, 2]
    options = {"type": "ladder", "levels": levels, "width": 5, "encoder": net, "decoder": net, "between": net}
    stage = stage_of(built(options))
    with torch.no_grad():
        for net_between in (*stage.between[:2], *stage.between[6:8]):
            for parameter in net_between.parameters():
                parameter.zero_()
    seen, _ = stage._climb(items(), None)
    assert seen[0].any() and len(seen) == 3
    assert all(torch.equal(h, seen[0]) for h in seen)
    z = [torch.randn(6, *space.shape, dtype=torch.float64) for space in (stage.above, *stage.inner)]
    _, first = stage._descend(z[0], None, 3, None)
    assert first is not None and first.any()
    for i in (2, 1):
        _, below = stage._descend(z[3 - i], first, i, None)
        assert below is not None and torch.equal(first, below)


def test_from_grid_to_grid_the_net_alone_speaks():
    nets = {key: {"type": "conv", "channels": 4, "halvings": 1} for key in ("encoder", "decoder", "between")}
    stage = stage_of(built({"type": "ladder", "levels": [[1, 4, 4], [2, 2, 2], 3], "width": 5, **nets}))
    with torch.no_grad():
        for net_between in (stage.between[0], stage.between[4]):
            for parameter in net_between.parameters():
                parameter.zero_()
    seen, _ = stage._climb(items(), None)
    assert seen[0].any() and not seen[1].any()


def test_closed_inner_rates_are_those_of_two_gaussians():
    q, p = (Gaussian(torch.randn(5, 3), s, s.exp()) for s in torch.randn(2, 5, 3))
    wanted = torch.distributions.kl_divergence(
        *(torch.distributions.Independent(torch.distributions.Normal(g.loc, g.scale), 1) for g in (q, p))
    )
    torch.testing.assert_close(-q.entropy() - q.expected_log_prob(p), wanted)


def test_free_bits_act_on_each_level():
    model = built({"type": "ladder", "levels": [3, 2]})
    x, tape = items(40), Tape()
    values = []
    for free in (0.0, 1000.0):
        objective = ELBO(free_bits=free).build(Slot("objective", IMAGE))
        assert isinstance(objective, Objective)
        with tape.run():
            loss = objective(model, x, None, 0)
        values.append(float(loss.value.detach()) + float(loss.ledger.terms["x.log_likelihood"].detach().mean()))
    rates = -total({k: v for k, v in loss.ledger.terms.items() if k != "x.log_likelihood"}).mean()
    assert values[0] == pytest.approx(float(rates.detach()), abs=1e-9)
    assert values[1] == pytest.approx(2000.0)


def test_labels_reach_both_directions():
    labels = Codes((), 3, ordered=False)
    model = built({"type": "ladder", "levels": [3, 2]}, labels=labels)
    stage, x, z = stage_of(model), items(), torch.randn(6, 2, dtype=torch.float64)
    one, two = torch.zeros(6).long(), torch.ones(6).long()
    assert not torch.equal(stage.up(x, one)[1], stage.up(x, two)[1])
    assert not torch.equal(stage.down(z, one)[1], stage.down(z, two)[1])


def test_health_of_every_level():
    """A level whose posterior adds nothing has no active unit, whatever the level above it does."""
    model = built({"type": "ladder", "levels": [3, 2]}, space=Digits().spaces()[0])
    stage, source = stage_of(model), Digits().load()
    records = {record["edge"]: record for record in units(model, source)}
    assert list(records) == ["z1.1", "z1"]
    assert records["z1.1"]["units"] == 3
    assert records["z1.1"]["active"] == 3
    assert len(records["z1.1"]["kl"]) == 3
    with torch.no_grad():
        for parameter in stage.encoder[-1].parameters():
            parameter.zero_()
    dead = {record["edge"]: record for record in units(model, source)}["z1.1"]
    assert dead["active"] == 0
    assert max(map(abs, dead["kl"])) < 1e-12


def reasons(ladder: Ladder, space: Space = IMAGE) -> list[str]:
    walked = ladder.walk(Slot("stage", space))
    return [misfit.message for _, part, slot in walked for misfit in part.misfits(slot)]


def test_what_is_refused():
    mixed = Ladder.model_validate({"posterior": "flow"})
    assert any("cannot be what is added to the other; residual: false would do" in told for told in reasons(mixed))
    assert reasons(mixed.model_copy(update={"residual": False})) == []
    assert reasons(Ladder.model_validate({"levels": [4], "posterior": "flow"})) == [], "nothing is added at the top"
    grids = Ladder.model_validate({"levels": [[2, 2, 2], 4], "posterior": "flow", "transition": "flow"})
    assert any("no grid like that" in told for told in reasons(grids))
    convolutions = Ladder.model_validate({"levels": [[2, 3, 3], 4], "encoder": "conv", "decoder": "conv"})
    assert any("halves or doubles a grid" in told for told in reasons(convolutions))
    assert any("'mixture'" in told for told in reasons(Ladder.model_validate({"transition": "mixture"})))
    for stages in (["standardize"], [{"type": "bijection", "layers": 1}]):
        transition = {"type": "model", "stages": stages, "prior": "normal"}
        told = reasons(Ladder.model_validate({"transition": transition, "residual": False}))
        assert ["which no transition is shown" in each for each in told] == [True] * (stages == ["standardize"])


def test_levels_that_are_images():
    nets = {key: {"type": "conv", "channels": 4, "halvings": 1} for key in ("encoder", "decoder")}
    model = built({"type": "ladder", "levels": [[1, 4, 4], [2, 2, 2], 3], "width": 3, **nets})
    stage = stage_of(model)
    assert stage.inner == (Real((2, 2, 2)), Real((1, 4, 4)))
    assert model.log_prob(items()).shape == (6,)
    assert model.sample(3).shape == (3, 1, 4, 4)
    assert isinstance(Ladder().encoder, MLP)
