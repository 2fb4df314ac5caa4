"""Micro-batches: padded on the left or packed into one row, limited by a token budget, equally many per rank.

Everything here is a pure function of its arguments, so every rank derives the same plan from the same sequences and
takes its own part without communication.
"""

from __future__ import annotations

import heapq
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
    """One forward pass over B sequences; R is the longest response.

    Padded: tokens_BT and positions_BT (int64) have one right-aligned row per sequence, and attention_mask_BT (int64) is
    0 on padding. Packed: they have one row with all sequences, positions start at 0 in each, and there is no mask.

    The response arrays have one right-aligned row per sequence in both forms. `index_B` is each sequence's place in the
    list that was batched; -1 marks a filler (weight 0, no gradient). `lengths_B` counts prompt and response.

    logit_index_N (int64) lists the places in the flattened tokens whose logits predict a response token, sequence by
    sequence, and cell_index_N (int64) the places of these tokens in the flattened [B, R].
    most_logits and most_cells are the largest N and B (R + 1) of all ranks in this round of micro-batches: ranks that
    divide their logits by these numbers call the head equally often.
    """

    tokens_BT: np.ndarray
    attention_mask_BT: np.ndarray | None
    positions_BT: np.ndarray
    response_mask_BR: np.ndarray
    behaviour_logprobs_BR: np.ndarray
    advantage_B: np.ndarray
    fresh_B: np.ndarray
    sampled_B: np.ndarray
    index_B: np.ndarray
    lengths_B: np.ndarray
    logit_index_N: np.ndarray
    cell_index_N: np.ndarray
    most_logits: int
    most_cells: int

    @property
    def response_width(self) -> int:
        return self.response_mask_BR.shape[1]

    @property
    def tokens(self) -> int:
        """Tokens without padding and filler."""
        return int(self.lengths_B[self.index_B >= 0].sum())

    @property
    def padded_tokens(self) -> int:
        return self.tokens_BT.size


def make_micro_batches(
    sequences: Sequence[TrainingSequence],
    tokens_per_micro_batch: int,
    rank: int,
    world_size: int,
    pad_token: int,
    *,
    packed: bool = False,
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
    lengths, responses = [len(s) for s in sequences], [len(s.response_tokens) for s in sequences]
    if packed:
        plan = plan_packed(lengths, tokens_per_micro_batch, world_size)
    else:
        plan = plan_rows(lengths, responses, tokens_per_micro_batch, world_size)
    shortest = min(range(len(sequences)), key=lambda i: (lengths[i], i))
    batches = []
    for start in range(0, len(plan), world_size):
        on_ranks = [rows or [shortest] for rows in plan[start : start + world_size]]
        most_logits = max(sum(responses[i] for i in rows) for rows in on_ranks)
        most_cells = max(len(rows) * (max(responses[i] for i in rows) + 1) for rows in on_ranks)
        index = plan[start + rank] or [-1]
        mine = [sequences[i] for i in on_ranks[rank]]
        batches.append(_micro_batch(mine, index, None if packed else pad_token, most_logits, most_cells))
    return batches


def plan_packed(lengths: Sequence[int], budget: int, world_size: int) -> list[list[int]]:
    """Sequences of each packed micro-batch, as `plan_rows`. Sizes are nearly equal, so round-robin balances the ranks.

    The longest sequence goes into the emptiest micro-batch, and so on; as few micro-batches as hold all of them.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    count = -(-sum(lengths) // (budget * world_size)) * world_size
    while True:
        plan: list[list[int]] = [[] for _ in range(count)]
        emptiest = [(0, j) for j in range(count)]  # a heap of (tokens, micro-batch)
        for i in order:
            used, j = emptiest[0]
            if used + lengths[i] > budget:
                break
            plan[j].append(i)
            heapq.heapreplace(emptiest, (used + lengths[i], j))
        else:
            return plan
        count += world_size


def plan_rows(lengths: Sequence[int], response_lengths: Sequence[int], budget: int, world_size: int) -> list[list[int]]:
    """Rows of each micro-batch; micro-batch j goes to rank j % world_size. An empty list is a filler.

    Sorting by length keeps padding low; adjacent micro-batches have nearly the same cost, so round-robin balances the
    ranks. If their number is not a multiple of the ranks, the largest are halved first, because splitting costs
    nothing and a filler does.
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


def _micro_batch(
    sequences: list[TrainingSequence], index: list[int], pad_token: int | None, most_logits: int, most_cells: int
) -> MicroBatch:
    """One micro-batch, packed if there is no `pad_token`."""
    filler = index[0] < 0
    lengths_B = np.array([len(s) for s in sequences], dtype=np.int64)
    responses_B = np.array([len(s.response_tokens) for s in sequences], dtype=np.int64)
    B, R = len(sequences), int(responses_B.max())
    cell_BR = np.arange(R) >= R - responses_B[:, None]
    behaviour_BR = np.zeros((B, R), dtype=np.float32)
    behaviour_BR[cell_BR] = np.concatenate([s.behaviour_logprobs for s in sequences])
    tokens = np.concatenate([part for s in sequences for part in (s.prompt_tokens, s.response_tokens)])
    positions = np.concatenate([np.arange(length) for length in lengths_B])
    if pad_token is None:
        mask_BT = None
        tokens_BT, positions_BT = tokens[None].astype(np.int64), positions[None]
        ends_B = lengths_B.cumsum()
    else:
        T = int(lengths_B.max())
        mask_BT = (np.arange(T) >= T - lengths_B[:, None]).astype(np.int64)
        tokens_BT, positions_BT = np.full((B, T), pad_token, dtype=np.int64), np.zeros((B, T), dtype=np.int64)
        tokens_BT[mask_BT == 1], positions_BT[mask_BT == 1] = tokens, positions
        ends_B = np.arange(1, B + 1) * T
    return MicroBatch(
        tokens_BT=tokens_BT,
        attention_mask_BT=mask_BT,
        positions_BT=positions_BT,
        response_mask_BR=cell_BR & (not filler),
        behaviour_logprobs_BR=behaviour_BR,
        advantage_B=np.array([0.0 if filler else s.advantage for s in sequences], dtype=np.float32),
        fresh_B=np.array([s.fresh and not filler for s in sequences], dtype=bool),
        sampled_B=np.array([s.sampled for s in sequences], dtype=bool),
        index_B=np.array(index, dtype=np.int64),
        lengths_B=lengths_B,
        logit_index_N=(ends_B[:, None] - 1 - R + np.arange(R))[cell_BR],
        cell_index_N=np.flatnonzero(cell_BR),
        most_logits=most_logits,
        most_cells=most_cells,
    )
