"""The tables of the page."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.markdown import interval, markdown
from benchmarks.planned.contrasts import Primary, primary_table
from benchmarks.refresh.measures import Measures
from benchmarks.refresh.plan import BASE, CONTENDERS, DEPLOYMENTS, FIXED, REFRESHED, Contrast
from benchmarks.refresh.results import Course
from learner import paired_difference_of_runs
from learner.metrics import Difference, student_t_interval

POINTS: dict[str, Any] = {"scale": 100.0, "digits": 1}
COMPARED = (
    ("refreshed", "fixed_then_refreshed", "training with refreshed verifiers alone"),
    ("refreshed", "refreshed_last", "the last refresh, for the model of `refreshed`"),
    ("fixed_then_refreshed", "fixed", "a refresh at deployment alone"),
    ("refreshed", "fixed", "both"),
    ("refreshed_first", "fixed", "the models, with the same first verifier"),
    ("refreshed", "base", "all, against the base model"),
)


def primary_contrasts(found: Measures) -> str:
    """The contrasts that the plan names."""
    rows = []
    for one in found.plan.primary:
        sides = (found.value(name, one.value, one.k) for name in (one.against, one.contender))
        points = one.value == "accepted_wrong"
        before_after = (next(sides), next(sides)) if len(found.seeds) > 1 else None
        rows.append(Primary(_contrast_name(one), before_after, **(POINTS if points else {})))
    return primary_table(rows)


def _contrast_name(one: Contrast) -> str:
    what = f"Best-of-{one.k}" if one.value == "best_of_k" else "accepted wrong answers, points"
    return f"{_minus(one.contender, one.against)}: {what}"


def _minus(after: str, before: str) -> str:
    return f"`{DEPLOYMENTS[after].title}` minus `{DEPLOYMENTS[before].title}`"


def values_table(found: Measures) -> str:
    """What each deployment is worth, means over seeds with their standard deviation."""
    ks, middle = found.plan.ks, _middle(found)
    head = [
        *(f"Best-of-{k}" for k in ks),
        f"pass@{middle}",
        "wrong accepted",
        "right accepted",
        f"misled, k = {middle}",
    ]
    rows = [["deployment", *head]]
    for name, one in DEPLOYMENTS.items():
        cells = [_cell(found.best_of(name, k)) for k in ks] + [_cell(found.pass_at(name, middle))]
        cells += [_percent(part) for part in (found.accepted_wrong(name), found.accepted_right(name))]
        rows.append([one.title, *cells, _percent(found.misled(name, middle))])
    note = (
        "Each model's answers are sampled once, and every verifier scores the same answers. Accepted: share of all "
        "wrong (right) answers to which the verifier gives a probability of 1/2 or more; the [learned page]"
        "(../learned/README.md) also has means over prompts. A verifier can accept fewer wrong answers by accepting "
        "fewer of all, so both shares are here. Misled: how often the verifier picks a wrong answer if a right one is "
        "among the k, 1 - Best-of-k / pass@k. ± is the standard deviation over seeds."
    )
    return f"{markdown(rows)}\n\n{note}"


def differences_table(found: Measures) -> str:
    """Where a difference comes from."""
    ks, middle = found.plan.ks, _middle(found)
    head = [*(f"Best-of-{k}" for k in ks), f"pass@{middle}", "wrong accepted, points", "right accepted, points"]
    rows = [["difference", "what differs", *head]]
    for after, before, what in COMPARED:
        cells = [_difference(found.best_of(before, k), found.best_of(after, k)) for k in ks]
        cells.append(_difference(found.pass_at(before, middle), found.pass_at(after, middle)))
        for part in (found.accepted_wrong, found.accepted_right):
            cells.append(_difference(part(before), part(after), **POINTS))
        rows.append([_minus(after, before), what, *cells])
    intervals = sum("[" in cell for row in rows for cell in row)
    note = (
        f"Bold: the interval excludes 0. {intervals} intervals, not corrected for their number. Descriptive, except "
        "for the primary contrasts. Equal: the same answers, and a value that does not depend on the verifier."
    )
    return f"{markdown(rows)}\n\n{note}"


def training_table(found: Measures) -> str:
    """The verifier's errors on the answers that the runs were trained on, between refreshes."""
    ends = [0, *found.plan.refreshes, found.plan.steps]
    rows = [["steps", *CONTENDERS, "difference, points", "right answers, difference in points"]]
    for start, end in zip(ends[:-1], ends[1:], strict=True):
        wrong = {name: [_accepted(c, start, end) for c in found.courses_of(name)] for name in CONTENDERS}
        right = {name: [_right(c, start, end) for c in found.courses_of(name)] for name in CONTENDERS}
        shown = [f"{100 * np.mean(wrong[name]):.1f} %" for name in CONTENDERS]
        cells = [_of_seeds(of[FIXED], of[REFRESHED]) for of in (wrong, right)]
        rows.append([f"{start + 1} to {end}", *shown, *cells])
    note = (
        "Share of the wrong answers of these steps that the verifier of that step accepts. In the first row both runs "
        "of a seed have the same verifier, prompts and samples, so it must be equal. Intervals: t over seeds only; "
        "both runs of a seed see the same prompts. Descriptive."
    )
    return f"{markdown(rows)}\n\n{note}"


