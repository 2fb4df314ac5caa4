"""What the memory estimate needs to know of a model directory, read from config.json and the safetensors headers.

No weights are loaded and no library is imported: a 70 B model is read in milliseconds.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import UsageError
from cluster.model_support import text_settings

_MAX_HEADER_BYTES = 100 * 2**20  # the limit of the safetensors format


@dataclass(frozen=True)
class ModelFacts:
    """Sizes of one causal language model.

    Attributes:
        parameters: number of weights, a tied output head counted once.
        architecture: class name in config.json, e.g. LlamaForCausalLM.
        layers, hidden, vocabulary: of the decoder.
        kv_values_per_token: numbers that one token leaves in the key-value cache (2 x layers x KV heads x head size).
        context: longest sequence that the position encoding allows, None where config.json does not say.
    """

    parameters: int
    architecture: str
    layers: int
    hidden: int
    vocabulary: int
    kv_values_per_token: int
    context: int | None


def read_model(path: str | Path) -> ModelFacts:
    """Facts of a Hugging Face directory.

    Raises:
        UsageError: no directory, no config.json, no safetensors, or files that cannot be read.
    """
    directory = Path(path)
    if not directory.is_dir():
        raise UsageError(
            f"model.path = {path}: there is no such directory; set it to a local Hugging Face model directory "
            "(nothing is downloaded)"
        )
    config = read_config(directory)
    text = text_settings(directory, config)
    try:
        layers, hidden, heads = text["num_hidden_layers"], text["hidden_size"], text["num_attention_heads"]
        head_size = text.get("head_dim") or hidden // max(heads, 1)
        return ModelFacts(
            parameters=_count_parameters(directory),
            architecture=(config.get("architectures") or ["unknown"])[0],
            layers=layers,
            hidden=hidden,
            vocabulary=text["vocab_size"],
            kv_values_per_token=2 * layers * (text.get("num_key_value_heads") or heads) * head_size,
            context=text.get("max_position_embeddings"),
        )
    except KeyError as error:
        raise UsageError(
            f"model.path = {path}: config.json has no {error.args[0]!r}, so it is no decoder-only language model that "
            "bonrl can train; set model.path to a causal language model"
        ) from error


def read_config(directory: str | Path) -> dict[str, Any]:
    """The content of a model directory's config.json.

    Raises:
        UsageError: it is missing or cannot be read.
    """
    return _read_json(Path(directory) / "config.json")


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(
            f"model.path = {file.parent}: no {file.name} there, so it is not a Hugging Face model directory"
        ) from error
    except (OSError, ValueError) as error:
        raise UsageError(f"model.path: {file} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise UsageError(f"model.path: {file} does not hold a JSON object")
    return content


def _count_parameters(directory: Path) -> int:
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise UsageError(f"model.path = {directory}: no *.safetensors file there; bonrl reads no other weight format")
    shapes: dict[str, list[int]] = {}
    for file in files:
        shapes |= {name: entry["shape"] for name, entry in _header(file).items() if name != "__metadata__"}
    return sum(math.prod(shape) for shape in shapes.values())


def _header(file: Path) -> dict[str, Any]:
    """The JSON header of a safetensors file: 8 bytes of length (little endian), then that many of JSON."""
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > _MAX_HEADER_BYTES:
                raise ValueError(f"header of {length} bytes")
            return dict(json.loads(stream.read(length)))
    except (OSError, ValueError, struct.error) as error:
        raise UsageError(
            f"model.path: {file} is damaged or no safetensors file ({error}); a Git LFS pointer, perhaps?"
        ) from error
