"""Attention over a packed row that computes no pair of tokens of two sequences, and has no mask of the row.

Two implementations of transformers' attention interface: `VARLEN` calls torch's FlashAttention on a GPU, with the
bounds of the sequences. `ROWS` pads inside of the attention only: queries, keys and values of each sequence go into a
row of their own, and the outputs back. Padding is on the right, which causal attention does not see, so the result is
exact. Without a packed row both are SDPA.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn.attention.varlen import varlen_attn

VARLEN, ROWS = "packed_varlen", "packed_rows"
_MAX_HEAD_SIZE = 256  # of torch's FlashAttention


def register() -> None:
    """Make both known to transformers."""
    from transformers import AttentionInterface, AttentionMaskInterface

    for name, function in ((VARLEN, _varlen), (ROWS, _rows)):
        AttentionInterface.register(name, function)
        AttentionMaskInterface.register(name, _mask)


def suitable(model: Any) -> bool:
    """Whether all attention of the model is causal over the whole sequence, so that the bounds are all it needs."""
    text = model.config.get_text_config()
    kinds = getattr(text, "layer_types", None)
    if kinds is None:
        whole = getattr(text, "sliding_window", None) is None and getattr(text, "attention_chunk_size", None) is None
    else:
        whole = set(kinds) == {"full_attention"}
    return whole and model._supports_flash_attn and model.config._attn_implementation == "sdpa"


def runs_varlen(model: Any, device: torch.device) -> bool:
    """Whether torch's FlashAttention can compute a suitable model."""
    return (
        device.type == "cuda"
        and model.dtype == torch.bfloat16
        and torch.cuda.get_device_capability(device) >= (8, 0)
        and _head_size(model.config.get_text_config()) <= _MAX_HEAD_SIZE
    )


def _head_size(text: Any) -> int:
    if latent := getattr(text, "qk_rope_head_dim", None):  # multi-head latent attention
        return max(latent + text.qk_nope_head_dim, text.v_head_dim)
    return getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads


def row_arguments(lengths_B: np.ndarray, device: torch.device) -> dict[str, Any]:
    """Arguments for `ROWS`: the shape (b, L) of each group of rows, and the places int64[T] of the packed tokens in the
    cells of all groups.

    A group has lengths between two powers of two, so that at most half of its rows is padding.
    """
    starts_B = np.append(0, lengths_B.cumsum()[:-1])
    group_B = np.ceil(np.log2(lengths_B)).astype(np.int64)
    shapes, places_T, used = [], np.empty(lengths_B.sum(), dtype=np.int64), 0
    for group in np.unique(group_B):
        members = np.flatnonzero(group_B == group)
        length = int(lengths_B[members].max())
        real_bL = np.arange(length) < lengths_B[members, None]
        tokens_bL = starts_B[members, None] + np.arange(length)
        places_T[tokens_bL[real_bL]] = used + np.flatnonzero(real_bL)
        used += real_bL.size
        shapes.append(real_bL.shape)
    places = torch.from_numpy(places_T).to(device, non_blocking=True)
    return {"packed_shapes": tuple(shapes), "packed_places": places}


def _mask(*, attention_mask: torch.Tensor | None = None, **arguments: Any) -> torch.Tensor | None:
    """None for a packed row, which has no mask of padding."""
    from transformers.masking_utils import sdpa_mask

    return None if attention_mask is None else sdpa_mask(attention_mask=attention_mask, **arguments)


def _rows(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    packed_shapes: tuple[tuple[int, int], ...] = (),
    packed_places: torch.Tensor | None = None,
    **arguments: Any,
) -> tuple[torch.Tensor, None]:
    """Of query, key and value [1, heads, T, size]; the output is [1, T, heads, size]."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if packed_places is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **arguments)
    sizes = [rows * length for rows, length in packed_shapes]
    cells = [_cells(each, packed_places, sum(sizes)).split(sizes) for each in (query, key, value)]
    outputs = []
    for shape, *group in zip(packed_shapes, *cells, strict=True):
        q, k, v = (each.unflatten(0, shape).transpose(1, 2) for each in group)  # [b, heads, L, size]
        outputs.append(sdpa_attention_forward(module, q, k, v, None, **arguments)[0].flatten(0, 1))
    return torch.cat(outputs).index_select(0, packed_places).unsqueeze(0), None


def _cells(packed: torch.Tensor, places_T: torch.Tensor, cells: int) -> torch.Tensor:
    """[cells, heads, size] with the tokens of [1, heads, T, size] at their places, and 0 elsewhere."""
    tokens_THD = packed[0].transpose(0, 1)
    return tokens_THD.new_zeros(cells, *tokens_THD.shape[1:]).index_copy_(0, places_T, tokens_THD)


def _varlen(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int = 0,
    scaling: float | None = None,
    **arguments: Any,
) -> tuple[torch.Tensor, None]:
    """As `_rows`. Values that are narrower than keys are padded, as the kernel has one size."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if cu_seq_lens_q is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **arguments)
    size = value.shape[-1]
    value = torch.nn.functional.pad(value, (0, key.shape[-1] - size))
    query_THD, key_THD, value_THD = (x[0].transpose(0, 1) for x in (query, key, value))
    output: Any = varlen_attn(
        query_THD,
        key_THD,
        value_THD,
        cu_seq_lens_q,
        cu_seq_lens_q,
        max_length_q,
        max_length_q,
        scale=scaling,
        window_size=(-1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return output[..., :size].unsqueeze(0), None
