"""Warnings about runs that work but do not learn: each kind fires with its remedy, and a healthy run gets none."""

from __future__ import annotations

import math
import shlex
from typing import Any

import pytest

from cluster.config import build_config, load_config
from cluster.telemetry.health import REPEAT_STEPS, RULES, WINDOW, Health, Warning
from tests.cluster.running import LOCAL

# One step of the shipped run.
HEALTHY: dict[str, float] = {
    "reward/mean": 0.23,
    "reward/std": 0.42,
    "groups/no_signal_share": 0.54,
    "groups/all_fail_share": 0.375,
    "groups/all_pass_share": 0.0,
    "groups/unique_answer_share": 0.81,
    "groups/set_aside": 0.0,
    "response/truncated_share": 0.0,
    "response/length_mean": 8.3,
    "verifier/unparsable_share": 0.005,
    "verifier/timeout_share": 0.0,
    "verifier/verifier_error_share": 0.0,
    "sampler/preemptions": 1.0,
    "optimizer/gradient_norm": 1.6,
    "optimizer/skipped": 0.0,
    "policy/kl_behaviour": 0.0,
    "policy/kl_reference": 0.0,
}
SILENT = {"groups/no_signal_share": 1.0, "reward/std": 0.0, "optimizer/skipped": 1.0}


def watched(steps: int, *overrides: Any, config: Any = None, **changes: float) -> tuple[list[Warning], list[Warning]]:
    """What was reported during a run of `steps` equal steps, and at its end."""
    reported: list[Warning] = []
    health = Health(config or load_config(LOCAL), reported.append, "runs/one")
    row = HEALTHY | {name.replace("__", "/"): value for name, value in changes.items()}
    for override in overrides:
        row |= override
    for step in range(1, steps + 1):
        health.step(row | {"train/step": step})
    return reported, health.at_end()


def test_a_healthy_run_gets_no_warning() -> None:
    assert watched(2 * REPEAT_STEPS) == ([], [])


KINDS: list[tuple[str, dict[str, float], tuple[str, ...]]] = [
    (
        "no_signal",
        SILENT | {"groups/all_fail_share": 1.0, "reward/mean": 0.0},
        (
            "no correct sample",
            "rollout.n",
            "rollout.temperature",
            "task.template",
            "task.difficulty",
            "bonrl eval --con",
        ),
    ),
    ("no_signal", SILENT | {"groups/all_pass_share": 1.0, "reward/mean": 1.0}, ("too easy", "task.name")),
    ("no_signal", SILENT | {"groups/unique_answer_share": 1 / 16}, ("same answer", "rollout.temperature")),
    ("no_signal", {"groups/no_signal_share": 0.97}, ("objective.k", "rollout.n")),
    ("too_easy", {"groups/all_pass_share": 0.97}, ("too easy", "task.difficulty.* or task.name")),
    ("truncated", {"response/truncated_share": 0.97}, ("97%", "rollout.max_response_tokens = 28", "task.template")),
    ("unparsable", {"verifier/unparsable_share": 0.9}, ("90%", "task.instruction")),
    ("verifier_errors", {"verifier/verifier_error_share": 0.2}, ("20%", "task.sandbox", "groups/")),
    ("timeouts", {"verifier/timeout_share": 0.4}, ("task.sandbox.wall_seconds", "task.math.timeout_s")),
    ("set_aside", {"groups/set_aside": 20.0}, ("83%", "quarantine/")),
    (
        "preemptions",
        {"sampler/preemptions": 24.0},
        ("0.062 times per sample", "sampler.kv_cache_gib", "sampler.max_num_seqs (now 256)"),
    ),
    ("not_finite", {"optimizer/gradient_norm": math.nan}, ("optimizer/gradient_norm is nan", "learner.learning_rate")),
    ("no_update", {"optimizer/gradient_norm": 0.0}, ("gradient is exactly 0", "loss.")),
]


@pytest.mark.parametrize(("name", "changes", "words"), KINDS, ids=[f"{n}-{i}" for i, (n, *_) in enumerate(KINDS)])
def test_each_kind_is_reported_once_and_at_the_end(name: str, changes: dict, words: tuple[str, ...]) -> None:
    reported, at_end = watched(2 * WINDOW, changes)
    assert [w.name for w in reported] == [name] == [w.name for w in at_end]
    assert reported[0].step == (1 if name == "not_finite" else WINDOW)
    for word in words:
        assert word in reported[0].text
    assert str(at_end[0]).startswith(f"warning: over all {2 * WINDOW} steps: ")
    if "bonrl eval" in reported[0].text:
        assert "--config runs/one/config.yaml --checkpoint models/countdown-base" in reported[0].text


