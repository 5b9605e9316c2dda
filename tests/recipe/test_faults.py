"""Every planted fault is found where it was planted, all in one go, and none is invented."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from compose.core.errors import Fault
from compose.recipe.check import check
from compose.recipe.tree import dotted
from tests.recipe.faults import BASES, KINDS, Data, Page, Plant, draw, planted, plants

DRAWS = 200


def reported(data: Data, path: Path, depth: int) -> tuple[Page, list[Fault]]:
    page = Page(data, depth)
    path.write_text(page.text, encoding="utf-8")
    return page, check(path).faults


def assert_found(data: Data, chosen: list[Plant], path: Path, depth: int) -> None:
    page, faults = reported(planted(data, chosen), path, depth)
    found = {fault.path: fault for fault in faults}
    seen = "\n".join(map(str, faults))
    assert sorted(fault.path for fault in faults) == sorted(dotted(plant.at) for plant in chosen), seen
    for plant in chosen:
        fault = found[dotted(plant.at)]
        line, column = page.mark(plant.at)
        assert fault.where == f"{path}:{line}:{column}", f"{plant}\n{fault}\n{page.text}"
        assert plant.says in str(fault), f"{plant}\n{fault}"
    assert [fault.where for fault in faults] == [
        f"{path}:{line}:{column}" for line, column in sorted(page.mark(plant.at) for plant in chosen)
    ]


def test_there_are_many_kinds(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]):
    places = {name: sum(len(plants(name, data)) for data in BASES.values()) for name in KINDS}
    reporter = request.config.pluginmanager.get_plugin("terminalreporter")
    if reporter:
        with capsys.disabled():
            reporter.write_line(f"\n{len(KINDS)} kinds of fault, {sum(places.values())} places to plant one")
    assert len(KINDS) >= 25
    assert not [name for name, count in places.items() if not count]


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("depth", [0, 3, 9])
def test_a_sound_recipe_has_none(name: str, depth: int, tmp_path: Path):
    assert reported(BASES[name], tmp_path / "recipe.yaml", depth)[1] == []


@pytest.mark.long
@pytest.mark.parametrize("name", KINDS)
def test_each_kind_alone(name: str, tmp_path: Path):
    for data in BASES.values():
        places = plants(name, data)
        random = Random(f"{name} {len(places)}")
        for plant in random.sample(places, min(len(places), 6)):
            assert_found(data, [plant], tmp_path / "recipe.yaml", random.randrange(9))


@pytest.mark.parametrize("seed", range(DRAWS, 2 * DRAWS))
def test_where_one_may_hide_another_none_is_invented(seed: int, tmp_path: Path):
    random = Random(seed)
    data, chosen = draw(random, seen=False)
    faults = reported(planted(data, chosen), tmp_path / "recipe.yaml", random.randrange(9))[1]
    found = {fault.path for fault in faults}
    assert found
    assert found <= {dotted(plant.at) for plant in chosen}, "\n".join(map(str, faults))


@pytest.mark.parametrize("seed", range(DRAWS))
def test_five_at_a_time(seed: int, tmp_path: Path):
    random = Random(seed)
    data, chosen = draw(random)
    assert len({plant.kind for plant in chosen}) == 5
    assert_found(data, chosen, tmp_path / "recipe.yaml", random.randrange(9))
