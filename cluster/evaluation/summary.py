"""What an evaluation found, computed from its graded groups: the curves of the strategies and the objective's value.

Imports neither Ray nor torch, so that a recorded evaluation can be read anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np

from actors.group import Group
from actors.queue.group_log import read_groups
from actors.sampling import Sampling
from actors.workers.learning_step import graded_groups
from cluster.config import RunConfig
from cluster.config.keep_best import parse_metric
from learner.metrics import CurvePoint, default_ks, mean_probability, of_prompts, strategy_curve, weighted_sum
from learner.objective_settings import TermSettings, only_term
from learner.schedule import scheduled_integer
from learner.strategies import STRATEGIES
from verifiers.verdict import Status

BEST_ACCURACY = "best_of_k_accuracy"  # curve: best_of_k with the verdict in place of the reward


SHOWN_PROMPTS, SHOWN_SAMPLES, SHOWN_CHARACTERS = 16, 2, 4_000  # in the table of an evaluation


class NothingJudged(ValueError):
    """The verifier failed on every prompt of an evaluation."""


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found."""

    step: int
    sampling: Sampling
    curves: dict[str, list[CurvePoint]]  # by strategy; pass_at_k and mean (at k = 1) are always there
    length_mean: float
    truncated_share: float
    seconds: float
    n: int  # samples per prompt
    prompt_ids: tuple[str, ...]  # in the order of the points' values_P
    set_aside: int = 0  # prompts on which the verifier failed
    objective: CurvePoint | None = None  # what the run trains for; None where its k is above n
    levels: tuple[str, ...] = ()  # of each prompt
    scorer_auc: CurvePoint | None = None  # see `scorer_agreement`
    samples: tuple[dict[str, Any], ...] = ()  # a few, for people

    @property
    def temperature(self) -> float:
        return self.sampling.temperature

    @property
    def curve(self) -> list[CurvePoint]:
        """pass@k."""
        return self.curves["pass_at_k"]

    @property
    def reward_mean(self) -> float:
        return self.curves["mean"][0].value

    def row(self) -> dict[str, float]:
        """Metrics under the names of ``cluster/records/metrics.yaml``."""
        row: dict[str, float] = {"evaluation/step": self.step}
        named = self.points()
        del named["eval/reward_mean"]
        for name, point in named.items():
            row |= {name: point.value, f"{name}_low": point.low, f"{name}_high": point.high}
        if self.scorer_auc is not None:
            row["eval/scorer_auc"] = self.scorer_auc.value
        return row | {
            "eval/reward_mean": self.reward_mean,
            "eval/response_length_mean": self.length_mean,
            "eval/truncated_share": self.truncated_share,
            "eval/set_aside": self.set_aside,
            "eval/seconds": self.seconds,
        }

    def points(self) -> dict[str, CurvePoint]:
        """The objective, the mean reward and every point of the curves, by the name of the metric."""
        objective = {} if self.objective is None else {"eval/objective": self.objective}
        return self._named_points() | objective | {"eval/reward_mean": self.curves["mean"][0]}

    def standard_errors(self) -> dict[str, float | None]:
        """The standard error over prompts of every point of every curve; None for a single prompt.

        For evaluation.json only: a run logs only the intervals, to keep the number of metrics small.
        """
        return {
            f"{name}_standard_error": None if isnan(point.standard_error) else point.standard_error
            for name, point in self._named_points().items()
        }

    def by_level(self) -> dict[str, dict[str, list[CurvePoint]]]:
        """The curves over the prompts of each level; empty if all prompts have the same."""
        levels = sorted(set(self.levels))
        if len(levels) < 2:
            return {}
        prompts = {level: np.flatnonzero(np.array(self.levels) == level) for level in levels}
        return {
            level: {name: [of_prompts(p, chosen) for p in curve] for name, curve in self.curves.items()}
            for level, chosen in prompts.items()
        }

    def _named_points(self) -> dict[str, CurvePoint]:
        """Every point of the curves under the name of its metric; the mean is logged as eval/reward_mean."""
        return {
            f"eval/{curve_metric(strategy)}@{point.k}": point
            for strategy, curve in self.curves.items()
            if strategy == BEST_ACCURACY or STRATEGIES[strategy].only_k is None
            for point in curve
        }