def test_where_nothing_is_correct_the_own_reward_and_the_own_file_are_named() -> None:
    task = {"name": "jsonl", "jsonl": {"train": "a.jsonl"}, "reward": "rewards.py:score"}
    reported, _ = watched(WINDOW, SILENT | {"groups/all_fail_share": 1.0}, config=build_config({"task": task}))
    assert "check task.reward, task.template and task.instruction" in reported[0].text
    assert "(bonrl samples runs/one)" in reported[0].text and "(task.jsonl.train or task.name)" in reported[0].text


def test_every_rule_is_tried_above() -> None:
    assert {rule.name for rule in RULES} == {name for name, *_ in KINDS}


def test_a_short_run_is_judged_at_its_end() -> None:
    reported, at_end = watched(2, SILENT)
    assert reported == [] and [w.name for w in at_end] == ["no_signal"]


def test_a_warning_is_repeated_rarely() -> None:
    reported, _ = watched(WINDOW + 2 * REPEAT_STEPS, SILENT)
    assert [w.step for w in reported] == [WINDOW, WINDOW + REPEAT_STEPS, WINDOW + 2 * REPEAT_STEPS]


def test_cut_answers_are_the_first_remedy_where_nothing_is_correct() -> None:
    changes = SILENT | {"groups/all_fail_share": 1.0, "response/truncated_share": 0.97}
    reported, _ = watched(WINDOW, changes)
    assert [w.name for w in reported] == ["truncated", "no_signal"]
    assert "Raise rollout.max_response_tokens first (97% of the samples are cut)" in reported[1].text


def test_equal_rewards_are_no_signal_though_a_kl_in_the_reward_gives_advantages() -> None:
    reported, _ = watched(WINDOW, {"groups/no_signal_share": 0.0, "reward/std": 1e-17, "groups/all_fail_share": 1.0})
    assert [w.name for w in reported] == ["no_signal"] and "all samples got the same reward" in reported[0].text


def test_a_run_that_collapsed_late_is_warned_of_at_its_end() -> None:
    reported: list[Warning] = []
    health = Health(load_config(LOCAL), reported.append)
    for step in range(1, 101):
        health.step(HEALTHY | (SILENT if step > 90 else {}) | {"train/step": step})
    (warning,) = health.at_end()
    assert warning.text.startswith(f"the last {WINDOW} steps: ") and reported[0].step == 90 + WINDOW


def test_a_prompt_list_shorter_than_a_step_is_said_at_the_start_and_the_end() -> None:
    reported: list[Warning] = []
    health = Health(load_config(LOCAL), reported.append)
    health.start(4)
    assert [w.name for w in reported] == ["few_prompts"] == [w.name for w in health.at_end()]
    assert "6.0 times" in reported[0].text and "rollout.prompts_per_step" in reported[0].text
    health.start(24)
    assert len(reported) == 1


def test_a_kl_of_zero_means_that_the_weights_do_not_move() -> None:
    config = build_config({"loss": {"kl_coefficient": 0.1}})
    reported, _ = watched(WINDOW, config=config)
    assert [w.name for w in reported] == ["no_update"] and "model.dtype" in reported[0].text
    assert watched(WINDOW, config=config, policy__kl_reference=1e-6) == ([], [])
    assert watched(WINDOW, config=build_config({"loss": {"kl_coefficient": 0.1, "kl_refresh_every": 1}})) == ([], [])


def test_imitation_needs_no_advantages() -> None:
    config = build_config({"objective": {"imitation": "sft"}})
    assert watched(WINDOW, SILENT, config=config, groups__all_pass_share=1.0) == ([], [])


def test_a_command_in_a_warning_is_one_for_a_shell() -> None:
    reported: list[Warning] = []
    config = load_config(LOCAL, ["model.path=my models/base"])
    health = Health(config, reported.append, "my runs/one")
    for step in range(1, WINDOW + 1):
        health.step(HEALTHY | SILENT | {"groups/all_fail_share": 1.0, "train/step": step})
    command = reported[0].text.partition("Measure the base model first: ")[2].partition(" --n")[0]
    expected = ["--config", "my runs/one/config.yaml", "--checkpoint", "my models/base"]
    assert shlex.split(command) == ["bonrl", "eval", *expected]
