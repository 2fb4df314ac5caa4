"""Evaluations as a person reads them: one line for each, and tables that compare two on the same prompts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from cluster.evaluation.summary import BEST_ACCURACY, Evaluation, curve_metric
from learner.metrics import CurvePoint, Difference, paired_difference
from learner.objective_settings import TermSettings, only_term

_NAMES = {
    "pass_at_k": "pass@{k}",
    "best_of_k": "Best-of-{k}",
    BEST_ACCURACY: "Best-of-{k} accuracy",
    "weighted_pass_at_k": "weighted pass@{k}",
    "soft_pass_at_k": "soft pass@{k}",
    "max_at_k": "max@{k}",
    "majority_at_k": "majority@{k}",
    "weighted_vote": "weighted vote@{k}",
    "mean": "mean reward",
}
TRAINED = " *"  # marks what the run trains for
CUT_SHARE = 0.1  # of samples; below, cut ones are not worth a word


def value_name(strategy: str, k: int) -> str:
    """What a strategy's value at k is called: `pass@8`, `Best-of-8`, `mean reward`."""
    return _NAMES.get(strategy, f"{curve_metric(strategy)}@{{k}}").format(k=k)


def objective_name(terms: Sequence[TermSettings]) -> str:
    """`pass@8`; of a mixture `0.7 pass@8 + 0.3 mean reward`."""
    if term := only_term(terms):
        return value_name(term.strategy, term.k)
    weights = ("" if term.weight == 1.0 else f"{term.weight:g} " for term in terms)
    return " + ".join(weight + value_name(term.strategy, term.k) for weight, term in zip(weights, terms, strict=True))


def evaluation_line(evaluation: Evaluation, terms: Sequence[TermSettings]) -> str:
    """One line: the objective with its interval, then the curves of its strategies and pass@k."""
    which = f"after step {evaluation.step}" if evaluation.step else "of the base model"
    parts = []
    if evaluation.objective is not None:
        parts.append(f"objective {objective_name(terms)} {_cell(evaluation.objective)}")
    for strategy in _strategies(evaluation, terms):
        points = [p for p in evaluation.curves[strategy] if p is not evaluation.objective]
        if points:
            parts.append(", ".join(f"{value_name(strategy, p.k)} {p.value:.3f}" for p in points))
    size = f"{len(evaluation.prompt_ids):,} prompts x {evaluation.n} samples, {evaluation.seconds:.0f} s"
    return f"evaluation {which}: {'; '.join(parts)} ({', '.join([size, *caveats(evaluation)])})"


def caveats(evaluation: Evaluation) -> list[str]:
    """What an evaluation leaves out: the ends of samples cut at the limit, prompts that could not be judged."""
    found = []
    if evaluation.truncated_share >= CUT_SHARE:
        found.append(f"{evaluation.truncated_share:.0%} of the samples cut at rollout.max_response_tokens")
    if evaluation.set_aside:
        found.append(f"{evaluation.set_aside} prompts left out: the verifier failed")
    return found


def difference(before: Evaluation, after: Evaluation, old: CurvePoint, new: CurvePoint) -> Difference | None:
    """after - before over the prompts that both evaluated, in pairs; None where they share fewer than two."""
    at = {prompt: i for i, prompt in enumerate(before.prompt_ids)}
    pairs = [(at[prompt], i) for i, prompt in enumerate(after.prompt_ids) if prompt in at]
    if len(pairs) < 2:
        return None
    olds, news = np.array(pairs).T
    return paired_difference(old.values_P[olds], new.values_P[news])


def named_points(evaluation: Evaluation, terms: Sequence[TermSettings]) -> dict[str, CurvePoint]:
    """What a table shows, in order: the objective where it is a mixture, its strategies' curves, the others."""
    points: dict[str, CurvePoint] = {}
    if evaluation.objective is not None and only_term(terms) is None:
        points[objective_name(terms)] = evaluation.objective
    for strategy in _strategies(evaluation, terms):
        points |= {value_name(strategy, point.k): point for point in evaluation.curves[strategy]}
    return points


def differences(before: Evaluation, after: Evaluation, terms: Sequence[TermSettings]) -> dict[str, Difference]:
    """The paired difference of everything that both evaluations measured, by name."""
    old, new = named_points(before, terms), named_points(after, terms)
    found = {name: difference(before, after, old[name], new[name]) for name in new if name in old}
    return {name: change for name, change in found.items() if change is not None}


def comparison_table(
    before: Evaluation | None,
    after: Evaluation,
    terms: Sequence[TermSettings],
    *,
    headings: tuple[str, str] = ("base model", "trained"),
    changes: dict[str, Difference] | None = None,
) -> Table:
    """Two evaluations side by side with paired differences; without `before` only the values of `after`.

    Args:
        headings: of the two columns.
        changes: what `differences` found, where it is known already.
    """
    title = f"{len(after.prompt_ids):,} held-out prompts, {after.n} samples each; [95 % intervals over prompts]"
    # Without a frame it is less than 80 characters wide.
    table = Table(title=title, title_justify="left", caption_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("value")
    for heading in headings if before else headings[1:]:
        table.add_column(heading)
    if before:
        table.add_column("difference (paired)")
        changes = differences(before, after, terms) if changes is None else changes
    old = named_points(before, terms) if before else {}
    trained = {value_name(term.strategy, term.k) for term in terms} | {objective_name(terms)}
    for name, point in named_points(after, terms).items():
        cells = [f"{name}{TRAINED if name in trained else ''}"]
        if before:
            change = (changes or {}).get(name)
            cells.append(_cell(old[name]) if name in old else "-")
            cells += [_cell(point), signed(change) if change else "-"]
        else:
            cells.append(_cell(point))
        table.add_row(*(cell.replace("[", "\\[") for cell in cells))
    table.caption = f"{TRAINED.strip()} what the run trains for" if terms else None
    return table


def signed(change: Difference) -> str:
    """`+0.117 [+0.098, +0.136]`; if no prompt differs, the bootstrap has no interval."""
    if change.low == change.value == change.high == 0.0:
        return "+0.000, no prompt differs"
    return f"{change.value:+.3f} [{change.low:+.3f}, {change.high:+.3f}]"


def _strategies(evaluation: Evaluation, terms: Sequence[TermSettings]) -> list[str]:
    """Those of the objective first, then the others; the mean only where it is trained for (it is pass@1 elsewhere)."""
    trained = [term.strategy for term in terms]
    others = [strategy for strategy in evaluation.curves if strategy != "mean"]
    return list(dict.fromkeys([*(s for s in trained if s in evaluation.curves), *others]))


def _cell(point: CurvePoint) -> str:
    return f"{point.value:.3f} [{point.low:.3f}, {point.high:.3f}]"
