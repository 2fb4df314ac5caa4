"""A run is resumed only with the prompts that it had, as the same tokens and in the same order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from actors.queue.prompt_stream import PromptStream
from cluster.checks.recorded_prompts import check_recorded
from cluster.config import RunConfig, build_config
from cluster.errors import UsageError
from verifiers.task import Prompt
from verifiers.text.rendering import TokenizedPrompt

BOS = 1


def prompts_of(count: int) -> list[TokenizedPrompt]:
    return [
        TokenizedPrompt(Prompt(f"p{i}", "?", {}, ""), np.array([BOS, 10 + i], np.int32), None) for i in range(count)
    ]


def record(run: Path, step: int, count: int, first: tuple[int, ...] = (BOS,)) -> None:
    """Groups of a step as a run with the seed 0 records them, every prompt once; `first` replaces the first token."""
    (run / "groups").mkdir(exist_ok=True)
    stream, prompts, rows = PromptStream(count, seed=0), prompts_of(count), []
    for sequence in range(count, 2 * count):  # the second epoch
        one = prompts[stream.locate(sequence)[1]]
        tokens = [*first, *one.tokens.tolist()[1:]]
        rows.append({"sequence": sequence, "prompt_id": one.prompt.id, "prompt_tokens": tokens})
    pq.write_table(pa.Table.from_pylist(rows), run / "groups" / f"step-{step:06d}.parquet")


@pytest.fixture
def before(tmp_path: Path) -> RunConfig:
    """The configuration of the run in `tmp_path`."""
    config = build_config({"task": {"train_size": 8}})
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.to_mapping()))
    return config


def test_prompts_that_have_become_other_ids_are_refused(tmp_path: Path, before: RunConfig) -> None:
    prompts = prompts_of(8)
    check_recorded(tmp_path, before, prompts)  # nothing is recorded yet
    record(tmp_path, 1, 8, first=())
    record(tmp_path, 2, 8)
    check_recorded(tmp_path, before, prompts)
    record(tmp_path, 3, 8, first=())
    with pytest.raises(UsageError, match=r"--resume .*, task\.template or .* has changed.*start a new run"):
        check_recorded(tmp_path, before, prompts)
    (tmp_path / "groups" / "step-000003.parquet").write_bytes(b"PAR1")
    with pytest.raises(UsageError, match=r"step-000003\.parquet, .* cannot be read .*move it out of groups/"):
        check_recorded(tmp_path, before, prompts)


@pytest.mark.parametrize(
    ("section", "key", "value", "count"),
    [("run", "seed", 7, 8), ("task", "train_size", 6, 6), ("task", "train_size", 9, 9)],
)
def test_another_order_is_refused_with_the_key_that_changes_it(
    tmp_path: Path, before: RunConfig, section: str, key: str, value: int, count: int
) -> None:
    record(tmp_path, 1, 8)
    tree = before.to_mapping()
    tree[section][key] = value
    after, prompts = build_config(tree), prompts_of(count)
    reason = rf"because {section}\.{key} = {value} \(was .*twice or never.*start a new run"
    with pytest.raises(UsageError, match=reason):
        check_recorded(tmp_path, after, prompts)
    check_recorded(tmp_path, after, prompts, ordered=False)
    chosen = after.to_mapping()["rollout"] | {"allocation": {"candidates": 2}}  # prompts have no fixed order
    check_recorded(tmp_path, build_config(after.to_mapping() | {"rollout": chosen}), prompts)


def test_a_file_of_prompts_that_has_grown_is_refused(tmp_path: Path, before: RunConfig) -> None:
    record(tmp_path, 1, 8)
    with pytest.raises(UsageError, match="because the files of the task have changed"):
        check_recorded(tmp_path, before, prompts_of(9))
