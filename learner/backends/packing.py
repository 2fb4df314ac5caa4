"""Whether a rank packs sequences, and the attention for it."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch

from learner.backends import packed_attention
from learner.backends.packed_attention import ROWS, VARLEN


def prepare_packing(model: Any, wanted: bool | Literal["auto"], device: torch.device) -> bool:
    """Whether to pack; sets the attention for it, if one fits the model. `auto` packs with FlashAttention.

    Raises:
        ValueError: packing is requested, but the architecture has recurrent states.
    """
    flash = _flash_attention(model, device)
    if wanted is False or (wanted == "auto" and (flash is None or model._is_stateful)):
        return False
    if model._is_stateful:
        raise ValueError(
            f"learner.packing = true: recurrent states of {type(model).__name__} would continue from one packed "
            "sequence into the next; set learner.packing to false"
        )
    attention = flash or (ROWS if packed_attention.suitable(model) else None)
    if attention in (ROWS, VARLEN):
        packed_attention.register()
    if attention:
        model.set_attn_implementation(attention)
    return True


def packed_arguments(config: Any, lengths_B: np.ndarray, device: torch.device) -> dict[str, Any]:
    """Arguments of a forward pass over a packed row of sequences of these lengths, in addition to tokens and positions.

    FlashAttention gets the bounds of the sequences. Without them transformers searches the positions in every layer
    and waits for the GPU's answer, and a compiled layer has a graph break there.

    Args:
        config: of the model, with its attention.
    """
    attention = config._attn_implementation
    if attention == ROWS:
        return packed_attention.row_arguments(lengths_B, device)
    if attention != VARLEN and not attention.startswith("flash"):
        return {}
    bounds = torch.from_numpy(np.append(0, lengths_B.cumsum()).astype(np.int32)).to(device, non_blocking=True)
    longest = int(lengths_B.max())
    return {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": longest, "max_length_k": longest}


def _flash_attention(model: Any, device: torch.device) -> str | None:
    """FlashAttention that fits the model: of flash-attn if it is installed, or of torch. Models that need eager
    attention keep it.
    """
    from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

    eager = model.config._attn_implementation == "eager"
    if device.type != "cuda" or not model._supports_flash_attn or model.dtype != torch.bfloat16 or eager:
        return None
    if is_flash_attn_3_available():
        return "flash_attention_3"
    if is_flash_attn_2_available():
        return "flash_attention_2"
    return VARLEN if packed_attention.suitable(model) and packed_attention.runs_varlen(model, device) else None
