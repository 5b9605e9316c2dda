"""2,000 mutants of recipes: each is checked or refused, soon and in little memory; what passes builds."""

from __future__ import annotations

import copy
import json
import os
import re
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from compose.core import registry
from compose.core.declare import Slot
from compose.core.errors import RecipeError
from compose.core.objective import Objective
from compose.core.spaces import Codes
from compose.recipe.build import build_model
from compose.recipe.check import Checked, check, check_declared
from compose.recipe.read import read_tree
from compose.recipe.recipe import Recipe
from compose.recipe.shipped import find, shipped
from compose.recipe.validate import read_form
from tests.recipe.faults import BASES, KeyPath, get

pytestmark = pytest.mark.long

MUTANTS = 2000
BATCH = 100
BUILT = 60
SECONDS = 10.0
MEMORY = 2**30

NAMES = [name for role in registry.ROLES for name in registry.names(role)]
SCALARS: list[Any] = [
    *(None, True, False, 0, 1, 2, -1, 3, 17, 10**18 - 1, 1 - 10**18, 65536, 0.5, -0.0, 1e308, -1e-308),
    *("", "16", "1e-3", "true", "model", "model.prior", "x" * 3000, "no\nsuch", "ü\u2028", "~", "<<", "."),
]
TOO_DEEP: Any = json.loads("[" * 40 + "]" * 40)
SNIPPETS = [
    *(b": & * ! | > ' \" % @ ` , [ ] { } # - ? ~ << \t".split()),
    b"\n",
    b"  ",
    b"\x00",
    b"\xff",
    b"- ",
    b": ",
    b"!!int ",
]

WORDS = [b" ", b"\n", b":", b"  ", b"{", b"a", b"1", b"type"]


def _texts() -> dict[str, bytes]:
    files = {name: Path(str(find(name))).read_bytes() for name in shipped()}
    return files | {name: json.dumps(data, indent=1).encode() for name, data in BASES.items()}


def _data() -> dict[str, dict[str, Any]]:
    return {name: read_tree(name).data for name in shipped()} | BASES


TEXTS, DATA = _texts(), _data()
#: Of a mutant that extends a shipped recipe, a fault may lie there.
SHIPPED = tuple(os.path.relpath(str(find(name))) for name in shipped())

# Mutations of data: each changes one entry in place.


def _paths(data: Any, path: KeyPath = ()) -> Iterator[KeyPath]:
    for key, value in data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ():
        yield (*path, key)
        yield from _paths(value, (*path, key))


def _value(random: Random) -> Any:
    """A value that belongs nowhere in particular."""
    simple = random.choice([random.choice(SCALARS), random.choice(NAMES), {"type": random.choice(NAMES)}])
    return random.choice([simple, simple, simple, [], {}, [simple], {random.choice(NAMES): simple}, [[simple], {}]])


def _nested(random: Random) -> Any:
    """A model in a model in a model."""
    inner: Any = random.choice(["normal", "mixture", TOO_DEEP])
    for _ in range(random.randrange(20)):
        stage = random.choice([[], ["latent"], [{"type": "latent", "likelihood": inner}], ["bijection"]])
        inner = {"type": "model", "stages": stage, "prior": inner}
    return inner


def mutate(data: Any, random: Random) -> None:
    """Changes one entry: puts something else there, or moves, copies, renames or removes it."""
    paths = list(_paths(data))
    if not paths:
        return
    path = random.choice(paths)
    owner: Any = get(data, path[:-1])
    key: Any = path[-1]
    how = random.randrange(9)
    if how == 0:
        owner[key] = _value(random)
    elif how == 1:
        del owner[key]
    elif how == 2:
        owner[key] = copy.deepcopy(get(data, random.choice(paths)))
    elif how == 3:
        other = random.choice(paths)
        mine, others = copy.deepcopy(owner[key]), copy.deepcopy(get(data, other))
        get(data, other[:-1])[other[-1]] = mine
        owner[key] = others
    elif how == 4 and isinstance(owner, dict):
        owner[random.choice([*NAMES, "dimm", "labels", "type", "prior", str(random.choice(path))])] = owner.pop(key)
    elif how == 5 and isinstance(owner, list):
        owner[key:key] = [copy.deepcopy(owner[key])] * random.choice([1, 2, 300])
    elif how == 6:
        part = owner[key]
        owner[key] = {**part, "type": random.choice(NAMES)} if isinstance(part, dict) else random.choice(NAMES)
    elif how == 7 and isinstance(owner[key], (int, float)):
        owner[key] = owner[key] * random.choice([-1, 1000, 0, 0.5]) + random.choice([0, 1])
    elif how == 8:
        owner[key] = _nested(random)


def mutated(data: Any, random: Random, times: int) -> Any:
    """A copy of the data with some entries changed."""
    for _ in range(times):
        changed = copy.deepcopy(data)
        try:
            mutate(changed, random)
        except (KeyError, IndexError, TypeError):  # an entry was swapped with one that holds it
            continue
        data = changed
    return data


