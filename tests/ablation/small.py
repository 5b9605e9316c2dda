"""Ablations of a small VAE of the digits, whose cells take a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compose.ablation.results import Study
from compose.ablation.study import ablate

SMALL = """
question: {question}
base: vae
changes:
  train.0.batch_size: 32
  model.stages.0.encoder: {{type: mlp, hidden: [16]}}
  model.stages.0.decoder: {{type: mlp, hidden: [16]}}
  model.stages.0.likelihood: categorical
  model.stages.0.dim: 4
  evaluate.samples: 2
axes: {axes}
seeds: {seeds}
budget: {budget}
"""


def small(
    folder: Path,
    axes: str = "[{at: model.prior, values: [normal, mixture]}]",
    seeds: str = "2",
    budget: str = "{steps: 6}",
    question: str = "How simple may p(z) be?",
    name: str = "small.yaml",
) -> Path:
    """Writes the file of an ablation."""
    path = folder / name
    path.write_text(SMALL.format(axes=axes, seeds=seeds, budget=budget, question=question))
    return path


def go(file: Path, out: Path, **how: Any) -> Study:
    """Runs an ablation without a word."""
    return ablate(
        file, out, **{"progress": False, "accelerator": "cpu", "threads": 1, "tell": lambda text: None, **how}
    )
