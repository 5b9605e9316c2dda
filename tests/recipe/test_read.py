"""Reading: positions, merging, overrides, and what hostile files get."""

from __future__ import annotations

import random
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from compose.core.errors import Fault, RecipeError
from compose.recipe.read import Mark, Tree, parse_text, read_tree

BASE = """\
# compose train base.yaml      ~2 min on 2 CPU cores
data: {type: digits}
model:
  stages:
    - {type: latent, dim: 16, encoder: {type: mlp, hidden: [256, 256]}, likelihood: categorical}
    - type: bijection
      layers: 2
  prior: {type: flow, transform: rq_coupling, layers: 6}
train:
  - {objective: elbo, steps: 4000, optimizer: {type: adamw, lr: 1.0e-3}}
"""

Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a file into an empty current folder, where ``base.yaml`` lies."""
    monkeypatch.chdir(tmp_path)

    def file(name: str, text: str) -> Path:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    file("base.yaml", BASE)
    return file


def faults_of(read: Callable[[], Tree]) -> tuple[Fault, ...]:
    with pytest.raises(RecipeError) as caught:
        read()
    return caught.value.faults


def fault_in(text: str) -> Fault:
    """The only fault of a text."""
    (fault,) = faults_of(lambda: parse_text(text, "r.yaml"))
    return fault


def seconds_of(read: Callable[[], Any]) -> tuple[Any, float]:
    """What ``read`` gives, and the processor seconds it took."""
    start = time.process_time()
    return read(), time.process_time() - start


def ordinary() -> Tree:
    return parse_text("".join(f"key_{i}: 1\n" for i in range(1_000)), "ordinary.yaml")


def bounded(mebibytes: float, read: Callable[[], Any]) -> Any:
    """What ``read`` gives: in the time of 40 files of a thousand entries, in so much memory, and with no import."""
    parse_text("warm: up", "")
    modules = set(sys.modules)
    before = seconds_of(ordinary)[1]
    result, seconds = seconds_of(read)
    pace = max(before, seconds_of(ordinary)[1])  # of this machine, now: others may be busy on it
    tracemalloc.start()  # slows the reading down, so the time was taken before
    try:
        read()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert seconds < 40 * pace
    assert peak < mebibytes * 2**20
    assert set(sys.modules) == modules
    assert "antigravity" not in modules
    return result


# positions


def test_every_entry_has_its_position() -> None:
    tree = parse_text(BASE, "recipes/vq.yaml")
    assert tree.where(("data",)) == "recipes/vq.yaml:2:1"
    assert tree.where(("data", "type")) == "recipes/vq.yaml:2:8"
    assert tree.where(("model", "stages", 0)) == "recipes/vq.yaml:5:7"
    assert tree.where(("model", "stages", 0, "encoder", "hidden", 1)) == "recipes/vq.yaml:5:66"
    assert tree.where(("model", "stages", 1)) == "recipes/vq.yaml:6:7"
    assert tree.where(("model", "stages", 1, "layers")) == "recipes/vq.yaml:7:7"
    assert tree.where(("model", "prior")) == "recipes/vq.yaml:8:3"
    assert set(tree.marks) == set(paths_of(tree.data))
    lines = BASE.splitlines()
    keys = {path[-1]: mark for path, mark in tree.marks.items() if path and isinstance(path[-1], str)}
    assert all(lines[mark.line - 1][mark.column - 1 :].startswith(f"{key}:") for key, mark in keys.items())


def test_where_falls_back_on_the_nearest_ancestor() -> None:
    tree = parse_text(BASE, "r.yaml")
    assert tree.where(("model", "prior", "lawyers", 3)) == "r.yaml:8:3"
    assert tree.where(("absent",)) == "r.yaml:2:1"
    assert Tree({}, {}, "r.yaml").where(("absent",)) == ""


def test_positions_count_characters_and_every_kind_of_line_end() -> None:
    tree = parse_text("# é\r\na: {é: 1, b: 2}\rc: 3\n", "r.yaml")
    assert (tree.where(("a", "b")), tree.where(("c",))) == ("r.yaml:2:11", "r.yaml:3:1")


def test_a_byte_order_mark_moves_nothing(write: Write) -> None:
    write("bom.yaml", "\ufeffa: 1\n")
    assert read_tree("bom.yaml").where(("a",)) == "bom.yaml:1:1"


def test_a_mark_without_a_line_is_its_file() -> None:
    assert str(Mark("r.yaml", 9, 3)) == "r.yaml:9:3"
    assert str(Mark("override 'a=1'")) == "override 'a=1'"


def paths_of(value: Any, at: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    yield at
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from paths_of(inner, (*at, key))


# scalars


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("1e-3", 0.001), ("1.0e-3", 0.001), ("-.5", -0.5), ("1.", 1.0), ("+3", 3), ("-3", -3), ("010", 10)),
        *(("0x1F", 31), ("0o17", 15), ("999999999999999999", 10**18 - 1), ("true", True), ("FALSE", False)),
        *((value, None) for value in ("", "~", "null", "NULL")),
        *((word, word) for word in ("yes", "on", "No", "1_000", "0b11", "2020-01-01", "=", "nan", "inf", "1:30", "e3")),
        *(("'1'", "1"), ('"true"', "true"), ("'~'", "~"), ("a b", "a b"), ("os.system", "os.system")),
    ],
)
def test_scalars_are_those_of_the_core_schema(text: str, value: Any) -> None:
    read = parse_text(f"a: {text}", "r.yaml").data["a"]
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize("text", [".inf", "-.INF", ".nan", "1e999", "9" * 400 + ".0"])
def test_numbers_that_are_not_finite_are_refused(text: str) -> None:
    fault = fault_in(f"a:\n  b: {text}")
    assert (fault.path, fault.where) == ("a.b", "r.yaml:2:6")
    assert "not finite" in fault.message


@pytest.mark.parametrize("text", ["1" * 19, "-" + "1" * 19, "0x" + "f" * 19, "1" * 200_000])
def test_integers_of_absurd_length_are_refused(text: str) -> None:
    fault = fault_in(f"a: {text}")
    assert (fault.path, fault.where) == ("a", "r.yaml:1:4")
    assert "digits" in fault.message


# hostile files

HOSTILE = {
    "alias": ("a: 1\nb: *x", "r.yaml:2:4", "b", "alias '*x'"),
    "anchor": ("a: &x 1", "r.yaml:1:4", "a", "anchor '&x'"),
    "anchor on a mapping": ("a: &x {b: 1}", "r.yaml:1:4", "a", "anchor '&x'"),
    "python tag": ("a: !!python/object/apply:os.system [ls]", "r.yaml:1:4", "a", "python/object/apply:os.system"),
    "python module tag": ("a: !!python/module:antigravity ''", "r.yaml:1:4", "a", "python/module:antigravity"),
    "tag written out": ("a: !<tag:yaml.org,2002:python/name:os.system> x", "r.yaml:1:4", "a", "python/name"),
    "own tag": ("a: [!mine 1]", "r.yaml:1:5", "a.0", "!mine"),
    "core tag": ("a: !!str 1", "r.yaml:1:4", "a", "2002:str"),
    "bare tag": ("a: ! 1", "r.yaml:1:4", "a", "tag '!'"),
    "undeclared tag": ("a: !e!b 1", "r.yaml:1:4", "", "no YAML"),
    "duplicate key": ("a:\n  b: 1\n  c: 2\n  b: 3", "r.yaml:4:3", "a.b", "first at r.yaml:2:3"),
    "number as a key": ("a: {1: x}", "r.yaml:1:5", "a", "number 1"),
    "truth value as a key": ("a: {true: x}", "r.yaml:1:5", "a", "truth value true"),
    "no key": ("a:\n  : x", "r.yaml:2:3", "a", "null"),
    "list as a key": ("a:\n  ? [b]\n  : x", "r.yaml:2:5", "a", "a list"),
    "merge key": ("a: {<<: {b: 1}}", "r.yaml:1:5", "a", "'<<'"),
    "nested lists": ("a: " + "[" * 5000, "r.yaml:1:35", "a.0.0.0", "32 deep"),
    "nested mappings": ("{a: " * 5000, "r.yaml:1:129", "a.a.a.a", "32 deep"),
    "nested dashes": ("- " * 5000, "r.yaml:1:65", "0.0.0.0", "32 deep"),
    "nested keys": ("? " * 5000, "r.yaml:1:65", "?.?.?.?", "32 deep"),
    "nested indents": ("".join(" " * i + "a:\n" for i in range(600)), "r.yaml:33:33", "a.a.a.a", "32 deep"),
    "too many entries": ("a: [" + "1," * 100_000 + "]", "r.yaml:1:39999", "a.19997", "more than 20000"),
    "too long": ("a: " + "x" * 300_000, "r.yaml:1:1", "", "300003 characters"),
    "null character": ("a: 1\nb: \0", "r.yaml:2:4", "", "U+0000"),
    "escape sequence": ("a: \x1b[31m", "r.yaml:1:4", "", "U+001B"),
    "escaped null character": ('a: "\\0"', "r.yaml:1:4", "a", "U+0000"),
    "escaped surrogate": ('a: "\\ud800"', "r.yaml:1:4", "a", "U+D800"),
    "character beyond all": ('a: "\\UFFFFFFFF"', "r.yaml:1:1", "", "no YAML"),
    "lone surrogate": ("a: \ud800", "r.yaml:1:4", "", "U+D800"),
    "two documents": ("a: 1\n---\nb: 2", "r.yaml:2:1", "", "second document"),
    "empty": ("", "r.yaml:1:1", "", "nothing in it"),
    "only a comment": ("# compose\n", "r.yaml:1:1", "", "nothing in it"),
    "a list": ("- a", "r.yaml:1:1", "", "top level is a list"),
    "a text": ("hello", "r.yaml:1:1", "", "the text 'hello'"),
    "null": ("---\n", "r.yaml:1:1", "", "null"),
    "open bracket": ("a: [1, 2", "r.yaml:1:9", "", "no YAML"),
    "two colons": ("a: b: c", "r.yaml:1:5", "", "no YAML"),
    "tab": ("a:\n\t- b", "r.yaml:2:1", "", "no YAML"),
    "later version": ("%YAML 3.0\n---\na: 1", "r.yaml:1:1", "", "no YAML"),
}


@pytest.mark.long
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_refused_where_it_goes_wrong(name: str) -> None:
    text, where, path, said = HOSTILE[name]
    fault = bounded(16, lambda: fault_in(text))
    assert (fault.where, fault.path) == (where, path)
    assert said in fault.message


def test_an_alias_bomb_is_never_expanded() -> None:
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{f'*a{i - 1}, ' * 9}]\n" for i in range(1, 60))
    faults = bounded(4, lambda: faults_of(lambda: parse_text(bomb, "r.yaml")))
    assert len(faults) == 100
    assert faults[1].where == "r.yaml:2:5"


def test_an_importable_thing_is_simply_a_text() -> None:
    text = "a: antigravity\nb: {type: os.system}\nc: __import__('antigravity')"
    tree = bounded(1, lambda: parse_text(text, "r.yaml"))
    assert tree.data == {"a": "antigravity", "b": {"type": "os.system"}, "c": "__import__('antigravity')"}


def test_a_large_file_is_not_read(write: Write) -> None:
    write("large.yaml", "a: 1\n" * 2_000_000)
    (fault,) = bounded(1, lambda: faults_of(lambda: read_tree("large.yaml")))
    assert fault.where == "large.yaml"
    assert "256 KiB" in fault.message


@pytest.mark.long
def test_a_recipe_of_the_largest_size_is_read(write: Write) -> None:
    write("whole.yaml", "".join(f"key_{i:05d}: 1\n" for i in range(9_999)) + "#" * 120_000)
    assert len(bounded(32, lambda: read_tree("whole.yaml")).data) == 9_999


@pytest.mark.parametrize(
    ("raw", "where"),
    [
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "binary.yaml:1:1"),
        (b"a: 1\nb: \xff", "binary.yaml:2:4"),
        ("a: 1".encode("utf-16"), "binary.yaml:1:1"),
        (bytes(range(256)) * 100, "binary.yaml:3:115"),
    ],
)
def test_binary_files_are_refused(write: Write, raw: bytes, where: str) -> None:
    write("binary.yaml", "").write_bytes(raw)
    (fault,) = bounded(1, lambda: faults_of(lambda: read_tree("binary.yaml")))
    assert fault.where == where


def test_every_fault_is_found_at_once(write: Write) -> None:
    write("bad.yaml", "a: *x\nb: {c: 1, c: 2}\nd: .nan\n2: 3\n")
    faults = faults_of(lambda: read_tree("bad.yaml", ["e", "f=[", "g=!!str 1", "extends=base.yaml"]))
    assert [fault.where for fault in faults] == [
        *("bad.yaml:1:4", "bad.yaml:2:11", "bad.yaml:3:4", "bad.yaml:4:1"),
        *("override 'e'", "override 'f=['", "override 'g=!!str 1'", "override 'extends=base.yaml'"),
    ]


def test_reading_needs_no_tensors() -> None:
    code = "import sys, compose.recipe.text as room; room.parse_text('a: 1', ''); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[2]).returncode == 0


# which file


def test_a_missing_recipe_is_told_the_nearest(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write("shipped/vae_vamp.yaml", BASE)
    write("shipped/fashion/vae.yaml", BASE)
    monkeypatch.setattr("compose.recipe.shipped.recipes_root", lambda: Path("shipped").resolve())
    (fault,) = faults_of(lambda: read_tree("recipes/vae_vmap.yaml"))
    assert fault.message == "There is no file 'recipes/vae_vmap.yaml', nor a shipped recipe of that name."
    assert "vae_vamp" in fault.hint
    assert "'compose recipes' lists" in fault.hint


@pytest.mark.parametrize(
    "ref", ["", ".", "absent", "a\0b", "x" * 5000, "base.yaml/x", "http://example.org/vae.yaml", "/dev/null"]
)
def test_what_is_no_file_is_refused(write: Write, ref: str) -> None:
    (fault,) = faults_of(lambda: read_tree(ref))
    assert "'compose recipes' lists" in fault.hint
    assert len(fault.message) < 200


def test_a_shipped_recipe_is_read_by_name_and_a_file_comes_first(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write("shipped/vae.yaml", "a: 1")
    monkeypatch.setattr("compose.recipe.shipped.recipes_root", lambda: Path("shipped").resolve())
    assert read_tree("vae").where(("a",)) == "shipped/vae.yaml:1:1"
    write("vae", "a: 2")
    assert read_tree("vae").data == {"a": 2}


# extends


def test_a_variant_changes_its_base_and_marks_say_whose_an_entry_is(write: Write) -> None:
    write("sub/variant.yaml", "extends: ../base.yaml\nmodel: {prior: {layers: 8}}\ntrain.0.steps: 100\nnotes: [a]\n")
    tree = read_tree("sub/variant.yaml")
    assert tree.data["model"]["prior"] == {"type": "flow", "transform": "rq_coupling", "layers": 8}
    assert tree.data["train"][0]["steps"] == 100
    assert "extends" not in tree.data
    assert tree.file == "sub/variant.yaml"
    assert tree.where(("model", "prior")) == "base.yaml:8:3"
    assert tree.where(("model", "prior", "transform")) == "base.yaml:8:23"
    assert tree.where(("model", "prior", "layers")) == "sub/variant.yaml:2:17"
    assert tree.where(("train", 0, "steps")) == "sub/variant.yaml:3:1"
    assert tree.where(("notes", 0)) == "sub/variant.yaml:4:9"
    assert tree.where(("absent",)) == "sub/variant.yaml:1:1"
    assert set(tree.marks) == set(paths_of(tree.data))


PRIOR = {"type": "flow", "transform": "rq_coupling", "layers": 6}


@pytest.mark.parametrize(
    ("change", "prior"),
    [
        ("{layers: 8}", PRIOR | {"layers": 8}),
        ("{type: flow, layers: 8}", PRIOR | {"layers": 8}),
        ("{type: normal}", {"type": "normal"}),
        ("{type: vamp, layers: 8}", {"type": "vamp", "layers": 8}),
        ("normal", "normal"),
        ("flow", "flow"),
        ("[1, 2]", [1, 2]),
        ("3", 3),
        ("null", None),
    ],
)
def test_swapping_a_part_leaves_no_option_behind(write: Write, change: str, prior: Any) -> None:
    write("nested.yaml", f"extends: base.yaml\nmodel:\n  prior: {change}\n")
    write("dotted.yaml", f"extends: base.yaml\nmodel.prior: {change}\n")
    for tree in (read_tree("nested.yaml"), read_tree("dotted.yaml"), read_tree("base.yaml", [f"model.prior={change}"])):
        assert tree.data["model"]["prior"] == prior
        assert tree.data["model"]["stages"] == parse_text(BASE, "").data["model"]["stages"]
        assert set(tree.marks) == set(paths_of(tree.data))


def test_a_bare_name_takes_options(write: Write) -> None:
    stages = "model.stages: [latent]\n"
    write(
        "variant.yaml",
        f"extends: base.yaml\nmodel.prior: flow\nmodel: {{prior: {{layers: 3}}}}\n{stages}model.stages.0.dim: 2",
    )
    tree = read_tree("variant.yaml", ["data=fashion_mnist", "data.levels=2"])
    assert tree.data["model"] == {"stages": [{"type": "latent", "dim": 2}], "prior": {"type": "flow", "layers": 3}}
    assert tree.data["data"] == {"type": "fashion_mnist", "levels": 2}
    assert tree.where(("model", "prior", "type")) == "variant.yaml:2:1"
    assert tree.where(("model", "prior", "layers")) == "variant.yaml:3:17"
    assert set(tree.marks) == set(paths_of(tree.data))


def test_dotted_keys_apply_in_order_of_the_file(write: Write) -> None:
    write("variant.yaml", "extends: base.yaml\nmodel.prior: normal\nmodel.prior.std: 2\nmodel: {prior: vamp}\n")
    assert read_tree("variant.yaml").data["model"]["prior"] == "vamp"
    write("other.yaml", "extends: base.yaml\nmodel: {prior: vamp}\nmodel.prior: normal\nmodel.prior.std: 2\n")
    assert read_tree("other.yaml").data["model"]["prior"] == {"type": "normal", "std": 2}


def test_bases_of_bases(write: Write) -> None:
    write("one.yaml", "extends: base.yaml\nmodel.prior.layers: 1\ntrain.0.steps: 1\n")
    write("two.yaml", "extends: one.yaml\nmodel.prior.layers: 2\n")
    tree = read_tree("two.yaml")
    assert (tree.data["model"]["prior"]["layers"], tree.data["train"][0]["steps"]) == (2, 1)
    assert tree.where(("train", 0, "steps")) == "one.yaml:3:1"


def test_a_base_may_be_a_shipped_recipe(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write("shipped/fashion/vae.yaml", "extends: ../plain.yaml\na: 1\n")
    write("shipped/plain.yaml", "a: 0\nb: 0\n")
    monkeypatch.setattr("compose.recipe.shipped.recipes_root", lambda: Path("shipped").resolve())
    write("variant.yaml", "extends: fashion/vae\nc: 2\n")
    tree = read_tree("variant.yaml")
    assert tree.data == {"a": 1, "b": 0, "c": 2}
    assert tree.where(("b",)) == "shipped/plain.yaml:2:1"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("extends: absent.yaml", "no file 'absent.yaml'"),
        ("extends: sub", "is a folder"),
        ("extends: https://example.org/vae.yaml", "https://example.org"),
        ("extends: [base.yaml]", "a list"),
        ("extends:", "null"),
        ("extends: variant.yaml", "circle: variant.yaml -> variant.yaml"),
        ("extends: sub/back.yaml", "circle: variant.yaml -> sub/back.yaml -> variant.yaml"),
        ("extends: chain0.yaml", "longer than 10"),
    ],
)
def test_a_base_that_cannot_be_is_located(write: Write, line: str, said: str) -> None:
    write("sub/back.yaml", "extends: ../variant.yaml")
    for i in range(12):
        write(f"chain{i}.yaml", f"extends: chain{i + 1}.yaml")
    write("variant.yaml", f"a: 1\n{line}\n")
    (fault,) = bounded(4, lambda: faults_of(lambda: read_tree("variant.yaml")))
    assert said in fault.message
    assert fault.path == "extends"
    file = {"circle: variant.yaml -> sub": "sub/back.yaml:1:1", "longer": "chain9.yaml:1:1"}
    expected = next((where for start, where in file.items() if said.startswith(start)), "variant.yaml:2:1")
    assert fault.where == expected


def test_a_chain_of_ten_bases_is_read(write: Write) -> None:
    write("chain10.yaml", "a: 1")
    for i in range(10):
        write(f"chain{i}.yaml", f"extends: chain{i + 1}.yaml")
    assert read_tree("chain0.yaml").data == {"a": 1}


def test_faults_of_a_base_are_located_in_the_base(write: Write) -> None:
    write("bad.yaml", "a: 1\na: 2\n")
    write("variant.yaml", "extends: bad.yaml\nb: 1\n")
    (fault,) = faults_of(lambda: read_tree("variant.yaml"))
    assert fault.where == "bad.yaml:2:1"


def test_a_dotted_key_is_a_plain_key_where_nothing_is_extended(write: Write) -> None:
    write("plain.yaml", "a.b: 1\n")
    assert read_tree("plain.yaml").data == {"a.b": 1}


@pytest.mark.long
def test_thousands_of_changes_cost_little(write: Write) -> None:
    write("wide.yaml", "a: [" + "1, " * 15_000 + "]\nb: 0\nc: {d: {type: x}}\n")
    write(
        "variant.yaml", "extends: wide.yaml\n" + "".join(f"c.d.k{i}: {i}\n" for i in range(5_000)) + "c.d: {type: y}\n"
    )
    tree = bounded(64, lambda: read_tree("variant.yaml"))
    assert (tree.data["c"], len(tree.data["a"])) == ({"d": {"type": "y"}}, 15_000)


# overrides


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("train.0.steps=100", ("train", 0, "steps"), 100),
        ("model.stages.1.layers=3", ("model", "stages", 1, "layers"), 3),
        ("model.stages.0.encoder.hidden.1=8", ("model", "stages", 0, "encoder", "hidden", 1), 8),
        ("model.stages.0.encoder.hidden=[8, 8, 8]", ("model", "stages", 0, "encoder", "hidden"), [8, 8, 8]),
        ("model.prior={type: normal, std: 2}", ("model", "prior", "std"), 2),
        (" train.0.optimizer.lr = 1e-4 ", ("train", 0, "optimizer", "lr"), 1e-4),
        ("data.root=/data/a=b", ("data", "root"), "/data/a=b"),
        ("train.0.clip=", ("train", 0, "clip"), None),
        ("new.made.here=1", ("new", "made", "here"), 1),
        ("model.prior.base.type=normal", ("model", "prior", "base", "type"), "normal"),
        ("model.name='3'", ("model", "name"), "3"),
    ],
)
def test_an_override_sets_one_entry(write: Write, override: str, path: tuple[str | int, ...], value: Any) -> None:
    tree = read_tree("base.yaml", [override])
    here: Any = tree.data
    for step in path:
        here = here[step]
    assert here == value
    assert tree.where(path) == f"override {override!r}"
    assert set(tree.marks) == set(paths_of(tree.data))


def test_an_override_leaves_its_siblings_alone(write: Write) -> None:
    tree = read_tree("base.yaml", ["model.prior.layers=8", "model.prior.layers=9"])
    expected = parse_text(BASE, "").data
    expected["model"]["prior"]["layers"] = 9
    assert tree.data == expected
    assert tree.where(("model", "prior")) == "base.yaml:8:3"


@pytest.mark.parametrize(
    ("override", "path", "said"),
    [
        ("model.prior", "", "no '='"),
        ("=3", "", "no key path"),
        ("model..prior=3", "", "no key path"),
        ("model.\x1b=3", "", "no key path"),
        (".".join("a" * 40) + "=3", "", "no key path"),
        ("extends=other.yaml", "", "cannot be overridden"),
        ("model.stages.2.dim=3", "model.stages.2.dim", "a list of 2"),
        ("model.stages.2=latent", "model.stages.2", "a list of 2"),
        ("model.stages.-1=latent", "model.stages.-1", "no entry '-1'"),
        ("model.stages.x=latent", "model.stages.x", "no entry 'x'"),
        ("model.stages.²=latent", "model.stages.²", "no entry '²'"),
        ("train.0.steps.x=3", "train.0.steps.x", "the number 4000"),
        ("model.prior={a: 1", "model.prior", "no YAML"),
        ("model.prior={a: 1, a: 2}", "model.prior.a", "written twice"),
        ("model.prior=*x", "model.prior", "alias"),
        ("model.prior=!!python/name:os.system", "model.prior", "tag"),
        ("model.prior={lr: .inf}", "model.prior.lr", "not finite"),
        ("model.prior=" + "[" * 5000, "model.prior.0.0.0.0", "32 deep"),
        ("model.prior=#1", "model.prior", "nothing in it"),
        ("model.prior=\udc80", "model.prior", "U+DC80"),
        ("model.prior=" + "x" * 300_000, "model.prior", "300000 characters"),
    ],
)
def test_an_override_that_cannot_be_is_refused(write: Write, override: str, path: str, said: str) -> None:
    (fault,) = bounded(8, lambda: faults_of(lambda: read_tree("base.yaml", [override])))
    assert said in fault.message
    assert fault.path == path
    assert fault.where.startswith("override ")
    assert len(fault.where) < 100


# fuzz


def mutant(raw: bytes, rng: random.Random) -> bytes:
    """A few bytes flipped, deleted, doubled, inserted or moved."""
    text = bytearray(raw)
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(text))
        end = min(len(text), start + rng.choice((1, 1, 2, 8, 40)))
        match rng.randrange(5):
            case 0:
                text[start] ^= 1 << rng.randrange(8)
            case 1:
                del text[start:end]
            case 2:
                text[start:start] = text[start:end]
            case 3:
                text[start:start] = rng.choice(
                    (b"{", b"[", b"]", b": ", b"- ", b"'", b'"\\U', b"&a ", b"*a", b"!!", b"\n", b"#")
                )
            case _:
                text[rng.randrange(len(text)) : 0] = text[start:end]
        text = text or bytearray(b"a")
    return bytes(text)


@pytest.mark.long
def test_two_thousand_mutants_are_trees_or_recipe_errors(write: Write) -> None:
    rng = random.Random(0)
    variant = (
        b"extends: base.yaml\nmodel: {prior: {type: normal, std: 2}}\nmodel.stages.0.dim: 8\ntrain.0: {steps: 100}\n"
    )
    path = write("mutant.yaml", "")
    trees = 0
    for i in range(2_000):
        raw = mutant(variant if i % 4 == 0 else BASE.encode(), rng)
        path.write_bytes(raw)
        try:
            tree = read_tree("mutant.yaml", ["train.0.steps=3"] if i % 2 else [])
        except RecipeError as error:
            assert error.faults, raw
            assert all(fault.where for fault in error.faults), raw
        else:
            trees += 1
            assert set(tree.marks) == set(paths_of(tree.data)), raw
    assert 200 < trees < 1_800


@pytest.mark.long
def test_five_hundred_mutant_overrides_are_trees_or_recipe_errors(write: Write) -> None:
    rng = random.Random(1)
    seeds = (
        b"model.prior={type: flow, layers: [8, 1.0e-3]}",
        b"model.stages.0.encoder.hidden.1=256",
        b"train.0.steps=100",
    )
    for _ in range(500):
        override = mutant(rng.choice(seeds), rng).decode("utf-8", "surrogateescape")
        try:
            tree = read_tree("base.yaml", [override])
        except RecipeError as error:
            assert all(fault.where.startswith("override ") for fault in error.faults), override
        else:
            assert set(tree.marks) == set(paths_of(tree.data)), override
