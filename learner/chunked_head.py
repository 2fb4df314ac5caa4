"""Log-probabilities and entropies from the output head, in chunks of positions, as one function for autograd.

On GPUs, products of bfloat16 weights have float32 results: rounded logits would add to the gap between learner and
sampler. On CPUs both sides round them, because there is no fast product with float32 results (docs/staleness.md). The
head's gradient is summed over the chunks in float32 and rounded once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from learner.losses import ChunkLogprobs

Scores = tuple[torch.Tensor, torch.Tensor | None]  # log-probabilities, entropies
Product = Callable[[torch.Tensor], torch.Tensor]  # of the head with hidden states [..., H]: logits [..., V]

_BLOCK = 1 << 24  # elements of the head's gradient that are computed at once in float32, 64 MiB


@dataclass(frozen=True)
class Scoring:
    """What to compute. sizes: of the chunks. logits: the model's, of hidden states [C, H] by a product with the head.
    temperature, with_entropy: as for `learner.losses.token_logprobs`.
    """

    tokens_N: torch.Tensor
    sizes: list[int]
    logits: Callable[[torch.Tensor, Product], torch.Tensor]
    temperature: float
    with_entropy: bool


def head_scores(head: torch.nn.Linear, hidden_NH: torch.Tensor, scoring: Scoring) -> Scores:
    """Log-probabilities and entropies float32[N]. To be called while the head's weight is whole."""
    return _ChunkedScores.apply(hidden_NH, head.weight, head.bias, scoring)


class _ChunkedScores(torch.autograd.Function):
    """A single chunk keeps its logits for the backward pass; more than one are computed again."""

    @staticmethod
    def forward(
        ctx: Any, hidden_NH: torch.Tensor, weight_VH: torch.Tensor, bias_V: torch.Tensor | None, scoring: Scoring
    ) -> Scores:
        ctx.save_for_backward(hidden_NH, weight_VH, bias_V)
        ctx.scoring, ctx.single = scoring, None
        if len(scoring.sizes) == 1 and any(ctx.needs_input_grad):
            ctx.single = _with_graph(hidden_NH, scoring.tokens_N, weight_VH, bias_V, scoring, _sums(ctx))
            logprobs_N, entropies_N = ctx.single[1]
            return logprobs_N.detach(), None if entropies_N is None else entropies_N.detach()
        chunks = zip(hidden_NH.split(scoring.sizes), scoring.tokens_N.split(scoring.sizes), strict=True)
        found = [_score(*chunk, weight_VH, bias_V, scoring, None) for chunk in chunks]
        logprobs, entropies = zip(*found, strict=True)
        return torch.cat(logprobs), torch.cat(entropies) if scoring.with_entropy else None

    @staticmethod
    def backward(ctx: Any, grad_N: torch.Tensor, grad_entropy_N: Any) -> tuple[Any, Any, Any, None]:
        hidden_NH, weight_VH, bias_V = ctx.saved_tensors
        scoring, sums = ctx.scoring, _sums(ctx) if ctx.single is None else ctx.single[2]
        grad_entropy_N = grad_N if grad_entropy_N is None else grad_entropy_N  # unused
        parts = zip(
            *(x.split(scoring.sizes) for x in (hidden_NH, scoring.tokens_N, grad_N, grad_entropy_N)), strict=True
        )
        grad_hidden: list[torch.Tensor] = []
        for hidden_CH, tokens_C, *grads in reversed(list(parts)):
            graph = ctx.single or _with_graph(hidden_CH, tokens_C, weight_VH, bias_V, scoring, sums)
            outputs = [s for s in graph[1] if s is not None]
            grad_hidden += torch.autograd.grad(outputs, graph[0], grads[: len(outputs)])
        ctx.single = None
        return torch.cat(grad_hidden[::-1]), *sums.totals(weight_VH, bias_V), None


