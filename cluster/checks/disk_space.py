"""Disk space for a run's checkpoints; a run without it would fail hours after its start."""

from __future__ import annotations

import shutil
from pathlib import Path

from cluster.checks.memory.estimates import Derived
from cluster.checks.memory.shape import Shape, size_text, weight_bytes
from cluster.checks.preflight import nearest_existing
from cluster.config import RunConfig

_ADAM_BYTES = 12  # of a trained weight: in float32, with its two moments


def checkpoint_bytes(config: RunConfig, shape: Shape) -> float:
    """Bytes of one checkpoint: the learner's state of the trained weights, and a Hugging Face directory."""
    copy = weight_bytes(config) if config.model.dtype == "bfloat16" else 0  # next to those in float32
    return shape.trained * (_ADAM_BYTES + copy) + shape.parameters * weight_bytes(config)


def kept_checkpoints(config: RunConfig) -> int:
    """Most checkpoints on the disk at once: those that stay, the best one, and the one that is being written."""
    checkpoint, steps = config.checkpoint, config.run.steps
    saves = -(-steps // checkpoint.every) if checkpoint.every else 1
    best = 1 if config.evaluation.keep_best else 0
    return min(checkpoint.keep + 1, saves) + best


def disk_warnings(config: RunConfig, derived: Derived) -> list[str]:
    """A warning where the checkpoints do not fit on the disk of ``run.directory``, as this machine sees it."""
    if derived.shape is None:
        return []
    place = nearest_existing(Path(config.run.directory))
    free, size, count = shutil.disk_usage(place).free, checkpoint_bytes(config, derived.shape), kept_checkpoints(config)
    if free >= count * size:
        return []
    return [
        f"run.directory = {config.run.directory}: its disk has {size_text(free)} free, but up to {count} "
        f"checkpoints of {size_text(size)} are kept at the same time; free space, lower checkpoint.keep, or set "
        "run.directory elsewhere"
    ]
