"""Local Hugging Face model directories: load one for training, write one with new weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from learner.backends.checkpoint_layout import CheckpointLayout

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_STORED = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

# Files of a model directory besides weights and config.json.
_COMPANION_PATTERNS = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.tiktoken",
    "spiece.model",
    "chat_template*",
    "generation_config.json",
    "*processor_config.json",
)


def check_model_directory(path: str | Path) -> Path:
    """The path, if it is a directory with a config.json; ValueError naming the key otherwise."""
    path = Path(path)
    if not path.is_dir():
        raise ValueError(f"model.path: no directory at '{path}'; give a local Hugging Face model directory")
    if not (path / "config.json").is_file():
        raise ValueError(f"model.path: '{path}' has no config.json, so it is not a Hugging Face model directory")
    return path


def load_causal_lm(path: str | Path, dtype: str, *, weights: bool = True) -> Any:
    """The transformers model on the CPU, without dropout. Of a multimodal checkpoint only the language model.

    Weights that the files hold in `dtype` are mapped from them, and take no memory until they are written to. Without
    `weights`, parameters and buffers are on the meta device; only the headers of the files are read.

    Dropout is off because the samples were drawn without it: with it, no importance ratio would be 1. transformers
    chooses the attention: SDPA if the model supports it, else eager. SDPA silently ignores the soft cap of attention
    scores (Gemma 2), so a model with one gets eager attention. `model.dropped_weights` names the weights of a
    multimodal checkpoint that were left out.
    """
    if dtype not in DTYPES:
        raise ValueError(f"model.dtype must be one of {', '.join(DTYPES)}, got '{dtype}'")
    path = check_model_directory(path)
    from transformers import AutoConfig
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    config = AutoConfig.from_pretrained(path, local_files_only=True)
    text = config.get_text_config()
    for part in (config, text):
        for key, value in part.to_dict().items():
            if ("dropout" in key or "pdrop" in key) and isinstance(value, float):
                setattr(part, key, 0.0)
    model, found = _auto_class(text is not config).from_pretrained(
        path,
        config=config,
        dtype=DTYPES[dtype],
        attn_implementation="eager" if getattr(text, "attn_logit_softcapping", None) else None,
        device_map=None if weights else "meta",
        local_files_only=True,
        output_loading_info=True,
    )
    if found["missing_keys"]:
        raise ValueError(
            f"model.path: the weights in '{path}' lack {', '.join(sorted(found['missing_keys'])[:5])}, which "
            f"{type(model).__name__} needs; set model.path to a complete checkpoint"
        )
    model.config.use_cache = text.use_cache = False
    model.dropped_weights = _drop_other_modalities(model) if text is not config else []
    return model


def empty_causal_lm(path: str | Path) -> Any:
    """The model of `load_causal_lm` without its weights, on the meta device."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(path, local_files_only=True)
    multimodal = config.get_text_config() is not config
    with torch.device("meta"):
        model = _auto_class(multimodal).from_config(config)
    if multimodal:
        _drop_other_modalities(model)
    return model


@dataclass(frozen=True, slots=True)
class WeightsComparison:
    """How the weights of a directory differ from those of the model that its config.json describes."""

    missing: list[str]
    other_shape: list[tuple[str, Sequence[int], Sequence[int]]]  # name, shape in the files, shape in the model
    unused: list[str]


def compare_weights(path: str | Path, weights: Mapping[str, tuple[str, Sequence[int]]]) -> WeightsComparison:
    """Load a model directory without its data: transformers matches the names, and converts them, as for a real load.

    Args:
        path: the directory, of which config.json is read.
        weights: data type (of safetensors) and shape of every weight by its name in the files.
    """
    from transformers import AutoConfig
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    config = AutoConfig.from_pretrained(path, local_files_only=True)
    auto = _auto_class(config.get_text_config() is not config)
    state = {
        name: torch.empty(tuple(shape), dtype=_STORED.get(dtype, torch.int64), device="meta")
        for name, (dtype, shape) in weights.items()
    }
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # what it reports is in the result
    try:
        _, found = auto._model_mapping[type(config)].from_pretrained(
            None,
            config=config,
            state_dict=state,
            device_map="meta",
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    finally:
        transformers_logging.set_verbosity(verbosity)
    return WeightsComparison(
        sorted(found["missing_keys"]), sorted(found["mismatched_keys"]), sorted(found["unexpected_keys"])
    )


def _auto_class(multimodal: bool) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    return AutoModelForImageTextToText if multimodal else AutoModelForCausalLM


def _drop_other_modalities(model: Any) -> list[str]:
    """Remove everything but the language model and its head: the towers for images, videos and sound."""
    before = {name for name, _, _ in CheckpointLayout(model).metadata}
    kept = {id(module) for part in (model.get_decoder(), model.get_output_embeddings()) for module in part.modules()}
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if id(parent) not in kept and not any(id(module) in kept for module in child.modules()):
                setattr(parent, name, None)
    return sorted(before - {name for name, _, _ in CheckpointLayout(model).metadata})


def write_model_directory(
    source: str | Path, target: str | Path, weights: dict[str, torch.Tensor], copied: Collection[str] = ()
) -> None:
    """Write a model directory like `source` with these weights.

    Args:
        source: the directory that the model was loaded from.
        target: created if missing.
        weights: by their names in the checkpoint.
        copied: names of weights that are copied from `source`.
    """
    from huggingface_hub import save_torch_state_dict

    Path(target).mkdir(parents=True, exist_ok=True)
    config = json.loads((Path(source) / "config.json").read_text(encoding="utf-8"))
    dtype = str(next(iter(weights.values())).dtype).removeprefix("torch.")
    for part in (config, config.get("text_config")):
        if part:
            part.pop("torch_dtype", None)
            part["dtype"] = dtype
    (Path(target) / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    save_torch_state_dict(weights | dict(_read_weights(source, copied)), target)
    copy_companions(source, target)


def _read_weights(directory: str | Path, names: Collection[str]) -> Iterator[tuple[str, torch.Tensor]]:
    from safetensors import safe_open

    for file in sorted(Path(directory).glob("*.safetensors")) if names else ():
        with safe_open(file, framework="pt") as weights:
            yield from ((name, weights.get_tensor(name)) for name in weights.keys() if name in names)


def pad_token_of(config: Any) -> int:
    """A token id for padding. Any will do: padding is masked in attention and in every loss."""
    for key in ("pad_token_id", "eos_token_id", "bos_token_id"):
        token = getattr(config, key, None)
        token = token[0] if isinstance(token, list | tuple) and token else token
        if isinstance(token, int) and 0 <= token < config.get_text_config().vocab_size:
            return token
    return 0


def copy_companions(source: str | Path, target: str | Path) -> list[str]:
    """Copy tokenizer, chat template and generation settings from one model directory into another."""
    copied = []
    for pattern in _COMPANION_PATTERNS:
        for file in sorted(Path(source).glob(pattern)):
            if file.is_file() and file.name not in copied:
                shutil.copyfile(file, Path(target) / file.name)
                copied.append(file.name)
    return copied
