"""Commands about runs: train, evaluate, sample, show."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from compose.cli.options import Overrides, Plugins, Quiet, RunRef, Threads, show

if TYPE_CHECKING:
    from compose.run.directory import Run


def train(
    recipe: Annotated[
        str | None, typer.Argument(metavar="RECIPE", help="A recipe file, or the name of a shipped recipe.")
    ] = None,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="The run; runs/NAME by default.")] = None,
    devices: Annotated[
        int | None, typer.Option("--devices", metavar="N", help="Devices that share each batch.")
    ] = None,
    accelerator: Annotated[str | None, typer.Option("--accelerator", help="cpu, gpu or auto, which it is.")] = None,
    precision: Annotated[str | None, typer.Option("--precision", help="32-true, bf16-mixed, 64-true.")] = None,
    threads: Threads = None,
    compile: Annotated[bool | None, typer.Option("--compile/--no-compile", help="Compile the model.")] = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", metavar="RUN", help="Go on with a run that was stopped.")
    ] = None,
    quiet: Quiet = False,
    plugin: Plugins = None,
) -> None:
    """Train a recipe, score it, draw its pictures.

    The run directory holds the resolved recipe, versions, seeds and digests, the metrics, the weights, the scores and
    the pictures. A run that is resumed goes on as it was begun, but for what is said otherwise.

    \b
    Examples:
      compose train vae_flow_prior
      compose train vae_flow_prior model.prior.layers=8 seed=1 --out runs/deeper
      compose train mine.yaml --devices 2 --accelerator cpu
      compose train vae_flow_prior --compile
      compose train --resume runs/vae_flow_prior
    """
    if (recipe is None) == (resume is None):
        raise typer.BadParameter("wanted either a RECIPE or --resume RUN.")
    if resume is not None and out is not None:
        raise typer.BadParameter("a run is resumed where it is; leave --out away.")
    from compose.run import train as training

    options = {"devices": devices, "accelerator": accelerator, "precision": precision, "threads": threads}
    how: Any = {key: value for key, value in {**options, "compile": compile}.items() if value is not None}
    if recipe is not None:
        _report(training.train(recipe, out, overrides=overrides or (), progress=not quiet, **how))
    elif resume is not None:
        _report(training.resume(resume, progress=not quiet, **how))


def evaluate(
    run: RunRef,
    samples: Annotated[
        int | None, typer.Option("--samples", metavar="K", help="K of NLL(K); the recipe's. With --links: 1.")
    ] = None,
    split: Annotated[
        list[str] | None, typer.Option("--split", help="train, validation or test; may be repeated.")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="cpu, or cuda, which is gpu.")] = "cpu",
    sampler: Annotated[
        str | None, typer.Option("--sampler", help="Of a diffusion: how samples are drawn; the recipe's.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", help="Of a diffusion: in how many steps; the recipe's.")
    ] = None,
    links: Annotated[
        list[int] | None,
        typer.Option("--links", metavar="T", help="Of a diffusion: score it as a chain of T links; to be repeated."),
    ] = None,
    quiet: Quiet = False,
    plugin: Plugins = None,
) -> None:
    """Score a run on every example and print its ledger.

    \b
    Examples:
      compose evaluate runs/vae_flow_prior
      compose evaluate runs/vae_flow_prior --samples 500
      compose evaluate runs/diffusion --sampler dpm_solver_pp --steps 20
      compose evaluate runs/diffusion --links 8 --links 16 --links 32 --links 64 --links 128
    """
    from compose.core.drawing import Drawing
    from compose.core.errors import ComposeError
    from compose.run.directory import Run
    from compose.run.evaluate import evaluate as score
    from compose.run.ledger import render

    if links:
        if sampler is not None or steps is not None:
            raise ComposeError("--sampler and --steps are of samples; beside --links none are drawn.")
        if len(split or ()) > 1:
            raise ComposeError(f"--links scores one split; {', '.join(split or ())} came.")
        _dial(Run(run), tuple(links), (split or ["test"])[0], 1 if samples is None else samples, device, quiet)
        return
    splits = tuple(split) if split else ("validation", "test")
    Drawing(sampler=sampler, steps=steps)  # refuses what there is not
    show(render(score(run, samples, splits, device, progress=not quiet, sampler=sampler, steps=steps)))  # type: ignore[arg-type]


def _dial(run: Run, links: tuple[int, ...], split: str, samples: int, device: str, quiet: bool) -> None:
    from rich.table import Table

    from compose.run.dial import dial, save_dial

    found = dial(run, links, split, samples, device, progress=not quiet)
    table = Table(title=f"{split}, nats per example; one network as chains of T links", title_justify="left")
    for name in ("T", "-ELBO", "standard error", "rise", "standard error"):
        table.add_column(name, justify="right")
    for record in found:
        cells = [
            "" if record.get(key) is None else f"{record[key]:{'+' if key == 'rise' else ''}.2f}" for key in _SCORED
        ]
        table.add_row(str(record["links"]), *cells)
    show(table, str(save_dial(found, run.figures / "links.png")))


_SCORED = ("-ELBO", "standard_error", "rise", "rise_error")


def sample(
    run: RunRef,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The picture, a png.")],
    n: Annotated[int | None, typer.Option("-n", min=1, help="How many; 64, or 5000 points of the plane.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the draws.")] = 0,
    label: Annotated[
        int | None, typer.Option("--label", help="The class to draw; with --complete, that of each image.")
    ] = None,
    compile: Annotated[
        bool, typer.Option("--compile", help="Compile the model; pays for thousands of samples.")
    ] = False,
    temperature: Annotated[
        float, typer.Option("--temperature", help="Of an autoregressive prior: below 1 the likely becomes likelier.")
    ] = 1.0,
    top_k: Annotated[int | None, typer.Option("--top-k", metavar="K", help="Draw one of the K likeliest.")] = None,
    top_p: Annotated[
        float | None, typer.Option("--top-p", metavar="P", help="Draw one of the likeliest that make up P.")
    ] = None,
    guidance: Annotated[
        float,
        typer.Option(
            "--guidance", metavar="W", help="Of a prior trained with unlabelled: above 1 the label says more."
        ),
    ] = 1.0,
    sampler: Annotated[
        str | None,
        typer.Option("--sampler", help="Of a diffusion: ancestral, ddim, dpm_solver_pp or heun; else link by link."),
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Of a diffusion: in how many steps.")] = None,
    eta: Annotated[
        float | None, typer.Option("--eta", help="Of ddim: the share of noise that is drawn, 0 to 1.")
    ] = None,
    means: Annotated[
        bool, typer.Option("--means", help="Show the mean of p(x | z) in place of a draw from it: no noise, no sample.")
    ] = False,
    complete: Annotated[
        str | None,
        typer.Option("--complete", metavar="IMAGES", help="Fill in images: test, validation, train, or a .npy file."),
    ] = None,
    rows: Annotated[
        int | None, typer.Option("--rows", min=0, help="With --complete: the rows to keep; half of them.")
    ] = None,
    plugin: Plugins = None,
) -> None:
    """Draw samples of a run into a picture, or fill in images from their upper rows.

    \b
    Examples:
      compose sample runs/vae_flow_prior -n 64 --out samples.png
      compose sample runs/by_class -n 16 --label 3 --out threes.png
      compose sample runs/vae --means --out means.png
      compose sample runs/ar_pixels --temperature 0.8 --out sharper.png
      compose sample runs/guided --label 3 --guidance 2 --out clearer_threes.png
      compose sample runs/diffusion --sampler dpm_solver_pp --steps 20 --out quick.png
      compose sample runs/ar_pixels --complete test --rows 4 --out completed.png
    """
    from compose.core.drawing import AS_IT_IS, Drawing
    from compose.core.errors import ComposeError
    from compose.run.directory import Run
    from compose.run.figures import save_completions, save_samples
    from compose.run.sample import images

    if out.suffix != ".png":
        raise ComposeError(f"{out} does not end in .png; pictures are png files.")
    if rows is not None and complete is None:
        raise ComposeError("--rows says how much of an image is kept; which images, --complete says.")
    how = Drawing(temperature, top_k, top_p, guidance=guidance, sampler=sampler, steps=steps, eta=eta)
    how = how if how != Drawing() else AS_IT_IS
    if complete is None:
        show(f"wrote {save_samples(Run(run), out, n, seed, label, compile, how, means)}")
        return
    if means:
        raise ComposeError("--means is of samples; what is filled in beside --complete is drawn.")
    if compile:
        raise ComposeError("--compile is of samples; what is filled in beside --complete is drawn as it is.")
    x, classes = images(Run(run), complete, n or 8)
    kept = rows if rows is not None else x.shape[-2] // 2
    show(f"wrote {save_completions(Run(run), out, x, kept, seed, classes if label is None else label, how)}")


def show_run(
    run: RunRef,
    plugin: Plugins = None,
) -> None:
    """Print the ledger, the curve and the pictures of a run.

    \b
    Examples:
      compose show runs/vae_flow_prior
    """
    from compose.run.directory import Run

    _report(Run(run))


def _report(run: Run) -> None:
    from compose.core.kinds import Kind
    from compose.run.ledger import render

    scores = run.scores()
    show(render(scores), "")
    about = "~" if scores.get("fineness") else Kind[scores["kind"].upper()].tilde
    for judged in ("distortion", "-ELBO to N(0, I)", "-ELBO"):
        if curve := validation_curve(run.metrics(), f"validation {judged}", about=about):
            show(f"validation {judged} over the training  {curve}", "")
    show(*(f"{picture}" for picture in sorted(run.figures.glob("*.png"))))


def validation_curve(metrics: list[dict[str, float]], name: str, width: int = 40, about: str = "") -> str:
    """The values of one name as a line of blocks, with the first, the best and the last in nats; empty without any."""
    values = [line[name] for line in metrics if line.get(name) is not None]  # what was not finite is none
    if not values:
        return ""
    shown = values[:: max(1, len(values) // width)]
    low, high = min(values), max(values)
    blocks = "".join("▁▂▃▄▅▆▇█"[round(7 * (value - low) / ((high - low) or 1))] for value in shown)
    return f"{blocks}  first {about}{values[0]:.2f}, best {about}{low:.2f}, last {about}{values[-1]:.2f}"
