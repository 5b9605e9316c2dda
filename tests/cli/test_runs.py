"""train, evaluate, sample, show, diff: on short runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from compose.ablation.guard import protocol_changes
from compose.cli.runs import validation_curve
from compose.recipe.changes import changes
from compose.recipe.check import load_recipe

TINY = ["model.stages.0.dim=4", "train.0.steps=5", "evaluate.samples=2"]


def test_train_makes_a_run_and_prints_its_ledger(compose, tmp_path: Path):
    out = tmp_path / "run"
    done = compose("train", "vae", *TINY, "--out", out, "--quiet", "--accelerator", "cpu", "--threads", "1")
    assert done.code == 0, done.err
    assert (out / "model.safetensors").is_file()
    scores = json.loads((out / "scores.json").read_text())
    assert f"{scores['splits']['test']['-ELBO']:.2f}" in done.out
    assert str(out / "figures" / "samples.png") in done.out
    assert done.err == ""
    again = compose("train", "vae", *TINY, "--out", out, "--quiet")
    assert again.code == 1 and "is not empty" in again.err
    finished = compose("train", "--resume", out)
    assert finished.code == 1 and "has finished" in finished.err


def test_train_takes_a_recipe_or_a_run_to_resume(compose, tmp_path: Path):
    assert compose("train", "vae", "--resume", tmp_path).code == 2
    assert compose("train").code == 2


def test_what_is_said_on_resuming_counts(compose, runs: dict[str, Path], tmp_path: Path):
    run = shutil.copytree(runs["vae"], tmp_path / "run")
    (run / "scores.json").unlink()
    assert "is resumed where it is" in compose("train", "--resume", run, "--out", tmp_path / "elsewhere").err
    assert "3 devices cannot share" in compose("train", "--resume", run, "--devices", "3").err
    assert "of 'tpu' cannot be had" in compose("train", "--resume", run, "--accelerator", "tpu").err


def test_a_look_that_was_not_finite_leaves_a_gap_in_the_curve():
    looks = [{"validation -ELBO": value} for value in (3.0, None, 2.0)]
    assert validation_curve(looks, "validation -ELBO").endswith("first 3.00, best 2.00, last 2.00")  # type: ignore[arg-type]
    assert validation_curve(looks[1:2], "validation -ELBO") == ""  # type: ignore[arg-type]


def test_evaluate_scores_anew(compose, runs: dict[str, Path]):
    done = compose("evaluate", runs["vae"], "--samples", "4", "--quiet")
    assert done.code == 0, done.err
    scores = json.loads((runs["vae"] / "scores.json").read_text())
    assert scores["splits"]["test"]["K"] == 4
    assert "NLL(K = 4)" in done.out
    assert compose("evaluate", runs["vae"], "--quiet", "--samples", "3").code == 0


@pytest.mark.parametrize("options", [[], ["--links", "8"]])
def test_a_device_that_is_not_there_is_told(compose, runs: dict[str, Path], options: list[str]):
    there = torch.cuda.device_count()
    for device in (f"cuda:{there}", "tpu", *(() if there else ("cuda", "gpu"))):
        done = compose("evaluate", runs["vae"], "--device", device, *options)
        assert done.code == 1 and f"device '{device}' cannot be had; there is cpu" in done.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sampler", "ddim"], "--sampler and --steps are of samples"),
        (["--steps", "4"], "--sampler and --steps are of samples"),
        (["--split", "test", "--split", "validation"], "--links scores one split; test, validation came"),
        ([], "has no diffusion prior"),
    ],
)
def test_beside_links_nothing_is_passed_over(compose, runs: dict[str, Path], options: list[str], message: str):
    done = compose("evaluate", runs["vae"], "--links", "8", *options)
    assert done.code == 1 and message in done.err


def test_sample_writes_a_picture(compose, runs: dict[str, Path], tmp_path: Path):
    from PIL import Image

    first, again, other = (tmp_path / "deep" / f"{name}.png" for name in ("first", "again", "other"))
    assert compose("sample", runs["vae"], "-n", "9", "--out", first).out == f"wrote {first}\n"
    assert compose("sample", runs["vae"], "-n", "9", "--out", again, "--seed", "0").code == 0
    assert compose("sample", runs["vae"], "-n", "9", "--out", other, "--seed", "1").code == 0
    assert Image.open(first).size[0] == Image.open(first).size[1]
    assert first.read_bytes() == again.read_bytes() != other.read_bytes()


@pytest.mark.long
def test_compile_is_an_option_of_train_and_of_sample(compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As far as the compiler: what is compiled says what it is called with, and runs as it is."""
    called: list[str] = []

    def traced(model: Any) -> Any:
        return torch.compile(model, backend=lambda graph, inputs: called.append("compiled") or graph.forward)

    for module in ("stretch", "sample"):
        monkeypatch.setattr(f"compose.run.{module}.compiled", traced)
    monkeypatch.setattr("compose.run.train.require_compiler", lambda device, instead: called.append(device))
    out, options = tmp_path / "run", ["--quiet", "--accelerator", "cpu", "--threads", "1"]
    assert compose("train", "vae", *TINY, "--out", out, "--compile", *options).code == 0
    assert called == ["cpu", "compiled"]
    assert json.loads((out / "run.json").read_text())["how"]["compile"] is True
    for again, expected in ((["--no-compile"], False), ([], False), (["--compile"], True)):
        for name in ("model.safetensors", "scores.json"):
            (out / name).unlink()
        assert compose("train", "--resume", out, "--quiet", *again).code == 0
        assert json.loads((out / "run.json").read_text())["how"]["compile"] is expected
    called.clear()
    plain, quick = tmp_path / "plain.png", tmp_path / "quick.png"
    assert compose("sample", out, "-n", "9", "--out", plain).code == 0 and not called
    assert compose("sample", out, "-n", "9", "--out", quick, "--compile").code == 0 and called == ["compiled"]
    assert plain.read_bytes() == quick.read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--out", "a.jpg"], "does not end in .png"), (["--out", "a.png", "--label", "3"], "unconditional")],
)
def test_sample_refuses(compose, runs: dict[str, Path], options: list[str], message: str):
    done = compose("sample", runs["vae"], *options)
    assert done.code == 1 and message in done.err


