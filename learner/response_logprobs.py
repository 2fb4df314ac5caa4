"""Log-probabilities and entropies of the response tokens of a micro-batch, from few logits at a time.

The logits of a large vocabulary take more memory than all else in a forward pass. So the head is applied to chunks of
positions, and each chunk is recomputed in the backward pass (learner/chunked_head.py). Where the float32 logits of all
positions fit into one chunk, they are computed at once, as in plain transformers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from learner.chunked_head import Product, Scores, Scoring, head_scores
from learner.losses import LogitPasses, token_logprobs


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


def return_logprobs(model: Any, chunk_bytes: int | None, passes: LogitPasses = LogitPasses()) -> None:
    """Make `model(...)` return what `_forward` does, instead of logits. The model stays the same module.

    Args:
        chunk_bytes: of the float32 logits that are computed at once. None: of all positions.
        passes: over these logits.

    Raises:
        ValueError: the output head is not a linear layer.
    """
    head = model.get_output_embeddings()
    if type(head) is not torch.nn.Linear:
        raise ValueError(f"model.path: the output head of {type(model).__name__} is not a linear layer, but {head}")
    head.forward = partial(_head_forward, head, head.forward)  # type: ignore[method-assign]
    model.forward = partial(_forward, model, model.forward, chunk_bytes, passes)


def _head_forward(
    head: torch.nn.Linear, linear: Callable[..., Any], hidden: torch.Tensor, *, scoring: Scoring | None = None
) -> Any:
    """Scores of hidden states [N, H], or logits without a `scoring`.

    All chunks are one call of the module, so that hooks gather its weight under ZeRO-3 once in each direction.
    """
    return linear(hidden) if scoring is None else head_scores(head, hidden, scoring)


def _forward(
    model: Any,
    full_forward: Callable[..., Any],
    chunk_bytes: int | None,
    passes: LogitPasses,
    *,
    input_ids: torch.Tensor,
    responses: ResponseTokens,
    temperature: float,
    with_entropy: bool,
    **inputs: Any,
) -> Scores:
    """Log-probabilities and, with `with_entropy`, entropies float32[B, R] of the response tokens; 0 elsewhere if the
    logits were computed in chunks or from bfloat16.
    """
    head = model.get_output_embeddings()
    rows = max(1, chunk_bytes // (4 * model.config.get_text_config().vocab_size)) if chunk_bytes else None
    fits = rows is None or responses.most_cells <= rows
    if fits and not responses.packed and head.weight.dtype == torch.float32:
        width = responses.shape[1]
        output = full_forward(input_ids=input_ids, logits_to_keep=width + 1, use_cache=False, **inputs)
        return token_logprobs(output.logits[:, :-1], input_ids[:, -width:], temperature, with_entropy=with_entropy)
    output = model.base_model(input_ids=input_ids, use_cache=False, **inputs)
    index_N = responses.logit_index_N
    hidden_NH = output[0].flatten(0, 1).index_select(0, index_N)
    tokens_N = input_ids.flatten()[index_N + 1]
    sizes = chunk_sizes(len(index_N), -(-responses.most_logits // rows) if rows else 1)
    scoring = Scoring(tokens_N, sizes, partial(_logits, model, output, head), temperature, with_entropy, passes)
    logprobs_N, entropies_N = head(hidden_NH, scoring=scoring)
    return _to_rows(logprobs_N, responses), _to_rows(entropies_N, responses) if with_entropy else None


def chunk_sizes(total: int, chunks: int) -> list[int]:
    """Exactly `chunks` sizes, equal within one; 0 for the last chunks of a rank with few positions."""
    return [total // chunks + (i < total % chunks) for i in range(chunks)]


def _to_rows(flat_N: torch.Tensor, responses: ResponseTokens) -> torch.Tensor:
    cells = flat_N.new_zeros(responses.shape[0] * responses.shape[1])
    return cells.scatter(0, responses.cell_index_N, flat_N).view(responses.shape)


def _logits(model: Any, output: Any, head: torch.nn.Linear, hidden_CH: torch.Tensor, product: Product) -> torch.Tensor:
    """Logits [C, V] of these hidden states: the model's own forward pass, with the output of a decoder that has run
    already, and with `product` for the head.

    This keeps every scale, soft cap and bias that an architecture applies to its logits.
    """
    decoded = type(output)(**{**output, "last_hidden_state": hidden_CH.unsqueeze(0)})
    return type(model).forward(_OnlyHead(model, decoded, head, product), logits_to_keep=0).logits[0]


class _OnlyHead:
    """A causal LM whose decoder is replaced by its output, and whose head by a product with its weight."""

    def __init__(self, model: Any, output: Any, head: torch.nn.Linear, product: Product) -> None:
        self._model = model
        setattr(self, model.base_model_prefix, _Replaced(model.base_model, lambda *_, **__: output))
        name = next(name for name, child in model.named_children() if child is head)
        setattr(self, name, _Replaced(head, product))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


class _Replaced:
    """A module with another forward pass."""

    def __init__(self, module: torch.nn.Module, forward: Callable[..., Any]) -> None:
        self._module, self._forward = module, forward

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self._forward(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)
