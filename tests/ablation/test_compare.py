"""Runs made by hand, and parts swapped in a trained one, under the same guard."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import compose
from compose.ablation.compare import compare
from compose.ablation.swap import swap
from compose.ablation.tables import tables
from compose.ablation.words import answer, cautions
from compose.cli import app
from compose.core.errors import AblationError, RecipeError, RunError
from compose.core.model import ModelDensity
from compose.run.directory import Run
from tests.run.test_begun import SHORT

pytestmark = pytest.mark.long

VAE = ["train.0.steps=5", "evaluate.samples=2", "model.stages.0.dim=4"]


def trained(out: Path, *changes: str, recipe: str = "vae") -> Run:
    return compose.train(recipe, out, overrides=[*VAE, *changes], progress=False)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Two seeds of a VAE, one with another prior, one that is told its labels."""
    root = tmp_path_factory.mktemp("by-hand")
    return {
        "a0": trained(root / "a0"),
        "a1": trained(root / "a1", "seed=1"),
        "b0": trained(root / "b0", "model.prior=mixture"),
        "labelled": trained(root / "labelled", "data.labels=true", "model.stages.0.labels=true"),
    }


def weights(run: Run) -> dict[str, torch.Tensor]:
    return run.model().state_dict()


def test_runs_without_a_seed_in_common_are_not_compared_and_that_is_said(runs: dict[str, Run]):
    found = compare([runs["a1"], runs["b0"]])
    assert found.outcomes[1].effects == {}
    (caution,) = cautions(found)
    assert caution.startswith(f"{runs['b0'].path}: no seed in common with {runs['a1'].path} (1)")
    assert "seed=1" in caution


def test_runs_of_one_recipe_are_one_variant_with_several_seeds(runs: dict[str, Run]):
    found = compare([runs["a0"], runs["b0"], runs["a1"].path])
    assert [list(outcome.scored) for outcome in found.outcomes] == [[0, 1], [0]]
    assert found.base.label == f"{runs['a0'].path} and 1 more"
    effect = found.outcomes[1].effects["-ELBO"]
    assert list(effect.per_seed) == [0]
    gap = runs["b0"].scores()["splits"]["test"]["-ELBO"] - runs["a0"].scores()["splits"]["test"]["-ELBO"]
    assert effect.value == pytest.approx(gap)
    assert ["model.prior.type", "normal", "mixture"] in found.outcomes[1].planned.changes


def test_codes_in_use_are_set_against_each_other(runs: dict[str, Run], tmp_path: Path):
    short = ["train.0.steps=3", "train.1.steps=2", "model.prior.layers=1"]
    finite = "model.stages.0.quantizer={type: fsq, levels: [5, 5, 5]}"
    vq, fsq = (
        compose.train("vqvae", tmp_path / name, overrides=[*short, *more], progress=False)
        for name, more in (("vq", []), ("fsq", [finite]))
    )
    found = compare([vq, fsq, runs["a0"]])
    shares = [(run.scores()["health"][0]["used"], run.scores()["health"][0]["codes"]) for run in (vq, fsq)]
    assert [of for _, of in shares] == [128, 125]
    (base, other) = (used / of for used, of in shares)
    effect = found.outcomes[1].effects["codes used"]
    assert found.base.mean("codes used") == pytest.approx(base) and 0 < base <= 1
    assert effect.value == pytest.approx(other - base) and not effect.less_is_better
    assert "codes used, validation" in tables(found)[0].headers
    without = replace(found, plan=replace(found.plan, judged_by="modes found"))
    assert "has no modes found" in answer(without) and "codes used" in answer(without)
    assert found.outcomes[2].mean("codes used") is None and "codes used" not in found.outcomes[2].effects


def test_scores_of_something_else_are_kept_apart(runs: dict[str, Run]):
    found = compare([runs["a0"], runs["labelled"]])
    assert "-ELBO" not in found.outcomes[1].effects
    assert ("conditioning", "none", "class label of 10") in found.outcomes[1].apart
    assert "Frechet distance" in found.outcomes[1].effects


def test_one_run_is_nothing_to_compare(runs: dict[str, Run]):
    with pytest.raises(AblationError, match="two different runs"):
        compare([runs["a0"], runs["a0"].path])


def test_a_run_without_scores_is_said(runs: dict[str, Run], tmp_path: Path):
    Run.create(tmp_path / "young", runs["b0"].recipe, runs["b0"].record)
    with pytest.raises(RunError, match=r"compose evaluate|holds no scores"):
        compare([runs["a0"], tmp_path / "young"])


