"""When an actor counts as hung: stopped, deadlocked, busy and healthy ones, on a clock of the test's own."""

from __future__ import annotations

from collections.abc import Callable

from actors.fleet.hang_detection import HangDetector
from actors.process_stats import Vitals

HUNG_S, BUSY_S = 8.0, 100.0
ACTOR, ENGINE = 11, 12


def watch(
    seconds: int,
    *,
    answers: Callable[[int], bool] = lambda t: True,
    cpu: Callable[[int], dict[int, float]] = lambda t: {ACTOR: 0.001 * t},
    stopped: Callable[[int], set[int]] = lambda t: set(),
    working: bool = False,
) -> tuple[int, str] | None:
    """The second at which the actor is lost, and why; one look a second."""
    pulse = HangDetector(0.0, HUNG_S, BUSY_S)
    for t in range(1, seconds + 1):
        if answers(t):
            pulse.answered(t, working=working)
        pulse.looked(t, {pid: Vitals(pid in stopped(t), used) for pid, used in cpu(t).items()})
        ailment = pulse.ailment(t)
        if ailment:
            return t, ailment
    return None


def test_an_idle_actor_that_answers_lives():
    assert watch(1000) is None


def test_a_stopped_process_is_lost_within_ten_seconds_and_one_that_continues_is_not():
    when, why = watch(100, answers=lambda t: t < 20, stopped=lambda t: {ACTOR} if t >= 20 else set())
    assert 20 < when <= 30 and "stopped" in why
    assert watch(100, answers=lambda t: not 20 <= t < 25, stopped=lambda t: {ACTOR} if 20 <= t < 25 else set()) is None


def test_a_deadlocked_actor_is_lost_though_threads_of_it_tick():
    when, why = watch(100, answers=lambda t: t < 20, cpu=lambda t: {ACTOR: 0.01 * t})  # 1 % of a core
    assert 20 < when <= 30 and "no processor time" in why


def test_a_long_compilation_is_not_a_hang_until_it_is_too_long():
    silent = dict(answers=lambda t: t < 20, cpu=lambda t: {ACTOR: 0.9 * t})
    assert watch(110, **silent) is None
    when, why = watch(200, **silent)
    assert 119 <= when <= 121 and "supervision.busy_s" in why


def test_an_engine_that_has_work_and_does_nothing_is_lost_behind_an_actor_that_answers():
    stuck = {"cpu": lambda t: {ACTOR: 0.1 * t, ENGINE: 0.9 * min(t, 20)}}
    when, why = watch(100, working=True, **stuck)
    assert 27 <= when <= 30 and "engine" in why
    assert watch(100, working=False, **stuck) is None, "an engine without work may rest"


def test_an_observer_that_stood_still_proves_nothing():
    """A laptop that slept, or a driver that was stopped: nobody answered because nobody asked."""
    pulse = HangDetector(0.0, HUNG_S, BUSY_S)
    pulse.answered(1, working=True)
    pulse.looked(1, {ACTOR: Vitals(True, 0.1)})
    pulse.looked(5000, {ACTOR: Vitals(True, 0.1)})
    assert pulse.ailment(5000) is None


def test_without_eyes_on_the_node_only_the_long_limit_counts():
    assert watch(90, answers=lambda t: t < 5, cpu=lambda t: {}) is None


def test_a_look_that_failed_resets_nothing():
    """The watch of a node hangs: an actor that stopped in the meantime is seen as soon as somebody looks again."""
    pulse, now = HangDetector(0.0, HUNG_S, BUSY_S), 0.0
    pulse.answered(now, working=False)
    for _ in range(3):  # each look takes 5 s and tells nothing
        now += 6.0
        pulse.looked(now, {}, waited_s=5.0)
        assert pulse.ailment(now) is None
    pulse.looked(now + 1, {ACTOR: Vitals(True, 0.1)})
    assert "stopped" in (pulse.ailment(now + 1) or "")


def test_what_was_seen_before_the_watch_failed_condemns_nobody():
    """An actor that was idle and began to compile when nobody could look."""
    pulse = HangDetector(0.0, HUNG_S, BUSY_S)
    for t in range(1, 21):
        pulse.answered(t, working=False)
        pulse.looked(t, {ACTOR: Vitals(False, 0.1)})
    for t in (26, 32, 38):
        pulse.looked(t, {}, waited_s=5.0)
        assert pulse.ailment(t) is None
    pulse.looked(39, {ACTOR: Vitals(False, 15.0)})
    assert pulse.ailment(39) is None


def test_an_observer_that_stood_still_while_it_waited_for_a_look_proves_nothing_either():
    pulse = HangDetector(0.0, HUNG_S, BUSY_S)
    pulse.answered(1, working=True)
    pulse.looked(1, {ACTOR: Vitals(True, 0.1)})
    pulse.looked(5000, {}, waited_s=5.0)
    assert pulse.ailment(5000) is None
