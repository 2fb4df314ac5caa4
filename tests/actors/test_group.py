"""The Arrow group: nothing is lost on the way through Ray, Parquet and back, and other schema versions are refused."""

import pickle
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.group import GROUP_SCHEMA, Group, GroupError
from actors.queue.group_log import read_groups, write_groups
from actors.queue.prompt_stream import PromptStream, sampling_seed
from actors.sampling import Sampling


def make_group(lengths=(3, 0, 5), graded=True, sequence=7) -> Group:
    rng = np.random.default_rng(0)
    n = len(lengths)
    group = Group(
        sequence=sequence,
        epoch=1,
        prompt_id="train/3",
        level="hard",
        prompt_tokens=np.array([1, 5, 9], np.int32),
        admitted_version=4,
        sampler="sampler-0",
        seed=123,
        temperature=1.0,
        sample_seconds=0.5,
        response_tokens=[rng.integers(0, 50, length).astype(np.int32) for length in lengths],
        behaviour_logprobs=[-rng.random(length).astype(np.float32) for length in lengths],
        token_versions=[np.linspace(4, 5, length).astype(np.int32) for length in lengths],
        finish_reason=["stop"] * n,
    )
    if not graded:
        return group
    return group.with_grades(
        np.arange(n, dtype=float), np.ones(n), ["correct"] * n, [None] * n, np.zeros(n, np.float32)
    )


def assert_same(a: Group, b: Group) -> None:
    assert (a.sequence, a.prompt_id, a.n, a.verdict, a.answer) == (b.sequence, b.prompt_id, b.n, b.verdict, b.answer)
    for x, y in zip(a.response_tokens, b.response_tokens, strict=True):
        np.testing.assert_array_equal(x, y)
        assert y.dtype == np.int32
    for name in ("behaviour_logprobs", "token_versions"):
        for x, y in zip(getattr(a, name), getattr(b, name), strict=True):
            np.testing.assert_array_equal(x, y)
    assert (a.oldest_version, a.newest_version) == (b.oldest_version, b.newest_version)
    if a.reward is not None:
        np.testing.assert_array_equal(a.reward, b.reward)


@given(lengths=st.lists(st.integers(0, 6), min_size=1, max_size=5), graded=st.booleans())
def test_round_trip_through_arrow_and_pickle(lengths, graded):
    group = make_group(lengths, graded)
    batch = pickle.loads(pickle.dumps(group.to_record_batch(), protocol=5))
    assert batch.schema.equals(GROUP_SCHEMA, check_metadata=True)
    assert_same(group, Group.from_record_batch(batch))


def test_round_trip_through_parquet(tmp_path):
    groups = [make_group((2, 4), sequence=i) for i in range(3)]
    write_groups(tmp_path / "g.parquet", [g.to_record_batch() for g in groups])
    read = [Group.from_record_batch(batch) for batch in read_groups(tmp_path / "g.parquet")]
    assert [g.sequence for g in read] == [0, 1, 2]
    assert_same(groups[1], read[1])


def version_4(batch: pa.RecordBatch) -> pa.RecordBatch:
    """What the release before importance weights wrote."""
    return batch.drop_columns(["weight"]).replace_schema_metadata({b"bonrl.group.version": b"4"})


def version_3(batch: pa.RecordBatch) -> pa.RecordBatch:
    """What the release before texts were recorded wrote."""
    old = version_4(batch).drop_columns(["prompt_text", "reference", "response_text", "top_p", "top_k", "min_p"])
    return old.replace_schema_metadata({b"bonrl.group.version": b"3"})


def test_files_without_texts_are_read(tmp_path):
    group = replace(make_group((2, 4)), prompt_text="1 + 1", response_text=["2", "3"])
    path = tmp_path / "step-000001.parquet"
    pq.write_table(pa.Table.from_batches([version_3(group.to_record_batch())]), path)
    [read] = read_groups(path)
    assert read.schema.equals(GROUP_SCHEMA, check_metadata=True)
    old = Group.from_record_batch(read)
    assert_same(group, old)
    assert (old.prompt_text, old.reference, old.response_text) == (None, None, None)
    assert not old.sampling.restricted and old.weight == 1.0
    assert Group.from_record_batch(group.to_record_batch()).response_text == ["2", "3"]


def test_groups_from_before_the_importance_weights_have_the_weight_one():
    group = replace(make_group(), weight=0.25)
    assert Group.from_record_batch(group.to_record_batch()).weight == 0.25
    assert Group.from_record_batch(version_4(group.to_record_batch())).weight == 1.0


def test_groups_keep_the_parameters_that_they_were_sampled_with():
    group = replace(make_group(), temperature=0.7, top_p=0.9, top_k=40, min_p=0.05)
    read = Group.from_record_batch(pickle.loads(pickle.dumps(group.to_record_batch())))
    assert read.sampling.matches(Sampling(0.7, 0.9, 40, 0.05)) and read.sampling.restricted
    assert str(read.sampling) == "temperature 0.7, top_p 0.9, top_k 40, min_p 0.05"
    assert not read.sampling.matches(Sampling(0.7, 0.9, 41, 0.05))
    assert Sampling(0.7, 0.9).at(0) == Sampling(0.0) and Sampling(0.0).samples(32) == 1


def test_ragged_groups_and_foreign_schemas_are_refused():
    group = make_group((2, 2))
    with pytest.raises(GroupError, match="reward has 1 entries for 2 samples"):
        group.with_grades(np.ones(1), np.ones(2), ["a", "b"], [None, None], np.zeros(2))
    foreign = group.to_record_batch().replace_schema_metadata({b"bonrl.group.version": b"99"})
    with pytest.raises(GroupError, match="version 99"):
        Group.from_record_batch(foreign)


def test_every_epoch_holds_every_prompt_once_in_another_order():
    stream = PromptStream(size=10, seed=3)
    places = [stream.locate(q) for q in range(30)]
    for epoch in range(3):
        assert sorted(i for e, i in places if e == epoch) == list(range(10))
    assert [i for e, i in places if e == 0] != [i for e, i in places if e == 1]
    assert PromptStream(10, 3).locate(17) == places[17], "a position does not depend on how it was reached"


def test_sampling_seeds_are_apart():
    seeds = sorted(sampling_seed(0, q) for q in range(2000))
    assert min(b - a for a, b in zip(seeds, seeds[1:], strict=False)) > 16, "vLLM uses seed + i for sample i"
    assert sampling_seed(0, 1) != sampling_seed(0, 1, stream=1)
