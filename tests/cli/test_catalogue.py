"""parts, recipes, new part."""

from __future__ import annotations

from pathlib import Path

import pytest

from compose.core import registry
from compose.recipe.schema import options
from compose.recipe.shipped import shipped

ALL = [(role, name) for role in registry.ROLES for name in registry.BUILT_IN[role]]


def test_parts_lists_all(compose):
    lines = [line.split()[:2] for line in compose("parts").out.splitlines()]
    assert lines[1:] == [[role, name] for role, name in ALL]


@pytest.mark.parametrize("role", registry.ROLES)
def test_parts_of_a_role(compose, role: str):
    lines = [line.split()[:2] for line in compose("parts", role).out.splitlines()]
    assert lines[1:] == [[role, name] for name in registry.BUILT_IN[role]]


@pytest.mark.parametrize(("role", "name"), ALL)
def test_a_part_is_described(compose, role: str, name: str):
    out = compose("parts", name).out
    part = registry.load(role, name)
    assert out.startswith(f"{name} ({role})\n")
    assert part.source.split(",")[0] in out
    rows = {line.split()[0]: line for line in out.partition("\noption")[2].splitlines()[1:] if line[:1].strip()}
    assert list(rows) == list(part.model_fields)
    for option in options(part):
        # A long one goes on in the next line of its cell.
        assert option.wanted[:60] in rows[option.key] and option.default in rows[option.key] and option.meaning, option


def test_options_in_words():
    found = {option.key: option for option in options(registry.load("stage", "latent"))}
    assert found["dim"][1:3] == ("a whole number >= 1 and <= 65536", "16")
    assert found["encoder"][1:3] == ("a net", "mlp")
    found = {option.key: option for option in options(registry.load("density", "flow"))}
    assert found["transform"][1:3] == ("rq_coupling, affine_coupling, maf", "rq_coupling")
    assert found["bound"].wanted == "a number > 0 and <= 1000"
    found = {option.key: option for option in options(registry.load("data", "idx"))}
    assert found["folder"][1:3] == ("a text", "required")
    assert found["levels"][1:3] == ("a whole number or null", "null")
    found = {option.key: option for option in options(registry.load("net", "mlp"))}
    assert found["hidden"][1:3] == ("a list, each a whole number >= 1 and <= 16384", "[256, 256]")


def test_what_stages_and_densities_declare(compose):
    out = compose("parts", "dequantize").out
    assert "Codes(1x8x8, size 17, ordered) -> Real(1x8x8)" in out
    assert "unordered" not in out
    assert "minus_log_q, log_det" in out and "weight: E exp L = p" in out
    out = compose("parts", "vamp").out
    assert "the posterior of the stage below" in out and "no posterior" in out
    out = compose("parts", "normal").out
    assert "Real(32), to score Real(16)" in out and "pathwise" in out


def test_recipes_lists_what_is_shipped_with_its_first_line(compose):
    table, _, _ = compose("recipes").out.partition("\n\n")
    # A long note goes on below its own column.
    assert [line.split()[0] for line in table.splitlines()[1:] if line[0] != " "] == shipped()


def test_a_recipes_note_is_shown(compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from compose.recipe import shipped as room

    (tmp_path / "mine.yaml").write_text("# compose train recipes/mine.yaml      2 min; test -ELBO 99.5\ndata: digits\n")
    monkeypatch.setattr(room, "recipes_root", lambda: tmp_path)
    assert "mine    2 min; test -ELBO 99.5\n" in compose("recipes").out


def test_new_part_writes_two_files_and_says_what_to_do_next(compose, tmp_path: Path):
    plugin = tmp_path / "mine.py"
    done = compose("new", "part", "mine", "--role", "stage", "--out", plugin)
    assert done.code == 0
    assert plugin.is_file() and (tmp_path / "test_mine.py").is_file()
    assert f"compose parts mine --plugin {plugin}" in done.out
    assert f"--plugin {plugin}" in done.out.splitlines()[-1] and "compose train" in done.out.splitlines()[-1]
    assert compose("new", "part", "mine", "--out", plugin).code == 1


@pytest.mark.parametrize("role", ["density", "stage", "net", "objective"])
def test_the_next_steps_of_new_part_work(compose, tmp_path: Path, role: str):
    import shlex

    plugin = tmp_path / f"{role}.py"
    steps = compose("new", "part", f"mine_{role}", "--role", role, "--out", plugin).out.splitlines()[2:]
    for step in steps:
        words = shlex.split(step)
        if words[:2] in (["compose", "parts"], ["compose", "check"]):
            assert compose(*words[1:]).code == 0, step
    assert [shlex.split(step)[1] for step in steps] == ["parts", "-m", "check", "train"]
