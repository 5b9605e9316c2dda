"""README and docs do what they say: every block is run, in the order of its page."""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from compose.core import registry
from compose.core.optimizer import Optimizer
from compose.parts.objectives.elbo import ELBO
from compose.recipe.recipe import Evaluation, Phase, Player, Recipe, Term
from tests.docs.blocks import LANGUAGES, PAGES, ROOT, Block, Reader, blocks, require_quoted

_LINK = re.compile(r"\]\(([^)#]+)[^)]*\)")


def everything() -> list[Block]:
    """The blocks of all pages."""
    return [block for page in PAGES for block in blocks(page)]


#: What these do takes long though they train nothing.
LONG = {"docs/add-a-part.md", "docs/pyro.md", "docs/verify.md"}


def followed() -> Iterator[Any]:
    """Each page by its name; those that train something take long."""
    for page in PAGES:
        name = str(page.relative_to(ROOT))
        long = name in LONG or any("steps" in block.hints for block in blocks(page))
        yield pytest.param(page, id=name, marks=pytest.mark.long if long else ())


@pytest.mark.parametrize("page", list(followed()))
def test_a_page_can_be_followed_literally(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    reader = Reader(tmp_path)
    for block in blocks(page):
        reader.follow(block)


def test_what_is_run_is_counted() -> None:
    found = everything()
    assert {block.page for block in found} > {ROOT / "README.md", ROOT / "docs/add-a-part.md"}
    assert {block.language for block in found} == set(LANGUAGES)
    skipped = [block for block in found if "skip" in block.hints]
    assert all(len(block.hints["skip"].split()) > 3 for block in skipped), "a block is skipped without a reason"
    assert len(skipped) <= 3
    assert len(found) - len(skipped) > 20


def test_nothing_that_looks_like_a_block_escapes() -> None:
    fences = sum(line.lstrip().startswith("```") for page in PAGES for line in page.read_text().splitlines())
    assert fences == 2 * len(everything())


def test_a_hint_stands_before_a_block() -> None:
    said = sum(page.read_text().count("<!-- test:") for page in PAGES)
    assert said == sum(bool(block.hints) for block in everything())


def test_a_quotation_is_compared() -> None:
    block = Block(ROOT / "README.md", 1, "console", "", {})
    require_quoted(block, ["a  1 b", "...", "d"], "x\na 1\nb\nc\nd\n")
    for quoted in (["a 2"], ["b", "a 1"], ["a 1", "c"], ["d", "...", "a 1"]):
        with pytest.raises(AssertionError, match="this was not printed"):
            require_quoted(block, quoted, "a 1\nb\nc\nd\n")
    require_quoted(Block(ROOT / "README.md", 1, "console", "", {"numbers differ": ""}), ["a 2.5 b"], "a 71 b")


@pytest.mark.parametrize(
    ("language", "text", "hints"),
    [
        ("python", "1 / 0", {}),
        ("yaml", "data: digits", {}),
        ("yaml", "model.prior: categorical", {"fragment of": "vae"}),
        ("bash", "compose check no_such_recipe", {}),
        ("bash", "rm README.md", {}),
        ("console", "$ compose check vae", {"fails": ""}),
        ("console", "$ compose check no_such_recipe", {"fails": ""}),
        ("console", "$ compose check no_such_recipe\nall is well", {"fails": ""}),
        ("console", "$ compose check vae\nall is well", {}),
        ("text", "printed by nothing", {"printed": ""}),
        ("text", "printed by nothing", {}),
    ],
)
def test_a_block_that_is_wrong_is_noticed(
    language: str, text: str, hints: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((AssertionError, ZeroDivisionError)):
        Reader(tmp_path).follow(Block(ROOT / "README.md", 1, language, f"{text}\n", hints))


def test_links_lead_somewhere() -> None:
    links = [(page, link) for page in PAGES for link in _LINK.findall(page.read_text()) if "://" not in link]
    assert len(links) > 20
    assert not [(page, link) for page, link in links if not (page.parent / link).exists()]


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs/README.md").read_text()
    assert all(f"({page.name})" in index for page in (ROOT / "docs").glob("*.md") if page.name != "README.md")


def test_the_form_of_recipes_has_every_key() -> None:
    page = (ROOT / "docs/recipes.md").read_text()
    keys = {key for form in (Recipe, Phase, Player, Term, Evaluation, Optimizer, ELBO) for key in form.model_fields}
    names = {*registry.BUILT_IN["data"], *registry.BUILT_IN["objective"]}
    assert not {each for each in keys | names if not re.search(rf"`{each}\b", page)}


def test_what_the_readme_makes_can_be_made() -> None:
    named = set(re.findall(r"^make ([a-z-]+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test"} <= named <= targets


def test_the_picture_is_drawn_by_its_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["algebra.py", str(tmp_path / "again.svg")])
    runpy.run_path(str(ROOT / "docs/figures/algebra.py"), run_name="__main__")
    again, kept = (_texts(file) for file in (tmp_path / "again.svg", ROOT / "docs/figures/algebra.svg"))
    assert again == kept
    assert len(again) > 15


def _texts(file: Path) -> list[str]:
    """The picture's size and its texts, in order; outlines differ with the version of matplotlib.

    Letters are outlines too, and what they say stands beside them in a comment.
    """
    said = file.read_text(encoding="utf-8")
    return [*re.findall(r'viewBox="(.*?)"', said)[:1], *re.findall(r"<!-- (.*) -->", said)]