def test_a_swapped_prior_leaves_the_stages_as_they_were(runs: dict[str, Run], tmp_path: Path):
    found = swap(runs["a0"], ["model.prior=flow"], tmp_path / "flow", progress=False)
    new = Run(tmp_path / "flow")
    assert new.recipe.train[0].players[0].trains == ["model.prior"]
    before, after = weights(runs["a0"]), weights(new)
    kept = [name for name in after if name.startswith("stages.")]
    assert kept
    assert all(torch.equal(after[name], before[name]) for name in kept)
    assert [outcome.label for outcome in found.outcomes] == [str(runs["a0"].path), str(tmp_path / "flow")]
    assert "-ELBO" in found.outcomes[1].effects


def test_what_is_fitted_in_a_swapped_part_is_fitted_to_the_trained_encoder(runs: dict[str, Run], tmp_path: Path):
    """A standardize in the new prior stands over the latents of the run, not of an encoder that never trained."""
    longer = trained(tmp_path / "longer", "train.0.steps=400")
    change = "model.prior={type: model, stages: [standardize], prior: {type: mixture, components: 3}}"
    swap(longer, [change], tmp_path / "run", progress=False)
    new, x = Run(tmp_path / "run").model(), longer.recipe.data.load().train.x
    prior = new.prior
    assert isinstance(prior, ModelDensity)
    with torch.no_grad():
        z = torch.cat([prior.encode(new.encode(x)) for _ in range(10)])
    # One draw of each of 1000 images was fitted: the standard error of its mean is 0.03, of its deviation 0.02.
    assert z.mean(0).abs().max() < 0.1 and (z.std(0) - 1).abs().max() < 0.07


def test_a_swapped_decoder_is_all_that_is_trained(runs: dict[str, Run], tmp_path: Path):
    swap(runs["a0"], ["model.stages.0.decoder.hidden=[24]"], tmp_path / "run", progress=False)
    before, after = weights(runs["a0"]), weights(Run(tmp_path / "run"))
    unlike = {name for name in after if name not in before or not torch.equal(after[name], before[name])}
    assert unlike
    assert all(name.startswith("stages.0.decoder.") for name in unlike)


def test_after_a_shared_first_phase_it_is_as_if_trained_from_the_start(tmp_path: Path):
    old = compose.train("latent_diffusion", tmp_path / "old", overrides=SHORT, progress=False)
    swap(old, ["model.prior=mixture"], tmp_path / "swapped", progress=False)
    alone = compose.train(
        "latent_diffusion", tmp_path / "alone", overrides=[*SHORT, "model.prior=mixture"], progress=False
    )
    after = weights(Run(tmp_path / "swapped"))
    assert all(torch.equal(value, after[name]) for name, value in weights(alone).items())


@pytest.mark.parametrize(
    "changes, error, wanted",
    [
        (["model.prior=normal"], AblationError, "swaps no part of the model"),
        (["train.0.steps=9"], AblationError, "swaps no part of the model"),
        (["model.prior=categorical"], RecipeError, "takes Codes"),
        (["model.prior=flwo"], RecipeError, "Did you mean 'flow'"),
        (["model.stages.0.dim=5"], AblationError, r"train the changed recipe"),
        (["model={stages: [], prior: {type: model, stages: [latent]}}"], AblationError, "nothing stays"),
    ],
)
def test_what_cannot_be_swapped_is_said_and_nothing_is_written(
    changes: list[str], error: Any, wanted: str, runs: dict[str, Run], tmp_path: Path
):
    with pytest.raises(error, match=re.compile(wanted)):
        swap(runs["a0"], changes, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_by_command(runs: dict[str, Run], tmp_path: Path):
    line = ["compare", str(runs["a0"].path), str(runs["b0"].path), "--report", str(tmp_path / "page")]
    printed = CliRunner().invoke(app, line)
    assert printed.exit_code == 0, printed.output
    assert "over examples" in printed.output
    assert "model.prior.type" in printed.output
    assert (tmp_path / "page" / "report.html").is_file()
    line = ["swap", str(runs["a0"].path), "model.prior=flow", "-q", "--out", str(tmp_path / "flow")]
    printed = CliRunner().invoke(app, line)
    assert printed.exit_code == 0, printed.output
    assert f"Set against {runs['a0'].path}" in printed.output