def test_samples_are_guided(compose, runs: dict[str, Path], tmp_path: Path):
    plain, once, more = (tmp_path / f"{name}.png" for name in ("plain", "once", "more"))
    for out, options in ((plain, []), (once, ["--guidance", "1"]), (more, ["--guidance", "30"])):
        done = compose("sample", runs["guided"], "-n", "9", "--label", "3", *options, "--out", out)
        assert done.out == f"wrote {out}\n", done.err
    assert plain.read_bytes() == once.read_bytes() != more.read_bytes()
    filled = ("--complete", "test", "--rows", "4", "-n", "2", "--guidance", "2")
    assert compose("sample", runs["guided"], *filled, "--out", more).code == 0


def test_images_are_filled_in(compose, runs: dict[str, Path], tmp_path: Path):
    out = tmp_path / "filled.png"
    options = ("--complete", "test", "--rows", "3", "-n", "4", "--top-k", "1")
    assert compose("sample", runs["pixels"], *options, "--out", out).out == f"wrote {out}\n"
    picture = np.asarray(Image.open(out).convert("L"))
    side = picture.shape[0] // (4 * 9)  # four rows of images, each with a line below it
    cells = picture[side // 2 :: side, side // 2 :: side].reshape(4, 9, 8, 9).swapaxes(1, 2)[..., :8, :8]
    assert (cells[:, :, :3] == cells[:, :1, :3]).all()
    assert (cells[:, 1, 3:] == 0).all() and (cells[:, 2:, 3:] != 0).any()
    # Of the likeliest codes alone, all completions of an image are the same.
    assert (cells[:, 2:] == cells[:, 2:3]).all()


@pytest.mark.parametrize(
    ("run", "options", "message"),
    [
        ("vae", ["--complete", "test"], "does not draw code by code"),
        ("vae", ["--temperature", "0.5"], "nothing to sharpen"),
        ("pixels", ["--temperature", "0"], "temperature is 0; wanted above 0"),
        ("pixels", ["--top-p", "1.5"], "top_p is 1.5; wanted above 0 and at most 1"),
        ("pixels", ["--top-k", "0"], "leaves no code to draw"),
        ("pixels", ["--guidance", "-1"], "guidance is -1; wanted 0 at least"),
        ("pixels", ["--guidance", "2"], "train its prior with labels: true and unlabelled: 0.1"),
        ("vae", ["--guidance", "2"], "nothing to sharpen or to guide"),
        ("pixels", ["--rows", "3"], "which images, --complete says"),
        ("pixels", ["--complete", "test", "--rows", "9"], "9 rows are to be kept, and an item of"),
        ("pixels", ["--complete", "test", "--compile"], "--compile is of samples"),
        ("pixels", ["--complete", "tset"], "tset is neither train, validation, test nor a .npy file of images."),
        ("pixels", ["--complete", "nowhere.npy"], "nowhere.npy is neither train, validation, test nor a .npy file"),
    ],
)
def test_what_cannot_be_drawn_is_told(compose, runs, run: str, options: list[str], message: str, tmp_path: Path):
    done = compose("sample", runs[run], "--out", tmp_path / "a.png", *options)
    assert done.code == 1 and message in done.err
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 1, 8, 8), ">u2"), None),
        (np.zeros((2, 1, 8, 8)), "float32 of shape (2, 1, 8, 8), but Codes(1x8x8, size 17, ordered) wants integers"),
        (np.full((2, 1, 8, 8), 17), "holds values from 17 to 17"),
        (np.array(3), "int64 of shape (), but Codes"),
        (np.zeros((0, 1, 8, 8), int), "holds no image"),
        (np.array(["a"]), "nor a .npy file of images"),
        ({"x": np.zeros((2, 1, 8, 8), int)}, "nor a .npy file of images"),
    ],
)
def test_images_of_a_file_are_looked_at(
    compose, runs: dict[str, Path], tmp_path: Path, array: Any, message: str | None
):
    file = tmp_path / ("a.npz" if isinstance(array, dict) else "a.npy")
    np.savez(file, **array) if isinstance(array, dict) else np.save(file, array)
    done = compose("sample", runs["pixels"], "--complete", file, "--out", tmp_path / "a.png")
    assert done.code == (message is not None), done.err
    assert message is None or (message in done.err and str(file) in done.err), done.err


