"""The command line as a whole: help, errors, exit codes, and how quick a check is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from compose.cli import app, new

COMMANDS = [
    *("check", "fits", "parts", "equation", "schema", "recipes", "verify"),
    *("train", "evaluate", "sample", "show", "diff"),
    *("ablate", "report", "compare", "swap"),
]
HEAVY = ["sklearn", "lightning_fabric", "matplotlib", "pyro", "tensorboard", "safetensors", "PIL"]


def test_every_command_is_tried_below():
    names = [command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands]
    assert sorted(names) == sorted(COMMANDS)
    assert [command.name for command in new.registered_commands] == ["part"]


@pytest.mark.parametrize("command", [*COMMANDS, "new part"])
def test_every_command_has_help_with_examples(compose, command: str):
    done = compose(*command.split(), "--help")
    assert done.code == 0
    assert f"Examples:\n    compose {command}" in done.out


def test_version_and_help(compose):
    assert compose("--version").out.startswith("compose")
    assert all(f"  {command}" in compose("-h").out for command in COMMANDS)


@pytest.mark.parametrize("words", [[], ["nonsense"], ["check"], ["check", "vae", "--nonsense"], ["train"], ["new"]])
def test_wrong_use_exits_with_2(compose, words: list[str]):
    done = compose(*words)
    assert done.code == 2
    assert "Usage" in done.out + done.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["check", "no/such.yaml"], "There is no file 'no/such.yaml'"),
        (["check", "vae", "model.prior"], "There is no '='"),
        (["check", "vae", "--plugin", "nowhere.py"], "There is no plugin file nowhere.py"),
        (["fits", "vae", "--at", "model.priorr"], "Parts stand at: data, model.stages.0"),
        (["parts", "florw"], "Did you mean 'flow'?"),
        (["show", "nowhere"], "is no run"),
        (["evaluate", "nowhere"], "is no run"),
        (["sample", "nowhere", "--out", "a.png"], "is no run"),
        (["diff", "vae", "nowhere"], "There is no file 'nowhere'"),
        (["train", "vae", "train.0.steps=0"], "the number 0 came, wanted >= 1"),
        (["train", "--resume", "nowhere"], "is no run"),
        (["ablate", "nowhere"], "There is no file 'nowhere', nor a shipped ablation"),
        (["ablate", "prior", "seedz=1"], "'seedz' is no option of 'ablation'"),
        (["report", "nowhere"], "holds no ablation"),
        (["compare", "nowhere", "elsewhere"], "is no run"),
        (["swap", "nowhere", "model.prior=flow"], "is no run"),
        (["schema", "--out", "/dev/null/schema.json"], "cannot be written"),
        (["new", "part", "flow"], "already"),
    ],
)
def test_what_a_user_can_mend_is_a_message_on_stderr(compose, words: list[str], message: str):
    done = compose(*words)
    assert (done.code, done.out) == (1, "")
    assert message in done.err
    assert "Traceback" not in done.err


def test_a_dry_run_tells_what_is_refused_as_the_run_would(compose, tmp_path: Path):
    file = tmp_path / "small.yaml"
    file.write_text(
        "question: What p(z)?\nbase: vae\naxes: [{at: model.prior, values: [normal, categorical, mixture]}]\n"
        "seeds: 1\nbudget: {steps: 6}\n"
    )
    refused = compose("ablate", file, "--dry-run")
    assert refused.code == 1 and "categorical is refused, and nothing runs before that is mended" in refused.out
    skipped = compose("ablate", file, "--dry-run", "--skip-faulty")
    assert skipped.code == 0 and "categorical is refused, and it is left out:" in skipped.out


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)


@pytest.mark.long
def test_a_module_is_the_command():
    done = _run("-m", "compose", "check", "vae", "model.prior=bernoulli")
    assert done.returncode == 1
    assert "override 'model.prior=bernoulli' model.prior: 'bernoulli' takes Codes" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.long
def test_a_reader_that_leaves_is_no_error():
    script = f"{sys.executable} -m compose schema | head -c 10"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ('{\n "$schem', "")


def test_a_check_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['compose', 'check', 'vae_flow_prior']\n"
        "from compose.cli import main\n"
        "try: main()\n"
        "except SystemExit as ended: assert not ended.code\n"
        f"assert 'torch' in sys.modules; print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    )
    assert _run("-c", code).stderr == "[]\n"
