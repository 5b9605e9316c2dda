"""What drawing code by code costs: beside x-transformers, of codes beside pixels, and the memory of the cache.

    python tests/benchmarks/sampling.py [--threads 2] [--rounds 5]

1. 64 sequences of 196 codes of 512, drawn from their caches by a transformer of 6 layers of 256 numbers with 8 heads.
   On both sides the feed-forward nets are 4 times as wide, the places are learned, and codes are drawn at temperature 1
   with no limit; x-transformers attends by torch's fused kernel or by its own, whichever is quicker here. It is told a
   first code, for it has no start of its own: 196 steps on both sides.
2. Whether the likeliest codes are the same from the cache and computed anew at each step, in float64, on digits after
   some hundred steps of training, each completed from its two upper rows.
3. 64 images of 28x28 binary pixels: the 7x7 codes of ``fashion/vqvae``, decoded and drawn from the likelihood, against
   the pixels one by one from the same transformer.
4. One colour crop of 64x64: the 16x16 codes of ``vqgan_photographs`` against its 12,288 levels one by one, likewise; in
   one round, since the levels take a minute or so.
5. Numbers and bytes that the cache of 1. takes for each sample, by length.

Printed are medians over interleaved rounds of our time by the other: 0.5 means that we take half as long.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from x_transformers import AutoregressiveWrapper, Decoder, TransformerWrapper

import compose
from compose.core.declare import Slot
from compose.core.drawing import Drawing
from compose.core.spaces import Codes
from compose.data.digits import Digits
from compose.parts.densities.autoregressive import Autoregressive, AutoregressiveDensity
from compose.recipe.build import build_model

BATCH = 64
LAYERS, WIDTH, HEADS = 6, 256, 8
SEQUENCE = Codes((196,), 512, ordered=False)
IMAGE, CROP = Codes((1, 28, 28), 2), Codes((3, 64, 64), 256)
LENGTHS = (49, 196, 784, 3072)
STEPS = 300  # of training, before codes are compared


def density(space: Codes, **options: Any) -> AutoregressiveDensity:
    """Ours, with random weights."""
    built = Autoregressive.model_validate(options).build(Slot("prior", space)).eval()
    assert isinstance(built, AutoregressiveDensity)
    return built


def ours() -> nn.Module:
    return density(SEQUENCE, layers=LAYERS, width=WIDTH, heads=HEADS)


def theirs(fused: bool) -> nn.Module:
    """The same of x-transformers."""
    blocks = Decoder(dim=WIDTH, depth=LAYERS, heads=HEADS, attn_dim_head=WIDTH // HEADS, ff_mult=4, attn_flash=fused)
    net = TransformerWrapper(num_tokens=SEQUENCE.size, max_seq_len=SEQUENCE.dim + 1, attn_layers=blocks)
    return AutoregressiveWrapper(net).eval()


def drawn_by(net: Any) -> Callable[[], Tensor]:
    """Draws a batch of sequences."""
    if isinstance(net, AutoregressiveDensity):
        return lambda: net.sample(BATCH)
    first = torch.zeros(BATCH, 1, dtype=torch.long)
    every = {"temperature": 1.0, "filter_logits_fn": lambda logits: logits, "cache_kv": True}
    return lambda: net.generate(first, SEQUENCE.dim, **every)


def seconds(step: Callable[[], Any]) -> float:
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def race(what: str, sides: dict[str, Callable[[], Any]], rounds: int) -> float:
    """Prints and returns the median ratio of the first side's time to that of the quickest other one."""
    for step in sides.values():
        step()
    each = [{name: seconds(step) for name, step in sides.items()} for _ in range(rounds)]
    first, *others = sides
    times = {name: statistics.median(row[name] for row in each) for name in sides}
    quickest = min(others, key=times.__getitem__)
    ratios = sorted(row[first] / row[quickest] for row in each)
    ratio = statistics.median(ratios)
    spoken = ", ".join(f"{name} {value:.2f}" for name, value in times.items())
    print(
        f"{what}: {first} / {quickest} {ratio:.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})   seconds: {spoken}",
        flush=True,
    )
    return ratio


def beside_x_transformers(rounds: int) -> float:
    nets = {"ours": ours(), "x-transformers": theirs(False), "x-transformers fused": theirs(True)}
    counts = {name: sum(value.numel() for value in net.parameters()) for name, net in nets.items()}
    print("parameters: " + ", ".join(f"{name} {count:,}" for name, count in counts.items()), flush=True)
    return race(f"{BATCH} x {SEQUENCE}", {name: drawn_by(net) for name, net in nets.items()}, rounds)


def trained() -> tuple[AutoregressiveDensity, Tensor]:
    """A transformer over the pixels of digits, in float64, and digits that it has not seen."""
    digits = Digits().load()
    net, x = density(Codes((1, 8, 8), 17), layers=2, width=64), digits.train.x.long()
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    for _ in range(STEPS):
        optimizer.zero_grad()
        (-net.log_prob(x[torch.randint(len(x), (BATCH,))]).mean()).backward()
        optimizer.step()
    return net.double(), digits.test.x[:BATCH].long()


def likeliest_codes() -> float:
    """Prints and returns the share of likeliest codes that are the same without a cache."""
    return compared(*trained())


@torch.no_grad()
def compared(net: AutoregressiveDensity, x: Tensor) -> float:
    known = net.beginning(x, 2)
    cached, _ = net.draw(len(x), how=Drawing(top_k=1, known=known))
    tokens = functional.pad(known, (0, net.space.dim - known.shape[1]))
    for i in range(known.shape[1], net.space.dim):
        logits = net.head(net.network(net._seen(tokens) + net.place))[:, i]
        tokens[:, i] = logits.argmax(1)
    drawn = slice(known.shape[1], None)
    same = float((cached.flatten(1) == tokens)[:, drawn].double().mean())
    count = tokens[:, drawn].numel()
    print(f"likeliest codes after {STEPS} steps, from the cache as computed anew: {same:.2%} of {count}", flush=True)
    return same


def codes_beside_pixels(name: str, space: Codes, batch: int, rounds: int) -> float:
    """Prints and returns how much of the time of pixels the codes of a recipe take, by the prior of that recipe."""
    recipe = compose.load_recipe(name)
    model = build_model(recipe.model, space).eval()
    pixels = recipe.model.prior.build(Slot("prior", space)).eval()
    sides = {"codes": lambda: model.sample(batch), "pixels": lambda: pixels.sample(batch)}
    ratio = race(f"{batch} x {space}", sides, rounds)
    print(f"images of codes come {1 / ratio:.1f} times as quickly as pixels")
    return ratio


def memory() -> dict[int, int]:
    """Prints and returns the bytes of a sample's cache by the number of codes."""
    found = {}
    for length in LENGTHS:
        net = density(Codes((length,), SEQUENCE.size), layers=LAYERS, width=WIDTH, heads=HEADS)
        cache = net.network.begin(1, net.place)
        found[length] = cache.nbytes
        print(f"cache of {length:4} codes: {cache.numel():9,} numbers, {cache.nbytes / 2**20:5.2f} MiB a sample")
    return found


def main(threads: int = 2, rounds: int = 5) -> dict[str, Any]:
    """Prints and returns what was measured."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    return {
        "x-transformers": beside_x_transformers(rounds),
        "same": likeliest_codes(),
        "codes": codes_beside_pixels("fashion/vqvae", IMAGE, BATCH, rounds),
        "crops": codes_beside_pixels("vqgan_photographs", CROP, 1, 1),
        "bytes": memory(),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="What drawing code by code costs.")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    main(options.threads, options.rounds)