def curve_metric(curve: str) -> str:
    """Name of a curve's metric: `pass` in `eval/pass@8`."""
    return "bo_accuracy" if curve == BEST_ACCURACY else STRATEGIES[curve].metric


def evaluation_file(step: int) -> str:
    """Name of the Parquet file with the graded groups of an evaluation."""
    return f"evaluation-{step:06d}.parquet"


def evaluation_output(temperature: float) -> str:
    """Name of the file with the graded groups that `bonrl eval --output` writes."""
    return f"groups-temperature-{temperature:g}.parquet"


def summarize(
    groups: Sequence[Group],
    step: int,
    sampling: Sampling,
    seconds: float,
    strategies: Sequence[str] = ("pass_at_k",),
    trained_ks: Sequence[int] = (),
    terms: Sequence[TermSettings] = (),
) -> Evaluation:
    """The evaluation of graded groups of equal size; those on which the verifier failed are left out and counted.

    Raises:
        NothingJudged: the verifier failed on all of them.
    """
    asked, fault = len(groups), next((group.fault for group in groups if not group.usable), "")
    groups = [group for group in groups if group.usable]
    if not groups:
        raise NothingJudged(f"the verifier failed on every prompt of the evaluation: {fault}")
    wanted = dict.fromkeys(("pass_at_k", *strategies, "mean", *(term.strategy for term in terms)))
    if sampling.greedy:  # one answer, from which nothing is selected
        wanted = dict.fromkeys(("pass_at_k", "mean"))
    if "best_of_k" in wanted and not np.array_equal(graded_groups(groups).rewards, _correct(groups)):
        wanted[BEST_ACCURACY] = None
    curves = {strategy: curve_of(groups, strategy, trained_ks) for strategy in wanted}
    return Evaluation(
        step=step,
        sampling=sampling,
        curves=curves,
        length_mean=float(np.mean([len(tokens) for g in groups for tokens in g.response_tokens])),
        truncated_share=float(np.mean([r == "length" for g in groups for r in g.finish_reason])),
        seconds=seconds,
        n=groups[0].n,
        prompt_ids=tuple(group.prompt_id for group in groups),
        set_aside=asked - len(groups),
        objective=_objective_point(curves, terms),
        levels=tuple(group.level for group in groups),
        scorer_auc=scorer_agreement(groups),
        samples=shown_samples(groups),
    )


def recorded_evaluation(config: RunConfig, path: Path, step: int) -> Evaluation | None:
    """The evaluation whose graded groups lie in `path`; None where none were sampled as configured.

    Raises:
        OSError, GroupError: the file cannot be read.
        NothingJudged: the verifier failed on every prompt.
    """
    if not path.is_file():
        return None
    found = read_evaluation(config, path, step)
    return found if found is not None and found.sampling.matches(config.evaluation.sampling) else None


def read_evaluation(config: RunConfig, path: Path, step: int) -> Evaluation | None:
    """The evaluation whose graded groups lie in `path`, as they were sampled; None where there are none.

    Raises:
        OSError, GroupError: the file cannot be read.
        NothingJudged: the verifier failed on every prompt.
    """
    groups = [Group.from_record_batch(batch) for batch in read_groups(path)]
    if not groups:
        return None
    measured = strategies_of(config), trained_ks_of(config), objective_terms(config)
    return summarize(groups, step, groups[0].sampling, 0.0, *measured)


def _objective_point(curves: Mapping[str, Sequence[CurvePoint]], terms: Sequence[TermSettings]) -> CurvePoint | None:
    """The weighted sum of the terms' points; None without terms, or where a k is above the samples of a prompt."""
    points = {(strategy, point.k): point for strategy, curve in curves.items() for point in curve}
    if not terms or any((term.strategy, term.k) not in points for term in terms):
        return None
    if term := only_term(terms):
        return points[term.strategy, term.k]
    return weighted_sum((term.weight, points[term.strategy, term.k]) for term in terms)


