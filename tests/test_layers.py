"""Imports point down only, parts know no other part, nothing heavy is imported before it is used."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "compose"
TOP = 5
FLOORS = {
    "core": 0,
    "nets": 0,
    "parts": 1,
    "recipe": 2,
    "data": 2,
    "run": 3,
    "testing": 3,
    "ablation": 4,
    "verification": 4,
}
TOP_FILES = {"__init__", "__main__", "cli"}
#: Written against a heavy library as a whole, and so itself to be imported only by the function that needs it.
BRIDGES = {"core/bridge.py": ("compose.core.bridge", "pyro")}
BESIDE = {("nets", "core")}  # the one pair on a floor that may: networks are built from core's spaces
HEAVY = {
    *("datasets", "lightning", "lightning_fabric", "matplotlib", "pyro", "pytorch_lightning", "ray", "safetensors"),
    *("sklearn", "tensorboard", "torchmetrics", "vector_quantize_pytorch"),
}


def files(root: Path) -> list[Path]:
    """Every Python file of the package whose folder is ``root``."""
    return sorted(root.rglob("*.py"))


def violations(root: Path) -> list[str]:
    """What the package in ``root`` does against the rules of the house, one sentence each."""
    found = []
    for path in files(root):
        own = path.relative_to(root).with_suffix("").parts
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node, loaded in _walk(tree):
            where = f"{path.relative_to(root)}:{getattr(node, 'lineno', 0)}"
            found += [f"{where}: {said}" for target in _targets(node, own, root) for said in _inner(own, target)]
            own_library = BRIDGES.get(path.relative_to(root).as_posix(), ("", ""))[1]
            heavy = [name for name in _heavy(node) if loaded and name.split(".")[0] != own_library]
            found += [f"{where}: imports {name} at module level" for name in heavy]
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                found.append(f"{where}: prints")
    return found


def _walk(tree: ast.AST, loaded: bool = True) -> Iterator[tuple[ast.AST, bool]]:
    """Every node that runs, and whether it runs when the module is loaded; what only type checkers see is left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for other in node.orelse:
                yield other, loaded
                yield from _walk(other, loaded)
            continue
        yield node, loaded
        yield from _walk(node, loaded and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))


