"""Whether a model directory would load: its config.json and the names and shapes of its weights, without their data."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster.checks.model_facts import read_config
from cluster.checks.model_support import text_settings
from cluster.checks.weight_files import read_tensors
from cluster.errors import UsageError

_LAYER = re.compile(r"(?:model\.|language_model\.)*layers\.(\d+)\..*\.weight")  # of the language model
_SHOWN = 3
_RESTORE = "config.json and weights must be from the same model: fetch the model again"


def loading_problems(directory: Path) -> Iterator[str]:
    """What the learner would find when it loads the model: weights that are missing, or of another shape.

    Raises:
        UsageError: no model can be made from config.json.
    """
    from learner.backends.model_directory import compare_weights

    place = f"model.path = {directory}"
    tensors = {tensor.name: (tensor.dtype, tensor.shape) for tensor in read_tensors(directory)}
    config = read_config(directory)
    try:
        found = compare_weights(directory, tensors)
    except Exception as error:  # transformers raises whatever the settings make a model's code raise
        raise UsageError(
            f"{place}: transformers cannot build the model of its config.json ({_reason(error, config)}); "
            "restore the model's own config.json"
        ) from error
    if found.missing:
        yield f"{place}: the weights lack {_some(found.missing)}, which config.json asks for; {_RESTORE}"
    if found.other_shape:
        shown = [f"{name} is {_sizes(is_)}, not {_sizes(should)}" for name, is_, should in found.other_shape[:_SHOWN]]
        more = len(found.other_shape) - len(shown)
        listed = "; ".join(shown) + (f"; and {more} more" if more else "")
        yield f"{place}: for the model in config.json {listed}; {_RESTORE}"
    text = text_settings(directory, config)
    layers = text["num_hidden_layers"]
    known = layers + (text.get("num_nextn_predict_layers") or 0)
    unused = {name: int(layer[1]) for name in found.unused if (layer := _LAYER.fullmatch(name))}
    if beyond := [name for name, layer in unused.items() if layer >= known]:
        yield (
            f"{place}: config.json says num_hidden_layers = {layers}, but the weights have more layers "
            f"({_some(beyond)}); {_RESTORE}"
        )
    elif strange := [name for name, layer in unused.items() if layer < layers]:
        yield f"{place}: the model in config.json does not use the weights {_some(strange)}; {_RESTORE}"


def _some(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _sizes(shape: Any) -> str:
    return " x ".join(map(str, shape))


def _reason(error: Exception, config: dict[str, Any]) -> str:
    """What transformers says, and which settings of config.json it speaks of."""
    text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    named = [
        f"{key} = {value!r}" for key, value in config.items() if isinstance(value, str) and value and value in text
    ]
    return text + (f"; it has {', '.join(named)}" if named else "")