def test_what_the_system_refuses_is_a_message(compose, runs: dict[str, Path], tmp_path: Path):
    taken, long = tmp_path / "taken", "x" * 300 + ".png"
    taken.write_text("")
    for words, message in (
        (["sample", runs["vae"], "--out", taken / "a.png"], f"{taken} cannot be read or written: File exists."),
        (["sample", runs["vae"], "--out", tmp_path / long], f"{long} cannot be read or written: File name too long."),
        (["compare", runs["vae"], runs["flow prior"], "--report", taken], f"{taken} cannot be read or written"),
    ):
        done = compose(*words)
        assert done.code == 1 and message in done.err, done.err


def test_what_a_library_raises_keeps_its_traceback(compose, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("compose.cli.runs._report", lambda run: (_ for _ in ()).throw(OSError("no source code")))
    (tmp_path / "recipe.yaml").write_text("")
    with pytest.raises(OSError, match="no source code"):
        compose("show", tmp_path)


def test_show_prints_ledger_curve_and_pictures(compose, runs: dict[str, Path]):
    run = runs["flow prior"]
    done = compose("show", run)
    assert done.code == 0
    scores = json.loads((run / "scores.json").read_text())["splits"]
    assert all(f"{scores[split]['-ELBO']:.2f}" in done.out for split in ("validation", "test"))
    assert "validation -ELBO over the training" in done.out
    for picture in sorted((run / "figures").glob("*.png")):
        assert str(picture) in done.out


def test_show_before_any_score(compose, runs: dict[str, Path], tmp_path: Path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("recipe.yaml", "run.json"):
        (bare / name).write_bytes((runs["vae"] / name).read_bytes())
    done = compose("show", bare)
    assert done.code == 1 and "compose evaluate" in done.err


def test_validation_curve():
    name = "validation -ELBO"
    assert validation_curve([{"step": 1.0}], name) == ""
    falling = [{"validation -ELBO": value} for value in (8.0, 4.0, 1.0, 2.0)]
    assert validation_curve(falling, name) == "█▄▁▂  first 8.00, best 1.00, last 2.00"
    assert validation_curve([{name: 2.0}], name) == "▁  first 2.00, best 2.00, last 2.00"
    many = [{"validation -ELBO": float(value)} for value in range(1000)]
    assert len(validation_curve(many, name).split()[0]) <= 80


def test_changes_between_recipes():
    a = load_recipe("vae", ["model.prior=normal", "model.stages.0.encoder.hidden=[8]"])
    b = load_recipe(
        "vae", ["model.prior={type: mixture, components: 7}", "model.stages.0.encoder.hidden=[8, 9]", "seed=1"]
    )
    assert list(changes(a, b)) == [
        ("model.stages.0.encoder.hidden", "[8]", "[8, 9]"),
        ("model.prior.type", "normal", "mixture"),
        ("seed", "0", "1"),
        ("model.prior.components", "", "7"),
    ]
    assert list(changes(a, a)) == []


def test_protocol_changes():
    assert protocol_changes({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4}) == [("b", "2", "3"), ("c", "", "4")]


def test_diff_of_recipes(compose):
    done = compose("diff", "vae", "vae_flow_prior")
    assert done.code == 0
    assert any(line.split() == ["model.prior.type", "normal", "flow"] for line in done.out.splitlines())
    assert "has no scores" in done.out
    assert "The recipes are the same." in compose("diff", "vae", "vae").out


def test_diff_of_runs_of_one_protocol_sets_ledgers_side_by_side(compose, runs: dict[str, Path]):
    done = compose("diff", runs["vae"], runs["flow prior"])
    assert done.code == 0
    assert "test: the protocols are the same." in done.out
    scores = [json.loads((runs[name] / "scores.json").read_text())["splits"]["test"] for name in ("vae", "flow prior")]
    (line,) = (line for line in done.out.partition("nats, test")[2].splitlines() if line.startswith("-ELBO"))
    a, b, gap, _, half = line.split()[1:]
    assert (a, b) == tuple(f"{score['-ELBO']:.2f}" for score in scores)
    assert float(gap) == pytest.approx(scores[1]["-ELBO"] - scores[0]["-ELBO"], abs=0.006)
    assert 0 < float(half) < 5
    assert "NLL(K = 3)" in done.out


def test_diff_of_a_run_with_itself_has_no_gap(compose, runs: dict[str, Path]):
    done = compose("diff", runs["vae"], runs["vae"])
    assert "The recipes are the same." in done.out
    assert "+0.00 ± 0.00" in done.out


def test_diff_of_other_data_ranks_nothing(compose, runs: dict[str, Path]):
    done = compose("diff", runs["vae"], runs["other data"])
    assert "not set side by side" in done.out
    assert any(line.split() == ["levels", "17", "4"] for line in done.out.splitlines())
    assert "-ELBO" not in done.out and "nats" not in done.out


def test_diff_of_other_estimates_leaves_nll_out(compose, runs: dict[str, Path]):
    done = compose("diff", runs["vae"], runs["alone"])
    assert any(line.split() == ["kind", "weight", "exact"] for line in done.out.splitlines())
    assert "-ELBO" in done.out and "NLL(K" not in done.out
    assert "NLL is left out" in done.out
