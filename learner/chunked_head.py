"""Log-probabilities and entropies from the output head, in chunks of positions, as one function for autograd.

On GPUs, products of bfloat16 weights have float32 results: rounded logits would add to the gap between learner and
sampler. On CPUs both sides round them, because there is no fast product with float32 results (docs/staleness.md). The
head's gradient is summed over the chunks in float32 and rounded once.

The logits of a large vocabulary take longer to read and write than the products with the head take to compute. So each
pass over them counts, and with `learner.torch_compile` each of `LogitPasses` is one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from learner.losses import ChunkLogprobs, ChunkScores, LogitPasses

Scores = tuple[torch.Tensor, torch.Tensor | None]  # log-probabilities, entropies
Product = Callable[[torch.Tensor], torch.Tensor]  # of the head with hidden states [..., H]: logits [..., V]

_BLOCK = 1 << 24  # elements of the head's gradient that are computed at once in float32 on a CPU, 64 MiB


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
    passes: LogitPasses


def head_scores(head: torch.nn.Linear, hidden_NH: torch.Tensor, scoring: Scoring) -> Scores:
    """Log-probabilities and entropies float32[N]. To be called while the head's weight is whole."""
    return _ChunkedScores.apply(hidden_NH, head.weight, head.bias, scoring)


class _ChunkedScores(torch.autograd.Function):
    """The backward pass needs the logits: a single chunk keeps them, and those of several are computed again.

    A frozen head needs neither if no entropies are wanted. Each log-probability depends on one hidden state, so the
    forward pass computes its gradient by that state (the slope), and the backward pass multiplies it with a number.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden_NH: torch.Tensor, weight_VH: torch.Tensor, bias_V: torch.Tensor | None, scoring: Scoring
    ) -> Scores:
        ctx.scoring, ctx.single, ctx.scores = scoring, None, []
        hidden, weight, bias, _ = ctx.needs_input_grad
        ctx.frozen = hidden and not (weight or bias or scoring.with_entropy)
        chunks = zip(hidden_NH.split(scoring.sizes), scoring.tokens_N.split(scoring.sizes), strict=True)
        if ctx.frozen:
            found = [_with_slope(*chunk, weight_VH, bias_V, scoring) for chunk in chunks]
            logprobs, slopes = zip(*found, strict=True)
            ctx.save_for_backward(torch.cat(slopes))
            return torch.cat(logprobs), None
        ctx.save_for_backward(hidden_NH, weight_VH, bias_V)
        if len(scoring.sizes) == 1 and any(ctx.needs_input_grad):
            ctx.single = _with_graph(hidden_NH, scoring.tokens_N, weight_VH, bias_V, scoring, _sums(ctx))
            logprobs_N, entropies_N = ctx.single[1]
            return logprobs_N.detach(), None if entropies_N is None else entropies_N.detach()
        for hidden_CH, tokens_C in chunks:
            logits_CV = _logits(hidden_CH, weight_VH, bias_V, scoring, None)
            ctx.scores.append(scoring.passes.scores(logits_CV, tokens_C, scoring.temperature, scoring.with_entropy))
        logprobs, _, entropies = zip(*ctx.scores, strict=True)
        return torch.cat(logprobs), torch.cat(entropies) if scoring.with_entropy else None

    @staticmethod
    def backward(ctx: Any, grad_N: torch.Tensor, grad_entropy_N: Any) -> tuple[Any, Any, Any, None]:
        if ctx.frozen:
            (slope_NH,) = ctx.saved_tensors
            return (grad_N.unsqueeze(1) * slope_NH).to(slope_NH.dtype), None, None, None
        hidden_NH, weight_VH, bias_V = ctx.saved_tensors
        scoring, sums = ctx.scoring, _sums(ctx) if ctx.single is None else ctx.single[2]
        grad_entropy_N = grad_N if grad_entropy_N is None else grad_entropy_N  # unused
        parts = zip(
            *(x.split(scoring.sizes) for x in (hidden_NH, scoring.tokens_N, grad_N, grad_entropy_N)),
            ctx.scores or [None],
            strict=True,
        )
        grad_hidden: list[torch.Tensor] = []
        for hidden_CH, tokens_C, grad_C, grad_entropy_C, scores in reversed(list(parts)):
            graph = ctx.single or _with_graph(hidden_CH, tokens_C, weight_VH, bias_V, scoring, sums, scores)
            outputs = [s for s in graph[1] if s is not None]
            grad_hidden += torch.autograd.grad(outputs, graph[0], (grad_C, grad_entropy_C)[: len(outputs)])
        ctx.single = None
        return torch.cat(grad_hidden[::-1]), *sums.totals(weight_VH, bias_V), None


class _Sums:
    """The gradients of weight and bias over the chunks, of those that are wanted."""

    def __init__(self, weight: bool, bias: bool, exact: bool) -> None:
        self._wanted, self._exact = (weight, bias), exact
        self._weight: torch.Tensor | None = None
        self._bias: torch.Tensor | None = None

    def add(self, gradient_CV: torch.Tensor, hidden_CH: torch.Tensor) -> None:
        """Add the gradients of a chunk; with `exact`, products of bfloat16 factors are added in float32."""
        if self._wanted[1]:
            bias_V = gradient_CV.float().sum(0)
            self._bias = bias_V if self._bias is None else self._bias.add_(bias_V)
        if not self._wanted[0]:
            return
        exact = self._exact and gradient_CV.dtype != torch.float32
        if self._weight is None and not exact:
            self._weight = gradient_CV.t().mm(hidden_CH)
            return
        if self._weight is None:
            shape = gradient_CV.shape[1], hidden_CH.shape[1]
            self._weight = torch.zeros(shape, dtype=torch.float32, device=hidden_CH.device)
        _add_product(self._weight, gradient_CV.t(), hidden_CH)

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


def _add_product(total_VH: torch.Tensor, a_VC: torch.Tensor, b_CH: torch.Tensor) -> None:
    """Add a @ b to the total, whose type may be float32 where that of the factors is not."""
    if total_VH.dtype == a_VC.dtype:
        total_VH.addmm_(a_VC, b_CH)
    elif total_VH.is_cuda:
        torch.addmm(total_VH, a_VC, b_CH, out_dtype=torch.float32, out=total_VH)
    else:  # a block of the vocabulary at a time, to bound the memory of the float32 copies
        step = max(1, _BLOCK // b_CH.shape[1])
        for total, block in zip(total_VH.split(step), a_VC.split(step), strict=True):
            total.add_(_product(block, b_CH))


def _logits(
    hidden_CH: torch.Tensor,
    weight_VH: torch.Tensor,
    bias_V: torch.Tensor | None,
    scoring: Scoring,
    sums: _Sums | None,
) -> torch.Tensor:
    def product(hidden: torch.Tensor) -> torch.Tensor:
        logits_CV = _Head.apply(hidden.flatten(0, -2), weight_VH, bias_V, sums)
        return logits_CV.view(*hidden.shape[:-1], len(weight_VH))

    return scoring.logits(hidden_CH, product)


def _with_graph(
    hidden_CH: torch.Tensor,
    tokens_C: torch.Tensor,
    weight_VH: torch.Tensor,
    bias_V: torch.Tensor | None,
    scoring: Scoring,
    sums: _Sums,
    known: ChunkScores | None = None,
) -> tuple[torch.Tensor, Scores, _Sums]:
    """(hidden states that are the leaf of a graph, the scores at its end, where gradients of the head are summed).

    known: the scores, if they have been computed before.
    """
    leaf_CH = hidden_CH.detach().requires_grad_()
    bias_V = None if bias_V is None else bias_V.detach()
    with torch.enable_grad():
        logits_CV = _logits(leaf_CH, weight_VH.detach(), bias_V, scoring, sums)
        scores = ChunkLogprobs.apply(
            logits_CV, tokens_C, scoring.temperature, scoring.with_entropy, scoring.passes, known
        )
    return leaf_CH, scores, sums


def _with_slope(
    hidden_CH: torch.Tensor,
    tokens_C: torch.Tensor,
    weight_VH: torch.Tensor,
    bias_V: torch.Tensor | None,
    scoring: Scoring,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities float32[C], and the gradient of each by its hidden state [C, H]."""
    nothing = _Sums(weight=False, bias=False, exact=False)
    leaf_CH, (logprobs_C, _), _ = _with_graph(hidden_CH, tokens_C, weight_VH, bias_V, scoring, nothing)
    (slope_CH,) = torch.autograd.grad(logprobs_C, leaf_CH, torch.ones_like(logprobs_C))
    return logprobs_C.detach(), slope_CH
