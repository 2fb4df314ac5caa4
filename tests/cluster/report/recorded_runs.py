"""Runs of many shapes for pages, written by the package's own writers in milliseconds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from actors.group import Group
from actors.queue.group_log import groups_file
from cluster.config import build_config
from cluster.evaluation.summary import evaluation_file, read_evaluation
from cluster.records.run_directory import RunDirectory
from tests.cluster.results.recorded import N, evaluation_groups, group, write

HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
FORMULA = r"\frac{a}{b} \le x^2, größer 数学 ∑ 😀"


def make_run(
    base: Path,
    name: str = "run",
    *,
    steps: int = 12,
    planned: int | None = None,
    rates: dict[int, float] | None = None,
    changes: dict[str, dict[str, Any]] | None = None,
    texts: tuple[str, ...] = (HOSTILE, FORMULA),
    finished: bool = True,
    recorded_only: bool = False,
    replay: bool = False,
    groups: bool = True,
) -> Path:
    """A run of so many steps, evaluated at the steps of `rates` (by default at 0, the middle and the end).

    Args:
        replay: rows as a run on recorded groups logs them, without times and samplers.
    """
    tree: dict[str, dict[str, Any]] = {
        "run": {"name": name, "directory": str(base), "steps": planned or max(steps, 1)},
        "rollout": {"n": N, "prompts_per_step": 2},
        "objective": {"k": 2},
        "evaluation": {"n": N, "prompts": 12},
    }
    for section, keys in (changes or {}).items():
        tree[section] = tree.get(section, {}) | keys
    config = build_config(tree)
    rng = np.random.default_rng(0)
    if rates is None:
        rates = {0: 0.2, steps // 2: 0.7, steps: 0.5} if steps > 1 else {0: 0.2, 1: 0.5}
    with RunDirectory.create(base, name, config.to_mapping()) as directory:
        for step in range(steps + 1):
            if step:
                if groups:
                    write(directory.groups / groups_file(step), _training(step, texts))
                directory.append_metrics(_row(step, rng, replay=replay, recorded_only=recorded_only))
            if step in rates:
                file = directory.groups / evaluation_file(step)
                write(file, evaluation_groups(rates[step], step))
                found = read_evaluation(config, file, step)
                assert found is not None
                directory.append_metrics(found.row() | {"eval/seconds": 3.0})
        directory.append_json(
            "incidents.jsonl", {"kind": "warning", "name": "no_signal", "text": f"no signal {HOSTILE}"}
        )
        directory.append_json(
            "incidents.jsonl",
            {"time": 1.8e9, "kind": "actor", "unit": "sampler 0", "reason": f"killed {HOSTILE}", "recovered_s": 4.2},
        )
        if finished:
            end: dict[str, Any] = {"steps": steps, "warnings": ["no signal"]}
            directory.write_summary(end | ({"recorded_only": True} if recorded_only else {}))
    return base / name


def _training(step: int, texts: tuple[str, ...]) -> list[Group]:
    mixed = group(f"mixed {step}", [1, 0, 0, 0], version=step - 1, sequence=2 * step)
    failed = group(f"all wrong {step}", [0, 0, 0, 0], version=step - 1, sequence=2 * step + 1)
    said = [*texts, *(f"answer {i}" for i in range(N))][:N]
    return [
        replace(mixed, response_text=said, prompt_text=f"problem {step} {texts[0]}", answer=[texts[0], "b", "c", None]),
        failed,
    ]


def _row(step: int, rng: np.random.Generator, *, replay: bool, recorded_only: bool) -> dict[str, float]:
    row = {
        "train/step": step,
        "rollout/step": step,
        "time/s": 2.5 * step,
        "reward/mean": float(rng.random()),
        "groups/mixed_share": 0.5,
        "policy/entropy": 0.5,
        "response/length_mean": 8.0,
        "response/truncated_share": 0.25,
        "policy/lag_mean": 0.0,
    }
    if not recorded_only:
        row |= {"objective/value": float(rng.random()), "optimizer/gradient_norm": 1.5, "logprob_gap/mean": 1e-6}
    if not replay:
        row |= {"time/step_s": 2.0, "time/sampling_share": 0.7, "time/learning_share": 0.2, "time/sync_share": 0.05}
        row |= {"time/other_share": 0.05, "time/overlap_efficiency": 0.7, "memory/pss_gib": 2.0}
    return row
