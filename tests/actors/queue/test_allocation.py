"""Prompts and group sizes under rollout.allocation: an exact budget, the same at any timing, and after a resume."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.queue.allocation import Allocation, Outcome, PlannedGroup, outcome_of
from actors.queue.allocation_settings import AllocationSettings
from actors.queue.prompt_stream import PromptStream
from learner.objective import Objective
from learner.objective_settings import ObjectiveSettings
from learner.schedule import Schedule, ScheduleSettings
from tests.actors.test_group import make_group

PROMPTS, SIZE, N = 3, 7, 6


def make(
    staleness: int = 0, schedule: ScheduleSettings = ScheduleSettings(), candidates: int = 1, **more
) -> Allocation:
    return Allocation(
        AllocationSettings(max_n=12, candidates=candidates, max_weight=3.0),
        Objective(ObjectiveSettings(k=2)),
        schedule,
        N,
        PromptStream(SIZE, seed=1),
        prompts_per_step=PROMPTS,
        staleness=staleness,
        **more,
    )


def plan_of(step: int, found: Allocation) -> list[PlannedGroup]:
    return [found.planned(sequence) for sequence in range(step * PROMPTS, (step + 1) * PROMPTS)]


def sizes_of(step: int, found: Allocation) -> list[int]:
    return [group.n for group in plan_of(step, found)]


def outcomes(step: int, found: Allocation, chance: float = 0.4) -> list[Outcome]:
    """The results of a step: a function of the position, as with seeded samples."""
    result = []
    for sequence, n in enumerate(sizes_of(step, found), start=step * PROMPTS):
        correct = int(np.random.default_rng([7, sequence]).binomial(n, chance * (sequence % 3)))
        result.append(Outcome(sequence, correct, n))
    return result


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2), st.integers(1, 9), st.sampled_from([1, 2]))
def test_a_resumed_run_decides_as_one_that_never_stopped(staleness: int, cut: int, candidates: int) -> None:
    whole = make(staleness, candidates=candidates)
    decided = []
    for step in range(10):
        decided.append(plan_of(step, whole))
        if step == cut:
            saved = json.loads(json.dumps(whole.state()))
        whole.add(step, outcomes(step, whole))
    sizes = [[group.n for group in plan] for plan in decided]
    assert all(sum(of_step) == PROMPTS * N and 3 <= min(of_step) and max(of_step) <= 12 for of_step in sizes)
    assert len({size for of_step in sizes for size in of_step}) > 1
    resumed = make(staleness, candidates=candidates, first_step=cut, state=saved)
    assert resumed.state() == saved
    for step in range(cut, 10):
        assert plan_of(step, resumed) == decided[step] and resumed.noise(step) <= 1.0
        resumed.add(step, outcomes(step, resumed))


def test_a_step_trains_every_prompt_of_the_stream_once_or_chooses_among_its_own_candidates() -> None:
    for candidates in (1, 2, 3):
        found = make(candidates=candidates)
        weights = []
        for step in range(12):
            plan = plan_of(step, found)
            places = [group.place for group in plan]
            window = range(step * candidates * PROMPTS, (step + 1) * candidates * PROMPTS)
            assert places == sorted(set(places)) and set(places) <= set(window)
            weights += [group.weight for group in plan]
            found.add(step, outcomes(step, found))
        if candidates == 1:
            assert set(weights) == {1.0}
        else:
            assert min(weights) < 1.0 < max(weights) <= 3.0 + 1e-6
            assert np.mean(weights) == pytest.approx(1.0, abs=0.2)


def test_results_count_for_the_prompt_that_was_chosen() -> None:
    found = make(candidates=2)
    [first, *_] = plan_of(0, found)
    found.add(0, [Outcome(0, 2, first.n)])
    prompt = PromptStream(SIZE, seed=1).locate(first.place)[1]
    state = found.state()
    assert np.flatnonzero(np.array(state["correct"]) + np.array(state["wrong"])).tolist() == [prompt]


def test_only_groups_that_are_certainly_trained_before_the_admission_count() -> None:
    """With staleness 1 the results of step t first change the sizes of step t + 2, however late these are read."""
    extreme = [[Outcome(s, 6 * (s % 2), 6) for s in range(step * PROMPTS, (step + 1) * PROMPTS)] for step in range(3)]
    one, other = make(staleness=1), make(staleness=1)
    for step in range(2):
        one.add(step, extreme[step])
        other.add(step, extreme[step])
    before = sizes_of(2, one), sizes_of(3, one)
    one.add(2, extreme[2])
    assert sizes_of(3, one) == before[1] == sizes_of(3, other)
    with pytest.raises(KeyError):
        other.planned(4 * PROMPTS)


def test_equal_groups_until_a_prompt_comes_again_and_the_schedule_moves_the_budget() -> None:
    found = make(schedule=ScheduleSettings(n=Schedule(shape="steps", at={2: 5})))
    assert sizes_of(0, found) == [N] * PROMPTS and found.noise(0) == 1.0
    for step in range(2):
        found.add(step, outcomes(step, found))
    assert sum(sizes_of(2, found)) == 5 * PROMPTS, "steps of the second epoch"
    for step in range(2, 5):
        found.add(step, outcomes(step, found))
    assert len(set(sizes_of(5, found))) > 1 and found.noise(5) < 1.0


def test_prompts_of_very_large_groups_are_chosen_without_other_sizes() -> None:
    n = 1100  # C(n, n/2) is beyond the largest float
    found = Allocation(
        AllocationSettings(candidates=2),
        Objective(ObjectiveSettings(k=2)),
        ScheduleSettings(),
        n,
        PromptStream(SIZE, seed=1),
        prompts_per_step=PROMPTS,
        staleness=0,
    )
    assert sizes_of(0, found) == [n] * PROMPTS
    assert list(found._noise) == [(2, n, n)]


def test_older_counts_are_discounted() -> None:
    found = make()
    prompt = PromptStream(SIZE, seed=1).locate(0)[1]
    again = next(s for s in range(SIZE, 2 * SIZE) if PromptStream(SIZE, seed=1).locate(s)[1] == prompt)
    found.add(0, [Outcome(0, 4, 6)])
    for step in range(1, again // PROMPTS):
        found.add(step, [])
    found.add(again // PROMPTS, [Outcome(again, 1, 6)])
    state = found.state()
    assert (state["correct"][prompt], state["wrong"][prompt]) == (0.5 * 4 + 1, 0.5 * 2 + 5)


def test_failures_of_the_verifier_are_not_counted_and_other_data_is_refused() -> None:
    graded = replace(
        make_group((3, 3, 3)),
        reward=np.zeros(3),
        score=np.zeros(3),
        verdict=["correct", "verifier_error", "wrong"],
        answer=["1", None, "2"],
    )
    assert outcome_of(5, graded.to_record_batch()) == Outcome(5, correct=1, judged=2)
    with pytest.raises(ValueError, match="counts the answers to 4 prompts, but the training split holds 7"):
        make(state={"correct": [0.0] * 4, "wrong": [0.0] * 4, "steps": {}})
