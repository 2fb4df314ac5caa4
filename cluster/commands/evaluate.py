"""`bonrl eval`: curves of a model on held-out prompts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from cluster.commands.options import DEFAULT_CONFIG, Overrides, check_start, load
from cluster.commands.printing import print_comparisons, print_curves
from cluster.errors import UsageError
from cluster.records.model_source import config_of_run, resolve_model

# `bonrl eval` trains nothing, so nothing is evaluated during training, and its curves may end below objective.k.
NO_TRAINING = ("evaluation.every=0", "evaluation.at_start=false", "evaluation.at_end=false")


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
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", metavar="YAML", help=f"Configuration [the run's own, or {DEFAULT_CONFIG}]."),
    ] = None,
    n: Annotated[int | None, typer.Option("--n", min=1, help="Samples per prompt [evaluation.n].")] = None,
    temperature: Annotated[
        list[float] | None,
        typer.Option(
            "--temperature",
            "-t",
            help="Softmax temperature; repeat it for several curves [evaluation.temperature].",
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
            help="What an earlier `bonrl eval --output DIR` wrote: print the differences from it, prompt by prompt.",
        ),
    ] = None,
) -> None:
    """Measure a model on held-out prompts: pass@k and other strategies' curves, with 95 % intervals over prompts.

    With --baseline, also the differences from an earlier evaluation on the same prompts, with paired 95 % intervals.

    \b
    Examples
      bonrl eval --checkpoint models/countdown-base evaluation.split=test --output base
      bonrl eval --checkpoint runs/20261123-101500 evaluation.split=test --baseline base
      bonrl eval --checkpoint runs/20261123-101500 --n 64 -t 0.7 -t 1.0
      bonrl eval --checkpoint models/countdown-base 'evaluation.strategies=[majority_at_k]' --output curves
    """
    from cluster.records.user_code import kept_overrides

    extra = [] if n is None else [f"evaluation.n={n}"]
    model = resolve_model(checkpoint)
    own = None if config is not None else config_of_run(checkpoint)
    kept = kept_overrides(own.parent) if own is not None else []
    source = config or own or DEFAULT_CONFIG
    resolved = load(source, [f"model.path={model}", *kept, *(overrides or []), *extra, *NO_TRAINING])
    temperatures = temperature or [resolved.evaluation.temperature]
    if any(not 0 < t <= 10 for t in temperatures):
        raise UsageError(f"--temperature {min(temperatures):g}: must be above 0 and at most 10")
    if len(set(temperatures)) < len(temperatures):
        raise UsageError("--temperature: the same one is given twice; give each once")
    check_start(resolved, new_run=False)
    from cluster.run.job import earlier_evaluations, evaluate_checkpoint

    earlier = earlier_evaluations(resolved, baseline, temperatures) if baseline is not None else []
    if output is not None:
        _new_directory(output)

    outcome, evaluations = evaluate_checkpoint(
        resolved, str(model), n=resolved.evaluation.n, temperatures=temperatures, output=output
    )
    print_curves(evaluations)
    print_comparisons(resolved, earlier, evaluations)
    if output is not None and evaluations:
        rows = [{"temperature": e.temperature, **e.row(), **e.standard_errors()} for e in evaluations]
        found = {"model": str(model), "config": resolved.to_mapping(), "evaluations": rows}
        (output / "evaluation.json").write_text(json.dumps(found, indent=1))
        typer.echo(f"wrote {output}")
    if outcome.status:
        typer.echo(outcome.message, err=True)
    raise typer.Exit(outcome.status)


def _new_directory(path: Path) -> None:
    """Make it before anything runs, so that an evaluation is not lost to a path that cannot be written."""
    try:
        path.mkdir(parents=True)
    except FileExistsError:
        raise UsageError(f"--output {path}: it exists already; name a directory that does not") from None
    except OSError as error:
        raise UsageError(f"--output {path}: cannot be made: {error.strerror}") from error
