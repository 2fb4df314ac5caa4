"""Tries the user's code before the start: it loads, fits its parameters and the objective, and grades a real row."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from cluster.config import RunConfig
from cluster.config.keep_best import parse_metric
from cluster.errors import UsageError
from learner.objective import GradedGroups, Objective
from learner.objective_settings import FOR_ANY_REWARD, NAME_ANSWERS, TermSettings
from learner.strategies import STRATEGIES, strategy_value
from verifiers.rewards.response import Response
from verifiers.rewards.task import Grades, RewardedTask, UserScorer
from verifiers.scorers import make_scorer
from verifiers.task import Prompt, Task
from verifiers.user_code import describe_error
from verifiers.verdict import Status, Verdict

NO_ANSWER = ""  # every model gives it at some time
_BINARY = (0.0, 1.0)
_MADE_UP_GROUPS = 3
_EXPONENT = re.compile(r"(?P<digits>[-+]?[0-9]+)(?P<point>\.[0-9]*)?[eE](?P<sign>[-+])?(?P<power>[0-9]+)")


def check_user_code(config: RunConfig, task: Task, prompts: Sequence[Prompt], *, trains: bool = True) -> list[str]:
    """Grade an answer like a demonstration, and an empty one, with the user's code; the warnings.

    Args:
        task: That of the configuration.
        prompts: One of each split that is used.
        trains: Whether the objective must be able to take the rewards; an evaluation only needs what is correct.

    Raises:
        UsageError: The code cannot be loaded, fails, or returns rewards that do not fit the objective.
    """
    if config.plugins and trains and config.objective.imitation == "none":
        _try_objective(config)
    # The files of a learned verifier are checked in refusals.py; they may be on other machines only.
    scorer = None if config.task.scorer.kind == "learned" else make_scorer(config.task)
    graders: list[tuple[Grades, bool]] = [(task.grades, True)] if isinstance(task, RewardedTask) else []
    graders += [(scorer.grades, False)] if isinstance(scorer, UserScorer) else []
    warnings = _texts_like_numbers(config)
    for grades, rewards in graders:
        try:
            warnings += _tried(config, grades, prompts, rewards=rewards, trains=trains)
        finally:
            grades.close()
    return warnings


def _tried(config: RunConfig, grades: Grades, prompts: Sequence[Prompt], *, rewards: bool, trains: bool) -> list[str]:
    try:
        grades.start()
    except RuntimeError as error:
        raise UsageError(str(error)) from error
    verdicts = [_one(grades, prompt, sample_answer(prompt)) for prompt in prompts]
    for prompt, verdict in zip(prompts, verdicts, strict=True):
        if verdict.status is Status.VERIFIER_ERROR:
            failure = f"tried on prompt {prompt.id!r}: {verdict.detail}"
            raise UsageError("\n".join([failure, *_texts_like_numbers(config)]))
    empty = _one(grades, prompts[0], NO_ANSWER)
    warnings = _slow(config, verdicts[0].seconds) if rewards and trains else []
    if empty.status is Status.VERIFIER_ERROR:
        warnings.append(
            f"tried on an empty response, which models sometimes give: {empty.detail}. Groups with such a response "
            "would not be trained on"
        )
    binary = config.objective.binary_terms() if trains else []
    odd = [v.reward for v in (*verdicts, empty) if v.reward is not None and v.reward not in _BINARY]
    if rewards and binary and odd:
        raise UsageError(
            f"task.reward = {config.task.reward or config.task.name} gave a reward of {odd[0]:g}, but {binary[0]} "
            f"takes rewards of 0 and 1 only; set {FOR_ANY_REWARD}, or return True or False"
        )
    voting = _voting_strategies(config)
    if rewards and voting and any(v.status is Status.CORRECT and v.answer is None for v in (*verdicts, empty)):
        raise UsageError(
            f"task.reward = {config.task.reward or config.task.name} gave a right answer without an extracted answer, "
            f"but {voting[0]} counts equal answers: {NAME_ANSWERS}"
        )
    return warnings


def _texts_like_numbers(config: RunConfig) -> list[str]:
    """A line for each of task.options that YAML has read as text because its exponent has no point or sign."""
    texts = {name: value for name, value in config.task.options.items() if isinstance(value, str)}
    return [
        f"task.options.{name} = {number[0]!r} is text, because YAML reads an exponent without a point and a sign as "
        f"text; if a number is meant, write {number['digits']}{number['point'] or '.0'}e{number['sign'] or '+'}"
        f"{number['power']}"
        for name, value in texts.items()
        if (number := _EXPONENT.fullmatch(value)) and not (number["point"] and number["sign"])
    ]


def _voting_strategies(config: RunConfig) -> list[str]:
    """Strategies of the objective and of evaluations that count equal answers."""
    selected = parse_metric(config.evaluation.keep_best) if config.evaluation.keep_best else None
    evaluated = [*config.evaluation.strategies, *(selected[:1] if selected else ())]
    return [
        *config.objective.voting_terms(),
        *(name for name in evaluated if "answers" in STRATEGIES[name].required_inputs),
    ]


def _try_objective(config: RunConfig) -> None:
    """Compute value and advantages of made-up groups: a strategy or estimator of a plugin may fail or not fit."""
    objective, terms = Objective(config.objective), config.objective.terms()
    failure: BaseException | None = None
    # One kind of rewards is enough: a strategy may take the logarithm, for example.
    for binary in (True,) if config.objective.binary_terms() else (False, True):
        groups = _made_up_groups(config.rollout.n, binary=binary)
        ratios = np.ones_like(groups.rewards) if objective.off_policy else None
        try:
            objective.advantages(groups, config.objective.k, ratios)
            ordered = [term.strategy for term in terms if _depends_on_order(term, groups)]
            break
        except (Exception, SystemExit) as error:  # noqa: BLE001  # whatever the user's code raises
            failure = error
    else:
        assert failure is not None
        names = ", ".join(f"{term.strategy} with {term.estimator}" for term in terms)
        raise UsageError(f"the objective ({names}) fails on made-up groups: {describe_error(failure)}") from failure
    if ordered:
        raise UsageError(
            f"the strategy {ordered[0]} gives another value if the answers of a group are in another order, so its "
            "gradient would be biased; let it depend on rewards, scores and answers only"
        )


def _depends_on_order(term: TermSettings, groups: GradedGroups) -> bool:
    """Whether the value of the first k answers changes if they are reversed."""
    first = np.arange(term.k)
    value, reversed_value = (
        strategy_value(
            groups.rewards[:, order],
            scores=groups.scores[:, order],
            answers=[[row[i] for i in order] for row in groups.answers],
            correct=groups.correct,
            responses=[[row[i] for i in order] for row in groups.responses],
            strategy=term.strategy,
            k=term.k,
        )
        for order in (first, first[::-1])
    )
    return not np.allclose(value, reversed_value, rtol=1e-9, atol=1e-12)


def _made_up_groups(n: int, *, binary: bool) -> GradedGroups:
    """Groups of n samples with all inputs of strategies; rewards of 0 and 1, or between them."""
    draw = np.random.default_rng(0)
    shape = (_MADE_UP_GROUPS, n)
    rewards_GN = draw.integers(0, 2, shape).astype(np.float64) if binary else draw.uniform(0.1, 0.9, shape)
    answers = [["right" if reward > 0.5 else f"wrong {i % 3}" for i, reward in enumerate(row)] for row in rewards_GN]
    return GradedGroups(rewards_GN, draw.random(shape), answers, ["right"] * _MADE_UP_GROUPS, answers)


def _one(grades: Grades, prompt: Prompt, response: str) -> Verdict:
    return grades.grade(prompt, [Response.unsampled(response)])[0]


def sample_answer(prompt: Prompt) -> str:
    """A response as a model might give it: the demonstration, or the reference answer in a box."""
    answer: Any = prompt.reference.get("answer")
    if prompt.demonstration is not None:
        return prompt.demonstration
    return f"The answer is \\boxed{{{answer}}}." if isinstance(answer, str) else "The answer is 42."


def _slow(config: RunConfig, seconds: float) -> list[str]:
    """A warning where the answers of a step would take the verifiers longer than a group may take."""
    samples = config.rollout.n * config.rollout.prompts_per_step
    wait = seconds * samples / config.actors.verifier_range.min
    if wait <= config.deadlines.verify_s:
        return []
    return [
        f"one call of task.reward took {seconds:.1f} s, so a step of {samples} answers takes the "
        f"{config.actors.verifier_range.min} verifier worker(s) about {wait:.0f} s, more than deadlines.verify_s = "
        f"{config.deadlines.verify_s:g}; raise both actors.verifiers and deadlines.verify_s, or write it for a batch "
        "(responses) or as `async def`, whose calls for a group run at the same time"
    ]
