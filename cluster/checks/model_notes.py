"""What config.json says about memory, besides sizes: experts that a token does not use, sliding windows."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from cluster.checks.model_facts import read_config
from cluster.checks.model_support import text_settings
from cluster.checks.weight_files import read_tensors

_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_CHOSEN = ("num_experts_per_tok", "experts_per_token", "num_experts_per_token", "moe_topk", "top_k_experts")
# Keys of models whose layers are not all full attention: recurrent, linear or chunked ones keep less for each token.
_HYBRID = (
    "layers_block_type",
    "hybrid_override_pattern",
    "attn_layer_period",
    "mamba_d_state",
    "ssm_state_size",
    "linear_num_key_heads",
    "attention_chunk_size",
    "kv_lora_rank",
)


def active_parameters(path: str | Path) -> int | None:
    """Weights that one token passes through; None for a model without experts.

    Memory depends on all weights; only the computation per token depends on the active ones.
    """
    directory = Path(path)
    text = text_settings(directory, read_config(directory))
    experts, chosen = _first(text, _EXPERTS), _first(text, _CHOSEN)
    if not experts or not chosen or chosen >= experts:
        return None
    dense = sparse = 0
    for tensor in read_tensors(directory):
        if ".experts." in tensor.name:
            sparse += math.prod(tensor.shape)
        else:
            dense += math.prod(tensor.shape)
    return round(dense + sparse * chosen / experts)


def cache_is_bounded(path: str | Path) -> bool:
    """Whether some layers keep fewer than all keys and values, so that the cache's figure is an upper bound."""
    directory = Path(path)
    text = text_settings(directory, read_config(directory))
    kinds = text.get("layer_types")
    if isinstance(kinds, list) and kinds:
        return any(kind != "full_attention" for kind in kinds)
    windowed = bool(text.get("sliding_window")) and text.get("use_sliding_window", True) is not False
    return windowed or any(text.get(key) for key in _HYBRID)


def _first(text: dict[str, Any], keys: tuple[str, ...]) -> int | None:
    return next((text[key] for key in keys if isinstance(text.get(key), int)), None)
