"""A folder outside of the repository with its own data, reward and strategy trains from Python, and leaves a record."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import bonrl

REWARD = """
import re
import own_helper

def score(prompt, response, answer, note):
    found = own_helper.numbers(response)
    assert note["text"] == "all columns arrive as they are"
    return {"correct": bool(found) and found[-1] == answer, "length": len(response) / 100}
"""
HELPER = """
import re

def numbers(text):
    return re.findall("[0-9]+", text)
"""
STRATEGY = """
import numpy as np
import bonrl

@bonrl.strategy("second_best")
def second_best(groups):
    return np.sort(groups.rewards_GN, axis=1)[:, max(groups.n - 2, 0)]
"""


@pytest.mark.slow
def test_own_data_reward_and_strategy(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(repository / "models" / "countdown-base", tmp_path / "model")
    for name, text in {"own_reward.py": REWARD, "own_helper.py": HELPER, "own_strategy.py": STRATEGY}.items():
        (tmp_path / name).write_text(text)
    rows = [
        {"problem": f"{i % 9 + 1} {i % 7 + 1} {i % 5 + 1} = {i % 9 + i % 7 + 2}:", "answer": str(i % 9 + 1),
         "note": {"text": "all columns arrive as they are"}}
        for i in range(16)
    ]  # fmt: skip
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    config = {
        "plugins": ["own_strategy.py"],
        "run": {"steps": 2},
        "model": {"path": "model"},
        "task": {
            "name": "jsonl",
            "jsonl": {"train": "train.jsonl", "id": None},
            "reward_weights": {"correct": 1.0, "length": 0.1},
        },
        "rollout": {"n": 4, "prompts_per_step": 4, "max_prompt_tokens": 32, "max_response_tokens": 12},
        "evaluation": {"at_start": False, "at_end": False},
        "wandb": {"mode": "disabled"},
    }
    run = bonrl.train(config, reward="own_reward.py:score", objective={"strategy": "second_best", "k": 2})
    assert run.directory.parent == Path("runs") and run.metrics["train/step"] == 2
    assert 0 < run.metrics["reward_part/length"] < 1 and "objective/value" in run.metrics
    assert (run.model / "config.json").is_file()
    record = json.loads((run.directory / "user_code.json").read_text())
    assert (run.directory / record["task.reward"]["copy"]).with_name("own_helper.py").read_text() == HELPER
    table = pq.read_table(run.directory / "groups" / "step-000001.parquet")
    assert table["part_names"].to_pylist() == [["correct", "length"]] * 4
