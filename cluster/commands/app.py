"""The command line's tree: every command has its own file in this folder; this one registers them.

Import it after the installation was checked (``cluster/cli.py``): it imports typer and rich. Commands import the rest
when they run.
"""

from __future__ import annotations

from typing import Annotated

import typer

from cluster.commands.cluster import app as cluster_commands
from cluster.commands.compare import compare
from cluster.commands.evaluate import evaluate
from cluster.commands.export import export
from cluster.commands.grade import grade
from cluster.commands.jobs import jobs
from cluster.commands.logs import logs
from cluster.commands.printing import version_text
from cluster.commands.report import report
from cluster.commands.samples import samples
from cluster.commands.sft import sft
from cluster.commands.submit import submit
from cluster.commands.train import train
from cluster.commands.train_verifier import train_verifier

app = typer.Typer(
    name="bonrl",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(version_text())
        raise typer.Exit


@app.callback()
def bonrl(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            help="Print the versions of bonrl, its git commit, Python and the packages that matter.",
        ),
    ] = False,
) -> None:
    """Reinforcement learning of language models for Best-of-N inference.

    \b
    First steps
      bonrl train                                       train the shipped model on two CPU cores
      bonrl train --config FILE --dry-run               check a configuration; start nothing
      bonrl eval --checkpoint runs/NAME                 pass@k and other curves of what was trained
      bonrl report runs/NAME --open                     one page: result, curves, answers, time
      bonrl samples runs/NAME                           what the model answered
      bonrl compare runs/NAME runs/OTHER                paired differences with intervals

    \b
    Exit status of every command
      0    done
      1    failed after it had started; the message says what was kept and how to continue
      2    refused: nothing was started; the message names the key or option and what to change
      130  interrupted (Ctrl-C, SIGTERM)
    """


def config_reference() -> None:
    """Print every key with its type, range, default, unit and reason (docs/configuration.md)."""
    from cluster.config.reference import render_reference

    typer.echo(render_reference(), nl=False)


app.command(short_help="Train a model for Best-of-N.")(train)
app.command("eval", short_help="Measure a model on held-out prompts.")(evaluate)
app.command(short_help="Compare runs, with intervals.")(compare)
app.command(short_help="Write a page about a run: result, curves, answers.")(report)
app.command(short_help="Show what the model answered.")(samples)
app.command(short_help="Show what the actors of a run have logged.")(logs)
app.command(short_help="Imitate expert solutions of the task.")(sft)
app.command("train-verifier", short_help="Train a verifier that scores answers.")(train_verifier)
app.command(short_help="Grade a file of answers.")(grade)
app.command(short_help="Run a job on a Ray cluster.")(submit)
app.add_typer(cluster_commands, name="cluster", short_help="Describe, start and end the machines of a run.")
app.add_typer(jobs, name="jobs", short_help="List, follow and stop jobs of a Ray cluster.")
app.command(short_help="Write the trained model as a Hugging Face directory.")(export)
app.command("config-reference", short_help="Print every configuration key.")(config_reference)