def _targets(node: ast.AST, own: tuple[str, ...], root: Path) -> Iterator[tuple[str, ...]]:
    """The modules of this package that an import names, as path below its root; ``()`` is the package itself."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        here = ".".join((root.name, *own[: len(own) - node.level], "")) if node.level else ""
        base = f"{here}{node.module or ''}".rstrip(".")
        names = [f"{base}.{alias.name}" for alias in node.names]
    elif isinstance(node, ast.Call) and ast.unparse(node.func) in (
        "import_module",
        "importlib.import_module",
        "__import__",
    ):
        names = [str(argument.value) for argument in node.args[:1] if isinstance(argument, ast.Constant)]
    else:
        return
    for name in names:
        package, *below = name.split(".")
        if package == root.name:
            yield tuple(below)


def _room(path: tuple[str, ...]) -> str:
    return path[0] if path and (path[0] in FLOORS or path[0] in TOP_FILES) else "__init__"


def _inner(own: tuple[str, ...], target: tuple[str, ...]) -> Iterator[str]:
    """What is wrong with a module of the package importing another one of it."""
    if len(own) > 1 and own[0] not in FLOORS | dict.fromkeys(TOP_FILES):
        yield f"'{own[0]}' is no room of the house"
        return
    room, other = _room(own), _room(target)
    floor, below = FLOORS.get(room, TOP), FLOORS.get(other, TOP)
    if below > floor or (below == floor < TOP and room != other and (room, other) not in BESIDE):
        yield f"{room} imports {other}, which is not below it"
    if room == other == "parts":
        yield f"a part imports {'.'.join(target)}, which is a part"


def _heavy(node: ast.AST) -> list[str]:
    names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
    if isinstance(node, ast.ImportFrom) and not node.level:
        names = [node.module or ""]
    bridges = {module for module, _ in BRIDGES.values()}
    return [name for name in names if name.split(".")[0] in HEAVY or name in bridges]


def test_the_house_keeps_its_rules() -> None:
    assert len(files(PACKAGE)) > 20
    assert {path.relative_to(PACKAGE).parts[0] for path in files(PACKAGE)} >= {
        "core",
        "nets",
        "parts",
        "recipe",
        "data",
    }
    assert violations(PACKAGE) == []


def test_the_house_is_drawn_as_it_stands() -> None:
    page = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    drawn = re.findall(r"^\| (\d) \| `compose/(\w+)/` \|", page, re.MULTILINE)
    assert {room: int(floor) for floor, room in drawn} == FLOORS


PLANTED = {
    "core/a.py": ("from compose.nets import mlp", "core imports nets"),
    "core/b.py": ("def f():\n    from compose.parts.densities.flow import Flow", "core imports parts"),
    "core/c.py": ("import compose", "core imports __init__"),
    "core/d.py": ("from compose import load_recipe", "core imports __init__"),
    "core/e.py": ("import importlib\nimportlib.import_module('compose.run.train')", "core imports run"),
    "core/f.py": ("from ..recipe import read", "core imports recipe"),
    "nets/a.py": ("from compose import parts", "nets imports parts"),
    "parts/densities/a.py": (
        "from compose.parts.stages.latent import Latent",
        "a part imports parts.stages.latent.Latent",
    ),
    "parts/densities/b.py": ("from .a import A", "a part imports parts.densities.a.A"),
    "parts/densities/c.py": ("print('loss')", "prints"),
    "recipe/a.py": ("import compose.data.digits", "recipe imports data"),
    "data/a.py": ("class A:\n    import sklearn.datasets", "imports sklearn.datasets at module level"),
    "data/b.py": (
        "try:\n    from datasets import load_dataset\nexcept ImportError:\n    pass",
        "imports datasets at module level",
    ),
    "core/g.py": ("import pyro", "imports pyro at module level"),
    "parts/stages/a.py": ("from compose.core.bridge import to_pyro", "imports compose.core.bridge at module level"),
    "run/a.py": ("from compose.cli import main", "run imports cli"),
    "run/b.py": ("if True:\n    import lightning_fabric as fabric", "imports lightning_fabric at module level"),
    "ablation/a.py": ("from compose import cli", "ablation imports cli"),
    "attic/a.py": ("from compose.core import spaces", "'attic' is no room"),
}
ALLOWED = {
    "nets/z.py": "from compose.core.spaces import Real",
    "parts/densities/z.py": "from compose.core import spaces\nfrom compose.nets import mlp",
    "core/z.py": "if TYPE_CHECKING:\n    import pyro\n    from compose.run import train",
    "run/z.py": "def f():\n    import lightning_fabric\n    from compose import parts, recipe, data",
    "cli.py": "from compose.ablation import grid\nfrom compose import train",
    "__main__.py": "from compose.cli import main",
}


@pytest.mark.parametrize(("path", "source", "said"), [(path, *rest) for path, rest in PLANTED.items()])
def test_a_planted_violation_is_found(path: str, source: str, said: str, tmp_path: Path) -> None:
    (found,) = violations(_house(tmp_path, {path: source, **ALLOWED}))
    assert found.startswith(f"{path}:")
    assert said in found


def test_what_is_allowed_is_not_found(tmp_path: Path) -> None:
    assert violations(_house(tmp_path, ALLOWED)) == []


def _house(folder: Path, sources: dict[str, str]) -> Path:
    root = folder / "compose"
    for path, source in sources.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{source}\n")
    return root


def test_import_is_lazy() -> None:
    heavy = [*sorted(HEAVY), "torch", "nflows", "ruamel"]
    code = f"import compose, sys; print(*[name for name in {heavy!r} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.split() == []
