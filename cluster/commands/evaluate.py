"""`bonrl eval`: curves of a model on held-out prompts."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from actors.sampling import MIN_TEMPERATURE
from cluster.commands.options import (
    DEFAULT_CONFIG,
    NO_EVALUATION_IN_TRAINING,
    Overrides,
    UseBest,
    check_start,
    config_option,
    load,
)
from cluster.commands.printing import print_comparisons, print_curves
from cluster.errors import UsageError
from cluster.exit_status import FAILED

if TYPE_CHECKING:
    from cluster.config import RunConfig
    from cluster.evaluation.summary import Evaluation
    from cluster.run.job import JobResult

GREEDY = "temperature 0 is greedy: one sample of each prompt, so only pass@1 is reported"


def evaluate(
    checkpoint: Annotated[
        Path,
        typer.Option(
            "--checkpoint",
            metavar="DIR",
            help="A run directory (its newest checkpoint), one of its "
            "checkpoints, any Hugging Face model directory, or OWNER/NAME on the hub.",
        ),
    ],
    overrides: Overrides = None,
    best: UseBest = False,
    config: Annotated[list[Path] | None, config_option(f"the run's own, or {DEFAULT_CONFIG}")] = None,
    n: Annotated[int | None, typer.Option("--n", min=1, help="Samples per prompt [evaluation.n].")] = None,
    temperature: Annotated[
        list[float] | None,
        typer.Option(
            "--temperature",
            "-t",
            help="Softmax temperature; repeat it for several curves. 0 is greedy decoding: one sample of each prompt, "
            "and pass@1 only [evaluation.temperature].",
        ),
    ] = None,
    top_p: Annotated[
        float | None, typer.Option("--top-p", help="Total probability of the tokens to sample from [evaluation.top_p].")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option("--top-k", help="Sample from this many most likely tokens [evaluation.top_k].")
    ] = None,
    min_p: Annotated[
        float | None,
        typer.Option("--min-p", help="Smallest probability, as a share of the most likely token's [evaluation.min_p]."),
    ] = None,
    strategy: Annotated[
        list[str] | None,
        typer.Option(
            "--strategy",
            metavar="NAME",
            help="Also the curve of this strategy: best_of_k (the answer that task.scorer picks), majority_at_k, "
            "weighted_vote, max_at_k or your own; repeat it for several [evaluation.strategies].",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="Also write evaluation.json (with standard errors) and the graded groups (Parquet) there, for "
            "`bonrl compare`.",
        ),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(
            "--baseline",
            metavar="DIR",
            help="Output of an earlier `bonrl eval --output DIR`: print the paired differences from it.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object to standard output, all else to standard error.")
    ] = False,
) -> None:
    """Evaluate a model on held-out prompts: curves of pass@k and other strategies, with 95 % intervals over prompts.

    With --baseline, also the differences from an earlier evaluation on the same prompts, with paired 95 % intervals.

    \b
    Examples
      bonrl eval --checkpoint models/countdown-base evaluation.split=test --output base
      bonrl eval --checkpoint runs/20261123-101500 evaluation.split=test --baseline base
      bonrl eval --checkpoint runs/20261123-101500 --n 64 -t 0.7 -t 1.0
      bonrl eval --checkpoint runs/20261123-101500 --best -t 0
      bonrl eval --checkpoint runs/20261123-101500 --strategy best_of_k --strategy majority_at_k --json
    """
    options = {"n": n, "top_p": top_p, "top_k": top_k, "min_p": min_p, "strategies": strategy}
    given = {key: value for key, value in options.items() if value is not None}
    model, resolved = _resolve(checkpoint, best, config, overrides or [], given)
    temperatures = temperature or [resolved.evaluation.temperature]
    _check_temperatures(temperatures, given)
    from cluster.config.learner_absent import without_learner

    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        check_start(without_learner(resolved), new_run=False)
        outcome, rows = _measure(resolved, str(model), temperatures, baseline=baseline, output=output)
    found = json.dumps({"model": str(model), "config": resolved.to_mapping(), "evaluations": rows}, indent=1)
    if as_json and rows:
        typer.echo(found)
    if outcome.status:
        typer.echo(outcome.message, err=True)
    if output is not None and rows:
        _write(output, found)
        typer.echo(f"wrote {output}", err=as_json)
    raise typer.Exit(outcome.status)


def _write(directory: Path, found: str) -> None:
    """Write evaluation.json; without it `bonrl compare` does not know the directory."""
    from actors.atomic_file import write_atomically
    from cluster.results.run_results import EVALUATION_FILE

    try:
        write_atomically(directory / EVALUATION_FILE, found.encode())
    except OSError as error:
        typer.echo(f"--output {directory}: {EVALUATION_FILE} cannot be written: {error.strerror}", err=True)
        raise typer.Exit(FAILED) from error


def _resolve(
    checkpoint: Path, best: bool, config: Sequence[Path] | None, overrides: Sequence[str], given: Mapping[str, Any]
) -> tuple[Path, RunConfig]:
    """The model's directory and the configuration; `given` are keys of the section evaluation that options set."""
    from cluster.records.kept_files import kept_overrides
    from cluster.records.model_source import config_of_run, resolve_model

    model = resolve_model(checkpoint, best=best)
    own = None if config else config_of_run(checkpoint)
    files = [own] if own is not None else config
    kept = kept_overrides(own.parent) if own is not None else []
    extra = [f"evaluation.{key}={json.dumps(value)}" for key, value in given.items()]
    # Its curves may end below objective.k.
    return model, load(files, [f"model.path={model}", *kept, *overrides, *extra, *NO_EVALUATION_IN_TRAINING])


