"""The autoregressive density: what it sees, the order it draws in, and its cache against everything at once."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from compose.core import random
from compose.core.declare import Slot
from compose.core.drawing import Drawing
from compose.core.errors import SpaceError
from compose.core.model import ModelDensity
from compose.core.spaces import Codes, Real, Space
from compose.data.digits import Digits
from compose.nets.causal import Causal, Transformer, turned
from compose.parts.densities.autoregressive import Autoregressive, AutoregressiveDensity
from compose.parts.densities.masked import Masked
from compose.parts.densities.model import Model
from compose.run.sample import complete
from compose.testing.variants import shake

SMALL = {"layers": 3, "width": 8, "heads": 2, "kernel": 3, "context": 2}
SPACES = [Codes((1, 4, 5), 3), Codes((2, 3, 3), 4), Codes((4, 4), 3, ordered=False), Codes((7,), 3), Codes((), 3)]
NETWORKS = ["transformer", "causal_conv"]


def built(space: Space, conditional: bool = False, **options: Any) -> AutoregressiveDensity:
    """A shaken density, in float64."""
    part = Autoregressive.model_validate({**SMALL, **options})
    slot = Slot("prior", space, part.features(space) if conditional else None)
    assert not list(part.misfits(slot))
    with random.region(0):
        density = shake(part.build(slot).double())
    assert isinstance(density, AutoregressiveDensity)
    return density


def condition(density: AutoregressiveDensity, n: int) -> Tensor | None:
    return None if density.condition is None else torch.randn(n, *density.condition.shape, dtype=torch.float64)


FORMS = [
    {"network": "transformer"},
    {"network": "transformer", "positions": "rotary"},
    *({"network": "causal_conv", "kernel": kernel} for kernel in (1, 3, 4, 7)),
]


@pytest.mark.parametrize("options", FORMS, ids=str)
@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("space", SPACES, ids=str)
def test_a_cache_changes_nothing(space: Codes, conditional: bool, options: dict[str, Any]):
    density = built(space, conditional, **options)
    c = condition(density, 6)
    x, said = density.draw(6, c)
    torch.testing.assert_close(said, density.log_prob(x, c).detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"positions": "rotary"}])
@pytest.mark.parametrize("places", [31, 32, 33, 64, 70])
def test_a_cache_that_grows_by_blocks_changes_nothing(places: int, options: dict[str, Any], monkeypatch: Any):
    """Whatever the memory held that it was given."""
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *given, **how: empty(*given, **how).fill_(torch.nan))
    density = built(Codes((places,), 3), **options)
    with torch.no_grad():
        x, said = density.draw(4)
        torch.testing.assert_close(said, density.log_prob(x), rtol=0, atol=1e-11)


@pytest.mark.parametrize("network", NETWORKS)
def test_once_trained_the_likeliest_codes_are_the_same_without_a_cache(network: str):
    digits, space = Digits().load(), Codes((1, 8, 8), 17)
    torch.manual_seed(0)
    density = Autoregressive.model_validate({"layers": 2, "width": 32, "network": network}).build(Slot("prior", space))
    assert isinstance(density, AutoregressiveDensity)
    optimizer = torch.optim.AdamW(density.parameters(), lr=1e-2)
    for x in digits.train.x[:512].long().split(32):
        optimizer.zero_grad()
        (-density.log_prob(x).mean()).backward()
        optimizer.step()
    with torch.no_grad():
        known = density.double().beginning(digits.test.x[:8], 2)
        cached = density.draw(8, None, Drawing(top_k=1, known=known))[0].flatten(1)
        tokens = functional.pad(known, (0, 64 - known.shape[1]))
        for i in range(known.shape[1], 64):
            tokens[:, i] = density.head(density.network(density._seen(tokens) + density.place))[:, i].argmax(1)
    assert torch.equal(cached, tokens) and len(tokens[:, 16:].unique()) > 1


@pytest.mark.parametrize("network", NETWORKS)
def test_a_place_sees_all_before_it_and_nothing_else(network: str):
    """By gradients: of what comes out at a place, in all that went in; no blind spot, as a single stack would have."""
    density = built(Codes((1, 5, 4), 3), network=network, layers=6)
    network_itself: Causal = density.network
    h = torch.randn(1, 20, 8, dtype=torch.float64, requires_grad=True)
    out = network_itself(h)
    for i in range(20):
        (slope,) = torch.autograd.grad(out[0, i].square().sum(), h, retain_graph=True)
        seen = (slope[0] != 0).any(1)
        assert seen[: i + 1].all() and not seen[i + 1 :].any()


def test_rotary_attention_knows_how_far_apart_and_not_where():
    with random.region(0):
        net = shake(Transformer(2, 8, 2, 9, rotary=True).double(), 2.0)
        h = torch.randn(3, 9, 8, dtype=torch.float64)
    assert isinstance(net, Transformer)

    @torch.no_grad()
    def seen(start: int, still: bool = False) -> Tensor:
        turn = net._turn(start, start + 9, h)
        assert turn is not None
        turn = (torch.ones_like(turn[0]), torch.zeros_like(turn[1])) if still else turn
        out = h
        for block in net.blocks:
            out = block(out, turn)
        return net.norm(out)

    torch.testing.assert_close(seen(0), net(h).detach(), rtol=0, atol=0)
    torch.testing.assert_close(seen(1000), seen(0), rtol=0, atol=1e-9)
    assert float((seen(0, still=True) - seen(0)).abs().max()) > 0.1


def test_rotary_scores_are_products_of_complex_numbers():
    """Each pair of numbers as one complex number, turned by its place times a frequency."""
    net = Transformer(1, 8, 1, 5, rotary=True)
    q = torch.randn(5, 8, dtype=torch.float64)
    turn = net._turn(0, 5, q)
    assert turn is not None
    angle = torch.arange(5.0)[:, None] * torch.tensor([1, 0.1, 0.01, 0.001])
    wanted = torch.complex(*q.chunk(2, 1)) * torch.exp(1j * angle.double())
    torch.testing.assert_close(turned(q, turn), torch.cat([wanted.real, wanted.imag], 1), rtol=0, atol=1e-7)


def test_rotary_places_have_no_numbers_but_for_the_start():
    learned, rotary = (Autoregressive.model_validate({**SMALL, "positions": p}) for p in ("learned", "rotary"))
    sizes = [
        {name: value.shape for name, value in part.build(Slot("prior", Codes((7,), 3))).named_parameters()}
        for part in (learned, rotary)
    ]
    assert sizes[0].pop("place") == (7, 8) and sizes[1].pop("place") == (1, 8) and sizes[0] == sizes[1]


def test_channels_of_a_pixel_go_together():
    density = built(Codes((3, 2, 2), 4))
    assert density.order.tolist() == [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]
    assert density.order[density.back].tolist() == list(range(12))


def test_an_order_of_ones_own():
    """The first code drawn has a distribution that nothing else moves."""
    order = [5, 0, 3, 1, 4, 2]
    density = built(Codes((6,), 3), order=order)
    shares = torch.stack([_marginal(density, 5, k) for k in range(3)])
    assert float(shares.sum()) == pytest.approx(1)
    logits = density.head(density.network(density.place[:1][None]))[0, 0].detach()
    torch.testing.assert_close(shares, logits.softmax(0), rtol=0, atol=1e-9)


@torch.no_grad()
def _marginal(density: AutoregressiveDensity, place: int, value: int) -> Tensor:
    axis = torch.arange(3)
    items = torch.cartesian_prod(*[axis] * 6)
    return density.log_prob(items[items[:, place] == value]).exp().sum()


@pytest.mark.parametrize(
    "options, key, said",
    [
        ({"order": [0, 1, 1, 2]}, "order", "names each of the 4 places, 0 to 3, once"),
        ({"order": [0, 1, 2]}, "order", "names each of the 4 places"),
        ({"order": [3, 2, 1, 0], "network": "causal_conv"}, "order", "goes row by row"),
        ({"heads": 3}, "heads", "3 heads cannot share a width of 8 evenly"),
        ({"heads": 3, "positions": "rotary"}, "heads", "3 heads cannot share a width of 8 evenly"),
        ({"heads": 8, "positions": "rotary"}, "positions", "each of 8 heads is 1 wide"),
        ({"network": "causal_conv", "positions": "rotary"}, "positions", "are for 'transformer'"),
    ],
)
def test_what_does_not_fit(options: dict[str, Any], key: str, said: str):
    part = Autoregressive.model_validate({**SMALL, **options})
    (misfit,) = part.misfits(Slot("prior", Codes((4,), 3)))
    assert misfit.key == key and said in misfit.message


def test_reals_are_refused():
    (misfit,) = Autoregressive().misfits(Slot("prior", Real((4,))))
    assert "takes Codes" in misfit.message


LOGITS = torch.tensor([[0.1, 0.5, 0.2, 0.2], [0.7, 0.1, 0.1, 0.1]]).log()


def test_sharpened_logits():
    cold = Drawing(temperature=0.5).sharpened(LOGITS).softmax(1)
    torch.testing.assert_close(cold, LOGITS.exp().square() / LOGITS.exp().square().sum(1, keepdim=True))
    two = Drawing(top_k=1).sharpened(LOGITS).softmax(1)
    assert two.tolist() == [[0, 1, 0, 0], [1, 0, 0, 0]]
    most = Drawing(top_p=0.6).sharpened(LOGITS).softmax(1)
    assert (most > 0).sum(1).tolist() == [2, 1]
    assert torch.equal(Drawing(top_k=9, top_p=1.0).sharpened(LOGITS), LOGITS)


def test_however_cold_the_likeliest_is_drawn():
    for temperature in (1e-30, 1e-40, 1e-300):
        drawn = Drawing(temperature=temperature).sharpened(LOGITS.float()).softmax(1)
        assert drawn.tolist() == [[0, 1, 0, 0], [1, 0, 0, 0]]
    hot = Drawing(temperature=math.inf).sharpened(LOGITS).softmax(1)
    torch.testing.assert_close(hot, torch.full_like(hot, 0.25))


def test_of_equals_no_more_than_k_are_drawn():
    assert int(Drawing(top_k=2).sharpened(torch.zeros(1, 4)).isfinite().sum()) == 2


@pytest.mark.parametrize("wrong", [{"temperature": 0}, {"temperature": math.nan}, {"top_k": 0}, {"top_p": 0}])
def test_impossible_drawings(wrong: dict[str, Any]):
    with pytest.raises(SpaceError, match=next(iter(wrong))):
        Drawing(**wrong)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_log_probability_of_what_was_drawn(network: str):
    """Sharpened, and from a beginning: against the same codes scored at once."""
    density, how = built(Codes((1, 3, 3), 4), network=network), Drawing(temperature=0.7, top_k=3)
    known = torch.randint(4, (5, 4))
    x, said = density.draw(5, None, Drawing(0.7, 3, known=known))
    tokens = x.flatten(1)
    assert torch.equal(tokens[:, :4], known)
    with torch.no_grad():
        logits = density.head(density.network(density._seen(tokens) + density.place))
    each = how.sharpened(logits.flatten(0, 1)).log_softmax(1).gather(1, tokens.reshape(-1, 1)).reshape(5, 9)
    torch.testing.assert_close(said, each[:, 4:].sum(1), rtol=0, atol=1e-12)


def test_images_are_filled_in_from_their_upper_rows():
    part = Model.model_validate({"prior": {"type": "autoregressive", **SMALL}})
    model = part.build(Slot("prior", Codes((1, 8, 8), 17)))
    assert isinstance(model, ModelDensity)
    x = Digits().load().test.x[:5]
    filled = complete(model, x, 3)
    assert torch.equal(filled[:, :, :3], x[:, :, :3].long())
    assert not torch.equal(filled[:, :, 3:], x[:, :, 3:].long())
    with pytest.raises(SpaceError, match="9 rows are to be kept"):
        complete(model, x, 9)
    with pytest.raises(SpaceError, match="what is to be completed"):
        complete(model, x[:, :, :4], 2)


def test_colour_images_are_kept_whole_pixels():
    density = built(Codes((3, 4, 2), 5))
    x = torch.randint(5, (2, 3, 4, 2))
    known = density.beginning(x, 2)
    filled, _ = density.draw(2, None, Drawing(known=known))
    assert torch.equal(filled[:, :, :2], x[:, :, :2])


def test_only_rows_can_be_gone_on_from():
    density = built(Codes((1, 2, 2), 3), order=[3, 2, 1, 0])
    with pytest.raises(SpaceError, match="order of its own"):
        density.beginning(torch.zeros(1, 1, 2, 2, dtype=torch.long), 1)


def test_dropout_is_declared_and_only_in_training():
    density = built(Codes((6,), 3), dropout=0.5)
    x = torch.randint(3, (4, 6))
    density.eval()
    with torch.no_grad():
        assert torch.equal(density.log_prob(x), density.log_prob(x))
        density.train()
        assert not torch.equal(density.log_prob(x), density.log_prob(x))
    assert "0.5" in Autoregressive(dropout=0.5).training_differs and not Autoregressive().training_differs


@pytest.mark.parametrize("part", [Autoregressive, Masked])
@pytest.mark.parametrize(
    ("known", "said"),
    [
        (torch.full((2, 1), 5), "holds values from 5 to 5"),
        (torch.full((2, 1), -1), "holds values from -1 to -1"),
        (torch.full((2, 1), 1.7), "wants integers"),
        (torch.zeros(2, dtype=torch.long), "wants integers"),
        (torch.zeros(3, 1, dtype=torch.long), "2 items are to be drawn, and 3 rows are known"),
        (torch.zeros(2, 10, dtype=torch.long), "10 codes are known, and an item has 9"),
    ],
)
def test_what_is_no_beginning(part: type[Autoregressive] | type[Masked], known: Tensor, said: str):
    density: Any = part(layers=1, width=8, heads=2).build(Slot("prior", Codes((1, 3, 3), 5)))
    with pytest.raises(SpaceError, match=said):
        density.draw(2, None, Drawing(known=known))


def test_a_model_draws_for_each_condition_and_only_code_by_code():
    labels, space = Codes((), 3, ordered=False), Codes((1, 2, 2), 3)

    def made(**prior: Any) -> Any:
        return Model.model_validate({"prior": prior}).build(Slot("prior", space, labels=labels))

    by_label = made(type="autoregressive", labels=True, **SMALL)
    with pytest.raises(SpaceError, match="no condition was given"):
        by_label.draw(2)
    with pytest.raises(SpaceError, match="2 items were asked for, and the condition has 3 rows"):
        by_label.draw(2, torch.tensor([0, 1, 2]))
    with pytest.raises(SpaceError, match="does not draw code by code"):
        made(type="categorical").draw(2, torch.tensor([0, 1]))


def test_nothing_below_the_kept_rows_reaches_the_encoder():
    stage = {"type": "codes", "factor": 2, "quantizer": {"type": "fsq", "levels": [4, 4]}, "likelihood": "normal"}
    model = Model.model_validate({"stages": [stage], "prior": {"type": "autoregressive", **SMALL}})
    built = model.build(Slot("prior", Real((8,))))
    assert isinstance(built, ModelDensity)
    x = torch.randn(3, 8)
    hidden = x.clone()
    hidden[:, 4:] = torch.nan
    filled = complete(built, hidden, 4)
    assert torch.equal(filled[:, :4], x[:, :4]) and torch.equal(filled, complete(built, x, 4))
    for wrong in (x[:, :7], x.long()):
        with pytest.raises(SpaceError, match="what is to be completed"):
            complete(built, wrong, 4)
