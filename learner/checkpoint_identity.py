"""Compares the settings with which an engine checkpoint was written with those of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from learner.settings import LearnerSettings

# Directories of a checkpoint: the engine's files; the plain model, merged; the adapters alone in peft's format.
ENGINE, HUGGINGFACE, ADAPTER = "engine", "huggingface", "adapter"
WEIGHTS = "weights"  # [name, type, shape] of each
_SHOWN = 3


def learner_identity(learner: LearnerSettings, ranks: int) -> dict[str, Any]:
    """The settings that the files of a checkpoint depend on, by key."""
    lora = learner.lora.model_dump(mode="json", exclude={"dropout", "send"}) if learner.lora else None
    return {"learner.ranks": ranks, "learner.zero_stage": learner.zero_stage, "learner.lora": lora}


def identity_problem(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    """The first difference between a checkpoint and a run as part of a message; None if they agree."""
    for key, value in wanted.items():
        if found.get(key) != value:
            if key == WEIGHTS and isinstance(found.get(key), list):
                return _weights_problem(found[key], value)
            return f"was written with {key} = {found.get(key)}, this run has {value}"
    return None


def _weights_problem(found: Sequence[Any], wanted: Sequence[Any]) -> str:
    ours, theirs = ({name: (dtype, shape) for name, dtype, shape in weights} for weights in (wanted, found))
    names = [name for name in {**theirs, **ours} if ours.get(name) != theirs.get(name)]
    shown = [f"{name} is {_text(theirs.get(name))} in it and {_text(ours.get(name))} here" for name in names[:_SHOWN]]
    more = len(names) - len(shown)
    listed = "; ".join(shown) + (f"; and {more} more" if more else "") or "their order differs"
    return f"was written with other weights than those of model.path and model.dtype ({listed})"


def _text(weight: tuple[str, Sequence[int]] | None) -> str:
    return "absent" if weight is None else f"{weight[0].removeprefix('torch.')} {' x '.join(map(str, weight[1]))}"
