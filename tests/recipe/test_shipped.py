"""Shipped recipes: found by name, and only they."""

from __future__ import annotations

from pathlib import Path

import pytest

from compose.core.errors import RecipeError
from compose.recipe import shipped as room
from compose.recipe.shipped import closest, find, header, recipes_root, shipped


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of recipes, one of an ablation, and a file outside it."""
    recipes = tmp_path / "recipes"
    for name in ("vae", "vae_flow_prior", "vae_vamp", "fashion/vae", "ablations/prior"):
        path = recipes / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# compose train recipes/{name}.yaml\n")
    (recipes / "README.md").write_text("no recipe")
    (tmp_path / "outside.yaml").write_text("a: 1")
    (recipes / "link.yaml").symlink_to(tmp_path / "outside.yaml")
    monkeypatch.setattr(room, "recipes_root", lambda: recipes)
    return recipes


def test_names_are_sorted_and_leave_ablations_out(root: Path) -> None:
    (root / "link.yaml").unlink()
    assert shipped() == ["fashion/vae", "vae", "vae_flow_prior", "vae_vamp"]


@pytest.mark.parametrize("name", ["vae", "fashion/vae", "ablations/prior"])
def test_a_recipe_is_found_with_and_without_its_suffix(root: Path, name: str) -> None:
    assert find(name) == find(f"{name}.yaml") == root / f"{name}.yaml"


@pytest.mark.parametrize(
    "name",
    [
        "../outside",
        "fashion/../../outside",
        "fashion/../vae",
        "link",
        "/etc/passwd",
        "absent",
        "",
        ".",
        "fashion",
        "README.md",
        "a\0b",
        "x" * 5000,
    ],
)
def test_nothing_else_is_found(root: Path, name: str) -> None:
    assert find(name) is None


def test_an_absolute_path_outside_is_not_found(root: Path) -> None:
    assert find(str(root.parent / "outside.yaml")) is None


def test_the_closest_names_come_first(root: Path) -> None:
    assert closest("recipes/vae_vmap.yaml")[0] == "vae_vamp"
    assert closest("fashon/vae")[0] == "fashion/vae"
    assert closest("quite_another_thing") == []


def test_the_packaged_folder_comes_before_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_PACKAGE", tmp_path / "compose")
    assert recipes_root() == tmp_path / "recipes"
    assert shipped() == []
    (tmp_path / "compose" / "_recipes").mkdir(parents=True)
    assert recipes_root() == tmp_path / "compose" / "_recipes"


def test_the_root_lies_beside_the_package() -> None:
    assert recipes_root().name in ("recipes", "_recipes")
    assert Path(__file__).resolve().parents[2] / "recipes" == recipes_root()


@pytest.mark.parametrize(
    ("line", "command", "note"),
    [
        (
            "# compose train recipes/vae.yaml      ~1 min on 2 CPU cores; test -ELBO 99.1 +- 0.2 nats  (3 seeds)",
            "compose train recipes/vae.yaml",
            "~1 min on 2 CPU cores; test -ELBO 99.1 +- 0.2 nats (3 seeds)",
        ),
        ("# compose train recipes/vae.yaml", "compose train recipes/vae.yaml", ""),
        ("# A recipe of mine", "", "A recipe of mine"),
        ("data: {type: digits}", "", ""),
        ("", "", ""),
    ],
)
def test_the_first_line_says_how_to_run_a_recipe(tmp_path: Path, line: str, command: str, note: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(f"{line}\n# compose train other.yaml\n")
    assert header(path) == {"command": command, "note": note}


def test_the_header_of_a_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        header(tmp_path / "absent.yaml")
    assert caught.value.faults[0].where == str(tmp_path / "absent.yaml")
