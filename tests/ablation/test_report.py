"""What is said of the cells: who compares, what is shown, and a page that needs nothing else."""

from __future__ import annotations

import csv
import io
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compose.ablation.grid import expand
from compose.ablation.plan import plan_of
from compose.ablation.question import read_ablation
from compose.ablation.report import html, in_short, warnings
from compose.ablation.results import Results, Scored, Study, against
from compose.ablation.study import report
from compose.ablation.tables import Table, records, tables
from compose.ablation.words import answer, cautions, freezing, headline
from compose.recipe.changes import changes
from compose.recipe.check import load_recipe
from compose.run.directory import Run
from tests.ablation.small import go

Write = Callable[..., Path]


class _Page(HTMLParser):
    """Every tag with its attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_effects_are_the_paired_differences_of_the_scores(done: Study):
    base, mixture = done.outcomes
    effect = mixture.effects["-ELBO"]
    gaps = [mixture.scored[seed].of_examples("-ELBO") - base.scored[seed].of_examples("-ELBO") for seed in (0, 1)]
    assert effect.per_seed == pytest.approx({0: gaps[0].mean(), 1: gaps[1].mean()})
    assert effect.value == pytest.approx(np.mean(gaps))
    mean = sum(each.split["-ELBO"] for each in mixture.scored.values()) / 2
    assert mixture.mean("-ELBO") == pytest.approx(mean)
    assert base.effects == {}


def test_the_answer_has_every_effect_with_its_intervals(done: Study):
    effect = done.outcomes[1].effects["-ELBO"]
    low, high = effect.examples or (0, 0)
    said = answer(done)
    assert f"{effect.value:+.2f} nats [{low:+.2f}, {high:+.2f}] over examples" in said
    assert "over 2 seeds" in said
    assert "better" not in said + headline(done)


def test_the_page_needs_nothing_beside_it(done: Study):
    page = _Page((done.folder.path / "report.html").read_text())
    for tag, attributes in page.tags:
        for key in ("src", "href"):
            assert (attributes.get(key) or "data:").startswith("data:"), (tag, attributes)
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "iframe")]
    text = (done.folder.path / "report.html").read_text()
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org)", re.sub(r"data:[^\"]+", "", text))
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.tags


def test_the_page_says_all_there_is_to_say(done: Study):
    page = _Page(html(done))
    said = " ".join(page.text.split())
    assert done.plan.question in said
    assert " ".join(answer(done).split()) in said
    for outcome in done.outcomes:
        assert outcome.label in said
        assert outcome.planned.equation in said
    assert "model.prior.type" in said  # the diff of a cell
    assert "compose ablate" in said
    assert "posterior collapse" in said
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) == 4 + 2  # figures, and samples of both
    assert all(attributes["alt"] for attributes in pictures)


def test_what_a_user_wrote_is_text_and_no_markup(write: Write, tmp_path: Path):
    file = write(question="'<script>alert(1)</script> & co'", seeds="1", axes="[{at: model.prior, values: [normal]}]")
    found = go(file, tmp_path / "out")
    text = html(found)
    assert "<script>" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; co" in text


def test_a_report_of_what_is_there_so_far_says_what_is_missing(done: Study, tmp_path: Path):
    shutil.copytree(done.folder.path, tmp_path / "out")
    for address, label, _ in done.plan.cells:
        if label == "prior=mixture":
            (tmp_path / "out" / "cells" / f"{address}.json").unlink()
    found = report(tmp_path / "out")
    assert found.missing == [("prior=mixture", 0), ("prior=mixture", 1)]
    assert "2 of 4 cells have not ended" in (tmp_path / "out" / "report.html").read_text()
    assert "nothing is finished that compares" in answer(found)


def test_of_a_part_that_was_replaced_only_what_is_written_is_told_in_short():
    base = load_recipe("mhvae", ["train.0.steps=9"])
    recipe = load_recipe("diffusion", ["model.prior.steps=4", "model.prior.net={type: resmlp, width: 32}"])
    everything = list(changes(base, recipe))
    short = [path for path, *_ in in_short(everything, recipe)]
    assert {path for path in short if path.startswith("model.")} == {
        "model.stages",
        "model.stages.0.type",
        "model.prior.type",
        "model.prior.net.type",
        "model.prior.net.width",
        "model.prior.steps",
        "model.prior.prediction",
    }
    assert [path for path in short if path.startswith("train.")] == [
        path for path, *_ in everything if path.startswith("train.")
    ]


def test_a_changed_option_is_told_in_short_even_where_it_is_the_default():
    base, recipe = load_recipe("vae_flow_prior", ["model.prior.layers=3"]), load_recipe("vae_flow_prior")
    told = in_short(list(changes(base, recipe)), recipe)
    assert [path for path, *_ in told] == ["model.prior.layers"]


@pytest.mark.parametrize("name", ["scores.safetensors", "scores.json", "recipe.yaml", "model.safetensors"])
def test_a_report_leaves_out_what_is_not_as_it_was_written(name: str, done: Study, tmp_path: Path):
    shutil.copytree(done.folder.path, tmp_path / "out")
    address, label, seed = done.plan.cells[1]
    (tmp_path / "out" / "cells" / address / name).write_bytes(b"rotten")
    said: list[str] = []
    found = report(tmp_path / "out", tell=said.append)
    assert said == [
        f"{label}, seed {seed}, is left out: {name} is not as it was written. 'compose ablate' trains it anew."
    ]
    assert found.missing == [(label, seed)]
    assert seed not in next(outcome for outcome in found.outcomes if outcome.label == label).scored


def test_a_report_leaves_out_a_cell_that_is_gone(done: Study, tmp_path: Path):
    shutil.copytree(done.folder.path, tmp_path / "out")
    address, label, seed = done.plan.cells[1]
    shutil.rmtree(tmp_path / "out" / "cells" / address)
    assert report(tmp_path / "out", tell=lambda text: None).missing == [(label, seed)]


def test_the_tables_hold_the_same_numbers_in_every_form(done: Study):
    (table,) = tables(done)
    rows = list(csv.reader(io.StringIO(table.csv())))
    assert rows == [table.headers, *table.rows]
    assert rows[1][0] == "prior=normal (base)"
    elbo = float(rows[1][table.headers.index("-ELBO, nats")].split(" ")[0])
    assert elbo == pytest.approx(done.base.mean("-ELBO"), abs=0.005)
    markdown = table.markdown().splitlines()
    assert markdown[2].count("|") == len(table.headers) + 1
    assert table.latex().count(r"\\") == 1 + len(table.rows)
    assert len(tables(done, brief=True)[0].headers) < len(table.headers)


def test_a_warning_is_said_once_with_the_seeds_that_have_it(done: Study):
    base, mixture = done.outcomes
    said = {0: ["it collapsed (see runs/a.yaml)"], 1: ["it collapsed (see runs/b.yaml)", "it diverged"]}
    scored = {
        seed: replace(each, scores={**each.scores, "health": [], "warnings": said[seed]})
        for seed, each in mixture.scored.items()
    }
    outcome = replace(mixture, scored=scored)
    assert warnings(outcome) == ["seed 0, 1: it collapsed", "seed 1: it diverged"]
    (table,) = tables(replace(done, outcomes=[base, outcome]))
    assert [row[table.headers.index("seeds with a warning")] for row in table.rows][1] == "2 of 2"


def test_latex_escapes_what_means_something_there():
    text = Table("t", ["a_b", "50 %"], [["x & y", "1 ± 2"]]).latex()
    assert r"a\_b & 50 \%" in text
    assert r"x \& y & 1 $\pm$ 2" in text


def test_every_training_is_a_record_and_a_row_of_the_parquet_file(done: Study):
    rows = records(done)
    assert [(row["variant"], row["seed"]) for row in rows] == [
        (outcome.label, seed) for outcome in done.outcomes for seed in (0, 1)
    ]
    parquet = pytest.importorskip("pyarrow.parquet")
    assert parquet.read_table(done.folder.path / "cells.parquet").to_pylist() == rows


def scored(kind: str = "weight", K: int = 2, tmp: Path | None = None, **protocol: Any) -> Scored:
    said = {"data": "digits", "split": "test", "conditioning": "none", "kind": kind, "K": K, **protocol}
    split = {"-ELBO": 90.0, "NLL": 88.0, "K": K, "protocol": said, "views": {}}
    scores = {"kind": kind, "splits": {"test": split}, "measures": {}}
    return _Known("x", 0, Run.__new__(Run), scores, 1.0)


class _Known(Scored):
    """Scores without a file: each example as its mean."""

    def of_examples(self, measure: str) -> Any:
        return np.full(5, self.split[measure]) + np.arange(5)


@pytest.mark.parametrize(
    "one, compared, blank",
    [
        ({}, {"-ELBO", "NLL"}, set()),
        ({"K": 5}, {"-ELBO"}, {"NLL"}),
        ({"kind": "exact", "K": 1}, {"-ELBO"}, {"NLL"}),
        ({"kind": "bound"}, {"-ELBO"}, {"NLL"}),
        ({"kind": "estimate"}, set(), {"-ELBO", "NLL"}),
        ({"conditioning": "class label of 10"}, set(), {"-ELBO", "NLL"}),
        ({"data": "fashion"}, set(), {"-ELBO", "NLL"}),
    ],
)
def test_scores_of_different_things_are_never_set_against_each_other(one, compared, blank):
    effects, apart, why = against({0: scored(**one)}, {0: scored()})
    assert set(effects) == compared
    assert set(why) == blank
    assert bool(apart) == ("conditioning" in one or "data" in one)
    if apart:
        assert apart[0][0] in one


def test_every_seed_is_asked_whether_it_compares():
    """Of runs of one recipe one may have been scored anew with more draws, or after its data changed."""
    base = {0: scored(), 1: scored()}
    effects, apart, why = against({0: scored(), 1: scored(K=5)}, base)
    assert set(effects) == {"-ELBO"} and "K = 5 beside weight, K = 2" in why["NLL"] and not apart
    effects, apart, why = against({0: scored(), 1: scored(digest="another")}, base)
    assert not effects and apart == [("digest", "", "another")]
    assert against({0: scored(), 2: scored(K=5)}, base)[2] == {}  # seed 2 is paired with none


@pytest.mark.long
def test_measures_of_samples_of_other_data_do_not_compare(tmp_path: Path):
    file = tmp_path / "planes.yaml"
    file.write_text(
        "question: Which plane?\nbase: gan_grid\nseeds: 1\nbudget: {steps: 2}\njudged_by: Frechet distance\n"
        "axes: [{at: data.shape, values: [grid25, ring]}]\n"
    )
    found = go(file, tmp_path / "out")
    assert not list(found.effects())
    assert {found.outcomes[1].blank[name] for name in ("Frechet distance", "recall", "modes found")} == {
        "measured otherwise"
    }


@pytest.mark.parametrize(
    "changes, how",
    [
        ("{}", "A joint comparison: all that a variant trains, it trains together."),
        (
            "{train: [{steps: 2}, {steps: 2}]}",
            "A joint comparison: all that a variant trains, it trains together, in 2",
        ),
        ("{train: [{trains: [model.stages.0], steps: 2}, {steps: 2}]}", "A joint comparison"),
        ("{train: [{steps: 2}, {trains: [model.stages.0], steps: 2}]}", "A frozen comparison: each trains model, then"),
    ],
)
def test_only_where_something_holds_still_it_is_a_frozen_comparison(changes, how, tmp_path: Path):
    file = tmp_path / "turns.yaml"
    file.write_text(
        f"question: How?\nbase: vae\nseeds: 1\nchanges: {changes}\naxes: [{{at: model.prior, values: [mixture]}}]\n"
    )
    plan = plan_of(expand(read_ablation(file)), "compose ablate")
    assert freezing(Results(plan, [], [])).startswith(how)


@pytest.mark.long
def test_other_protocols_go_to_a_table_of_their_own(write: Write, tmp_path: Path):
    given = "{data.labels: true, model.stages.0.labels: true}"
    axes = f"[{{name: labels, values: {{without: {{data.labels: false}}, with: {given}}}}}]"
    found = go(write(axes=axes, seeds="1"), tmp_path / "out")
    first, second = tables(found)
    assert [row[0] for row in first.rows] == ["labels=without (base)"]
    assert [row[0] for row in second.rows] == ["labels=with"]
    assert "conditioning class label of 10 (the base: none)" in second.title
    assert "-ELBO" not in found.outcomes[1].effects
    assert "effect on -ELBO" not in second.headers


@pytest.mark.long
def test_one_seed_says_nothing_of_another_training(write: Write, tmp_path: Path):
    found = go(write(seeds="1"), tmp_path / "out")
    assert found.outcomes[1].effects["-ELBO"].seeds is None
    assert "one seed" in cautions(found)[0]


@pytest.mark.long
def test_what_has_no_likelihood_is_judged_by_its_samples(tmp_path: Path):
    file = tmp_path / "gan.yaml"
    file.write_text(
        "question: Does pairing help?\nbase: gan_grid\nseeds: 2\nbudget: {steps: 4}\n"
        "axes: [{at: train.0.objective.paired, values: [false, true]}]\n"
    )
    found = go(file, tmp_path / "out")
    assert found.judged_by == "modes found"
    (effect,) = [effect for _, effect in found.effects()]
    assert effect.examples is None
    assert "-ELBO" not in tables(found)[0].headers
    assert "implicit" in html(found)
