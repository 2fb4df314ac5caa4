"""Log-probabilities and entropies of the response tokens of a micro-batch, from few logits at a time.

The logits of a large vocabulary take more memory than all else in a forward pass. So the head is called on chunks of
positions, and each chunk is recomputed in the backward pass. Where the logits of all positions fit into one chunk, they
are computed at once, as in plain transformers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from learner.losses import ChunkLogprobs, token_logprobs

Scores = tuple[torch.Tensor, torch.Tensor | None]  # log-probabilities, entropies


@dataclass(frozen=True)
class ResponseTokens:
    """Which logits a forward pass needs; the fields are those of `learner.batching.MicroBatch`, as tensors.

    shape: [B, R]. packed: all sequences are in one row of tokens.
    """

    logit_index_N: torch.Tensor
    cell_index_N: torch.Tensor
    shape: tuple[int, int]
    packed: bool
    most_logits: int
    most_cells: int


def return_logprobs(model: Any, chunk_bytes: int | None) -> None:
    """Make `model(...)` return what `_forward` does, instead of logits. The model stays the same module.

    Args:
        chunk_bytes: of the float32 logits that are computed at once. None: of all positions.
    """
    model.forward = partial(_forward, model, model.forward, chunk_bytes)


def _forward(
    model: Any,
    full_forward: Callable[..., Any],
    chunk_bytes: int | None,
    *,
    input_ids: torch.Tensor,
    responses: ResponseTokens,
    temperature: float,
    with_entropy: bool,
    **inputs: Any,
) -> Scores:
    """Log-probabilities and, with `with_entropy`, entropies float32[B, R] of the response tokens; 0 elsewhere if the
    logits were computed in chunks.
    """
    rows = max(1, chunk_bytes // (4 * model.config.get_text_config().vocab_size)) if chunk_bytes else None
    if not responses.packed and (rows is None or responses.most_cells <= rows):
        width = responses.shape[1]
        output = full_forward(input_ids=input_ids, logits_to_keep=width + 1, use_cache=False, **inputs)
        return token_logprobs(output.logits[:, :-1], input_ids[:, -width:], temperature, with_entropy=with_entropy)
    output = model.base_model(input_ids=input_ids, use_cache=False, **inputs)
    index_N = responses.logit_index_N
    hidden_NH = output[0].flatten(0, 1).index_select(0, index_N)
    tokens_N = input_ids.flatten()[index_N + 1]
    sizes = _chunk_sizes(len(index_N), -(-responses.most_logits // rows) if rows else 1)
    score = partial(_chunk_scores, model, output, temperature, with_entropy)
    if len(sizes) > 1:
        score = partial(checkpoint, score, use_reentrant=False, preserve_rng_state=False)
    chunks = [score(*chunk) for chunk in zip(hidden_NH.split(sizes), tokens_N.split(sizes), strict=True)]
    logprobs, entropies = zip(*chunks, strict=True)
    return _to_rows(logprobs, responses), _to_rows(entropies, responses) if with_entropy else None


def _chunk_sizes(total: int, chunks: int) -> list[int]:
    """Exactly `chunks` sizes, equal within one; 0 for the last chunks of a rank with few positions."""
    return [total // chunks + (i < total % chunks) for i in range(chunks)]


def _chunk_scores(
    model: Any, output: Any, temperature: float, with_entropy: bool, hidden_CH: torch.Tensor, tokens_C: torch.Tensor
) -> Scores:
    logits_1CV = _head(model, output, hidden_CH.unsqueeze(0))
    return ChunkLogprobs.apply(logits_1CV[0], tokens_C, temperature, with_entropy)


def _to_rows(chunks: tuple[torch.Tensor, ...], responses: ResponseTokens) -> torch.Tensor:
    flat_N = torch.cat(chunks)
    cells = flat_N.new_zeros(responses.shape[0] * responses.shape[1])
    return cells.scatter(0, responses.cell_index_N, flat_N).view(responses.shape)


def _head(model: Any, output: Any, hidden_1CH: torch.Tensor) -> torch.Tensor:
    """Logits of these hidden states: the model's own forward pass, with the output of a decoder that has run already.

    This keeps every scale, soft cap and bias that an architecture applies to its logits. The head is called as a
    module, so the hooks run that gather its weight under ZeRO-3.
    """
    decoded = type(output)(**{**output, "last_hidden_state": hidden_1CH})
    return type(model).forward(_WithoutDecoder(model, decoded), logits_to_keep=0).logits


class _WithoutDecoder:
    """A causal LM whose decoder is replaced by one that has run already."""

    def __init__(self, model: Any, output: Any) -> None:
        self._model = model
        setattr(self, model.base_model_prefix, _Decoded(model.base_model, output))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


class _Decoded:
    """A decoder that has run already."""

    def __init__(self, decoder: Any, output: Any) -> None:
        self._decoder, self._output = decoder, output

    def __call__(self, *_: Any, **__: Any) -> Any:
        return self._output

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)
