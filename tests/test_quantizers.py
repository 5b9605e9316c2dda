"""Quantizers beside vector-quantize-pytorch where that does the same, and beside sums made by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn import functional

from compose.core.declare import Slot
from compose.core.quantizer import Quantizer, QuantizerPart
from compose.core.spaces import Codes, Real
from compose.parts.quantizers.fsq import FSQ
from compose.parts.quantizers.lfq import LFQ
from compose.parts.quantizers.residual import Residual
from compose.parts.quantizers.vq import VQ


def built(part: QuantizerPart, grid: tuple[int, ...] = (3, 3)) -> Any:
    torch.manual_seed(0)
    slot = Slot("quantizer", Real((part.width, *grid)))
    assert not list(part.misfits(slot))
    quantizer = part.build(slot).train()
    assert isinstance(quantizer, Quantizer)
    return quantizer


@pytest.mark.parametrize("cosine", [False, True])
def test_the_running_mean_is_that_of_the_library(cosine: bool):
    from vector_quantize_pytorch import VectorQuantize

    ours = built(VQ(size=16, dim=4, cosine=cosine, revive=0.0, decay=0.9))
    theirs = VectorQuantize(
        4,
        16,
        decay=0.9,
        use_cosine_sim=cosine,
        threshold_ema_dead_code=0,
        accept_image_fmap=True,
        commitment_weight=0.25,
    ).train()
    book: Any = theirs._codebook
    book.embed.copy_(ours.codebook[None])
    book.embed_avg.copy_(ours.codebook[None])
    for _ in range(30):
        z = torch.randn(8, 4, 3, 3)
        vectors, codes, loss = theirs(z)
        found = ours(z)
        ours.settle(torch.tensor(True))
        assert torch.equal(found.codes, codes)
        torch.testing.assert_close(found.vectors, vectors, rtol=1e-4, atol=1e-4)
        # Theirs is a mean over batch, grid and width, ours a sum over grid and width.
        torch.testing.assert_close(found.penalties["commitment"].mean() / (4 * 9), loss.sum(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.codebook, theirs.codebook, rtol=1e-3, atol=1e-3)


def test_commitment_moves_the_encoder_and_the_codebook_descends_by_its_own_term():
    quantizer = built(VQ(size=8, dim=4, update="gradient", commitment=0.25))
    z = torch.randn(5, 4, 3, 3, requires_grad=True)
    found = quantizer(z)
    apart = (z - quantizer.vectors(found.codes)).square().flatten(1).sum(1)
    torch.testing.assert_close(found.penalties["commitment"], 0.25 * apart)
    torch.testing.assert_close(found.penalties["codebook"], apart)
    to_z, to_book = torch.autograd.grad(
        found.penalties["commitment"].sum(), [z, quantizer.codebook], allow_unused=True, retain_graph=True
    )
    assert to_book is None and bool((to_z != 0).any())
    to_z, to_book = torch.autograd.grad(
        found.penalties["codebook"].sum(), [z, quantizer.codebook], allow_unused=True, retain_graph=True
    )
    assert to_z is None and bool((to_book != 0).any())
    (through,) = torch.autograd.grad((found.vectors * 3).sum(), z)
    torch.testing.assert_close(through, torch.full_like(z, 3.0))


def test_the_rotation_trick_turns_the_gradient_as_the_vector_was_turned():
    quantizer = built(VQ(size=8, dim=4, rotation=True), (1,))
    z = torch.randn(6, 4, 1, requires_grad=True)
    found = quantizer(z)
    torch.testing.assert_close(found.vectors, quantizer.vectors(found.codes), rtol=1e-4, atol=1e-5)
    # Along the vector that came in, the gradient is that along the entry, stretched as lengths are.
    entry = quantizer.vectors(found.codes)[:, :, 0]
    (slope,) = torch.autograd.grad((found.vectors[:, :, 0] * entry).sum(), z)
    ratio = entry.norm(dim=1) / z[:, :, 0].norm(dim=1)
    torch.testing.assert_close(slope[:, :, 0], z[:, :, 0] * ratio[:, None] ** 2, rtol=1e-3, atol=1e-4)


def test_entries_that_are_hardly_used_are_revived():
    quantizer = built(VQ(size=32, dim=2, decay=0.5, revive=0.1))
    quantizer.codebook[1:] += 100.0  # the first is nearest to all
    used = []
    for _ in range(20):
        found = quantizer(torch.randn(64, 2, 3, 3))
        used.append(len(found.codes.unique()))
        quantizer.settle(torch.tensor(True))
    assert used[0] == 1 and used[-1] >= 30
    still = built(VQ(size=32, dim=2, decay=0.5, revive=0.0))
    for table in (still.codebook, still.total):
        table[1:] += 100.0
    used = []
    for _ in range(20):
        used.append(len(still(torch.randn(64, 2, 3, 3)).codes.unique()))
        still.settle(torch.tensor(True))
    assert used == 20 * [1]


def test_kmeans_starts_on_the_vectors():
    quantizer = built(VQ(size=4, dim=2, kmeans=True))
    centres = torch.tensor([[5.0, 5.0], [-5.0, 5.0], [5.0, -5.0], [-5.0, -5.0]])
    rows = centres[torch.randint(4, (200, 9))] + 0.1 * torch.randn(200, 9, 2)
    z = rows.movedim(2, 1).unflatten(2, (3, 3))
    quantizer.start(iter(z.split(50)))
    found = quantizer.codebook[functional.pairwise_distance(centres[:, None], quantizer.codebook[None]).argmin(1)]
    torch.testing.assert_close(found, centres, rtol=0, atol=0.1)


def test_residuals_that_have_started_ask_for_no_data():
    """A later phase would else encode the whole training set for nothing."""
    quantizer = built(Residual(quantizer=VQ(size=4, dim=2, kmeans=True), depth=2))  # type: ignore[arg-type]
    quantizer.start(iter(torch.randn(200, 2, 3, 3).split(50)))
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    more = iter(torch.randn(100, 2, 3, 3).split(50))
    quantizer.start(more)
    assert len(list(more)) == 2
    assert all(torch.equal(value, before[name]) for name, value in quantizer.state_dict().items())


def test_finite_scalars_are_levels():
    quantizer = built(FSQ(levels=[3, 5]))
    found = quantizer(3 * torch.randn(200, 2, 3, 3))
    assert quantizer.codes == Codes((3, 3), 15, ordered=False)
    assert found.vectors[:, 0].unique().tolist() == [-1.0, 0.0, 1.0] and not found.penalties
    assert found.vectors[:, 1].unique().tolist() == [-1.0, -0.5, 0.0, 0.5, 1.0]
    assert len(found.codes.unique()) == 15


def test_the_entropies_of_signs_by_hand():
    part = LFQ(bits=3, commitment=0.0, entropy=1.0, temperature=0.7)
    quantizer = built(part, (2,))
    z = torch.randn(4, 3, 2)
    found = quantizer(z)
    every = quantizer.vectors(torch.arange(8)[:, None])[:, :, 0]
    rows = z.movedim(1, 2).reshape(-1, 3)
    p = torch.stack([(-(row - every).square().sum(1) / 0.7).softmax(0) for row in rows])
    alone, mean = -(p * p.log()).sum(1).mean(), p.mean(0)
    torch.testing.assert_close(found.penalties["entropy"], 2 * (alone + (mean * mean.log()).sum()))
    assert torch.equal(found.vectors, torch.where(z > 0, 1.0, -1.0))
    decided = quantizer(1000 * every[:, :, None].expand(-1, -1, 2)).penalties["entropy"]
    assert float(decided) == pytest.approx(-2 * math.log(8))


def test_each_residual_takes_what_is_left():
    z = torch.randn(50, 2, 3, 3)
    errors = []
    for depth in (1, 2, 4):
        quantizer = built(Residual(quantizer=VQ(size=8, dim=2), depth=depth))  # type: ignore[arg-type]
        assert quantizer.codes.shape == (depth, 3, 3)
        for _ in range(300):
            quantizer(z)
            for each in quantizer.quantizer:
                each.settle(torch.tensor(True))
        errors.append(float((quantizer(z).vectors - z).square().mean()))
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    passed = z.clone().requires_grad_()
    (slope,) = torch.autograd.grad(quantizer(passed).vectors.sum(), passed)
    assert bool((slope == 1).all()), "the gradient goes straight through once, not once a level"


def test_what_does_not_fit_is_said():
    nested = Residual(quantizer=Residual(quantizer="fsq"))  # type: ignore[arg-type]
    slot = Slot("quantizer", Real((nested.width, 3)))
    assert ["is one of greater depth" in reason.message for reason in nested.misfits(slot)] == [True]
    many = FSQ(levels=[64, 64, 64])
    (reason,) = many.misfits(Slot("quantizer", Real((3, 2))))
    assert reason.key == "levels" and "262144 codes" in reason.message
    (reason,) = VQ(dim=8).misfits(Slot("quantizer", Real((4, 2))))
    assert "vectors of 8 numbers" in reason.message and "Real(4x2)" in reason.message


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_kmeans_of_halves(dtype: torch.dtype):
    quantizer = built(VQ(size=4, dim=2, kmeans=True)).to(dtype)
    quantizer.start(iter(torch.randn(200, 2, 3, 3, dtype=dtype).split(50)))
    assert bool(quantizer.started) and bool(quantizer.codebook.isfinite().all())


def test_residuals_turn_the_gradient_as_their_sum_was_turned():
    quantizer = built(Residual(quantizer=VQ(size=8, dim=4, rotation=True), depth=3))  # type: ignore[arg-type]
    z = torch.randn(6, 4, 3, 3, requires_grad=True)
    total = quantizer(z).vectors
    torch.testing.assert_close(total, quantizer.vectors(quantizer(z).codes), rtol=1e-4, atol=1e-5)
    (slope,) = torch.autograd.grad((total * total.detach()).sum(), z)
    ratio = total.detach().norm(dim=1, keepdim=True) / z.norm(dim=1, keepdim=True)
    torch.testing.assert_close(slope, z.detach() * ratio.detach() ** 2, rtol=1e-3, atol=1e-4)


def test_residuals_of_a_sequence_stand_place_by_place():
    quantizer = built(Residual(quantizer=FSQ(levels=[3, 3]), depth=2), (4,))  # type: ignore[arg-type]
    z = torch.randn(5, 2, 4)
    found = quantizer(z)
    assert found.codes.shape == (5, 2, 4, 1) and found.vectors.shape == z.shape
    torch.testing.assert_close(quantizer.vectors(found.codes), found.vectors)
    first = found.codes.flatten(1)[:, quantizer.codes.upper(1)]
    assert torch.equal(first, found.codes[:, :, 0, 0]), "both codes of the first place"
