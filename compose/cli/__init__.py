"""The command line: parses, calls, prints. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

import errno
import os
import sys

import typer

from compose.cli import ablations, catalogue, compare, recipes, runs, verification
from compose.core.errors import ComposeError

app = typer.Typer(
    name="compose",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
new = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Start something of your own.")

for command in (recipes.check, recipes.fits, catalogue.parts, recipes.equation, recipes.schema, catalogue.recipes):
    app.command()(command)
for command in (runs.train, runs.evaluate, runs.sample, compare.diff):
    app.command()(command)
app.command("show")(runs.show_run)
app.command()(verification.verify)
for command in (ablations.ablate, ablations.report, ablations.compare, ablations.swap):
    app.command()(command)
new.command("part")(catalogue.new_part)
app.add_typer(new, name="new")


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import PackageNotFoundError, version

        try:
            typer.echo(f"compose {version('compose-models')}")
        except PackageNotFoundError:
            typer.echo("compose, not installed: run from a checkout")
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Say the version."),
) -> None:
    """Hybrid generative models as recipes: parts that fit, bounds in nats, numbers that compare.

    \b
    A first look:
      compose recipes                                what is shipped
      compose check vae_flow_prior                   the stack, with the space on every edge
      compose fits vae_flow_prior --at model.prior   what else fits there
      compose verify vae_flow_prior                  its likelihood, proven
      compose train vae_flow_prior                   a run, with its ledger and pictures
      compose ablate prior                           what another prior changes, with intervals
    """


def main() -> None:
    """Runs the command line; an error that a user can mend is a message on stderr and the exit code 1."""
    try:
        app()
    except ComposeError as error:
        typer.echo(str(error), err=True)
        sys.exit(1)
    except BrokenPipeError:
        # Whoever read our output has seen enough; Python would complain once more while closing it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.filename is None and error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise  # of a library or a socket, and no answer of the system about a file
        typer.echo(f"{error.filename or 'the disk'} cannot be read or written: {error.strerror}.", err=True)
        sys.exit(1)
