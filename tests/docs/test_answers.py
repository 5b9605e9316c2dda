"""The page of six answers is what its results say, in both languages."""

from __future__ import annotations

import copy
import json
import re
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
SCRIPT = DOCS / "answers/answers.py"
RESULTS = json.loads((DOCS / "answers/results.json").read_text(encoding="utf-8"))
answers = SimpleNamespace(**runpy.run_path(str(SCRIPT)))


def texts(file: Path) -> list[str]:
    """All that is written in a picture."""
    return [text for text in ElementTree.parse(file).getroot().itertext() if text.strip()]


def page(code: str, results: dict) -> str:
    """The page in a language."""
    return answers.Page(results, answers.LANGUAGES[code], answers.PAGES[code][1]).text()


def test_pages_and_figures_are_those_of_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["answers.py", "--to", str(tmp_path)])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    for file, _ in answers.PAGES.values():
        assert (tmp_path / file).read_text(encoding="utf-8") == (DOCS / file).read_text(encoding="utf-8")
    drawn = sorted((tmp_path / "figures").glob("answers-*.svg"))
    assert len(drawn) == 2 * len(answers.QUESTIONS)
    for file in drawn:
        assert texts(file) == texts(DOCS / "figures" / file.name)


def test_both_languages_have_the_same_numbers() -> None:
    english, french = (re.findall(r"^\|.*\|$", page(code, RESULTS), re.MULTILINE) for code in ("en", "fr"))
    plain = [re.sub("[,. ;\u202f]", "", line) for line in (*english, *french)]
    numbers = [re.findall(r"[-+]?\d+", line) for line in plain]
    assert numbers[: len(english)] == numbers[len(english) :]
    assert len(english) > 40


@pytest.mark.parametrize("code", ["en", "fr"])
def test_results_that_say_otherwise_write_no_page(code: str) -> None:
    """Turning every finding around contradicts what the page claims."""
    turned = copy.deepcopy(RESULTS)
    for question in turned.values():
        for variant in question["variants"].values():
            for effect in variant["effects"].values():
                effect["direction"] = {"lower": "higher", "higher": "lower"}.get(effect["direction"], "lower")
    with pytest.raises(ValueError, match="the page says"):
        page(code, turned)


@pytest.mark.parametrize("code", ["en", "fr"])
def test_each_claim_is_required_by_itself(code: str) -> None:
    def page_with(name: str, label: str, *path: str, value: object) -> str:
        changed = copy.deepcopy(RESULTS)
        at = changed[name]["variants"][label]
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value
        return page(code, changed)

    for label in ("prior=mixture (components 32)", "prior=vamp (components 100)"):
        with pytest.raises(ValueError, match=r"says lower of Frechet distance, the results say not shown"):
            page_with("fashion-prior", label, "effects", "Frechet distance", "direction", value="not shown")
    with pytest.raises(ValueError, match="says not shown of -ELBO, the results say higher"):
        page_with("invertible", "model=of twice the depth", "effects", "-ELBO", "direction", value="higher")
    with pytest.raises(ValueError, match="distortion of draws=codes, draws=pixels does not fall"):
        page_with("autoregressive", "draws=codes", "distortion", value=80.0)
    assert re.search(r"\b7 (in place of|au lieu de) 64\b", page_with("autoregressive", "draws=codes", "calls", value=7))


def test_each_question_has_its_table_and_its_figure() -> None:
    for code in ("en", "fr"):
        text = page(code, RESULTS)
        assert all(f"answers-{name}-{code}.svg" in text for name in answers.QUESTIONS)
        assert all(question["command"] in text for question in RESULTS.values())
