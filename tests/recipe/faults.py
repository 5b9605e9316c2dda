"""Kinds of fault that a recipe can have, each planted at every place of a sound recipe where it makes sense.

What is planted says where it must be reported and with which words, so that a check can be held to all of it. Pages are
written here and not by the library, so that positions are known from elsewhere.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

KeyPath = tuple[str | int, ...]
Data = dict[str, Any]

GONE = object()
FAR = "zzyzx"


@dataclass(frozen=True)
class Plant:
    """One fault in one place.

    Args:
        edits: New value of each key path changed; ``GONE`` takes the entry out.
        at: Key path at which the fault must be reported.
        says: What the report must hold.
        needs: Key paths that must be left alone for the fault to arise, and for no second one to follow.
    """

    edits: dict[KeyPath, Any]
    at: KeyPath
    says: str
    needs: tuple[KeyPath, ...] = ()
    kind: str = ""

    def goes_with(self, other: Plant, seen: bool = True) -> bool:
        """Whether neither touches what the other touches, nor, if both are to be seen, what it counts on."""
        mine, others = tuple(self.edits), tuple(other.edits)
        pairs = [(a, b) for a in mine for b in others]
        if seen:
            pairs += [(a, b) for a in mine for b in other.needs] + [(a, b) for a in self.needs for b in others]
        return self.at != other.at and not any(a[: len(b)] == b or b[: len(a)] == a for a, b in pairs)


Kind = Callable[[Data], Iterator[Plant]]
KINDS: dict[str, Kind] = {}


def _kind(make: Kind) -> Kind:
    KINDS[make.__name__.lstrip("_")] = make
    return make


def plants(name: str, data: Data) -> list[Plant]:
    """Every place of a recipe at which a kind of fault can be planted."""
    return [Plant(each.edits, each.at, each.says, each.needs, name) for each in KINDS[name](data)]


def planted(data: Data, chosen: list[Plant]) -> Data:
    """The recipe with the faults in it."""
    data = copy.deepcopy(data)
    for plant in chosen:
        for path, value in plant.edits.items():
            owner = get(data, path[:-1])
            if value is GONE:
                del owner[path[-1]]
            else:
                owner[path[-1]] = copy.deepcopy(value)
    return data


def draw(random: Random, count: int = 5, seen: bool = True) -> tuple[Data, list[Plant]]:
    """A sound recipe and ``count`` faults of different kinds that leave each other alone, or may hide each other."""
    while True:
        data = random.choice(list(BASES.values()))
        chosen: list[Plant] = []
        for name in random.sample(list(KINDS), len(KINDS)):
            fitting = [plant for plant in plants(name, data) if all(plant.goes_with(other, seen) for other in chosen)]
            if fitting:
                chosen.append(random.choice(fitting))
            if len(chosen) == count:
                return data, chosen


def get(data: Any, path: KeyPath) -> Any:
    """What stands at a key path."""
    for step in path:
        data = data[step]
    return data


# Sound recipes, with every option written out that a kind of fault wants to stand at.

_MLP = {"type": "mlp", "hidden": [32, 16], "activation": "silu", "gated": False}
_FLOW = {"type": "flow", "transform": "rq_coupling", "layers": 2, "hidden": 16, "bins": 4, "bound": 4.5, "mixing": "lu"}
_ADAM = {"type": "adam", "lr": 0.002, "weight_decay": 0.01, "betas": [0.9, 0.99], "schedule": "cosine", "warmup": 5}
_ELBO = {"type": "elbo", "beta": 0.5, "warmup": 10, "free_bits": 0.25, "mode": "path"}
_LATENT = {
    "type": "latent",
    "dim": 12,
    "encoder": _MLP,
    "posterior": "normal",
    "decoder": _MLP,
    "likelihood": "categorical",
}
_OVER_REALS = {
    **_LATENT,
    "dim": 6,
    "likelihood": "normal",
    "posterior": {"type": "flow", "transform": "maf", "context": 4},
}
_DIGITS = {"type": "digits", "levels": 9, "labels": False}
_SCORE = {"samples": 20, "seed": 1}
_PHASE = {"objective": _ELBO, "steps": 100, "batch_size": 64, "optimizer": _ADAM, "clip": 1.0, "trains": ["model"]}
_TWO_PLAYERS = {
    "players": [
        {"objectives": [{"objective": _ELBO, "weight": 1.0}], "trains": ["model.stages.0"], "optimizer": _ADAM},
        {"objectives": [{"objective": "iwae", "start": 5}], "trains": ["model.prior"], "ema": 0.99},
    ],
    "epochs": 2.5,
    "batch_size": 100,
}
_AFTER_TWO = {
    **_TWO_PLAYERS,
    "players": [{**_TWO_PLAYERS["players"][0], "trains": ["model.stages.2"]}, _TWO_PLAYERS["players"][1]],
}

BASES: dict[str, Data] = {
    "vae": {
        "data": _DIGITS,
        "model": {"stages": [_LATENT], "prior": _FLOW},
        "train": [_PHASE, {"objective": {"type": "iwae", "samples": 3}, "seconds": 5.0, "trains": ["model.prior"]}],
        "evaluate": _SCORE,
        "seed": 3,
    },
    "hvae": {
        "data": _DIGITS,
        "model": {"stages": [_LATENT, _OVER_REALS], "prior": {"type": "vamp", "components": 20}},
        "train": [_PHASE, _TWO_PLAYERS],
        "evaluate": _SCORE,
        "seed": 0,
    },
    "three stages": {
        "data": _DIGITS,
        "model": {
            "stages": ["dequantize", {"type": "standardize", "per": "item"}, _OVER_REALS],
            "prior": {"type": "mixture", "components": 7},
        },
        "train": [{**_PHASE, "objective": "elbo", "validate_every": 10, "ema": 0.9}, _AFTER_TWO],
        "evaluate": _SCORE,
    },
    "flow": {
        "data": _DIGITS,
        "model": {
            "stages": [_LATENT, {**_FLOW, "type": "bijection", "transform": "affine_coupling"}],
            "prior": {"type": "normal", "labels": False},
        },
        "train": [_PHASE],
        "seed": 8,
    },
    "no latent": {
        "data": _DIGITS,
        "model": {"stages": [], "prior": {"type": "discretized_logistic", "components": 3}},
        "train": [
            {**_PHASE, "objective": "maximum_likelihood"},
            {"objective": {"type": "elbo"}, "steps": 5, "batch_size": 9},
        ],
        "evaluate": _SCORE,
        "seed": 5,
    },
    "by class": {
        "data": {"type": "digits", "binarize": True, "labels": True},
        "model": {
            "stages": [{**_LATENT, "likelihood": "bernoulli", "labels": True}],
            "prior": {**_FLOW, "labels": True},
        },
        "train": [_PHASE, {"objective": "elbo", "epochs": 1, "trains": ["model.prior"]}],
        "evaluate": _SCORE,
    },
}


# No two entries are one object, or a fault planted in one would stand in the other.
BASES = json.loads(json.dumps(BASES))

# What stands where.


def _entries(data: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    yield path, data
    for key, value in data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ():
        yield from _entries(value, (*path, key))


def _records(data: Data) -> Iterator[KeyPath]:
    return (path for path, value in _entries(data) if isinstance(value, dict))


_ROLES = {
    "data": "data",
    "prior": "density",
    "posterior": "density",
    "likelihood": "density",
    "encoder": "net",
    "decoder": "net",
    "objective": "objective",
}


def _role(path: KeyPath) -> str:
    if len(path) > 1 and path[-2] == "stages":
        return "stage"
    return _ROLES.get(str(path[-1]), "") if path else ""


def _parts(data: Data, *roles: str) -> Iterator[tuple[KeyPath, Any]]:
    """The parts of some roles, of all by default: key path and what is written."""
    return ((path, value) for path, value in _entries(data) if _role(path) and (not roles or _role(path) in roles))


def _name(value: Any) -> str:
    return value if isinstance(value, str) else value["type"]


def _renamed(value: Any, name: Any) -> Any:
    return name if isinstance(value, str) else {**value, "type": name}


def _latents(data: Data) -> list[KeyPath]:
    stages = data["model"]["stages"]
    return [("model", "stages", i) for i, stage in enumerate(stages) if _name(stage) == "latent"]


def _owner(data: Data, path: KeyPath) -> str:
    """The name of the record that holds an option."""
    owner = get(data, path[:-1])
    if _role(path[:-1]):
        return _name(owner)
    named = [str(step) for step in path[:-1] if not isinstance(step, int)]
    return named[-1] if named else "recipe"


@dataclass(frozen=True)
class Option:
    """What an option takes, as the documentation of its part says it."""

    takes: str
    least: float | None = None
    below: Any = None
    above: Any = None
    says: tuple[str, str] = field(default=("", ""))


_COUNT = Option("int", below=0, above=10**12, says=(">= 1", "<= "))
_FREE_COUNT = Option("int", below=-1, says=(">= 0", ""))
OPTIONS: dict[tuple[str, str], Option] = {
    ("latent", "dim"): _COUNT,
    ("mlp", "activation"): Option("one of"),
    ("mlp", "gated"): Option("bool"),
    ("mixture", "components"): _COUNT,
    ("vamp", "components"): _COUNT,
    ("discretized_logistic", "components"): _COUNT,
    ("standardize", "per"): Option("one of"),
    ("elbo", "beta"): Option("float", below=-0.5, says=(">= 0", "")),
    ("elbo", "warmup"): _FREE_COUNT,
    ("elbo", "free_bits"): Option("float", below=-1, says=(">= 0", "")),
    ("elbo", "mode"): Option("one of"),
    ("iwae", "samples"): _COUNT,
    ("digits", "binarize"): Option("bool"),
    ("digits", "labels"): Option("bool"),
    ("optimizer", "type"): Option("one of"),
    ("optimizer", "lr"): Option("float", below=0, above=11, says=("> 0", "<= 10")),
    ("optimizer", "weight_decay"): Option("float", below=-1, says=(">= 0", "")),
    ("optimizer", "schedule"): Option("one of"),
    ("optimizer", "warmup"): _FREE_COUNT,
    ("train", "batch_size"): _COUNT,
    ("train", "clip"): Option("float", below=0, says=("> 0", "")),
    ("train", "ema"): Option("float", below=0, above=1, says=("> 0", "< 1")),
    ("players", "ema"): Option("float", below=0, above=1, says=("> 0", "< 1")),
    ("objectives", "weight"): Option("float", below=-1, says=(">= 0", "")),
    ("objectives", "start"): _FREE_COUNT,
    ("evaluate", "samples"): _COUNT,
    ("evaluate", "seed"): Option("int"),
    ("recipe", "seed"): Option("int", below=-1, above=2**31, says=(">= 0", "<= ")),
    **{
        (owner, key): option
        for owner in ("flow", "bijection")
        for key, option in {
            "transform": Option("one of"),
            "layers": _COUNT,
            "hidden": _COUNT,
            "bins": Option("int", below=1, above=65, says=(">= 2", "<= 64")),
            "bound": Option("float", below=0, above=1001, says=("> 0", "<= 1000")),
            "mixing": Option("one of"),
        }.items()
    },
}


def _options(data: Data, *takes: str) -> Iterator[tuple[KeyPath, Option]]:
    """The written options that take one of some types, of any by default."""
    for path, _ in _entries(data):
        option = OPTIONS.get((_owner(data, path), str(path[-1]))) if path and not isinstance(path[-1], int) else None
        if option and (not takes or option.takes in takes):
            yield path, option


def _instead(data: Data, value: Any, says: dict[str, str]) -> Iterator[Plant]:
    """``value`` in place of each option that takes a type it is not."""
    for path, option in _options(data, *says):
        yield Plant({path: value}, path, says[option.takes])


_NUMBERS = {"int": "wanted a whole number", "float": "wanted a number"}
_ALL = {**_NUMBERS, "bool": "wanted true or false", "one of": "wanted '"}

# Keys.


@_kind
def unknown_key(data: Data) -> Iterator[Plant]:
    for path in _records(data):
        at = (*path, FAR)
        yield Plant({at: 1}, at, f"'{FAR}' is no option of")


@_kind
def misspelt_key(data: Data) -> Iterator[Plant]:
    for path, _ in _options(data):
        if len(key := str(path[-1])) > 3 and key != "type":
            wrong = key[:-2] + key[-1] + key[-2]
            at = (*path[:-1], wrong)
            yield Plant({at: get(data, path), path: GONE}, at, f"Did you mean '{key}'?")


@_kind
def missing_key(data: Data) -> Iterator[Plant]:
    for key in ("data", "model", "train"):
        needs = (("model",), ("train",)) if key == "model" else ()
        yield Plant({(key,): GONE}, (key,), f"the key '{key}' is missing", needs)
    if "levels" in data["data"]:
        yield Plant({("data",): "idx"}, ("data", "folder"), "the key 'folder' is missing")
    for path, value in _entries(data):
        if isinstance(value, dict) and "objectives" in value:
            yield Plant({(*path, "objectives"): GONE}, (*path, "objectives"), "the key 'objectives' is missing")
        if len(path) > 1 and path[-2] == "objectives":
            yield Plant({(*path, "objective"): GONE}, (*path, "objective"), "the key 'objective' is missing")


@_kind
def players_beside_own_keys(data: Data) -> Iterator[Plant]:
    for i, phase in enumerate(data["train"]):
        if "players" in phase:
            at = ("train", i, "objective")
            yield Plant({at: "elbo"}, at, "'objective' stands beside 'players'", (("train", i, "players"),))


# Names of parts.


def _named(data: Data, role: str, name: str, says: str) -> Iterator[Plant]:
    for path, value in _parts(data, role):
        yield Plant({path: _renamed(value, name)}, path, says)


@_kind
def unknown_stage(data: Data) -> Iterator[Plant]:
    return _named(data, "stage", FAR, f"there is no stage called '{FAR}'")


@_kind
def unknown_density(data: Data) -> Iterator[Plant]:
    return _named(data, "density", FAR, f"there is no density called '{FAR}'")


@_kind
def unknown_net(data: Data) -> Iterator[Plant]:
    return _named(data, "net", FAR, f"there is no net called '{FAR}'")


@_kind
def unknown_objective(data: Data) -> Iterator[Plant]:
    return _named(data, "objective", FAR, f"there is no objective called '{FAR}'")


@_kind
def unknown_data(data: Data) -> Iterator[Plant]:
    return _named(data, "data", FAR, f"there is no data called '{FAR}'")


@_kind
def misspelt_part(data: Data) -> Iterator[Plant]:
    for path, value in _parts(data):
        name = _name(value)
        yield Plant({path: _renamed(value, f"{name}s")}, path, f"Did you mean '{name}'?")


@_kind
def part_of_another_role(data: Data) -> Iterator[Plant]:
    for path, value in _parts(data):
        name, shelf = ("mlp", "net") if _role(path) != "net" else ("vamp", "density")
        if isinstance(value, str):
            yield Plant({path: name}, path, f"there is no {_role(path)} called '{name}'; that is a {shelf}.")


@_kind
def missing_type(data: Data) -> Iterator[Plant]:
    for path, value in _parts(data):
        if isinstance(value, dict) and len(value) > 1:
            yield Plant({(*path, "type"): GONE}, path, f"the key 'type' is missing: which {_role(path)}?", (path,))


@_kind
def number_for_a_part(data: Data) -> Iterator[Plant]:
    for path, _ in _parts(data):
        yield Plant({path: 3}, path, "the number 3 came, wanted a part")


@_kind
def list_for_a_part(data: Data) -> Iterator[Plant]:
    for path, value in _parts(data):
        yield Plant({path: [value]}, path, "a list came, wanted a part")


@_kind
def null_for_a_part(data: Data) -> Iterator[Plant]:
    for path, _ in _parts(data):
        yield Plant({path: None}, path, "null came, wanted a part")


# Types of options.


@_kind
def text_for_a_number(data: Data) -> Iterator[Plant]:
    return _instead(data, "16", _NUMBERS)


@_kind
def truth_for_a_number(data: Data) -> Iterator[Plant]:
    return _instead(data, True, _NUMBERS)


@_kind
def list_for_a_number(data: Data) -> Iterator[Plant]:
    return _instead(data, [3], _NUMBERS)


@_kind
def mapping_for_a_number(data: Data) -> Iterator[Plant]:
    return _instead(data, {"value": 3}, _NUMBERS)


@_kind
def fraction_for_a_whole_number(data: Data) -> Iterator[Plant]:
    return _instead(data, 2.5, {"int": "wanted a whole number"})


@_kind
def null_for_an_option(data: Data) -> Iterator[Plant]:
    optional = ("levels", "clip", "ema", "steps", "epochs", "seconds", "validate_every")
    return (plant for plant in _instead(data, None, _ALL) if plant.at[-1] not in optional)


@_kind
def number_for_a_truth_value(data: Data) -> Iterator[Plant]:
    return _instead(data, 1, {"bool": "wanted true or false"})


@_kind
def text_for_a_truth_value(data: Data) -> Iterator[Plant]:
    return _instead(data, "yes", {"bool": "the text 'yes' came, wanted true or false"})


@_kind
def number_for_a_text(data: Data) -> Iterator[Plant]:
    for path, _ in _entries(data):
        if len(path) > 1 and path[-2] == "trains":
            yield Plant({path: 7}, path, "the number 7 came, wanted a text")


@_kind
def scalar_for_a_list(data: Data) -> Iterator[Plant]:
    for path, value in _entries(data):
        if isinstance(value, list) and path[-1] in ("stages", "train", "players", "objectives", "trains", "hidden"):
            needs = (("model", "prior"),) if path[-1] == "stages" else ()
            yield Plant({path: 5}, path, "the number 5 came, wanted a list", needs)


@_kind
def item_of_wrong_type(data: Data) -> Iterator[Plant]:
    for path, _ in _entries(data):
        if len(path) > 1 and path[-2] in ("hidden", "betas"):
            yield Plant({path: "wide"}, path, "the text 'wide' came, wanted a")


@_kind
def scalar_for_a_record(data: Data) -> Iterator[Plant]:
    for path in _records(data):
        if path and not _role(path):
            yield Plant({path: 5}, path, "the number 5 came, wanted a mapping")


# Values of options.


@_kind
def value_below_range(data: Data) -> Iterator[Plant]:
    for path, option in _options(data):
        if option.below is not None:
            yield Plant({path: option.below}, path, f"wanted {option.says[0]}")


@_kind
def value_above_range(data: Data) -> Iterator[Plant]:
    for path, option in _options(data):
        if option.above is not None:
            yield Plant({path: option.above}, path, f"wanted {option.says[1]}")


@_kind
def none_of_the_choices(data: Data) -> Iterator[Plant]:
    return _instead(data, FAR, {"one of": f"the text '{FAR}' came, wanted '"})


@_kind
def misspelt_choice(data: Data) -> Iterator[Plant]:
    for path, _ in _options(data, "one of"):
        value = get(data, path)
        yield Plant({path: f"{value}y"}, path, f"Did you mean '{value}'?")


@_kind
def empty_list(data: Data) -> Iterator[Plant]:
    for path, value in _entries(data):
        if isinstance(value, list) and path[-1] in ("train", "players", "objectives", "trains"):
            yield Plant({path: []}, path, "a list of length 0 came, wanted at least 1")


@_kind
def list_of_wrong_length(data: Data) -> Iterator[Plant]:
    for path, _ in _entries(data):
        if path and path[-1] == "betas":
            yield Plant({path: [0.9]}, path, "a list of length 1 came, wanted at least 2")
            yield Plant({path: [0.9, 0.9, 0.9]}, path, "a list of length 3 came, wanted at most 2")


@_kind
def levels_out_of_range(data: Data) -> Iterator[Plant]:
    at = ("data", "levels")
    if "levels" in data["data"]:
        for levels in (1, 18, -3):
            yield Plant({at: levels}, at, f"levels is {levels}, but 'digits' stores 17")


# Options that do not go together.


def _phases(data: Data) -> Iterator[tuple[KeyPath, str]]:
    for i, phase in enumerate(data["train"]):
        yield ("train", i), next(key for key in ("steps", "epochs", "seconds") if key in phase)


@_kind
def two_budgets(data: Data) -> Iterator[Plant]:
    for path, budget in _phases(data):
        second = "steps" if budget != "steps" else "seconds"
        yield Plant({(*path, second): 3}, path, "a phase has one budget", ((*path, budget),))


@_kind
def no_budget(data: Data) -> Iterator[Plant]:
    for path, budget in _phases(data):
        yield Plant(
            {(*path, budget): GONE}, path, "and none is given", tuple((*path, key) for key in ("steps", "seconds"))
        )


@_kind
def levels_with_binarize(data: Data) -> Iterator[Plant]:
    edits: dict[KeyPath, Any] = {("data", "levels"): 4, ("data", "binarize"): True}
    yield Plant(edits, ("data",), "exclude each other", (("data", "type"),))


# Data.

_DATA_NEEDS: tuple[KeyPath, ...] = (("data", "type"), ("data", "levels"), ("data", "binarize"))


@_kind
def missing_folder(data: Data) -> Iterator[Plant]:
    if "levels" in data["data"]:
        for name in ("idx", "fashion_mnist"):
            yield Plant({("data",): {"type": name, "folder": "no/such"}}, ("data",), "no/such: no such folder")


# Spaces.


def _swapped(data: Data, key: str, name: str, says: str, on_data: bool | None = None) -> Iterator[Plant]:
    """``name`` in place of a density of each latent: of those on the data, or of the others."""
    for path in _latents(data):
        below = (("model", "stages", int(path[-1]) - 1),) if path[-1] else _DATA_NEEDS
        if on_data is None or on_data == (path[-1] == 0):
            at = (*path, key)
            yield Plant({at: name}, at, says, ((*path, "type"), *(below if key == "likelihood" else ())))


@_kind
def bernoulli_on_levels(data: Data) -> Iterator[Plant]:
    if "levels" in data["data"]:
        yield from _swapped(
            data, "likelihood", "bernoulli", "'bernoulli' takes Codes of 2 levels, but the data give", True
        )


@_kind
def normal_on_codes(data: Data) -> Iterator[Plant]:
    return _swapped(data, "likelihood", "normal", "'normal' takes Real, but the data give Codes(1x8x8", True)


@_kind
def categorical_on_reals(data: Data) -> Iterator[Plant]:
    return _swapped(data, "likelihood", "categorical", "'categorical' takes Codes, but stage '", False)


@_kind
def codes_for_a_prior_on_reals(data: Data) -> Iterator[Plant]:
    if stages := data["model"]["stages"]:
        at = ("model", "prior")
        says = f"'bernoulli' takes Codes, but stage '{_name(stages[-1])}' gives Real"
        yield Plant({at: "bernoulli"}, at, says, (("model", "stages", len(stages) - 1),))


@_kind
def prior_on_reals_for_codes(data: Data) -> Iterator[Plant]:
    if not data["model"]["stages"]:
        at = ("model", "prior")
        yield Plant(
            {at: "mixture"}, at, "'mixture' takes Real, but the data give Codes", (("model", "stages"), *_DATA_NEEDS)
        )


@_kind
def stage_on_reals_for_codes(data: Data) -> Iterator[Plant]:
    if data["model"]["stages"][:1] == ["dequantize"]:
        at = ("model", "stages", 0)
        for name in ("bijection", "standardize"):
            yield Plant({at: name}, at, f"'{name}' takes Real, but the data give Codes", (*_DATA_NEEDS, _STAGES))


@_kind
def dequantize_on_reals(data: Data) -> Iterator[Plant]:
    for i, stage in enumerate(data["model"]["stages"]):
        if i and _name(stage) != "latent":
            at = ("model", "stages", i)
            says = f"'dequantize' takes ordered Codes, but stage '{_name(data['model']['stages'][i - 1])}' gives Real"
            yield Plant({at: "dequantize"}, at, says, (("model", "stages", i - 1),))


@_kind
def coupling_of_one_number(data: Data) -> Iterator[Plant]:
    for path in _latents(data):
        above = data["model"]["stages"][int(path[-1]) + 1 :]
        over: KeyPath = ("model", "stages", int(path[-1]) + 1) if above else ("model", "prior")
        if "coupling" in str(get(data, over)):
            at = (*over, "transform")
            yield Plant({(*path, "dim"): 1}, at, "splits the numbers in two halves", (path, over))


# Polarity, and what parts need.

_STAGES: KeyPath = ("model", "stages")


@_kind
def posterior_without_gradient(data: Data) -> Iterator[Plant]:
    return _swapped(data, "posterior", "mixture", "must carry a pathwise gradient")


@_kind
def posterior_that_is_no_density_of_reals(data: Data) -> Iterator[Plant]:
    return _swapped(data, "posterior", "categorical", "'categorical' takes Codes, but stage 'latent' gives Real")


@_kind
def posterior_that_is_not_exact(data: Data) -> Iterator[Plant]:
    model = {"type": "model", "stages": [{"type": "latent", "likelihood": "normal"}]}
    for plant in _swapped(data, "posterior", "", "its log-probability must be exact"):
        yield Plant({plant.at: model}, plant.at, plant.says, plant.needs)


@_kind
def vamp_without_a_posterior_below(data: Data) -> Iterator[Plant]:
    stages = data["model"]["stages"]
    if stages and _name(stages[-1]) != "latent":
        at = ("model", "prior")
        yield Plant({at: "vamp"}, at, "made of the posterior right below it", ((*_STAGES, len(stages) - 1),))


@_kind
def vamp_over_labels(data: Data) -> Iterator[Plant]:
    if data["data"]["labels"]:
        at = ("model", "prior")
        yield Plant({at: "vamp"}, at, "no class labels for its pseudo-inputs", (_STAGES, ("data",)))


@_kind
def unconditional_likelihood(data: Data) -> Iterator[Plant]:
    return _swapped(data, "likelihood", "vamp", "'vamp' takes no condition", False)


@_kind
def labels_that_the_data_do_not_give(data: Data) -> Iterator[Plant]:
    prior = data["model"]["prior"]
    if not data["data"]["labels"] and _name(prior) in ("normal", "flow", "discretized_logistic"):
        at = ("model", "prior", "labels")
        yield Plant(
            {at: True}, at, "is to take the class label, but the data give none", (("data", "type"), ("data", "labels"))
        )


@_kind
def labels_past_the_net(data: Data) -> Iterator[Plant]:
    if data["data"]["labels"]:
        for path in _latents(data):
            at = (*path, "likelihood")
            value = {"type": "bernoulli", "labels": True}
            needs = ((*path, "type"), ("data",))
            yield Plant({at: value}, (*at, "labels"), "a likelihood gets them through its net", needs)


@_kind
def unregistered_module(data: Data) -> Iterator[Plant]:
    for path, _ in _parts(data, "net"):
        value = {"type": "wrap", "module": FAR}
        yield Plant(
            {path: value}, (*path, "module"), f"no torch module is registered as '{FAR}'", ((*path[:-1], "type"),)
        )


# Training.


@_kind
def maximum_likelihood_of_a_latent(data: Data) -> Iterator[Plant]:
    for path, _ in _parts(data, "objective"):
        if data["model"]["stages"]:
            yield Plant({path: "maximum_likelihood"}, path, "needs an exact log-probability", (_STAGES,))


@_kind
def weight_of_no_rate(data: Data) -> Iterator[Plant]:
    for path, value in _parts(data, "objective"):
        if not data["model"]["stages"] and _name(value) == "elbo":
            for key, option in (("free_bits", 0.5), ("beta", 2.0), ("warmup", 10)):
                at = (*path, key)
                yield Plant({at: option}, at, f"'{key}' weighs a rate", (_STAGES, (*path, "type")))


@_kind
def trains_what_is_not_there(data: Data) -> Iterator[Plant]:
    for path, _ in _entries(data):
        if len(path) > 1 and path[-2] == "trains":
            for name in ("model.priorr", "model.stages.9", "data", ""):
                yield Plant({path: name}, path, f"there is no part at '{name}' to train", (("model", "stages"),))


@_kind
def two_players_of_one_part(data: Data) -> Iterator[Plant]:
    for i, phase in enumerate(data["train"]):
        if len(phase.get("players", ())) > 1:
            first, second = (("train", i, "players", j, "trains", 0) for j in (0, 1))
            for name in ("model", get(data, first)):
                yield Plant(
                    {second: name}, second, f"players 0 and 1 both train '{get(data, first)}'", (first, ("model",))
                )


# Pages.

_PLAIN = re.compile(r"[A-Za-z_/][\w/.-]*")
_WORDS = {"null", "true", "false", "yes", "no"}


class Page:
    """A recipe written as YAML, in block style down to a depth and in flow style below, with every position known.

    Args:
        data: What to write.
        depth: Depth of the last entries in block style.
    """

    def __init__(self, data: Data, depth: int) -> None:
        self.text, self.depth = "# a recipe\n", depth
        self.marks: dict[KeyPath, tuple[int, int]] = {(): (2, 1)}
        self._block(data, (), "")
        self.text += "\n"

    def mark(self, path: KeyPath) -> tuple[int, int]:
        """Line and column of an entry, or of the nearest one around it."""
        return self.marks[path] if path in self.marks else self.mark(path[:-1])

    def _place(self, path: KeyPath) -> None:
        lines = self.text.split("\n")
        self.marks[path] = (len(lines), len(lines[-1]) + 1)

    def _value(self, value: Any, path: KeyPath, indent: str) -> None:
        if isinstance(value, (dict, list)) and value and len(path) <= self.depth:
            self.text += "\n" + indent
            self._block(value, path, indent)
        else:
            self.text += " "
            self._flow(value, path)

    def _block(self, value: Any, path: KeyPath, indent: str) -> None:
        for i, (key, inner) in enumerate(value.items() if isinstance(value, dict) else enumerate(value)):
            self.text += "\n" + indent if i else ""
            at = (*path, key)
            if isinstance(value, dict):
                self._place(at)
                self.text += f"{key}:"
                self._value(inner, at, indent + "  ")
            elif isinstance(inner, dict) and inner and len(at) <= self.depth:
                self.text += "- "
                self._place(at)
                self._block(inner, at, indent + "  ")
            else:
                self.text += "- "
                self._place(at)
                self._flow(inner, at)

    def _flow(self, value: Any, path: KeyPath) -> None:
        if not isinstance(value, (dict, list)):
            plain = isinstance(value, str) and _PLAIN.fullmatch(value) and value not in _WORDS
            self.text += value if plain else json.dumps(value)
            return
        self.text += "{" if isinstance(value, dict) else "["
        for i, (key, inner) in enumerate(value.items() if isinstance(value, dict) else enumerate(value)):
            self.text += ", " if i else ""
            self._place((*path, key))
            self.text += f"{key}: " if isinstance(value, dict) else ""
            self._flow(inner, (*path, key))
        self.text += "}" if isinstance(value, dict) else "]"
