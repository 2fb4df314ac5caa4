"""Micro-batches: sorted by length, padded on the left, limited by a token budget, equally many per rank.

Everything here is a pure function of its arguments, so every rank derives the same plan from the same sequences and
takes its own part without communication.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MAX_PADDING = 0.05  # share of padding at which a micro-batch is closed early ...
MIN_ROWS = 12  # ... unless it has so few rows that another forward pass costs more than the padding


@dataclass(frozen=True, slots=True, eq=False)
class TrainingSequence:
    """A prompt, one response, and what the loss needs.

    prompt_tokens int32[T_prompt] (at least 1), response_tokens int32[R] (at least 1).
    behaviour_logprobs float32[R]: nats, under the distribution that sampled them (temperature included).
    advantage: in the sum convention. fresh: all tokens were sampled under the learner's current weights. sampled: drawn
    from the policy; False for a demonstration.
    """

    prompt_tokens: np.ndarray
    response_tokens: np.ndarray
    behaviour_logprobs: np.ndarray
    advantage: float
    fresh: bool = True
    sampled: bool = True

    def __len__(self) -> int:
        return len(self.prompt_tokens) + len(self.response_tokens)


@dataclass(frozen=True, slots=True, eq=False)
class MicroBatch:
    """One forward pass. The sequences are right-aligned; R is the longest response.

    tokens_BT, attention_mask_BT and positions_BT are int64. The response arrays are right-aligned as well:
    column j of *_BR belongs to token T - R + j, which the logits at position T - R + j - 1 predict.
    `index_B` is each row's place in the list that was batched; -1 marks a filler row (weight 0, no gradient).
    """

    tokens_BT: np.ndarray
    attention_mask_BT: np.ndarray
    positions_BT: np.ndarray
    response_mask_BR: np.ndarray
    behaviour_logprobs_BR: np.ndarray
    advantage_B: np.ndarray
    fresh_B: np.ndarray
    sampled_B: np.ndarray
    index_B: np.ndarray

    @property
    def response_width(self) -> int:
        return self.response_mask_BR.shape[1]

    @property
    def tokens(self) -> int:
        """Tokens without padding and filler."""
        return int(self.attention_mask_BT[self.index_B >= 0].sum())

    @property
    def padded_tokens(self) -> int:
        return self.tokens_BT.size


def make_micro_batches(
    sequences: Sequence[TrainingSequence], tokens_per_micro_batch: int, rank: int, world_size: int, pad_token: int
) -> list[MicroBatch]:
    """The micro-batches of one rank. Every rank gets the same number, so that ZeRO's collectives stay aligned.

    A rank without work gets the shortest sequence as a filler of weight 0. Raises ValueError if a sequence is longer
    than the budget or has no prompt or no response.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be in 0..{world_size - 1}, got {rank}")
    if not sequences:
        return []
    _check(sequences, tokens_per_micro_batch)
    plan = plan_rows(
        [len(s) for s in sequences],
        [len(s.response_tokens) for s in sequences],
        tokens_per_micro_batch,
        world_size,
    )
    shortest = min(range(len(sequences)), key=lambda i: (len(sequences[i]), i))
    batches = []
    for rows in plan[rank::world_size]:
        filler = not rows
        batches.append(_pad([sequences[i] for i in (rows or [shortest])], rows or [-1], pad_token, filler))
    return batches


def plan_rows(lengths: Sequence[int], response_lengths: Sequence[int], budget: int, world_size: int) -> list[list[int]]:
    """Rows of each micro-batch; micro-batch j goes to rank j % world_size. An empty list is a filler.

    Sorting by length keeps padding low; adjacent micro-batches have nearly the same cost, so round-robin balances the
    ranks. If their number is not a multiple of the ranks, the largest are halved first: splitting is free, a filler is
    not.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], -response_lengths[i], i))
    plan: list[list[int]] = []
    used = 0  # tokens in the micro-batch being filled
    for i in order:
        if plan and _has_room(plan[-1], lengths, used, lengths[i], budget):
            plan[-1].append(i)
            used += lengths[i]
        else:
            plan.append([i])
            used = lengths[i]
    while len(plan) % world_size:
        # The first of the largest by padded size; one row cannot be halved.
        sizes = [len(rows) * lengths[rows[0]] if len(rows) > 1 else 0 for rows in plan]
        largest = int(np.argmax(sizes))
        rows = plan[largest]
        if len(rows) < 2:
            plan.append([])
            continue
        half = (len(rows) + 1) // 2
        plan[largest : largest + 1] = [rows[:half], rows[half:]]
    return plan


def _has_room(rows: list[int], lengths: Sequence[int], used: int, length: int, budget: int) -> bool:
    """Whether one more row fits the token budget and does not add too much padding."""
    padded = (len(rows) + 1) * lengths[rows[0]]  # the first row is the longest, so it sets the width
    if padded > budget:
        return False
    return len(rows) < MIN_ROWS or padded - used - length <= MAX_PADDING * padded


def padding_share(batches: Sequence[MicroBatch]) -> float:
    """Share of the processed tokens that is padding or filler, in [0, 1]."""
    total = sum(b.padded_tokens for b in batches)
    return 1.0 - sum(b.tokens for b in batches) / total if total else 0.0


def _check(sequences: Sequence[TrainingSequence], budget: int) -> None:
    for i, s in enumerate(sequences):
        if not len(s.prompt_tokens) or not len(s.response_tokens):
            raise ValueError(f"sequence {i} has an empty prompt or response; both need at least one token")
        if len(s.behaviour_logprobs) != len(s.response_tokens):
            raise ValueError(
                f"sequence {i} has {len(s.response_tokens)} response tokens but {len(s.behaviour_logprobs)} "
                "behavior log-probabilities"
            )
        if len(s) > budget:
            raise ValueError(
                f"sequence {i} has {len(s)} tokens, more than learner.tokens_per_micro_batch = {budget}; raise it to "
                "at least rollout.max_prompt_tokens + rollout.max_response_tokens"
            )


def _pad(sequences: list[TrainingSequence], rows: list[int], pad_token: int, filler: bool) -> MicroBatch:
    B, T = len(sequences), max(len(s) for s in sequences)
    R = max(len(s.response_tokens) for s in sequences)
    tokens_BT = np.full((B, T), pad_token, dtype=np.int64)
    attention_mask_BT = np.zeros((B, T), dtype=np.int64)
    response_mask_BR = np.zeros((B, R), dtype=bool)
    behaviour_BR = np.zeros((B, R), dtype=np.float32)
    for b, s in enumerate(sequences):
        r = len(s.response_tokens)
        tokens_BT[b, T - len(s) : T - r] = s.prompt_tokens
        tokens_BT[b, T - r :] = s.response_tokens
        attention_mask_BT[b, T - len(s) :] = 1
        response_mask_BR[b, R - r :] = not filler
        behaviour_BR[b, R - r :] = s.behaviour_logprobs
    return MicroBatch(
        tokens_BT=tokens_BT,
        attention_mask_BT=attention_mask_BT,
        positions_BT=np.maximum(attention_mask_BT.cumsum(axis=1) - 1, 0),
        response_mask_BR=response_mask_BR,
        behaviour_logprobs_BR=behaviour_BR,
        advantage_B=np.array([0.0 if filler else s.advantage for s in sequences], dtype=np.float32),
        fresh_B=np.array([s.fresh and not filler for s in sequences], dtype=bool),
        sampled_B=np.array([s.sampled for s in sequences], dtype=bool),
        index_B=np.array(rows, dtype=np.int64),
    )