class _Sums:
    """The gradients of weight and bias over the chunks, of those that are wanted."""

    def __init__(self, weight: bool, bias: bool, exact: bool) -> None:
        self._wanted, self._exact = (weight, bias), exact
        self._weight: torch.Tensor | None = None
        self._bias: torch.Tensor | None = None

    def add(self, gradient_CV: torch.Tensor, hidden_CH: torch.Tensor) -> None:
        """Of a chunk. `exact`: in float32, from bfloat16 a block of the vocabulary at a time, to bound the memory."""
        if self._wanted[1]:
            bias_V = gradient_CV.float().sum(0)
            self._bias = bias_V if self._bias is None else self._bias.add_(bias_V)
        if not self._wanted[0]:
            return
        if not self._exact or gradient_CV.dtype == torch.float32:
            weight_VH = gradient_CV.t().mm(hidden_CH)
            self._weight = weight_VH if self._weight is None else self._weight.add_(weight_VH)
            return
        V, H = gradient_CV.shape[1], hidden_CH.shape[1]
        if self._weight is None:
            self._weight = torch.zeros(V, H, dtype=torch.float32, device=hidden_CH.device)
        step = max(1, _BLOCK // H)
        for total, block in zip(self._weight.split(step), gradient_CV.split(step, dim=1), strict=True):
            total.add_(_product(block.t(), hidden_CH))

    def totals(self, weight_VH: torch.Tensor, bias_V: torch.Tensor | None) -> tuple[Any, Any]:
        """In the types of the parameters; None for what is not wanted."""
        weight = None if self._weight is None else self._weight.to(weight_VH.dtype)
        return weight, None if self._bias is None or bias_V is None else self._bias.to(bias_V.dtype)


def _sums(ctx: Any) -> _Sums:
    _, weight, bias, _ = ctx.needs_input_grad
    return _Sums(weight, bias, exact=len(ctx.scoring.sizes) > 1)


class _Head(torch.autograd.Function):
    """hidden_CH @ weight.T + bias as float32[C, V]. The gradients of weight and bias go to `sums`."""

    @staticmethod
    def forward(
        ctx: Any, hidden_CH: torch.Tensor, weight_VH: torch.Tensor, bias_V: torch.Tensor | None, sums: _Sums | None
    ) -> torch.Tensor:
        ctx.save_for_backward(hidden_CH, weight_VH)
        ctx.sums = sums
        if weight_VH.dtype == torch.float32 or not weight_VH.is_cuda:
            return torch.nn.functional.linear(hidden_CH, weight_VH, bias_V).float()
        logits_CV = _product(hidden_CH, weight_VH.t())
        return logits_CV if bias_V is None else logits_CV.add_(bias_V)

    @staticmethod
    def backward(ctx: Any, grad_CV: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        hidden_CH, weight_VH = ctx.saved_tensors
        grad_CV = grad_CV.to(hidden_CH.dtype)
        ctx.sums.add(grad_CV, hidden_CH)
        return grad_CV.mm(weight_VH), None, None, None


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Matrix product in float32, without a float32 copy of the factors on a GPU."""
    return torch.mm(a, b, out_dtype=torch.float32) if a.is_cuda else a.float().mm(b.float())


def _score(
    hidden_CH: torch.Tensor,
    tokens_C: torch.Tensor,
    weight_VH: torch.Tensor,
    bias_V: torch.Tensor | None,
    scoring: Scoring,
    sums: _Sums | None,
) -> Scores:
    def product(hidden: torch.Tensor) -> torch.Tensor:
        logits_CV = _Head.apply(hidden.flatten(0, -2), weight_VH, bias_V, sums)
        return logits_CV.view(*hidden.shape[:-1], len(weight_VH))

    logits_CV = scoring.logits(hidden_CH, product)
    return ChunkLogprobs.apply(logits_CV, tokens_C, scoring.temperature, scoring.with_entropy)


def _with_graph(
    hidden_CH: torch.Tensor,
    tokens_C: torch.Tensor,
    weight_VH: torch.Tensor,
    bias_V: torch.Tensor | None,
    scoring: Scoring,
    sums: _Sums,
) -> tuple[torch.Tensor, Scores, _Sums]:
    """(hidden states that are the leaf of a graph, the scores at its end, where gradients of the head are summed)."""
    leaf_CH = hidden_CH.detach().requires_grad_()
    bias_V = None if bias_V is None else bias_V.detach()
    with torch.enable_grad():
        return leaf_CH, _score(leaf_CH, tokens_C, weight_VH.detach(), bias_V, scoring, sums), sums