def mangle(text: bytes, random: Random) -> bytes:
    """Changes the bytes of a file: cuts, repeats, moves or inserts some."""
    start = random.randrange(len(text) + 1)
    stop = min(len(text), start + random.choice([1, 1, 5, 30, 200]))
    piece, rest = text[start:stop], text[:start] + text[stop:]
    lines = text.split(b"\n")
    random.shuffle(lines)
    return random.choice(
        [
            rest,
            text[:start] + random.choice(SNIPPETS) + text[start:],
            text[:start] + random.choice(SNIPPETS) + text[stop:],
            text[:start] + piece * random.choice([2, 50]) + text[stop:],
            rest[: start // 2] + piece + rest[start // 2 :],
            text[:stop],
            text.replace(random.choice(WORDS), random.choice(WORDS), random.choice([1, -1])),
            b"\n".join(lines),
        ]
    )


def mutant(seed: int) -> bytes:
    """The text of a mutant; odd seeds mangle a file, even ones change its data."""
    random = Random(seed)
    times = random.choice([1, 1, 2, 3, 5])
    if seed % 2:
        text = random.choice(list(TEXTS.values()))
        for _ in range(times):
            text = mangle(text, random)
        return text
    return json.dumps(mutated(random.choice(list(DATA.values())), random, times)).encode()


@pytest.fixture
def little_memory() -> Iterator[None]:
    """At most 1 GiB more than now: an allocation beyond it raises."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _checked(text: bytes, file: Path) -> Checked | RecipeError:
    file.write_bytes(text)
    try:
        return check(file)
    except RecipeError as error:
        return error


@pytest.mark.parametrize("batch", range(MUTANTS // BATCH))
def test_every_mutant_is_checked_or_refused(batch: int, tmp_path: Path, little_memory: None):
    file = tmp_path / "mutant.yaml"
    for seed in range(batch * BATCH, (batch + 1) * BATCH):
        text = mutant(seed)
        start = time.process_time()
        found = _checked(text, file)
        seconds = time.process_time() - start
        assert seconds < SECONDS, f"mutant {seed} took {seconds:.1f} s"
        if isinstance(found, RecipeError):
            assert found.faults, f"mutant {seed} was refused without a fault"
        for fault in found.faults:
            assert fault.message, f"mutant {seed} has a fault that says nothing"
            assert fault.where.startswith((str(file), *SHIPPED)), f"mutant {seed}: {fault}"
        if isinstance(found, Checked):
            _agrees_with_pydantic(found, seed)


def _agrees_with_pydantic(found: Checked, seed: int) -> None:
    """The walk that collects all faults of form finds some just where validation as a whole fails."""
    form = read_form(found.tree)
    try:
        recipe = Recipe.model_validate(found.tree.data)
    except ValidationError:
        assert form.faults, f"mutant {seed} has faults of form that were not found"
        return
    assert not form.faults, f"mutant {seed}: {list(form.faults.values())}"
    assert recipe == found.recipe, f"mutant {seed} was read as another recipe"


def _cheap(found: Checked) -> bool:
    """Whether the model has no option above 256, in few parts, so that building it is a matter of milliseconds."""
    model = found.recipe.model
    largest = max((int(digits) for digits in re.findall(r"\d+", json.dumps(model.model_dump()))), default=0)
    return largest <= 256 and sum(1 for _ in model.walk(found.slot)) < 24


def _trains(found: Checked) -> None:
    """Builds the model, and takes the gradient of each objective on three data."""
    recipe = found.recipe
    model = build_model(recipe.model, found.space, found.labels)
    x = torch.zeros(3, *found.space.shape, dtype=torch.uint8 if isinstance(found.space, Codes) else None)
    c = None if found.labels is None else torch.arange(3)
    slot = Slot("objective", found.space, labels=found.labels, model=recipe.model)
    model.fit_parts(lambda: [(x, c)])
    for phase in recipe.train[:2]:
        objective = phase.players[0].objectives[0].objective.build(slot)
        assert isinstance(objective, Objective)
        value = objective(model, x, c, 0).value
        if value.requires_grad:
            value.backward()
    assert model.sample(2, None if c is None else c[:2]).shape == (2, *found.space.shape)


def test_what_passes_the_check_builds(tmp_path: Path):
    built = 0
    for seed in range(0, 10 * MUTANTS, 2):
        found = _checked(mutant(seed), tmp_path / "mutant.yaml")
        if isinstance(found, Checked) and not found.faults and _cheap(found):
            try:
                _trains(found)
            except Exception as error:
                raise AssertionError(f"mutant {seed} passed its check:\n{json.dumps(found.tree.data)}") from error
            assert check_declared(found.recipe).faults == []
            built += 1
        if built == BUILT:
            return
    raise AssertionError(f"only {built} mutants passed their check")
