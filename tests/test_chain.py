"""Chains: against the latents that they are made of, link by link, and where they are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compose.core import random
from compose.core.declare import Slot
from compose.core.model import ModelDensity
from compose.core.spaces import Codes, Real
from compose.parts.densities.model import Model
from compose.parts.stages.chain import Chain, ChainStage
from compose.recipe.check import model_slot
from compose.run.health import units
from compose.testing.noise import Tape
from compose.testing.variants import shake

IMAGE = Codes((1, 4, 4), 3)
NET = {"type": "mlp", "hidden": [8]}
SMALL = {"type": "mlp", "hidden": [5]}


def built(*stages: dict[str, Any], labels: Codes | None = None) -> ModelDensity:
    """A model of these stages, shaken, in float64."""
    nets = {"encoder": NET, "decoder": NET}
    part = Model.model_validate({"stages": [{**nets, **stage} for stage in stages], "prior": "normal"})
    slot = model_slot(IMAGE, labels)
    assert [reason for _, inner, place in part.walk(slot) for reason in inner.misfits(place)] == []
    with random.region(0):
        model = shake(part.build(slot).double())
    assert isinstance(model, ModelDensity)
    return model


def chain_of(model: ModelDensity) -> ChainStage:
    stage = model.stack[0]
    assert isinstance(stage, ChainStage)
    return stage


def items(n: int = 6) -> Tensor:
    return torch.randint(3, (n, 1, 4, 4))


def nets(stage: ChainStage) -> list[list[nn.Module]]:
    """Up and down, each from the data upward."""
    half = len(stage.between) // 2
    return [[*stage.encoder, *stage.between[:half]], [*stage.decoder, *stage.between[half:]]]


@pytest.mark.parametrize("mode", ["path", "kl"])
@pytest.mark.parametrize("between", [None, SMALL])
def test_a_chain_is_its_links_as_latents(mode: Any, between: Any):
    """The same weights and draws, so the same terms, by other names."""
    inner = {"type": "latent", "dim": 2, "likelihood": "normal"}
    inner |= {} if between is None else {"encoder": between, "decoder": between}
    chain = built({"type": "chain", "links": 3, "dim": 2, "between": between})
    latents = built({"type": "latent", "dim": 2}, inner, inner)
    up, down = nets(chain_of(chain))
    for stage, rising, falling in zip(latents.stack, up, down, strict=True):
        stage.get_submodule("encoder").load_state_dict(rising.state_dict())
        stage.get_submodule("decoder").load_state_dict(falling.state_dict())
    x, tape = items(), Tape()
    with torch.no_grad(), tape.run():
        found = chain.evaluate_terms(x, mode=mode).terms
    with torch.no_grad(), tape.run():
        wanted = latents.evaluate_terms(x, mode=mode).terms
    names = {"z1": "z1.1", "z2": "z1.2", "z3": "z1", "x": "x"}
    assert list(found) == [f"{names[name.split('.')[0]]}.{name.split('.')[1]}" for name in wanted]
    for name, value, like in zip(found, found.values(), wanted.values(), strict=True):
        assert torch.equal(value, like), name
    with torch.no_grad():
        torch.manual_seed(0)
        drawn = chain.sample(4)
        torch.manual_seed(0)
        assert torch.equal(drawn, latents.sample(4))


def test_shared_nets_are_told_the_link():
    model = built({"type": "chain", "links": 5, "dim": 2, "shared": True, "between": SMALL})
    stage = chain_of(model)
    assert [len(way) for way in nets(stage)] == [2, 2]
    z = torch.randn(3, 2, dtype=torch.float64)
    ways = (stage._rising, stage._falling)
    for way in ways:
        found = [way(i, z, None) for i in range(1, 5)]
        assert all(not torch.equal(one, other) for i, one in enumerate(found) for other in found[:i])
    with torch.no_grad():
        for net in nets(stage):
            first = next(net[1].parameters())
            first[:, 2:] = 0  # deaf to the link
    assert all(torch.equal(way(1, z, None), way(4, z, None)) for way in ways)


def test_labels_reach_every_link():
    model = built({"type": "chain", "links": 3, "dim": 2, "shared": True}, labels=Codes((), 2, ordered=False))
    stage, zero, one = chain_of(model), torch.zeros(3, dtype=torch.long), torch.ones(3, dtype=torch.long)
    z, x = torch.randn(3, 2, dtype=torch.float64), items(3)
    for i in range(3):
        assert not torch.equal(stage._rising(i, z if i else x, zero), stage._rising(i, z if i else x, one))
        assert not torch.equal(stage._falling(i, z, zero), stage._falling(i, z, one))


def test_every_link_is_an_edge_with_its_own_health():
    from compose.data.digits import Digits

    source = Digits().load()
    part = Model.model_validate({"stages": [{"type": "chain", "links": 3, "dim": 4}], "prior": "normal"})
    with random.region(0):
        model = part.build(model_slot(source.space, None))
    assert isinstance(model, ModelDensity)
    records = units(model.eval(), source)
    assert [record["edge"] for record in records] == ["z1.1", "z1.2", "z1"]
    assert all(len(record["kl"]) == record["units"] == 4 for record in records)


def test_a_gradient_passes_through_all_links_both_ways():
    model = built({"type": "chain", "links": 3, "dim": 2, "likelihood": "discretized_logistic"})
    _, back = model.mirror(items())
    back.square().sum().backward()
    missing = [name for name, value in model.named_parameters() if value.grad is None]
    assert missing == []


SCALED = {"type": "model", "stages": ["standardize"], "prior": "normal"}


@pytest.mark.parametrize(
    ("options", "key", "said"),
    [
        ({"links": 1, "between": SMALL}, "between", "of one link nothing lies between"),
        ({"links": 2, "shared": True}, "shared", "of 2 links no two above the first could share a net; wanted 3"),
        ({"transition": SCALED}, "transition", "'model' starts something in it at the scale of its data, which no"),
    ],
)
def test_what_is_not_there_is_not_declared(options: dict[str, Any], key: str, said: str):
    part = Chain.model_validate(options)
    (misfit,) = part.misfits(Slot("stage", Real((3,))))
    assert misfit.key == key and misfit.message.startswith(said)
