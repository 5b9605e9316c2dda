"""Commands about ablations: ablate, report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compose.cli.options import Accelerator, Plugins, Quiet, Threads, show, table

if TYPE_CHECKING:
    from compose.ablation.grid import Grid
    from compose.ablation.results import Results
    from compose.recipe.recipe import Phase


def ablate(
    ablation: Annotated[str, typer.Argument(metavar="FILE", help="An ablation file, or the name of a shipped one.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="PATH=VALUE", help="Changes, as in seeds=1 or budget.steps=100.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Its folder; runs/ablations/NAME by default.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check every cell, print the grid and its cost, train nothing.")
    ] = False,
    workers: Annotated[
        int, typer.Option("--workers", metavar="N", min=1, help="Processes that share the cells, one thread each.")
    ] = 1,
    ray: Annotated[
        str | None, typer.Option("--ray", metavar="ADDRESS", help="Work on a Ray cluster; 'local' starts one here.")
    ] = None,
    cpus: Annotated[float, typer.Option("--cpus", help="Cores that a cell takes of the cluster.")] = 1.0,
    gpus: Annotated[float, typer.Option("--gpus", help="GPUs that a cell takes of the cluster.")] = 0.0,
    skip_faulty: Annotated[bool, typer.Option("--skip-faulty", help="Leave out the cells that are refused.")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Try the cells that failed again.")] = False,
    threads: Threads = None,
    accelerator: Accelerator = "auto",
    compile: Annotated[bool, typer.Option("--compile", help="Compile the models.")] = False,
    quiet: Quiet = False,
    plugin: Plugins = None,
) -> None:
    """Answer a question: train a base recipe and its one-line changes, and set them side by side.

    A file names the question, the base, what changes and how many seeds. Every cell is checked before one is trained.
    Finished cells are never trained again: run it again after a crash, with more seeds, or in a second process.

    \b
    Examples:
      compose ablate prior --dry-run
      compose ablate prior --workers 2
      compose ablate prior seeds=1 budget.steps=200 --out runs/quick
      compose ablate mine.yaml --plugin parts.py
      compose ablate mine.yaml --ray auto --gpus 0.5
    """
    from compose.ablation.execute import folder_for
    from compose.ablation.grid import expand
    from compose.ablation.question import read_ablation
    from compose.ablation.study import ablate as study

    if dry_run:
        grid = expand(read_ablation(ablation, overrides or ()))
        _grid(grid, folder_for(out, grid.asked.name), skip_faulty)
        if grid.faulty and not skip_faulty:
            raise typer.Exit(1)
        return
    results = study(
        ablation,
        out,
        overrides=overrides or (),
        workers=workers,
        ray=ray,
        cpus=cpus,
        gpus=gpus,
        skip_faulty=skip_faulty,
        retry=retry,
        threads=threads,
        accelerator=accelerator,
        compile=compile,
        progress=not quiet,
    )
    _show(results)
    show(str(results.folder.path / "report.html"))


def report(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder of an ablation.")],
    plugin: Plugins = None,
) -> None:
    """Write the report of an ablation anew, of what is finished so far, and print the answer.

    \b
    Examples:
      compose report runs/ablations/prior
    """
    from compose.ablation.study import report as write

    _show(write(folder))
    show(str(folder / "report.html"))


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Run directories; the first is the base.")],
    out: Annotated[
        Path | None, typer.Option("--report", metavar="DIR", help="Write the page and its tables there as well.")
    ] = None,
    plugin: Plugins = None,
) -> None:
    """Set runs that were made by hand side by side, with paired differences to the first.

    Scores stand beside each other only where they are of the same thing. Runs that differ in the seed alone count as
    one variant with several seeds.

    \b
    Examples:
      compose compare runs/vae runs/vae_flow_prior
      compose compare runs/vae-{0,1,2} runs/flow-{0,1,2} --report runs/vae-or-flow
    """
    from compose.ablation.compare import compare as side_by_side

    _compared(side_by_side(runs), out)


def swap(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run.")],
    changes: Annotated[list[str], typer.Argument(metavar="PATH=VALUE", help="What to swap: model.prior=flow.")],
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="The new run; RUN-swap by default.")] = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="DIR", help="Write the page and its tables there as well.")
    ] = None,
    threads: Threads = None,
    accelerator: Accelerator = "auto",
    quiet: Quiet = False,
    plugin: Plugins = None,
) -> None:
    """Put other parts into a trained model: keep what still fits, train the rest, print the paired difference.

    What stays is frozen as RUN left it, so the answer is of that very model, not of one trained anew with the part.

    \b
    Examples:
      compose swap runs/vae model.prior=flow
      compose swap runs/latent_diffusion model.prior=flow --out runs/latent_flow
    """
    from compose.ablation.swap import swap as put

    found = put(run, changes, out, threads=threads, accelerator=accelerator, progress=not quiet)
    _compared(found, report)


def _compared(results: Results, out: Path | None) -> None:
    """Prints what came out, and writes it down where that is asked."""
    from compose.ablation.report import in_short

    _show(results)
    for outcome in results.outcomes[1:]:
        show(f"{outcome.label} differs from {results.base.label} in:")
        differing = in_short(outcome.planned.changes, outcome.planned.with_seed(0))
        show(table(["", results.base.label, outcome.label], differing), "")
    if out is not None:
        from compose.ablation.report import write_report

        out.mkdir(parents=True, exist_ok=True)
        show(str(write_report(results, out)))


def _grid(grid: Grid, folder: Path, skip_faulty: bool) -> None:
    """Every variant, what it costs, and which of its cells are done."""
    from compose.ablation.folder import Folder
    from compose.ablation.plan import budget_said

    there = Folder(folder) if (folder / "plan.json").is_file() else None
    seeds = grid.asked.ablation.each_seed
    rows = []
    for variant in grid.variants.values():
        cells = [cell for cell in grid.cells if cell.label == variant.label]
        steps = [_budget(phase) for phase in variant.recipe.train]
        rows.append(
            (
                variant.label + (" (base)" if variant.label == grid.base else ""),
                " + ".join(steps),
                f"{variant.counted().parameters:,}",
                f"{variant.counted().flops:,}",
                f"{sum(there is not None and there.done(cell.id) for cell in cells)} of {len(cells)}",
            )
        )
    asked = f"base {grid.asked.ablation.base}, seeds {', '.join(map(str, seeds))}, {budget_said(grid)}"
    show(grid.asked.ablation.question, asked, "")
    headers = ["variant", "training", "parameters", "FLOPs", "done"]
    show(table(headers, rows, right=headers[1:]))
    show("", f"{len(grid.cells)} cells; FLOPs are of log_prob of one example (one sample where there is no likelihood)")
    then = "it is left out" if skip_faulty else "nothing runs before that is mended or --skip-faulty is given"
    for label, faults in grid.faulty.items():
        show("", f"{label} is refused, and {then}:")
        show(*(f"  {fault}" for fault in faults))


def _budget(phase: Phase) -> str:
    if phase.steps is not None:
        return str(phase.steps)
    return f"{phase.seconds:g} s" if phase.seconds is not None else f"{phase.epochs:g} epochs"


def _show(results: Results) -> None:
    from compose.ablation.report import warnings
    from compose.ablation.tables import tables
    from compose.ablation.words import answer, cautions

    for each in tables(results, brief=True):
        show(each.title, "", table(each.headers, each.rows, right=each.headers[1:]), *each.notes, "")
    show(results.plan.question, answer(results), *cautions(results), "")
    for outcome in results.outcomes:
        for seed, error in outcome.failed.items():
            show(f"FAILED   {outcome.label}, seed {seed}: {error}")
        for warning in warnings(outcome):
            show(f"WARNING  {outcome.label}, {warning}")
    if results.missing:
        show(f"{len(results.missing)} of {len(results.plan.cells)} cells have not ended.")
