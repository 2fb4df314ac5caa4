"""Runs for readers, written by the package's own writers in milliseconds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from actors.group import Group
from actors.queue.group_log import groups_file, write_groups
from cluster.config import RunConfig, build_config
from cluster.evaluation.summary import evaluation_file, read_evaluation
from cluster.records.run_directory import RunDirectory
from tests.actors.workers.test_learning_step import graded

N = 4


def group(prompt: str, rewards: list[float], *, version: int = 0, sequence: int = 0) -> Group:
    """A graded group with texts; the responses are `PROMPT answer INDEX`, the last one cut."""
    found = graded(rewards, version=version)
    return replace(
        found,
        sequence=sequence,
        prompt_id=prompt,
        prompt_text=f"problem {prompt}",
        reference='{"answer": "x0"}',
        response_text=[f"{prompt} answer {i}" for i in range(found.n)],
        finish_reason=["stop"] * (found.n - 1) + ["length"],
    )


def write(file: Path, groups: list[Group]) -> None:
    write_groups(file, [one.to_record_batch() for one in groups])


def evaluation_groups(rate: float, seed: int, prompts: int = 12) -> list[Group]:
    """One group for each held-out prompt, each answer right with a probability of `rate`."""
    rng = np.random.default_rng(seed)
    return [
        group(f"p{i}", (rng.random(N) < rate).astype(float).tolist(), version=2, sequence=i) for i in range(prompts)
    ]


def make_run(
    base: Path,
    name: str,
    changes: dict[str, dict[str, Any]] | None = None,
    rates: dict[int, float] | None = None,
    seed: int = 0,
    prompts: int = 12,
) -> Path:
    """A finished run of two steps, evaluated at the steps of `rates`."""
    tree: dict[str, dict[str, Any]] = {
        "run": {"name": name, "directory": str(base), "steps": 2, "seed": seed},
        "rollout": {"n": N, "prompts_per_step": 2},
        "objective": {"k": 2},
        "evaluation": {"n": N},
    }
    for section, keys in (changes or {}).items():
        tree[section] = tree.get(section, {}) | keys
    config: RunConfig = build_config(tree)
    described = {"versions": lambda: {"python": "3.11"}, "git_state": lambda: {"commit": "c0ffee"}}  # both are slow
    with (
        mock.patch.multiple("cluster.records.run_directory", **described),
        RunDirectory.create(base, name, config.to_mapping()) as directory,
    ):
        for step in (1, 2):
            rows = [group(f"t{step}", [1, 0, 0, 0], version=step - 1), group("u", [1, 1, 0, 0], version=step - 1)]
            write(directory.groups / groups_file(step), rows)
            directory.append_metrics({"train/step": step, "time/s": 2.0 * step, "reward/mean": 0.375, "time/step_s": 2})
        for step, rate in (rates or {0: 0.2, 2: 0.6}).items():
            file = directory.groups / evaluation_file(step)
            write(file, evaluation_groups(rate, seed + step, prompts))
            found = read_evaluation(config, file, step)
            assert found is not None
            directory.append_metrics(found.row())
        directory.append_json("incidents.jsonl", {"kind": "warning", "unit": "run", "text": "no signal"})
        directory.write_summary({"steps": 2, "weights_sha256": "00"})
    return base / name
