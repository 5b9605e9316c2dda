"""``compose verify``: what it prints, and its exit code."""

from __future__ import annotations

from pathlib import Path

import pytest

from compose.core import gaussians


def test_one_recipe_is_told_in_full(compose):
    done = compose("verify", "vae", "--only", "total mass", "--only", "polarity")
    assert done.code == 0
    for word in ("total mass", "held", "off by", "allowed", "what it proves", "shrunk to", "Codes("):
        assert word in done.out


def test_a_run_is_told_in_full_with_a_slash_at_its_end(compose, runs: dict[str, Path]):
    done = compose("verify", f"{runs['vae']}/", "--only", "polarity")
    assert done.code == 0 and "what it proves" in done.out and "1 models" not in done.out


def test_a_folder_is_told_line_by_line(compose, tmp_path: Path):
    for name, dim in (("a", 16), ("b", 32)):
        (tmp_path / f"{name}.yaml").write_text(
            f"data: digits\nmodel: {{stages: [{{type: latent, dim: {dim}}}]}}\ntrain: [{{objective: elbo, steps: 1}}]\n"
        )
    done = compose("verify", tmp_path, "--only", "total mass")
    assert done.code == 0 and "2 models, 1 of which shrink to another's; all hold" in done.out
    assert "shrinks to the same as" in done.out and "what it proves" not in done.out


def test_a_failed_check_is_the_exit_code(compose, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gaussians.Gaussian, "entropy", lambda self: 0 * self.loc.flatten(1).sum(1))
    done = compose("verify", "vae", "--only", "closed forms")
    assert done.code == 1 and "FAILED" in done.out and ": closed forms" in done.out


def test_errors(compose, tmp_path: Path):
    assert "there is: total mass" in compose("verify", "vae", "--only", "mass").err
    empty = compose("verify", tmp_path)
    assert empty.code == 1 and "no recipe" in empty.err
    assert compose("verify", "vea").code == 1
