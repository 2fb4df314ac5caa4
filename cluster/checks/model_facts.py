"""What the memory estimate needs to know of a model directory, read from config.json and the safetensors headers.

No weights are loaded and no library is imported: a 70 B model is read in milliseconds.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.checks.model_support import SIZES, text_settings
from cluster.checks.weight_files import ADAPTER, LINK, Tensor, first_not_finite, read_tensors, weight_problems
from cluster.errors import UsageError

_SNAPSHOT = re.compile(r"/models--(.+?)--(.+)/snapshots/(\w+)$")
_DTYPES = {"BF16": "bfloat16", "F32": "float32"}
_EXPERT = re.compile(r"\.experts\.\d+\.")
_QUANTISED = ("quantization_config", "compression_config")


@dataclass(frozen=True)
class ModelFacts:
    """Sizes of one causal language model.

    Attributes:
        parameters: number of weights, a tied output head counted once.
        layers, hidden, vocabulary: of the decoder.
        kv_values_per_token: numbers that one token leaves in the key-value cache (2 x layers x KV heads x head size).
        context: longest sequence that the position encoding allows, None where config.json does not say.
        inner: width of the feed-forward part that one token passes through, of all its experts together; None where
            config.json does not say.
        mapped: by data type, the weights that transformers maps from the files if it does not convert them. It merges
            the experts of a layer, so those are copied.
    """

    parameters: int
    layers: int
    hidden: int
    vocabulary: int
    kv_values_per_token: int
    context: int | None
    mapped: Mapping[str, int] = field(default_factory=dict)
    inner: int | None = None


def read_model(path: str | Path) -> ModelFacts:
    """Facts of a Hugging Face directory.

    Raises:
        UsageError: no directory, no config.json, no safetensors, or files that cannot be read.
    """
    directory = Path(path)
    if not directory.is_dir():
        raise UsageError(f"model.path = {path}: {_no_directory(directory)}")
    config = read_config(directory)
    for key, kind in (("architectures", list), ("text_config", dict)):
        if not isinstance(config.get(key) or kind(), kind):
            raise UsageError(
                f"model.path = {path}: config.json has {key} = {config[key]!r}, which is not of type {kind.__name__}; "
                "restore the model's own config.json"
            )
    text = text_settings(directory, config)
    _check_sizes(path, text)
    tensors = read_tensors(directory)
    try:
        layers, hidden, heads = text["num_hidden_layers"], text["hidden_size"], text["num_attention_heads"]
        head_size = text.get("head_dim") or hidden // max(heads, 1)
        return ModelFacts(
            parameters=sum({t.name: math.prod(t.shape) for t in tensors}.values()),
            layers=layers,
            hidden=hidden,
            vocabulary=text["vocab_size"],
            kv_values_per_token=2 * layers * (text.get("num_key_value_heads") or heads) * head_size,
            context=text.get("max_position_embeddings"),
            mapped=_mapped(tensors),
            inner=_inner(text),
        )
    except KeyError as error:
        raise UsageError(
            f"model.path = {path}: config.json has no {error.args[0]!r}, so it is not a decoder-only language model "
            "that bonrl can train; set model.path to a causal language model"
        ) from error


def _inner(text: dict[str, Any]) -> int | None:
    width = text.get("moe_intermediate_size") or text.get("intermediate_size")
    experts = text.get("num_experts_per_tok") or 1
    if not (isinstance(width, int) and isinstance(experts, int)):
        return None
    # Experts that every token passes through: their number (DeepSeek), or their width (Qwen2-MoE).
    shared = (text.get("n_shared_experts") or 0) * width + (text.get("shared_expert_intermediate_size") or 0)
    return width * experts + shared


def _mapped(tensors: Sequence[Tensor]) -> dict[str, int]:
    found: dict[str, int] = {}
    for tensor in {t.name: t for t in tensors if not _EXPERT.search(t.name)}.values():
        if dtype := _DTYPES.get(tensor.dtype):
            found[dtype] = found.get(dtype, 0) + math.prod(tensor.shape)
    return found


def _no_directory(path: Path) -> str:
    remedy = "set it to a local Hugging Face model directory, or to OWNER/NAME on the Hugging Face Hub"
    if path.exists():
        return f"that is a file; {remedy}"
    if cached := _SNAPSHOT.search(str(path)):
        owner, name, revision = cached.groups()
        return (
            "the model is no longer in the Hugging Face cache; fetch it again (`hf download "
            f"{owner}/{name} --revision {revision}`)"
        )
    return f"there is no such directory; {remedy}"


def _no_config(directory: Path) -> str:
    """What a directory without config.json is, and what to do."""
    if (directory / "adapter_config.json").is_file():
        return ADAPTER
    if next(directory.glob("*.gguf"), None) is not None:
        return "it holds GGUF files, which bonrl does not read; set model.path to the safetensors of the same model"
    if (directory / "checkpoints").is_dir() or (directory / "huggingface").is_dir():
        return "that is a run or a checkpoint; make a model of it with `bonrl export`, and set model.path to that"
    return "so it is not a Hugging Face model directory; set model.path to one"


def _check_sizes(path: str | Path, text: dict[str, Any]) -> None:
    for key in (*SIZES, "head_dim", "num_key_value_heads", "max_position_embeddings"):
        value, least = text.get(key), 0 if key == "num_attention_heads" else 1
        if value is None and key in text and key not in SIZES:
            continue
        if key in text and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise UsageError(
                f"model.path = {path}: config.json has {key} = {value!r}, which must be a whole number of at least "
                f"{least}; restore the model's own config.json"
            )


def read_config(directory: str | Path) -> dict[str, Any]:
    """The content of a model directory's config.json.

    Raises:
        UsageError: it is missing or cannot be read.
    """
    return read_json(Path(directory) / "config.json")


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in a file of a model directory.

    Raises:
        UsageError: as `read_config`.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if file.is_symlink():
            raise UsageError(f"model.path = {file.parent}: {file.name} {LINK}") from error
        raise UsageError(f"model.path = {file.parent}: no {file.name} there: {_no_config(file.parent)}") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"model.path: {file} cannot be read ({error}); restore the model's own file") from error
    if not isinstance(content, dict):
        raise UsageError(f"model.path: {file} does not hold a JSON object; restore the model's own file")
    return content


def weights_problems(path: str | Path) -> list[str]:
    """Why the model's weights cannot be trained: quantised, not of this config.json, or not numbers.

    Raises:
        UsageError: as `read_model`.
    """
    directory = Path(path)
    config = read_config(directory)
    parts = [config, text] if isinstance(text := config.get("text_config"), dict) else [config]
    if key := next((key for key in _QUANTISED for part in parts if part.get(key)), None):
        return [
            f"model.path = {path}: config.json has a {key}, and bonrl trains float weights; set "
            "model.path to the model before quantisation"
        ]
    tensors = read_tensors(directory)
    problems = list(weight_problems(directory, text_settings(directory, config), tensors))
    if not problems and (bad := first_not_finite(tensors)):
        problems.append(
            f"model.path = {path}: {bad.file.name}: the weights of {bad.name} hold NaN or infinity; set model.path to "
            "a sound checkpoint"
        )
    return problems
