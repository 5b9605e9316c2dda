"""The command that verifies: every figure with its tolerance, and what it proves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compose.cli.options import Plugins, show, table

if TYPE_CHECKING:
    from compose.verification import Report


def verify(
    targets: Annotated[
        list[str], typer.Argument(metavar="RECIPE|RUN|FOLDER...", help="Recipes, runs, or folders with recipes.")
    ],
    seed: Annotated[int, typer.Option("--seed", help="Seed of the shaken weights and of all draws.")] = 0,
    only: Annotated[list[str] | None, typer.Option("--only", metavar="CHECK", help="A check; may be repeated.")] = None,
    long: Annotated[bool, typer.Option("--long", help="Every figure, also where there are several models.")] = False,
    plugin: Plugins = None,
) -> None:
    """Prove a likelihood by something independent of it.

    The recipe is shrunk to a tiny space of the same kind (1x2x2 pixels of 3 levels, latents of 1 or 2 numbers), its
    weights are shaken, and every check that applies is made in float64: the probabilities of all data are added up, the
    noise is integrated out, log-dets are held against Jacobians, gradients against differences, the whole against Pyro.
    The exit code is 1 where a check fails. Trained weights are not looked at: what is proven is the mathematics.

    \b
    Examples:
      compose verify vae_flow_prior
      compose verify recipes/
      compose verify mine.yaml --plugin parts.py --only "total mass"
    """
    from compose.verification import verify_all

    reports: list[Report] = []

    def asked(report: Report) -> bool:
        """Whether it is of what was named, and no recipe of a folder; a run may be named with a slash at its end."""
        return Path(report.name) == Path(targets[0])

    def told(report: Report) -> None:
        reports.append(report)
        if len(targets) == 1 and not long and not asked(report):
            show(_line(report))
        else:
            _details(report)

    verify_all(targets, seed=seed, only=only, told=told)
    if len(reports) > 1 or not asked(reports[0]):
        _summary(reports)
    if not all(report.held for report in reports):
        raise typer.Exit(1)


def _counted(report: Report) -> dict[str, int]:
    verdicts = [each.verdict for found in report.findings.values() for each in found]
    return {verdict: verdicts.count(verdict) for verdict in ("held", "FAILED", "not checked")}


def _line(report: Report) -> str:
    if report.same_as:
        return f"{report.name:32} shrinks to the same as {report.same_as}"
    counts = ", ".join(f"{count} {verdict}" for verdict, count in _counted(report).items() if count)
    failed = f": {', '.join(report.failed)}" if report.failed else ""
    return f"{report.name:32} {report.seconds:4.1f} s   {counts}{failed}"


def _details(report: Report) -> None:
    from compose.verification import CHECKS

    meanings = {each.name: each.meaning for each in CHECKS}
    if report.same_as:
        show(_line(report), "")
        return
    show(report.name, f"  shrunk to {report.shrunk}", "")
    rows = []
    for name, found in report.findings.items():
        for i, each in enumerate(found):
            figures = "" if each.off is None else f"{each.off:.2g}"
            allowed = "" if each.off is None else f"{each.allowed:.2g}"
            rows.append(("" if i else name, each.verdict, figures, allowed, f"{each.of}: {each.said}"))
    show(table(["check", "verdict", "off by", "allowed", "what was compared"], rows, right=("off by", "allowed")), "")
    show(
        table(["check", "what it proves"], [(name, meanings[name]) for name, found in report.findings.items() if found])
    )
    show("", _line(report), "")


def _summary(reports: list[Report]) -> None:
    same = sum(bool(report.same_as) for report in reports)
    failed = [report.name for report in reports if not report.held]
    seconds = sum(report.seconds for report in reports)
    verdict = f"failed: {', '.join(failed)}" if failed else "all hold"
    others = f", {same} of which shrink to another's" if same else ""
    show("", f"{len(reports)} models{others}; {verdict}; {seconds:.1f} s")
    for reason in sorted(
        {f"{each.of}: {each.said}" for r in reports for f in r.findings.values() for each in f if each.off is None}
    ):
        show(f"not checked: {reason}")
