"""Hang detection for stopped, deadlocked, busy and healthy actors, on a simulated clock."""

from __future__ import annotations

from collections.abc import Callable

from actors.fleet.hang_detection import HangDetector
from actors.process_stats import ProcessStats

HUNG_S, BUSY_S = 8.0, 100.0
ACTOR, ENGINE = 11, 12


def run(
    seconds: int,
    *,
    answers: Callable[[int], bool] = lambda t: True,
    cpu: Callable[[int], dict[int, float]] = lambda t: {ACTOR: 0.001 * t},
    stopped: Callable[[int], set[int]] = lambda t: set(),
    working: bool = False,
) -> tuple[int, str] | None:
    """The second at which the actor is lost, and why; one observation per second."""
    detector = HangDetector(0.0, HUNG_S, BUSY_S)
    for t in range(1, seconds + 1):
        if answers(t):
            detector.heartbeat(t, working=working)
        detector.observe(t, {pid: ProcessStats(pid in stopped(t), used) for pid, used in cpu(t).items()})
        reason = detector.diagnosis(t)
        if reason:
            return t, reason
    return None


def test_an_idle_actor_that_answers_lives():
    assert run(1000) is None


def test_a_stopped_process_is_lost_within_ten_seconds_and_one_that_continues_is_not():
    when, why = run(100, answers=lambda t: t < 20, stopped=lambda t: {ACTOR} if t >= 20 else set())
    assert 20 < when <= 30 and "stopped" in why
    assert run(100, answers=lambda t: not 20 <= t < 25, stopped=lambda t: {ACTOR} if 20 <= t < 25 else set()) is None


def test_a_stopped_child_that_ended_is_no_reason():
    """While an actor starts, its children are observed too; one may be stopped when it is killed."""
    children = dict(cpu=lambda t: {ACTOR: 0.1 * t} | ({99: 0.0} if t < 5 else {}), stopped=lambda t: {99})
    assert run(100, **children) is None


def test_a_deadlocked_actor_is_lost_though_its_threads_run():
    when, why = run(100, answers=lambda t: t < 20, cpu=lambda t: {ACTOR: 0.01 * t})  # 1 % of a core
    assert 20 < when <= 30 and "no processor time" in why


def test_a_long_compilation_is_not_a_hang_until_it_is_too_long():
    silent = dict(answers=lambda t: t < 20, cpu=lambda t: {ACTOR: 0.9 * t})
    assert run(110, **silent) is None
    when, why = run(200, **silent)
    assert 119 <= when <= 121 and "supervision.busy_s" in why


def test_an_engine_that_does_nothing_with_work_to_do_is_lost_though_its_actor_answers():
    stuck = {"cpu": lambda t: {ACTOR: 0.1 * t, ENGINE: 0.9 * min(t, 20)}}
    when, why = run(100, working=True, **stuck)
    assert 27 <= when <= 30 and "engine" in why
    assert run(100, working=False, **stuck) is None, "an engine without work may idle"


def test_a_suspended_observer_resets_the_detector():
    """The machine slept or the driver was stopped, so no heartbeat was requested."""
    detector = HangDetector(0.0, HUNG_S, BUSY_S)
    detector.heartbeat(1, working=True)
    detector.observe(1, {ACTOR: ProcessStats(True, 0.1)})
    detector.observe(5000, {ACTOR: ProcessStats(True, 0.1)})
    assert detector.diagnosis(5000) is None


def test_without_a_node_monitor_only_busy_s_applies():
    assert run(90, answers=lambda t: t < 5, cpu=lambda t: {}) is None


def test_a_failed_observation_resets_nothing():
    """The node monitor hangs: an actor that stopped meanwhile is detected at the next observation."""
    detector, now = HangDetector(0.0, HUNG_S, BUSY_S), 0.0
    detector.heartbeat(now, working=False)
    for _ in range(3):  # each observation takes 5 s and returns nothing
        now += 6.0
        detector.observe(now, {}, waited_s=5.0)
        assert detector.diagnosis(now) is None
    detector.observe(now + 1, {ACTOR: ProcessStats(True, 0.1)})
    assert "stopped" in (detector.diagnosis(now + 1) or "")


def test_observations_from_before_the_monitor_failed_are_not_used():
    """An idle actor began to compile while it could not be observed."""
    detector = HangDetector(0.0, HUNG_S, BUSY_S)
    for t in range(1, 21):
        detector.heartbeat(t, working=False)
        detector.observe(t, {ACTOR: ProcessStats(False, 0.1)})
    for t in (26, 32, 38):
        detector.observe(t, {}, waited_s=5.0)
        assert detector.diagnosis(t) is None
    detector.observe(39, {ACTOR: ProcessStats(False, 15.0)})
    assert detector.diagnosis(39) is None


def test_an_observer_suspended_during_an_observation_resets_the_detector():
    detector = HangDetector(0.0, HUNG_S, BUSY_S)
    detector.heartbeat(1, working=True)
    detector.observe(1, {ACTOR: ProcessStats(True, 0.1)})
    detector.observe(5000, {}, waited_s=5.0)
    assert detector.diagnosis(5000) is None


def test_an_actor_behind_a_network_that_was_down_may_take_as_long_again_to_answer():
    """The node's monitor answers first; the actor's answer waits for TCP, whose retry intervals double."""
    out = range(20, 36)

    def after(silence: int) -> tuple[int, str] | None:
        return run(
            200,
            answers=lambda t: t < 20 or t >= 36 + silence,
            cpu=lambda t: {} if t in out else {ACTOR: 0.001 * t},
        )

    assert after(15) is None
    when, why = after(1000)
    assert 52 <= when <= 56 and "no processor time" in why, "a hang that began meanwhile is still found"