def cost_table(found: Measures) -> str:
    """Answers and seconds, means over seeds."""
    [base] = found.courses_of(BASE)
    head = [
        "answers sampled",
        "seconds of training",
        "verifiers trained",
        "answers for them",
        "seconds for them",
        "in steps",
    ]
    rows = [["", *head]]
    rows.append(["first verifier, shared", *_cost_cells([base], slice(None), None)])
    for name in CONTENDERS:
        courses = found.courses_of(name)
        step = float(np.mean([c.seconds.mean() for c in courses]))
        rows.append([f"{name}: training", *_cost_cells(courses, slice(0, -1), step)])
        rows.append([f"{name}: refresh at deployment", "", "", *_cost_cells(courses, slice(-1, None), step)[2:]])
    note = (
        f"Seconds with one core and {found.plan.costs.jobs} runs at a time, other work on the machine included. "
        "Answers for verifiers: different ones in the training part; every refresh reads the first samples again. In "
        "steps: as many optimizer steps of the same run take as long. The seconds of training leave out the start of "
        "the processes; those of verifiers and of the first samples include it."
    )
    return f"{markdown(rows)}\n\n{note}"


def _cost_cells(courses: list[Course], which: slice, step_s: float | None) -> list[str]:
    answers, seconds = (np.mean([getattr(c, part).sum() for c in courses]) for part in ("answers", "seconds"))
    trained, spent = ([getattr(c, f"verifier_{part}")[which] for c in courses] for part in ("answers", "seconds"))
    verifier_s = float(np.mean([part.sum() for part in spent]))
    steps = "" if step_s is None else f"{verifier_s / step_s:.0f}"
    many = [str(len(trained[0])), f"{np.mean([part.sum() for part in trained]):,.0f}", f"{verifier_s:,.0f}", steps]
    return [f"{answers:,.0f}", f"{seconds:,.0f}", *many]


def _middle(found: Measures) -> int:
    """k of the primary contrast, or else the middle one."""
    named = [one.k for one in found.plan.primary if one.k is not None]
    return named[0] if named else found.plan.ks[len(found.plan.ks) // 2]


def _difference(before_SP: np.ndarray, after_SP: np.ndarray, scale: float = 1.0, digits: int = 3) -> str:
    if np.array_equal(before_SP, after_SP):
        return "equal"
    return interval(paired_difference_of_runs(before_SP, after_SP), scale, digits)


def _of_seeds(before: list[float], after: list[float]) -> str:
    """Mean and t interval of paired differences over seeds, in points."""
    found = np.subtract(after, before)
    if not found.any():
        return "equal"
    error = float(found.std(ddof=1)) / len(found) ** 0.5
    return interval(Difference(*student_t_interval(float(found.mean()), error, len(found) - 1)), 100.0, 1)


def _accepted(course: Course, start: int, end: int) -> float:
    part = slice(start, end)
    return float(course.accepted_wrong[part].sum() / (course.answers - course.right)[part].sum())


def _right(course: Course, start: int, end: int) -> float:
    return float(course.right[start:end].sum() / course.answers[start:end].sum())


def _cell(values_SP: np.ndarray) -> str:
    by_seed_S = values_SP.mean(axis=1)
    spread = f" ± {by_seed_S.std(ddof=1):.3f}" if len(by_seed_S) > 1 else ""
    return f"{by_seed_S.mean():.3f}{spread}"


def _percent(values_SP: np.ndarray) -> str:
    by_seed_S = 100 * values_SP.mean(axis=1)
    spread = f" ± {by_seed_S.std(ddof=1):.1f}" if len(by_seed_S) > 1 else ""
    return f"{by_seed_S.mean():.1f} %{spread}"
