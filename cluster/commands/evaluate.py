"""`bonrl eval`: curves of a model on held-out prompts."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from actors.sampling import LEAST_TEMPERATURE
from cluster.commands.options import DEFAULT_CONFIG, Overrides, UseBest, check_start, load
from cluster.commands.printing import print_comparisons, print_curves
from cluster.errors import UsageError
from cluster.records.model_source import config_of_run, resolve_model

if TYPE_CHECKING:
    from cluster.config import RunConfig
    from cluster.evaluation.summary import Evaluation

GREEDY = "temperature 0 is greedy: one sample of each prompt, so that only pass@1 is reported"
# `bonrl eval` trains nothing, so nothing is evaluated during training, and its curves may end below objective.k.
NO_TRAINING = (
    *("evaluation.every=0", "evaluation.at_start=false", "evaluation.at_end=false"),
    *("evaluation.keep_best=null", "evaluation.patience=0", "evaluation.min_gain=0"),
)


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
    from cluster.records.user_code import kept_overrides

    options = {"n": n, "top_p": top_p, "top_k": top_k, "min_p": min_p, "strategies": strategy}
    extra = [f"evaluation.{key}={json.dumps(value)}" for key, value in options.items() if value is not None]
    model = resolve_model(checkpoint, best=best)
    own = None if config is not None else config_of_run(checkpoint)
    kept = kept_overrides(own.parent) if own is not None else []
    source = config or own or DEFAULT_CONFIG
    resolved = load(source, [f"model.path={model}", *kept, *(overrides or []), *extra, *NO_TRAINING])
    temperatures = temperature or [resolved.evaluation.temperature]
    _check_temperatures(temperatures)
    if temperatures == [0] and (unused := [key for key in ("top_p", "top_k", "min_p") if options[key] is not None]):
        raise UsageError(f"--{unused[0].replace('_', '-')} has no effect with -t 0, which is greedy; leave it out")
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        check_start(resolved, new_run=False)
        from cluster.run.job import earlier_evaluations, evaluate_checkpoint

        earlier = earlier_evaluations(resolved, baseline, temperatures) if baseline is not None else []
        if output is not None:
            _new_directory(output)
        if 0 in temperatures:
            typer.echo(GREEDY)
        outcome, evaluations = evaluate_checkpoint(
            resolved, str(model), n=resolved.evaluation.n, temperatures=temperatures, output=output
        )
        print_curves(evaluations)
        print_comparisons(resolved, earlier, evaluations)
    rows = _rows(resolved, earlier, evaluations)
    found = json.dumps({"model": str(model), "config": resolved.to_mapping(), "evaluations": rows}, indent=1)
    if output is not None and evaluations:
        (output / "evaluation.json").write_text(found)
        typer.echo(f"wrote {output}", err=as_json)
    if as_json and evaluations:
        typer.echo(found)
    if outcome.status:
        typer.echo(outcome.message, err=True)
    raise typer.Exit(outcome.status)


def _check_temperatures(temperatures: list[float]) -> None:
    for value in temperatures:
        if value != 0 and not LEAST_TEMPERATURE <= value <= 10:
            raise UsageError(f"--temperature {value:g}: must be 0 (greedy), or {LEAST_TEMPERATURE:g} to 10")
    if len(set(temperatures)) < len(temperatures):
        raise UsageError("--temperature: the same one is given twice; give each once")


def _rows(config: RunConfig, earlier: list[Evaluation], evaluations: list[Evaluation]) -> list[dict[str, Any]]:
    """Each evaluation as plain types, with the differences from the baseline where there is one."""
    from cluster.evaluation.as_json import evaluation_json
    from cluster.evaluation.curves import differences
    from cluster.evaluation.summary import objective_terms

    terms = objective_terms(config)
    changes = [differences(before, after, terms) for before, after in zip(earlier, evaluations, strict=False)]
    return [evaluation_json(e, changes[i] if i < len(changes) else None) for i, e in enumerate(evaluations)]


def _new_directory(path: Path) -> None:
    """Make it before anything runs, so that an evaluation is not lost to a path that cannot be written."""
    try:
        path.mkdir(parents=True)
    except FileExistsError:
        raise UsageError(f"--output {path}: it exists already; name a directory that does not") from None
    except OSError as error:
        raise UsageError(f"--output {path}: cannot be made: {error.strerror}") from error
