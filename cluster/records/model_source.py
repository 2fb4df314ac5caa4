"""The model and the configuration behind a path that a user gives: a run, one of its checkpoints, or a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer

from cluster.config.hub_ids import hub_id
from cluster.config.yaml_reader import read_yaml
from cluster.errors import UsageError
from cluster.records.hub_models import local_directory
from verifiers.credentials import masked_tree


def resolve_model(path: Path, *, best: bool = False) -> Path:
    """The Hugging Face directory behind a run directory, a checkpoint directory, a model directory or a hub id.

    Args:
        best: of a run directory, that of its best evaluated step instead of the newest.

    Raises:
        UsageError: there is none.
    """
    if best:
        return resolve_model(_best_checkpoint(path))
    if (path / "config.json").is_file():
        return path
    if model := hub_id(str(path)):
        return local_directory(model, "--checkpoint")
    if (path / "huggingface" / "config.json").is_file():
        return path / "huggingface"
    if (path / "checkpoints").is_dir():
        from cluster.records.checkpoints import Checkpoints

        latest = Checkpoints(path / "checkpoints").latest()
        for warning in latest.warnings:
            typer.echo(warning, err=True)
        if latest.checkpoint is None:
            raise UsageError(f"--checkpoint {path}: the run holds no usable checkpoint")
        return resolve_model(latest.checkpoint.path)
    reason = "is neither a run, nor a checkpoint, nor a model directory" if path.exists() else "does not exist"
    raise UsageError(
        f"--checkpoint {path} {reason}; give runs/NAME, runs/NAME/checkpoints/step-..., or a directory with config.json"
    )


def _best_checkpoint(run: Path) -> Path:
    from cluster.records.best import read_best
    from cluster.records.checkpoints import CheckpointError, verify

    found = read_best(run)
    if found is None:
        raise UsageError(
            f"--best: {run} holds no best.json; give the directory of a run that was trained with evaluation.keep_best "
            "and has been evaluated, or leave --best out for the newest checkpoint"
        )
    try:
        verify(run / found.checkpoint)
    except CheckpointError as error:
        raise UsageError(f"--best: {error}; leave --best out for the newest checkpoint") from error
    typer.echo(f"best checkpoint of {run}: {found}", err=True)
    return run / found.checkpoint


def config_of_run(checkpoint: Path) -> Path | None:
    """config.yaml of the run that `checkpoint` is or belongs to, so that it is evaluated as it was trained.

    A config.yaml of the user's own, in a directory that is no run, does not count.
    """
    runs = [directory for directory in (checkpoint, *checkpoint.resolve().parents[:3]) if _is_run(directory)]
    return runs[0] / "config.yaml" if runs else None


def recorded_tree(samples: Path) -> dict[str, Any] | None:
    """The recorded configuration of the run or the output of `bonrl eval` that samples are in; None if there is none.

    Raises:
        UsageError: it cannot be read.
    """
    if not samples.exists():
        return None
    if (path := config_of_run(samples)) is not None:
        return read_yaml(path)
    from cluster.results.run_results import EVALUATION_FILE  # late: it imports pyarrow and numpy

    directory = samples if samples.is_dir() else samples.parent
    try:
        recorded = json.loads((directory / EVALUATION_FILE).read_text(encoding="utf-8"))
        return dict(masked_tree(recorded["config"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"--samples {directory}: {EVALUATION_FILE} cannot be read ({error}); give --config") from error


def _is_run(directory: Path) -> bool:
    return (directory / "config.yaml").is_file() and any(
        (directory / name).is_dir() for name in ("checkpoints", "groups")
    )
