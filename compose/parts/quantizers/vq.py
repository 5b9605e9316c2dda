"""Vector quantisation by a codebook that is learned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Le, Lt
from torch import Tensor, nn
from torch.nn import functional

from compose.core.declare import Slot
from compose.core.quantizer import (
    Quantized,
    Quantizer,
    QuantizerPart,
    over_devices,
    picked_over_devices,
    to_grid,
    to_rows,
)
from compose.core.spaces import Codes, Real

#: How many vectors a codebook's k-means sees for each of its entries.
VECTORS = 64


class VQ(QuantizerPart):
    """The nearest of ``size`` vectors that are learned: each follows the mean of those that it stands for."""

    type: ClassVar[str] = "vq"
    source: ClassVar[str] = (
        "van den Oord et al. 2017, arXiv:1711.00937; cosine: Yu et al. 2022, arXiv:2110.04627; revived: Dhariwal et "
        "al. 2020, arXiv:2005.00341; rotation: Fifty et al. 2025, arXiv:2410.06424"
    )

    size: Annotated[int, Ge(2), Le(65536)] = 512
    """How many vectors the codebook holds."""
    dim: Annotated[int, Ge(1), Le(4096)] = 64
    """How many numbers a vector has."""
    update: Literal["ema", "gradient"] = "ema"
    """How the codebook learns: it follows a running mean of what is quantized, or a gradient."""
    decay: Annotated[float, Ge(0), Lt(1)] = 0.99
    """Of the running mean, for each step."""
    cosine: bool = False
    """Compare directions: vectors on both sides have length 1."""
    kmeans: bool = False
    """Start from a k-means of what the encoder gives for the training set."""
    revive: Annotated[float, Ge(0), Le(1)] = 0.1
    """An entry used less than this share of the mean use is put on a vector of the batch; 0 never does that."""
    commitment: Annotated[float, Ge(0)] = 0.25
    """Weight of the squared distance of the encoder's vectors to the entries they become; moves the encoder alone."""
    rotation: bool = False
    """On its way back rotate and stretch the gradient as the vector was, rather than hand it on as it is."""

    @property
    def width(self) -> int:
        """``dim``."""
        return self.dim

    def codes(self, grid: tuple[int, ...]) -> Codes:
        """One code at each place."""
        return Codes(grid, self.size, ordered=False)

    def make(self, slot: Slot, children: Mapping[str, nn.Module]) -> nn.Module:
        """The quantizer with a random codebook."""
        assert isinstance(slot.space, Real)
        return VectorQuantizer(slot.space, self.codes(slot.space.shape[1:]), self)


class VectorQuantizer(Quantizer):
    """A codebook, and how it learns.

    Args:
        takes: Vectors on a grid.
        codes: One code at each place.
        options: As declared.
    """

    def __init__(self, takes: Real, codes: Codes, options: VQ) -> None:
        super().__init__(takes, codes)
        self.options, self.starts = options, options.kmeans
        table = torch.randn(options.size, options.dim) * options.dim**-0.5
        self.codebook: Tensor
        if options.update == "gradient":
            self.codebook = nn.Parameter(table)
        else:
            self.register_buffer("codebook", functional.normalize(table) if options.cosine else table)
        self.total: Tensor
        self.use: Tensor
        self.started: Tensor
        # What the running means are made of; of a codebook that descends, only how often each entry is used.
        self.register_buffer("total", self.codebook.detach().clone())
        self.register_buffer("use", torch.ones(options.size))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))
        self.seen: tuple[Tensor, Tensor] | None = None

    def forward(self, z: Tensor) -> Quantized:
        """The nearest entries."""
        rows = self._scaled(to_rows(z))
        table = self._table()
        index = (table.square().sum(1) - 2 * rows @ table.T).argmin(1)
        if self.training:
            # In the codebook's precision, whatever the encoder's was.
            self.seen = rows.detach().to(table.dtype), index
        found = table[index]

        def apart(a: Tensor, b: Tensor) -> Tensor:
            return (a - b).square().reshape(len(z), -1).sum(1)

        penalties = {"commitment": self.options.commitment * apart(rows, found.detach())}
        if self.options.update == "gradient":
            penalties["codebook"] = apart(found, rows.detach())
        vectors = to_grid(self.passed(rows, found.detach()), z)
        return Quantized(vectors, index.reshape(len(z), *z.shape[2:]), penalties)

    def vectors(self, codes: Tensor) -> Tensor:
        """The entries of those indices."""
        return self._table()[codes.long()].movedim(-1, 1)

    @torch.no_grad()
    def settle(self, kept: Tensor) -> None:
        """Moves the running means, the codebook that follows them, and entries that are hardly used."""
        if self.seen is None:
            return
        (rows, index), self.seen = self.seen, None
        options, share = self.options, 1 - self.options.decay
        used = over_devices(torch.zeros_like(self.use).index_add_(0, index, torch.ones_like(rows[:, 0])))
        use, total, table = self.use.lerp(used, share), self.total, self.codebook
        if options.update == "ema":
            sums = over_devices(torch.zeros_like(self.total).index_add_(0, index, rows))
            total = total.lerp(sums, share)
            # What nothing came to for long has no mean any more, and stays where it is.
            known = use[:, None] > 1e-6
            table = torch.where(known, self._scaled(total / use.clamp_min(1e-6)[:, None]), table)
        if options.revive:
            fresh, mean = picked_over_devices(rows, options.size), use.mean()
            idle = use < options.revive * mean
            table = torch.where(idle[:, None], fresh, table)
            total = torch.where(idle[:, None], fresh * mean, total)
            use = torch.where(idle, mean, use)
        for value, moved in ((self.use, use), (self.total, total), (self.codebook, table)):
            value.copy_(torch.where(kept, moved, value))

    def waits(self) -> bool:
        """Until its k-means was made."""
        return self.starts and not bool(self.started)

    @torch.no_grad()
    def start(self, batches: Iterator[Tensor]) -> None:
        """Puts the codebook on the centres of a k-means, once; entries too many for the vectors stay as they are."""
        if not self.waits():
            return
        from sklearn.cluster import MiniBatchKMeans

        rows = torch.cat([self._scaled(to_rows(z)) for z in batches])
        rows = rows[torch.randperm(len(rows), device=rows.device)[: VECTORS * self.options.size]]
        count = min(self.options.size, len(rows.unique(dim=0)))
        # numpy knows no bfloat16, and float16 would add up to too much.
        points = rows.to(torch.promote_types(rows.dtype, torch.float32)).cpu().numpy()
        found = MiniBatchKMeans(count, n_init="auto", random_state=0).fit(points).cluster_centers_
        self.codebook[:count] = self._scaled(torch.as_tensor(found).to(self.codebook))
        self.total.copy_(self.codebook)
        self.use.fill_(1.0)
        self.started.fill_(True)

    def _scaled(self, rows: Tensor) -> Tensor:
        return functional.normalize(rows) if self.options.cosine else rows

    def _table(self) -> Tensor:
        # A codebook that follows a mean was scaled when it was moved.
        return self._scaled(self.codebook) if self.options.update == "gradient" else self.codebook

    def passed(self, rows: Tensor, found: Tensor) -> Tensor:
        """Straight through, or turned and stretched as the rows were onto what was found."""
        if not self.options.rotation:
            return super().passed(rows, found)
        from vector_quantize_pytorch.vector_quantize_pytorch import rotate_to

        return rotate_to(rows, found)
