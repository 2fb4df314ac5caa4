"""The weights that a run began with, so that a resume notices others in their place under the same path.

The learner continues with the weights of its checkpoint. But the reference of a KL term, the frozen model below
adapters, and the samplers of a recording are read from ``model.path`` again.

model_weights.json   the path, and a SHA-256 over the name, type, shape and bytes of each tensor

A small model is read as a whole; of a larger model only a few blocks of each tensor are read, so that the record takes
seconds. Sizes and times of the files, and the split into files, are ignored, because they differ between copies.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster.checks.memory.shape import keeps_reference
from cluster.checks.weight_files import Tensor, read_tensors
from cluster.config import RunConfig
from cluster.errors import UsageError

FILE = "model_weights.json"
_SCHEME = 1  # of the hash; records of another one are not compared
_WHOLE_BYTES = 256 * 2**20  # larger models are sampled
_BLOCK = 4096  # bytes at the beginning, in the middle and at the end of a tensor


def starting_weights(model: str) -> dict[str, Any]:
    """The record of the weights in a model directory.

    Raises:
        UsageError: they cannot be read.
    """
    tensors = sorted(read_tensors(Path(model)), key=lambda tensor: tensor.name)
    whole, digest = sum(tensor.size for tensor in tensors) <= _WHOLE_BYTES, hashlib.sha256()
    try:
        with contextlib.ExitStack() as stack:
            paths = dict.fromkeys(tensor.file for tensor in tensors)
            files = {path: stack.enter_context(path.open("rb", buffering=0)) for path in paths}
            for tensor in tensors:
                digest.update(f"{tensor.name} {tensor.dtype} {tensor.shape}\n".encode())
                for start, size in _parts(tensor, whole):
                    files[tensor.file].seek(tensor.start + start)
                    digest.update(files[tensor.file].read(size))
    except OSError as error:
        raise UsageError(f"model.path = {model}: its weights cannot be read ({error})") from error
    return {"path": model, "scheme": _SCHEME, "sha256": digest.hexdigest()}


def _parts(tensor: Tensor, whole: bool) -> Iterator[tuple[int, int]]:
    """Places in a tensor and sizes of what is read there."""
    if whole or tensor.size <= 3 * _BLOCK:
        yield 0, tensor.size
        return
    for start in (0, (tensor.size - _BLOCK) // 2, tensor.size - _BLOCK):
        yield start, _BLOCK


def changed_weights(run: Path, config: RunConfig) -> bool:
    """Whether ``model.path`` holds other weights than `run` began with; false for a run without the record.

    Raises:
        UsageError: the record or the weights cannot be read.
    """
    try:
        recorded = json.loads((run / FILE).read_text(encoding="utf-8"))
        scheme, digest = recorded["scheme"], recorded["sha256"]
    except FileNotFoundError:  # of an earlier release
        return False
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"--resume {run}: {FILE} cannot be read ({error!r}); remove it if the weights in model.path are still "
            "those that the run began with"
        ) from error
    return scheme == _SCHEME and digest != starting_weights(config.model.path)["sha256"]


def use_of_weights(config: RunConfig, *, rollout_only: bool) -> str | None:
    """What a resumed run needs the weights in ``model.path`` for; None if it has all it needs in its checkpoint."""
    if rollout_only:
        return "they sample the groups"
    if config.learner.lora is not None:
        return "learner.lora trains adapters of them"
    if keeps_reference(config) and not config.loss.kl_refresh_every:  # a refreshed one is in the checkpoint
        return "they are the reference of the KL term"
    return None


def weights_problem(run: Path, config: RunConfig, *, rollout_only: bool = False) -> str | None:
    """Why a run cannot be resumed with the weights in ``model.path``."""
    use = use_of_weights(config, rollout_only=rollout_only)
    if use is None or not changed_weights(run, config):
        return None
    return (
        f"--resume {run}: model.path = {config.model.path} has other weights than when the run began, and {use}; put "
        "the former weights back, or start a new run"
    )


def weights_warning(run: Path, config: RunConfig, *, rollout_only: bool) -> list[str]:
    """A line about changed weights that the resumed run does not need."""
    if use_of_weights(config, rollout_only=rollout_only) is not None or not changed_weights(run, config):
        return []
    return [
        f"model.path = {config.model.path} has other weights than when the run began; the run continues with those of "
        "its checkpoint"
    ]