def shown_samples(groups: Sequence[Group]) -> tuple[dict[str, Any], ...]:
    """The first samples of the first prompts, as rows of a table; texts are cut at a length that a table can show."""
    return tuple(
        {
            "prompt": (group.prompt_text or group.prompt_id)[:SHOWN_CHARACTERS],
            "answer": group.response_text[i][:SHOWN_CHARACTERS] if group.response_text else "",
            "reward": float(group.rewards[i]),
            "score": float(group.score[i]) if group.score is not None else None,
            "verdict": group.verdicts[i],
            "truncated": group.finish_reason[i] == "length",
        }
        for group in groups[:SHOWN_PROMPTS]
        for i in range(min(group.n, SHOWN_SAMPLES))
    )


def scorer_agreement(groups: Sequence[Group]) -> CurvePoint | None:
    """How well scores rank right answers above wrong ones of the same prompt: the AUC, averaged over prompts with both.

    None if the score is the reward or the verdict itself, or no prompt has both kinds of answers.
    """
    graded = graded_groups(groups)
    correct_GN = _correct(groups)
    scores_GN = np.asarray(graded.scores, np.float64)
    if np.array_equal(scores_GN, graded.rewards) or np.array_equal(scores_GN, correct_GN):
        return None
    found = [
        _auc(scores[correct == 1], scores[correct == 0])
        for scores, correct in zip(scores_GN, correct_GN, strict=True)
        if 0 < correct.sum() < len(correct)
    ]
    return mean_probability(np.array(found)) if found else None


def _auc(right: np.ndarray, wrong: np.ndarray) -> float:
    """The share of pairs in which the right answer has the higher score; ties count as half."""
    wrong = np.sort(wrong)
    below = np.searchsorted(wrong, right, "left") + np.searchsorted(wrong, right, "right")
    return float(below.mean() / 2 / len(wrong))


def _correct(groups: Sequence[Group]) -> np.ndarray:
    """1 where the verdict is correct, float64[G, n]."""
    return np.array([[verdict == Status.CORRECT for verdict in group.verdicts] for group in groups], np.float64)


def curve_of(groups: Sequence[Group], strategy: str, trained_ks: Sequence[int] = ()) -> list[CurvePoint]:
    """The curve of one strategy over graded groups of equal size. Strategies of rewards of 0 and 1, such as pass@k, and
    BEST_ACCURACY count verdicts, the others rewards.
    """
    graded = graded_groups(groups)
    rewards_PN, n = graded.rewards, groups[0].n
    inputs = graded.arguments()
    accuracy = strategy == BEST_ACCURACY
    strategy = "best_of_k" if accuracy else strategy
    found = STRATEGIES[strategy]
    if accuracy or found.count_value is not None:
        rewards_PN = _correct(groups)
    return strategy_curve(
        rewards_PN,
        [found.only_k] if found.only_k is not None else sorted({*default_ks(n), *(k for k in trained_ks if k <= n)}),
        strategy=strategy,
        **{name: inputs[name] for name in found.inputs},  # others would be checked again for each k
    )


def strategies_of(config: RunConfig) -> list[str]:
    """pass@k, what the configuration asks for or selects by, and the objective's; the mean is eval/reward_mean."""
    wanted = ["pass_at_k", *config.evaluation.strategies, *(term.strategy for term in config.objective.terms())]
    wanted += [strategy for strategy, _ in _selected(config)]
    return [strategy for strategy in dict.fromkeys(wanted) if STRATEGIES[strategy].only_k is None]


def trained_ks_of(config: RunConfig) -> list[int]:
    """Every k that the run trains for or selects by: of its terms, and those that its schedule names or ends with."""
    named = config.schedule.k.explicit_values() if config.schedule.k else []
    named += [k for _, k in config.schedule.k_by_entropy.points] if config.schedule.k_by_entropy else []
    terms = *config.objective.terms(), *objective_terms(config)
    return sorted({*(term.k for term in terms), *map(round, named), *(k for _, k in _selected(config))})


def _selected(config: RunConfig) -> list[tuple[str, int]]:
    """Strategy and k of ``evaluation.keep_best``, if it is a point of a curve."""
    found = parse_metric(config.evaluation.keep_best) if config.evaluation.keep_best else None
    return [found] if found else []


def objective_terms(config: RunConfig) -> list[TermSettings]:
    """The objective's strategies with the k that the run ends with, so that all of its evaluations are comparable."""
    return config.objective.terms(scheduled_integer(config.schedule.k, config.run.steps - 1, config.objective.k))
