"""Micro-batches: nothing lost, nothing twice, ranks aligned, little padding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.batching import TrainingSequence, make_micro_batches, padding_share


def sequence(prompt: int, response: int, advantage: float = 1.0, fresh: bool = True) -> TrainingSequence:
    return TrainingSequence(
        prompt_tokens=np.arange(1, prompt + 1, dtype=np.int32),
        response_tokens=np.arange(100, 100 + response, dtype=np.int32),
        behaviour_logprobs=np.linspace(-3, -1, response, dtype=np.float32),
        advantage=advantage,
        fresh=fresh,
    )


lengths = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(lengths=lengths, world_size=st.integers(1, 5), budget=st.integers(24, 90))
def test_every_sequence_once_and_ranks_aligned(lengths: list[tuple[int, int]], world_size: int, budget: int) -> None:
    sequences = [sequence(p, r, advantage=i + 1.0) for i, (p, r) in enumerate(lengths)]
    ranks = [make_micro_batches(sequences, budget, r, world_size, 0) for r in range(world_size)]
    assert len({len(batches) for batches in ranks}) == 1
    seen: list[int] = []
    for batch in (b for batches in ranks for b in batches):
        assert batch.padded_tokens <= budget
        for row, index in enumerate(batch.index_B):
            if index < 0:
                assert batch.advantage_B[row] == 0 and not batch.response_mask_BR[row].any()
                continue
            s, mask_R = sequences[index], batch.response_mask_BR[row]
            assert batch.advantage_B[row] == s.advantage
            np.testing.assert_array_equal(batch.behaviour_logprobs_BR[row][mask_R], s.behaviour_logprobs)
            np.testing.assert_array_equal(batch.tokens_BT[row, -batch.response_width :][mask_R], s.response_tokens)
            assert batch.attention_mask_BT is not None
            valid_T = batch.attention_mask_BT[row].astype(bool)
            np.testing.assert_array_equal(
                batch.tokens_BT[row][valid_T], np.concatenate([s.prompt_tokens, s.response_tokens])
            )
            np.testing.assert_array_equal(batch.positions_BT[row][valid_T], np.arange(len(s)))
            seen.append(int(index))
    assert sorted(seen) == list(range(len(sequences)))
    assert sum(b.tokens for batches in ranks for b in batches) == sum(len(s) for s in sequences)


@settings(max_examples=60, deadline=None)
@given(lengths=lengths, world_size=st.integers(1, 5), budget=st.integers(24, 90))
def test_packed_sequences_once_and_in_one_row(lengths: list[tuple[int, int]], world_size: int, budget: int) -> None:
    sequences = [sequence(p, r, advantage=i + 1.0) for i, (p, r) in enumerate(lengths)]
    ranks = [make_micro_batches(sequences, budget, r, world_size, 0, packed=True) for r in range(world_size)]
    assert len({len(batches) for batches in ranks}) == 1
    seen: list[int] = []
    for batch in (b for batches in ranks for b in batches):
        assert batch.attention_mask_BT is None and batch.tokens_BT.shape[0] == 1 and batch.padded_tokens <= budget
        ends = batch.lengths_B.cumsum()
        for row, (index, end) in enumerate(zip(batch.index_B, ends, strict=True)):
            if index < 0:
                assert not batch.response_mask_BR.any() and not batch.tokens
                continue
            s, place = sequences[index], slice(end - batch.lengths_B[row], end)
            np.testing.assert_array_equal(
                batch.tokens_BT[0, place], np.concatenate([s.prompt_tokens, s.response_tokens])
            )
            np.testing.assert_array_equal(batch.positions_BT[0, place], np.arange(len(s)))
            mask_R = batch.response_mask_BR[row]
            np.testing.assert_array_equal(batch.behaviour_logprobs_BR[row][mask_R], s.behaviour_logprobs)
            seen.append(int(index))
    assert sorted(seen) == list(range(len(sequences)))


@pytest.mark.parametrize("packed", [False, True])
def test_logits_predict_the_response_tokens(packed: bool) -> None:
    sequences = [sequence(p, r) for p, r in [(3, 5), (1, 1), (6, 2), (2, 9)]]
    for world_size in (1, 3):
        rounds = zip(
            *(make_micro_batches(sequences, 24, r, world_size, 0, packed=packed) for r in range(world_size)),
            strict=True,
        )
        for batches in rounds:
            assert {b.most_logits for b in batches} == {max(len(b.logit_index_N) for b in batches)}
            assert {b.most_cells for b in batches} == {max(len(b.index_B) * (b.response_width + 1) for b in batches)}
            for b in batches:
                cells = np.zeros(b.response_mask_BR.shape, np.int64)
                cells.flat[b.cell_index_N] = b.tokens_BT.ravel()[b.logit_index_N + 1]
                for row, index in enumerate(b.index_B):
                    if index >= 0:
                        expected = sequences[index].response_tokens
                        np.testing.assert_array_equal(cells[row, b.response_mask_BR[row]], expected)


def test_packed_micro_batches_are_few_and_balanced() -> None:
    sequences = [sequence(p, r) for p, r in zip(range(1, 41), range(80, 0, -2), strict=True)]
    total = sum(map(len, sequences))
    ranks = [make_micro_batches(sequences, total // 3, r, 2, 0, packed=True) for r in range(2)]
    sizes = [b.tokens for batches in ranks for b in batches]
    assert len(sizes) == 4 and max(sizes) - min(sizes) <= 10
    assert padding_share([b for batches in ranks for b in batches]) == 0.0


def test_fillers_only_when_work_cannot_be_split() -> None:
    ranks = [make_micro_batches([sequence(3, 3)] * 4, 100, r, 3, 0) for r in range(3)]
    assert all(len(b) == 1 and (b[0].index_B >= 0).all() for b in ranks), "one batch of 4 splits into 3 ranks"
    ranks = [make_micro_batches([sequence(3, 3)], 100, r, 3, 0) for r in range(3)]
    assert [int(b[0].index_B[0]) for b in ranks] == [0, -1, -1]


def test_sorting_keeps_padding_low() -> None:
    rng = np.random.default_rng(0)
    sequences = [sequence(int(rng.integers(10, 60)), int(rng.integers(5, 200))) for _ in range(256)]
    batches = make_micro_batches(sequences, 4096, 0, 1, 0)
    assert padding_share(batches) < 0.09
    assert padding_share([]) == 0.0


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (sequence(20, 20), r"sequence 1 has 40 tokens.*learner\.tokens_per_micro_batch = 32"),
        (sequence(3, 0), "sequence 1 has an empty"),
        (sequence(0, 3), "sequence 1 has an empty"),
        (
            TrainingSequence(np.ones(2, np.int32), np.ones(3, np.int32), np.zeros(2, np.float32), 1.0),
            "3 response tokens but 2",
        ),
    ],
)
def test_bad_sequences_are_named(bad: TrainingSequence, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_micro_batches([sequence(3, 3), bad], 32, 0, 1, 0)


def test_bad_rank() -> None:
    with pytest.raises(ValueError, match="rank"):
        make_micro_batches([sequence(3, 3)], 32, 2, 2, 0)
    assert make_micro_batches([], 32, 0, 2, 0) == []