def _check_temperatures(temperatures: Sequence[float], given: Mapping[str, Any]) -> None:
    for value in temperatures:
        if value != 0 and not MIN_TEMPERATURE <= value <= 10:
            raise UsageError(f"--temperature {value:g}: must be 0 (greedy), or {MIN_TEMPERATURE:g} to 10")
    if len(set(temperatures)) < len(temperatures):
        raise UsageError("--temperature: the same value is given twice; give each value once")
    if temperatures == [0] and (unused := [key for key in ("top_p", "top_k", "min_p") if key in given]):
        raise UsageError(f"--{unused[0].replace('_', '-')} has no effect with -t 0, which is greedy; leave it out")


def _measure(
    config: RunConfig, model: str, temperatures: Sequence[float], *, baseline: Path | None, output: Path | None
) -> tuple[JobResult, list[dict[str, Any]]]:
    """Evaluate at each temperature and print the results; returns the outcome, and each evaluation as plain types."""
    from cluster.evaluation.as_json import evaluation_json
    from cluster.evaluation.curves import differences
    from cluster.evaluation.summary import objective_terms
    from cluster.run.job import evaluate_checkpoint

    earlier = _earlier_evaluations(config, baseline, temperatures) if baseline is not None else []
    if output is not None:
        _new_directory(output)
    if 0 in temperatures:
        typer.echo(GREEDY)
    try:
        outcome, evaluations = evaluate_checkpoint(
            config, model, n=config.evaluation.n, temperatures=temperatures, output=output
        )
    finally:
        if output is not None:  # an empty one would refuse the next attempt
            with contextlib.suppress(OSError):
                output.rmdir()
    terms = objective_terms(config)
    # An evaluation that failed is missing.
    changes = [differences(before, after, terms) for before, after in zip(earlier, evaluations, strict=False)]
    print_curves(evaluations)
    print_comparisons(terms, earlier, evaluations, changes)
    return outcome, [evaluation_json(found, change) for found, change in zip_longest(evaluations, changes)]


def _earlier_evaluations(config: RunConfig, directory: Path, temperatures: Sequence[float]) -> list[Evaluation]:
    """What `bonrl eval --output` wrote to a directory, at the same temperatures.

    Raises:
        UsageError: it holds no groups at one of the temperatures, or they cannot be read.
    """
    from cluster.evaluation.summary import evaluation_output, read_evaluation

    found = []
    for sampling in map(config.evaluation.sampling_at, temperatures):
        path = directory / evaluation_output(sampling.temperature)
        try:
            evaluation = read_evaluation(config, path, 0) if path.is_file() else None
        except (OSError, ValueError) as error:
            raise UsageError(f"--baseline {directory}: {path.name} cannot be read: {error}") from error
        if evaluation is None:
            raise UsageError(
                f"--baseline {directory}: no {path.name} there; give the --output directory of a `bonrl eval` with "
                f"-t {sampling.temperature:g}"
            )
        if not evaluation.sampling.matches(sampling):
            raise UsageError(
                f"--baseline {directory}: {path.name} was sampled with {evaluation.sampling}, this evaluation with "
                f"{sampling}; evaluate both with the same --top-p, --top-k and --min-p"
            )
        found.append(evaluation)
    return found


def _new_directory(path: Path) -> None:
    """Make it before anything runs, so that an evaluation is not lost to a path that cannot be written."""
    try:
        path.mkdir(parents=True)
    except FileExistsError:
        raise UsageError(f"--output {path}: it exists already; name a directory that does not") from None
    except OSError as error:
        raise UsageError(f"--output {path}: cannot be made: {error.strerror}") from error
