"""The pinned set covers what is declared, recipes travel with the wheel, and make says what is missing."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PIN = re.compile(r"([A-Za-z0-9._-]+)==(\d[\w.]*)")


def declared() -> list[Requirement]:
    """What the project asks for, extras included."""
    lines = [*PROJECT["dependencies"], *(line for extra in PROJECT["optional-dependencies"].values() for line in extra)]
    return [Requirement(line) for line in lines]


def pins() -> dict[str, str]:
    """The pinned set; a line that is no exact pin of a plain version is refused."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found = [PIN.fullmatch(line) for line in lines if line and not line.startswith("#")]
    assert all(found), "a line of constraints.txt is no exact pin"
    return {canonicalize_name(pin[1]): pin[2] for pin in found if pin}


def test_every_declared_package_is_pinned_to_a_version_it_admits() -> None:
    pinned = pins()
    assert len(declared()) > 20
    for requirement in declared():
        name = canonicalize_name(requirement.name)
        assert name in pinned, f"{name} is declared and not pinned"
        assert requirement.specifier.contains(pinned[name]), f"{name}=={pinned[name]} is not {requirement}"


#: What is imported of a package whose name is another one.
MODULES = {
    "pillow": "PIL",
    "pyro-ppl": "pyro",
    "ruamel-yaml": "ruamel.yaml",
    "scikit-learn": "sklearn",
    "tensorboard": "torch.utils.tensorboard",
}


def test_every_package_that_is_asked_for_is_used() -> None:
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "compose").rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    extras = PROJECT["optional-dependencies"]
    asked = [*PROJECT["dependencies"], *(line for name in extras if name != "dev" for line in extras[name])]
    names = {canonicalize_name(Requirement(line).name) for line in asked}
    modules = {MODULES.get(name, name.replace("-", "_")) for name in names}
    assert not {module for module in modules if not any(f"{each}.".startswith(f"{module}.") for each in imported)}


def test_every_package_that_these_need_is_pinned() -> None:
    pinned, seen = pins(), set()
    todo = [(requirement, "") for requirement in declared()]
    while todo:
        requirement, by = todo.pop()
        name = canonicalize_name(requirement.name)
        assert name in pinned, f"{by} needs {name}, which is not pinned"
        if (name, *sorted(requirement.extras)) in seen:
            continue
        seen.add((name, *sorted(requirement.extras)))
        try:
            needed = (
                [Requirement(line) for line in requires(name) or []]
                if version(name).split("+")[0] == pinned[name]
                else []
            )
        except PackageNotFoundError:  # an extra that is not installed here
            continue
        extras = ("", *requirement.extras)
        todo += [(r, name) for r in needed if not r.marker or any(r.marker.evaluate({"extra": e}) for e in extras)]
    if len(seen) < 40:
        pytest.skip("what is installed here is not the pinned set")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's wheel, unpacked."""
    builder = pytest.importorskip("hatchling.builders.wheel").WheelBuilder(str(ROOT))
    folder = tmp_path_factory.mktemp("wheel")
    (built,) = builder.build(directory=str(folder), versions=["standard"])
    with zipfile.ZipFile(built) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


def test_the_wheel_holds_the_package_and_every_recipe(wheel: Path) -> None:
    recipes = {path.relative_to(ROOT / "recipes") for path in (ROOT / "recipes").rglob("*.yaml")}
    assert len(recipes) >= 3
    assert {
        path.relative_to(wheel / "compose/_recipes") for path in (wheel / "compose/_recipes").rglob("*.yaml")
    } == recipes
    sources = {path.relative_to(ROOT) for path in (ROOT / "compose").rglob("*.py")}
    assert {path.relative_to(wheel) for path in wheel.rglob("*.py")} == sources
    assert (wheel / "compose/py.typed").is_file()
    (scripts,) = wheel.glob("*.dist-info/entry_points.txt")
    assert "compose = compose.cli:main" in scripts.read_text(encoding="utf-8")


def test_the_wheel_finds_its_recipes_far_from_a_checkout(wheel: Path, tmp_path: Path) -> None:
    code = "from compose.recipe import shipped as s; print(s.recipes_root()); print(s.find('vae_flow_prior'))"
    environment = {**os.environ, "PYTHONPATH": str(wheel)}
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True, timeout=60)
    inside = wheel / "compose/_recipes"
    assert ran.stdout.split() == [str(inside), str(inside / "vae_flow_prior.yaml")]


def test_the_console_script_and_the_module_are_one_command() -> None:
    from compose import __main__, cli

    assert PROJECT["scripts"] == {"compose": "compose.cli:main"}
    assert __main__.main is cli.main


def make_install(folder: Path, python: str) -> str:
    """What ``make install`` says on its way out where it cannot go on."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    shutil.copy(ROOT / "Makefile", folder)
    command = ["make", "install", f"PYTHON={python}"]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode != 0
    assert not (folder / ".venv/made").exists()
    return ran.stderr


def test_make_says_what_to_do_where_python_is_too_old(tmp_path: Path) -> None:
    said = make_install(tmp_path, "false no-such-python")
    assert "Python 3.11 or later, and none of these is one: false no-such-python" in said
    assert "make PYTHON=/path/to/python3.11 install" in said


def test_make_says_what_to_do_where_venv_is_missing(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\n[ "$1" = -c ]\n')  # as Debian's without python3-venv: runs code, makes no venv
    python.chmod(0o755)
    assert "apt install python3-venv" in make_install(tmp_path, str(python))
