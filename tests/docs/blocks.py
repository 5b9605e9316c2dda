"""The fenced blocks of a page, and what it takes to run them.

A comment right before a block says how it is run, ``<!-- test: steps=20, numbers differ -->``:

- ``skip REASON``: it is not.
- ``file NAME``: it is saved as that file.
- ``fails``: its commands end with an error.
- ``fragment of RECIPE``: YAML that changes that recipe.
- ``steps=N``: its trainings take N steps, and are scored with few draws; of an ablation two seeds.
- ``numbers differ``: in what it quotes, any number stands for any other.
- ``printed``: it is what the Python block before it printed.

A command on a shipped recipe whose data are not on this machine is passed over.
"""

from __future__ import annotations

import io
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from compose.recipe.shipped import shipped
from tests.absent import absent

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
LANGUAGES = ("python", "yaml", "bash", "console", "text")
HINTS = ("skip", "file", "fails", "fragment of", "steps", "numbers differ", "printed")
SHELL = ("ls", "cat", "head")

_HINT = re.compile(r"<!-- test: (.*) -->")
_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?(e[-+]?\d+)?")
_CURVE = re.compile(r"[▁-█]+")


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Args:
        page: The file it stands in.
        line: Line of its fence, from 1.
        language: What the fence says.
        text: What stands between the fences.
        hints: Word -> what follows it.
    """

    page: Path
    line: int
    language: str
    text: str
    hints: dict[str, str]

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """Every fenced block of a page, in order."""
    lines = enumerate(page.read_text(encoding="utf-8").splitlines(), 1)
    before = ""
    for number, line in lines:
        if line.startswith("```"):
            text: list[str] = []
            for _, inner in lines:
                if inner == "```":
                    break
                text.append(inner)
            yield Block(page, number, line[3:], "\n".join(text) + "\n", _hints(before, f"{page}:{number}"))
        before = line if line else before if _HINT.fullmatch(before) else ""


def _hints(line: str, where: str) -> dict[str, str]:
    found = _HINT.fullmatch(line)
    hints: dict[str, str] = {}
    said = [] if not found else [found[1]] if found[1].startswith("skip") else found[1].split(", ")
    for each in said:
        word = next((word for word in HINTS if each.startswith(word)), None)
        assert word is not None, f"{where}: no such hint: {each}"
        hints[word] = each.removeprefix(word).lstrip(" =")
    return hints


@dataclass
class Reader:
    """Someone who follows a page literally, in an empty folder.

    Args:
        folder: The current folder.
    """

    folder: Path
    names: dict[str, Any] = field(default_factory=lambda: {"__name__": "__main__"})
    printed: str = ""

    def follow(self, block: Block) -> None:
        """Does what a block says, and requires what it promises."""
        if "skip" in block.hints:
            return
        if "file" in block.hints:
            (self.folder / block.hints["file"]).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            self._python(block)
        elif block.language in ("bash", "console"):
            for command, quoted in commands(block):
                self._command(block, command, quoted)
        elif block.language == "text":
            assert "printed" in block.hints, f"{block} is neither run nor printed by anything"
            require_quoted(block, block.text.splitlines(), self.printed)
        if block.language == "yaml":
            self._yaml(block)

    def _python(self, block: Block) -> None:
        out = io.StringIO()
        with redirect_stdout(out), redirect_stderr(io.StringIO()):
            exec(compile(block.text, str(block), "exec"), self.names)
        self.printed = out.getvalue()

    def _yaml(self, block: Block) -> None:
        from compose.ablation.grid import expand
        from compose.ablation.question import read_ablation
        from compose.recipe.check import check

        file = self.folder / block.hints.get("file", f"block{block.line}.yaml")
        base = block.hints.get("fragment of")
        file.write_text(f"extends: {base}\n{block.text}" if base else block.text, encoding="utf-8")
        if block.text.lstrip().startswith(("question:", "# compose ablate")):
            assert not expand(read_ablation(file)).faulty, f"{block}: a cell does not type-check"
            return
        faults = check(file).faults
        assert not faults, f"{block}: {faults}"

    def _command(self, block: Block, command: list[str], quoted: list[str]) -> None:
        if any(absent(word) for word in command if word in shipped()):
            return
        if command[:2] == ["compose", "train"] and "steps" in block.hints and "--resume" not in command:
            command = [*command, f"train.0.steps={block.hints['steps']}", "evaluate.samples=2"]
        if command[:2] == ["compose", "ablate"] and "steps" in block.hints:
            command = [
                *command,
                "seeds=2",
                f"budget.steps={block.hints['steps']}",
                "changes={evaluate.samples: 2}",
                "-q",
            ]
        code, output = run_compose(command[1:]) if command[0] == "compose" else run_shell(command, self.folder)
        assert (code != 0) == ("fails" in block.hints), f"{block}: {shlex.join(command)} ended with {code}:\n{output}"
        assert quoted or "fails" not in block.hints, f"{block}: a command that fails, and not what it says"
        require_quoted(block, quoted, output)


def commands(block: Block) -> Iterator[tuple[list[str], list[str]]]:
    """Each command of a block with the output that is quoted below it; in ``bash`` blocks none is."""
    lines = block.text.replace("\\\n", " ").splitlines()
    if block.language == "bash":
        yield from ((words, []) for words in (shlex.split(line, comments=True) for line in lines) if words)
        return
    starts = [i for i, line in enumerate(lines) if line.startswith("$ ")]
    assert starts and starts[0] == 0, f"{block} begins with no command"
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        yield shlex.split(lines[start][2:], comments=True), lines[start + 1 : end]


def run_compose(arguments: list[str]) -> tuple[int, str]:
    """Exit code and output of the command ``compose``, run in this process."""
    from compose.cli import main

    out = io.StringIO()
    with patch.object(sys, "argv", ["compose", *arguments]), redirect_stdout(out), redirect_stderr(out):
        try:
            main()
            code: Any = 0
        except SystemExit as error:
            code = error.code
    return (code if isinstance(code, int) else 0 if code is None else 1), out.getvalue()


def run_shell(command: list[str], folder: Path) -> tuple[int, str]:
    """Exit code and output of a command that only looks at files."""
    assert command[0] in SHELL, f"{shlex.join(command)} is no command that a page may run"
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout + done.stderr


def require_quoted(block: Block, quoted: list[str], output: str) -> None:
    """Requires the quoted words in the output, one after the other; a line ``...`` stands for any others.

    Where lines break goes with the width of the terminal, and is not compared.
    """
    any_number = "numbers differ" in block.hints
    came = _words(output, any_number)
    at = 0
    for passage in re.split(r"^\.\.\.$", "\n".join(quoted), flags=re.MULTILINE):
        wanted = _words(passage, any_number)
        places = range(at, len(came) - len(wanted) + 1)
        found = next((place for place in places if came[place : place + len(wanted)] == wanted), None)
        assert found is not None, f"{block}: this was not printed:\n{passage}\nbut this:\n{output}"
        at = found + len(wanted)


def _words(text: str, any_number: bool) -> list[str]:
    """The words of a text; lines of a table, which are as long as its cells are wide, are all alike."""
    text = re.sub(r"[─━]+", "─", text)
    return (_NUMBER.sub("#", _CURVE.sub("#", text)) if any_number else text).split()
