"""Options that several commands share, and what commands do with them. Heavy imports stay inside functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.errors import UsageError

if TYPE_CHECKING:
    from cluster.config import RunConfig

DEFAULT_CONFIG = Path("cluster/presets/local.yaml")
# Overrides of commands that evaluate nothing while they train, or train nothing: what a preset says about it, such as
# that the validation split is evaluated, must not forbid what they do.
NO_EVALUATION_IN_TRAINING = (
    *("evaluation.every=0", "evaluation.at_start=false", "evaluation.at_end=false"),
    *("evaluation.keep_best=null", "evaluation.patience=0", "evaluation.min_gain=0"),
)


def config_option(default: str) -> Any:
    """The option --config of a command that reads `default` without it."""
    return typer.Option(
        "--config",
        "-c",
        metavar="YAML",
        help=f"Configuration [{default}]. May be repeated: a later file wins, key by key.",
    )


Config = Annotated[list[Path] | None, config_option(str(DEFAULT_CONFIG))]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="SECTION.KEY=VALUE", help="Keys that override the YAML file, e.g. objective.k=8."),
]
Resume = Annotated[
    Path | None,
    typer.Option(
        "--resume",
        metavar="RUN_DIR",
        help="Continue that run from its newest usable checkpoint, with its own configuration; overrides are "
        "allowed, e.g. run.steps=400.",
    ),
]
ResumeOrStart = Annotated[
    bool,
    typer.Option(
        "--resume-or-start",
        help="Continue the run named by run.name if it has a checkpoint, else start it: one command for jobs that are "
        "requeued. The command gives the configuration; keys whose values differ from the run's are treated like "
        "overrides of --resume.",
    ),
]
Replay = Annotated[
    Path | None,
    typer.Option(
        "--replay",
        metavar="RUN_DIR",
        help="Train a new run on the groups that RUN_DIR recorded, without sampling; its configuration is used, "
        "overrides are allowed.",
    ),
]
_ADDRESS = typer.Option(
    "--address",
    "-a",
    metavar="URL",
    envvar="RAY_API_SERVER_ADDRESS",
    help="Dashboard of the cluster's head node, e.g. http://head:8265.",
)
Address = Annotated[str, _ADDRESS]
OptionalAddress = Annotated[str | None, _ADDRESS]
WhichTemperature = Annotated[
    float | None,
    typer.Option("--temperature", "-t", help="Which evaluation to use, if `bonrl eval` made several."),
]


def _rate(value: float | None) -> float | None:
    """A learning rate that trains; click's own bounds let nan through."""
    if value is not None and not 0 < value < math.inf:
        raise UsageError(f"--learning-rate {value:g} trains nothing: it must be above 0 and finite")
    return value


VerifierRate = Annotated[
    float | None,
    typer.Option(
        "--learning-rate",
        callback=_rate,
        help="Peak rate [1e-5 for a backbone of 0.1 billion parameters or more, else 3e-4].",
    ),
]
OptionalRate = Annotated[
    float | None,
    typer.Option("--learning-rate", callback=_rate, help="Peak rate; required, except with --new, where 1e-3 is used."),
]
UseBest = Annotated[
    bool,
    typer.Option("--best", help="Use the run's best evaluated checkpoint (evaluation.keep_best), not the newest."),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Check everything, print the resolved configuration and estimates "
        "(batch sizes, memory), and start nothing.",
    ),
]


def load(paths: Sequence[Path] | None, overrides: Sequence[str] | None, *, fetch: bool = True) -> RunConfig:
    """The configuration in `paths` with overrides, and the local directory of a model that is named by its hub id.

    Args:
        paths: of the YAML files, of which a later one wins; None: DEFAULT_CONFIG.
        overrides: `SECTION.KEY=VALUE`.
        fetch: whether the model is downloaded if it is not in the cache.

    Raises:
        UsageError: it is not valid (one line for each problem), or the model cannot be fetched.
    """
    from cluster.config import apply_override, load_config
    from cluster.records.hub_models import with_local_model

    if not paths and not DEFAULT_CONFIG.is_file():
        for override in overrides or []:
            apply_override({}, override)  # `bonrl train my.yaml`: its message says how to name a file
        raise UsageError(
            f"there is no {DEFAULT_CONFIG} here, which is read without --config: give --config YAML, or run it in the "
            "root of bonrl's repository"
        )
    return with_local_model(
        load_config(paths or DEFAULT_CONFIG, overrides or []), fetch=fetch, say=lambda line: typer.echo(line, err=True)
    )


def load_earlier(option: str, run: Path, overrides: Sequence[str] | None, *, fetch: bool = True) -> RunConfig:
    """The configuration of an earlier run, which `option` names, with overrides."""
    if not (run / "config.yaml").is_file():
        from cluster.records.model_source import config_of_run

        above = config_of_run(run)
        remedy = "give one like runs/NAME" if above is None else f"it is a part of {above.parent}: give that"
        raise UsageError(f"{option} {run}: no config.yaml there, so it is not a run directory; {remedy}")
    from cluster.records.kept_files import kept_overrides

    return load([run / "config.yaml"], [*kept_overrides(run), *(overrides or [])], fetch=fetch)


def started(config: RunConfig, *, replay: Path | None, rollout_only: bool) -> RunConfig:
    """`config` as the checks and estimates must see it: with what `bonrl train` will start."""
    from cluster.config.learner_absent import recording, without_learner
    from cluster.config.learner_alone import without_sampling

    if replay is not None:
        return without_sampling(config)
    return without_learner(recording(config)) if rollout_only else config


def check_start(config: RunConfig, earlier: Callable[[], Iterable[str]] | None = None, *, new_run: bool = True) -> None:
    """Everything that can be refused before the first actor starts."""
    from cluster.checks import refusals

    for warning in refusals.check_start(config, earlier=earlier, new_run=new_run).warnings:
        typer.echo(f"warning: {warning}", err=True)
