"""Whether a rank packs sequences, and the attention for it."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch


def prepare_packing(model: Any, wanted: bool | Literal["auto"], device: torch.device) -> bool:
    """Whether to pack; sets variable-length attention if it is available.

    Raises:
        ValueError: packing is requested, but the architecture has recurrent states.
    """
    flash = _flash_attention(model) if device.type == "cuda" else None
    if wanted is False or (wanted == "auto" and (flash is None or model._is_stateful)):
        return False
    if model._is_stateful:
        raise ValueError(
            f"learner.packing = true: recurrent states of {type(model).__name__} would continue from one packed "
            "sequence into the next; set learner.packing to false"
        )
    if flash:
        model.set_attn_implementation(flash)
    return True


def packed_arguments(config: Any, lengths_B: np.ndarray, device: torch.device) -> dict[str, Any]:
    """Arguments of a forward pass over a packed row of sequences of these lengths, in addition to tokens and positions.

    FlashAttention gets the bounds of the sequences. Without them transformers searches the positions in every layer
    and waits for the GPU's answer, and a compiled layer has a graph break there.

    Args:
        config: of the model, with its attention.
    """
    if not config._attn_implementation.startswith("flash"):
        return {}
    bounds = torch.from_numpy(np.append(0, lengths_B.cumsum()).astype(np.int32)).to(device, non_blocking=True)
    longest = int(lengths_B.max())
    return {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": longest, "max_length_k": longest}


def _flash_attention(model: Any) -> str | None:
    """The installed FlashAttention that fits the model. Models that need eager attention keep it."""
    from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

    if not model._supports_flash_attn or model.dtype != torch.bfloat16 or model.config._attn_implementation == "eager":
        return None
    if is_flash_attn_3_available():
        return "flash_attention_3"
    return "flash_attention_2" if is_flash_attn_2_available() else None
