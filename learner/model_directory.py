"""Local Hugging Face model directories: load one for training, and copy what an export needs beside the
weights.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

# Everything a directory needs besides weights and config.json to be loaded as a tokenizer and a generator.
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
)


def check_model_directory(path: str | Path) -> Path:
    """The path, if it is a directory with a config.json; ValueError naming the key otherwise."""
    path = Path(path)
    if not path.is_dir():
        raise ValueError(f"model.path: no directory at '{path}'; give a local Hugging Face model directory")
    if not (path / "config.json").is_file():
        raise ValueError(f"model.path: '{path}' has no config.json, so it is not a Hugging Face model directory")
    return path


def load_causal_lm(path: str | Path, dtype: str) -> Any:
    """The transformers model, on the CPU, with SDPA attention and without dropout.

    Dropout is switched off because the samples were drawn without it: with it, no importance ratio would
    be 1.
    """
    if dtype not in DTYPES:
        raise ValueError(f"model.dtype must be one of {', '.join(DTYPES)}, got '{dtype}'")
    path = check_model_directory(path)
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    config = AutoConfig.from_pretrained(path, local_files_only=True)
    for key, value in config.to_dict().items():
        if ("dropout" in key or "pdrop" in key) and isinstance(value, float):
            setattr(config, key, 0.0)
    model = AutoModelForCausalLM.from_pretrained(
        path, config=config, dtype=DTYPES[dtype], attn_implementation="sdpa", local_files_only=True
    )
    model.config.use_cache = False
    return model


def pad_token_of(config: Any) -> int:
    """A token id for padding. Which one is irrelevant: padding is masked out of attention and of every
    loss.
    """
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
