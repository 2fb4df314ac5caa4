"""Combinations of settings that cannot work, or would train wrongly, are refused; those that work are not."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.config import build_config
from tests.cluster.config.test_config import refusal


@pytest.mark.parametrize(
    ("tree", "parts"),
    [
        ({"objective": {"k": 17}}, ("objective.k = 17", "rollout.n = 16", "raise rollout.n")),
        ({"objective": {"k": 16}}, ("objective.k = 16", "loo1")),
        ({"objective": {"strategy": "mean", "k": 8}}, ("objective", "k = 1")),
        ({"objective": {"strategy": "pass_at_kk"}}, ("pass_at_k",)),
        ({"sampler": {"max_model_len": 10}}, ("sampler.max_model_len = 10", "rollout.max_response_tokens")),
        ({"learner": {"tokens_per_micro_batch": 64}}, ("learner.tokens_per_micro_batch = 64", "88")),
        ({"sampler": {"gpus": 2}}, ("sampler.tensor_parallel = 1", "sampler.gpus = 2")),
        ({"sampler": {"tensor_parallel": 2}}, ("sampler.tensor_parallel = 2", "sampler.gpus")),
        ({"learner": {"gpus_per_rank": 0.5}}, ("learner.gpus_per_rank = 0.5", "learner.ranks")),
        *(
            (
                {"task": {"name": name, "path": "data", "instruction": "Be brief."}},
                (f"task.instruction is not read with task.name={name}", "omit it"),
            )
            for name in ("countdown", "humaneval", "mbpp")
        ),
        (
            {"task": {"format_bonus": 0.1}},
            ("max_at_k, best_of_k, or mean with objective.k = 1, and objective.estimator = loo",),
        ),
        ({"queue": {"overtake": 1}}, ("queue.overtake = 1", "queue.staleness")),
        ({"evaluation": {"temperature": 0.001}}, ("evaluation.temperature = 0.001", "use 0 for greedy")),
        ({"rollout": {"temperature": 0.005}}, ("rollout.temperature", "0.01")),
        ({"evaluation": {"top_k": 0}}, ("evaluation.top_k = 0", "use -1")),
        (
            {"evaluation": {"temperature": 0, "top_p": 0.9}},
            ("evaluation.top_p = 0.9", "no effect with evaluation.temperature = 0"),
        ),
        ({"evaluation": {"patience": 2}}, ("evaluation.patience = 2", "set evaluation.keep_best")),
        (
            {"evaluation": {"keep_best": "objective", "min_gain": 0.1}},
            ("evaluation.min_gain = 0.1", "evaluation.patience"),
        ),
        (
            {"evaluation": {"keep_best": "objective", "every": 0}},
            ("evaluation.keep_best = objective", "set evaluation.every"),
        ),
        ({"evaluation": {"keep_best": "pass_at_k@64"}}, ("at least 64 samples", "evaluation.n = 32")),
        ({"evaluation": {"keep_best": "pass_at_j@8"}}, ("evaluation.keep_best", "did you mean 'pass_at_k'?")),
        ({"evaluation": {"keep_best": "pass_at_k"}}, ("evaluation.keep_best", "STRATEGY@K")),
        ({"evaluation": {"keep_best": "mean@1"}}, ("evaluation.keep_best", "reward_mean")),
        (
            {"evaluation": {"keep_best": "pass_at_k@8", "temperature": 0}},
            ("evaluation.keep_best = pass_at_k@8", "pass_at_k@1"),
        ),
        (
            {"evaluation": {"keep_best": "best_of_k@8"}, "task": {"scorer": {"kind": "majority"}}},
            ("evaluation.keep_best = best_of_k@8", "use majority_at_k@8"),
        ),
        ({"evaluation": {"n": 4}}, ("evaluation.n = 4", "objective.k = 8")),
        (
            {"evaluation": {"split": "test", "prompts": 300}, "task": {"test_size": 200}},
            ("evaluation.prompts = 300", "task.test_size = 200"),
        ),
    ],
)
def test_impossible_combinations_are_refused(tree: dict[str, Any], parts: tuple[str, ...]) -> None:
    message = refusal(tree)
    for part in parts:
        assert part in message


INFINITE, NO_NUMBER = float("inf"), float("nan")
STALE_EXACT = {"objective": {"off_policy": "exact"}, "queue": {"staleness": 1}}
MEAN = {"strategy": "mean", "k": 1}


@pytest.mark.parametrize(
    ("tree", "parts"),
    [
        # imitation, and what has no part in it
        ({"objective": {"imitation": "bon_sft", "off_policy": "exact"}}, ("objective.off_policy is exact", "bon_sft")),
        ({"objective": {"imitation": "sft", "mixture": [MEAN]}}, ("objective.mixture is set", "imitation = sft")),
        (
            {"objective": {"bon_sft_form": "variational"}},
            ("objective.bon_sft_form = variational has no effect", "imitation = none", "set imitation to bon_sft"),
        ),
        ({"objective": {"imitation": "sft", "bon_sft_form": "variational"}}, ("bon_sft_form", "imitation = sft")),
        ({"objective": {"imitation": "bon_sft", "weight": 2}}, ("objective.weight is 2", "leave it out")),
        ({"objective": {"imitation": "sft", "estimator": "loo1"}}, ("objective.estimator is loo1", "leave it out")),
        ({"objective": {"imitation": "bon_sft"}, "rollout": {"n": 1}}, ("rollout.n = 1", "bon_sft", "raise rollout.n")),
        ({"objective": {"imitation": "sft"}, "schedule": {"k": {"end": 1}}}, ("schedule.k", "use bon_sft")),
        # weights that are infinite, advantages that are always 0
        (
            {"objective": {"p_fail_clip": 0, "imitation": "bon_sft"}},
            ("objective.p_fail_clip = 0", "bon_sft", "set it above 0"),
        ),
        ({"objective": {"p_fail_clip": 0, "estimator": "bon_rlb"}}, ("objective.p_fail_clip = 0", "bon_rlb ")),
        (
            {"objective": {"p_fail_clip": 0, "mixture": [{"estimator": "bon_rlb_minus"}]}},
            ("objective.p_fail_clip = 0", "bon_rlb_minus"),
        ),
        *(
            (
                {"objective": {**MEAN, "estimator": name}, "rollout": {"n": 1}},
                ("rollout.n = 1", f"estimator '{name}'", "raise n"),
            )
            for name in ("grpo", "grpo_no_std", "maxrl")
        ),
        (
            {"objective": {"k": 1, "estimator": "bon_rl_variational"}, "rollout": {"n": 1}},
            ("rollout.n = 1", "estimator 'bon_rl_variational' compares the samples", "raise n"),
        ),
        (
            {"objective": {"estimator": "passk_training", "k": 16}},
            ("objective.k = 16, rollout.n = 16", "estimator 'passk_training' needs k < n", "lower k"),
        ),
        ({"objective": {"mixture": [{"k": 32}]}}, ("objective.mixture.0.k = 32", "rollout.n = 16")),
        # rewards and scores that the objective cannot take
        ({"task": {"format_bonus": 0.1}}, ("task.format_bonus = 0.1", "pass_at_k cannot take", "max_at_k")),
        (
            {"task": {"format_bonus": 0.1}, "objective": {**MEAN, "estimator": "maxrl"}},
            ("task.format_bonus = 0.1", "maxrl cannot take"),
        ),
        *(
            (
                {"task": {"format_bonus": 0.5}, "objective": {"strategy": name}},
                ("task.format_bonus = 0.5", f"{name} does not read", "task.format_bonus = 0"),
            )
            for name in ("majority_at_k", "weighted_vote")
        ),
        *(
            (
                {"task": {"format_bonus": 0.5}, "objective": {"imitation": name, "strategy": "majority_at_k"}},
                ("task.format_bonus = 0.5", f"objective.imitation = {name} does not read", "task.format_bonus = 0"),
            )
            for name in ("sft", "bon_sft")
        ),
        (
            {
                "task": {"format_bonus": 0.5},
                "objective": {"strategy": "weighted_vote", "mixture": [{"strategy": "majority_at_k"}]},
            },
            ("task.format_bonus = 0.5", "weighted_vote does not read"),
        ),
        *(
            ({"task": {"scorer": {"kind": "majority"}}, "objective": objective}, ("scorer.kind = majority", part))
            for objective, part in (
                ({"strategy": "best_of_k"}, "use objective.strategy = majority_at_k"),
                ({"mixture": [{"strategy": "weighted_vote"}]}, "weighted_vote"),
                ({"imitation": "bon_sft"}, "bon_sft"),
            )
        ),
        # numbers that are none
        ({"objective": {"weight": INFINITE}}, ("objective.weight = inf", "finite")),
        ({"objective": {"mixture": [{**MEAN, "weight": NO_NUMBER}]}}, ("objective.mixture.0.weight = nan", "finite")),
        ({"objective": {"subsets": 10**9}}, ("objective.subsets = 1000000000", "65536", "memory")),
        ({"loss": {"kl_coefficient": INFINITE}}, ("loss.kl_coefficient = inf", "finite")),
        ({"task": {"format_bonus": INFINITE}}, ("task.format_bonus = inf", "finite")),
        # schedules
        *(
            ({"schedule": {key: {"end": value}}}, (f"schedule.{key}.end = {value}", "finite"))
            for key in ("k", "n", "temperature", "kl")
            for value in (INFINITE, NO_NUMBER)
        ),
        ({"schedule": {"k": {"shape": "steps", "at": {5: INFINITE}}}}, ("schedule.k.at.5 = inf", "finite")),
        ({"schedule": {"k": {"end": 0}}}, ("schedule.k goes to 0", "1 or more")),
        ({"schedule": {"n": {"end": 0}}}, ("schedule.n goes to 0", "1 or more")),
        ({"schedule": {"kl": {"end": -0.1}}}, ("schedule.kl goes to -0.1", "0 or more")),
        ({"schedule": {"learning_rate": {"end": -1e-6}}}, ("schedule.learning_rate goes to -1e-06", "0 to 1")),
        ({"schedule": {"learning_rate": {"start": 2, "end": 0}}}, ("schedule.learning_rate goes to 2", "0 to 1")),
        ({"schedule": {"temperature": {"end": 0}}}, ("schedule.temperature goes to 0", "0.01 to 10")),
        ({"schedule": {"temperature": {"start": 11, "end": 1}}}, ("schedule.temperature goes to 11", "0.01 to 10")),
        ({"schedule": {"k": {"end": 4, "over": 3}}, "objective": MEAN}, ("schedule.k: at step 1", "k = 2", "'mean'")),
        ({"schedule": {"n": {"end": 4, "over": 4}}}, ("schedule.n: at step 3", "above rollout.n = 7")),
        ({"schedule": {"n": {"end": 32}}}, ("schedule.n reaches 32", "rollout.n = 16")),
        ({"schedule": {"k": {"shape": "steps", "at": {5: 2}, "after": 3}}}, ("schedule.k", "after = 3", "shape steps")),
        ({"schedule": {"k": {"shape": "steps", "at": {5: 2}, "over": 3}}}, ("schedule.k", "over = 3", "shape steps")),
        ({"schedule": {"k": {"end": 2, "at": {5: 2}}}}, ("schedule.k", "no `at`")),
        (
            {"schedule": {"k": {"end": 2}, "k_by_entropy": {}}},
            ("schedule.k and schedule.k_by_entropy both change objective.k", "null"),
        ),
        (
            {"schedule": {"k_by_entropy": {"points": [[0.2, 16], [0.5, 1]]}}, "rollout": {"n": 16}},
            ("schedule.k_by_entropy: at step 0", "k = 16", "n = 16"),
        ),
        ({"schedule": {"k_by_entropy": {"points": [[0.5, 1], [0.2, 4]]}}}, ("schedule.k_by_entropy", "above the one")),
        ({"schedule": {"k_by_entropy": {"points": [[0.2, 0], [0.5, 4]]}}}, ("schedule.k_by_entropy.points",)),
        (
            {"schedule": {"k_by_entropy": {}}, "objective": {"k": 4}, "evaluation": {"n": 4}},
            ("largest k of schedule.k_by_entropy = 8",),
        ),
        (
            {"objective": {"imitation": "sft"}, "schedule": {"k_by_entropy": {}}},
            ("schedule.k_by_entropy has no effect", "use bon_sft"),
        ),
        # group sizes from earlier results
        *(
            ({**tree, "rollout": {"allocation": allocation}}, ("rollout.allocation", *parts))
            for allocation, tree, parts in (
                ({"min_n": 8}, {}, ("min_n = 8 is below 9", "k = 8")),
                ({"max_n": 12}, {}, ("at step 0", "rollout.n = 16", "max_n = 12")),
                ({"max_n": 300}, {}, ("max_n = 300", "256")),
                ({"min_n": 12}, {"schedule": {"n": {"end": 10}}}, ("at step 1", "rollout.n = 10", "min_n = 12")),
                ({"max_weight": 2}, {}, ("max_weight = 2", "candidates to 2 or more")),
                ({"candidates": 0}, {}, ("rollout.allocation.candidates", "1")),
                ({}, {"queue": {"staleness": 1, "overtake": 1}}, ("queue.overtake = 0",)),
                ({}, {"loss": {"kl_coefficient": 0.1}}, ("loss.kl_placement = reward",)),
                ({}, {"loss": {"entropy_coefficient": 0.1}}, ("loss.entropy_coefficient = 0",)),
                ({}, {"objective": {"imitation": "sft"}}, ("objective.imitation = sft",)),
                ({}, {"schedule": {"k_by_entropy": {}}}, ("schedule.k_by_entropy", "use schedule.k")),
                ({}, {"objective": {**MEAN, "estimator": "grpo"}}, ("grpo", "use loo")),
                ({}, {"objective": {"strategy": "majority_at_k"}}, ("majority_at_k",)),
            )
        ),
        # the KL term and the clip
        ({"loss": {"kl_refresh_every": 5}}, ("loss.kl_refresh_every = 5", "set loss.kl_coefficient or schedule.kl")),
        (
            {"loss": {"kl_refresh_every": 5, "kl_coefficient": 0.1}, "learner": {"lora": {}}},
            ("loss.kl_refresh_every = 5", "the reference is the frozen model"),
        ),
        ({"learner": {"lora": {"targets": []}}}, ("learner.lora.targets", "all-linear")),
        ({"learner": {"lora": {"r": 8}}}, ("learner.lora.r", "unknown")),
        (
            {"learner": {"lora": {"rank": 600, "send": "adapters"}}},
            ("learner.lora.rank = 600", "512", "learner.lora.send = merged"),
        ),
        (
            {
                "sampler": {"gpus": 1, "sleep": "weights"},
                "learner": {"gpus_per_rank": 1, "lora": {"send": "adapters"}},
                "cluster": {"placement": "colocated"},
            },
            ("sampler.sleep = weights discards the model", "sampler.sleep = cache", "learner.lora.send = merged"),
        ),
        ({"loss": {"kl_estimator": "k1"}, "schedule": {"kl": {"end": 1}}}, ("loss.kl_estimator = k1", "no gradient")),
        (
            {"loss": {"kl_estimator": "k3", "kl_placement": "reward", "kl_coefficient": 0.1}},
            ("loss.kl_estimator = k3", "k1", "leave it out"),
        ),
        *(
            ({"loss": {"ratio": "decoupled", key: value}}, (f"loss.{key} has no effect with ratio: decoupled",))
            for key, value in (("clip_low", 0.1), ("clip_high", 0.3), ("dual_clip", 3))
        ),
        ({**STALE_EXACT, "loss": {"dual_clip": 3}}, ("loss.dual_clip = 3", "objective.off_policy = exact")),
        ({**STALE_EXACT, "loss": {"ratio": "decoupled"}}, ("loss.ratio = decoupled", "objective.off_policy = exact")),
        ({"objective": {"ratio_cap": 2}}, ("objective.ratio_cap = 2", "set objective.off_policy = exact")),
        # a curve that ends before the k that is trained for
        ({"evaluation": {"n": 4}, "objective": {"k": 2, "mixture": [{"k": 8}]}}, ("objective.mixture.0.k = 8",)),
        ({"evaluation": {"n": 4}, "objective": {"k": 2}, "schedule": {"k": {"end": 8}}}, ("schedule.k = 8",)),
    ],
)
def test_what_would_train_wrongly_or_die_later_is_refused(tree: dict[str, Any], parts: tuple[str, ...]) -> None:
    message = refusal(tree)
    for part in parts:
        assert part in message
    assert "pydantic" not in message


@pytest.mark.parametrize(
    "tree",
    [
        {"objective": {"imitation": "bon_sft", "k": 16}},
        {"objective": {"imitation": "sft", "k": 32}},
        {"objective": {**MEAN, "estimator": "loo1"}, "rollout": {"n": 1}, "loss": {"kl_placement": "reward"}},
        {"objective": {"p_fail_clip": 0, "estimator": "bon_rlb_p"}},
        {"task": {"scorer": {"kind": "majority"}}, "evaluation": {"strategies": ["best_of_k"]}},
        {"task": {"format_bonus": 0.5}, "objective": {"strategy": "majority_at_k", "mixture": [MEAN]}},
        {"schedule": {"k": {"end": 1, "over": 100}, "kl": {"end": 0.1}, "temperature": {"end": 0.5}}},
        {"loss": {"ratio": "decoupled", "behaviour_cap": 2}},
        {"rollout": {"allocation": {}}, "loss": {"kl_coefficient": 0.1, "kl_placement": "reward"}},
        {"rollout": {"allocation": {"min_n": 9, "max_n": 64}}, "queue": {"staleness": 2}},
        {"rollout": {"allocation": {"candidates": 2, "max_weight": 3, "min_n": 16, "max_n": 16}}},
        {"schedule": {"kl": {"shape": "constant", "start": 0.1}}},
        {"schedule": {"learning_rate": {"shape": "cosine", "end": 0, "after": 5, "over": 155}}},
    ],
)
def test_what_works_is_not_refused(tree: dict[str, Any]) -> None:
    build_config(build_config(tree).to_mapping())


def test_loo1_allows_k_equal_to_n() -> None:
    assert build_config({"objective": {"k": 16, "estimator": "loo1"}}).objective.k == 16
