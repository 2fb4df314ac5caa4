"""One optimizer step on all ranks: the gradient does not wait for probes; a lost rank repeats the whole step."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.slow  # imports Ray, though it starts nothing

LIMIT_S = 10


class Rank:
    """Records its calls; at the `fatal` one it dies, or its connection breaks, or it raises `error`."""

    def __init__(self, asked: list[str], fatal: int = 0, *, dies: bool = True, error: Exception | None = None) -> None:
        self.asked, self.fatal, self.calls, self.dies, self.error = asked, fatal, 0, dies, error
        self.accumulate = SimpleNamespace(remote=lambda groups, step: self._answer(f"accumulate {groups} {step}"))
        self.update = SimpleNamespace(remote=lambda step, probes: self._answer(f"update {step} {probes}"))
        self.sleep = SimpleNamespace(remote=lambda: self._answer("sleep"))
        self.wake = SimpleNamespace(remote=lambda: self._answer("wake"))

    async def _answer(self, what: str) -> dict[str, float]:
        from ray.exceptions import ActorUnavailableError, RayActorError, RayTaskError

        self.asked.append(what)
        self.calls += 1
        if self.calls == self.fatal and self.error:
            raise RayTaskError(what, "traceback", self.error)
        if self.calls == self.fatal:
            raise RayActorError if self.dies else ActorUnavailableError("the connection was reset", None)
        return {"calls": self.calls}


def group_of(rank: Rank, successor: Rank | None = None, *, sleeps: bool = False):
    """A learner of one rank, which `successor` replaces as soon as it is marked as failed."""
    from actors.fleet.learner_group import LearnerGroup
    from actors.fleet.supervision import Supervisor
    from actors.fleet.units import Member, Unit
    from actors.settings import DeadlineSettings, SupervisionSettings

    member = Member("learner-0", lambda incarnation: None)
    member.handle, member.serving, member.incarnation = rank, True, 0
    supervisor = Supervisor(SupervisionSettings(), start_s=1, spawn_monitor=lambda node: None, kill=lambda handle: None)

    def replace(lost, incarnation, failure):
        lost.handle, lost.incarnation = successor, incarnation + 1

    supervisor.mark_failed = replace
    unit = Unit("learner", [member], prepare=lambda: asyncio.sleep(0))
    return LearnerGroup(
        unit, supervisor, DeadlineSettings(), origin=lambda: (0, None), history=lambda step: None, sleeps=sleeps
    )


def test_the_gradient_is_computed_while_probes_are_drawn() -> None:
    asked: list[str] = []

    async def scenario() -> dict[str, float]:
        drawn = asyncio.Event()

        async def probe():
            await drawn.wait()
            return ["probe"]

        learner = group_of(Rank(asked))
        step = asyncio.create_task(learner.step("groups", 3, asyncio.create_task(probe())))
        while not asked:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        assert asked == ["accumulate groups 3"]
        drawn.set()
        row = await step
        assert learner.version == 4
        return row

    assert asyncio.run(asyncio.wait_for(scenario(), LIMIT_S)) == {"calls": 2}
    assert asked == ["accumulate groups 3", "update 3 ['probe']"]


@pytest.mark.parametrize("dies", [True, False])
@pytest.mark.parametrize("fatal", [1, 2])
def test_a_rank_lost_within_a_step_repeats_the_whole_step(fatal: int, dies: bool) -> None:
    """Never on the same rank: one whose connection broke may have computed the gradient, or updated its weights."""
    asked: list[str] = []

    async def scenario() -> None:
        learner = group_of(Rank(asked, fatal, dies=dies), successor=Rank(asked))
        await learner.step("groups", 0, asyncio.create_task(asyncio.sleep(0, ["probe"])))

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))
    assert asked[-2:] == ["accumulate groups 0", "update 0 ['probe']"]
    assert len(asked) == 2 + fatal


def test_a_step_reports_the_seconds_in_which_samplers_fell_asleep() -> None:
    from actors.fleet.shared_cards import Cards

    class Shared(Cards):
        async def sleep(self) -> float:
            return 1.5

    learner = group_of(Rank([]))
    learner._cards = Shared()
    row = asyncio.run(asyncio.wait_for(learner.step("groups", 0), LIMIT_S))
    assert row == {"calls": 2, "sync/sleep_seconds": 1.5}


def test_ranks_that_sleep_wake_for_a_step_and_report_the_seconds() -> None:
    """After the samplers, which are asleep while the states come back, and before these get the new weights."""
    from actors.fleet.learner_group import moving_seconds
    from actors.fleet.shared_cards import Cards

    asked: list[str] = []

    class Shared(Cards):
        async def sleep(self) -> float:
            asked.append("samplers sleep")
            return 1.5

    learner = group_of(Rank(asked), sleeps=True)
    learner._cards = Shared()
    row = asyncio.run(asyncio.wait_for(learner.step("groups", 0), LIMIT_S))
    assert asked == ["samplers sleep", "wake", "accumulate groups 0", "update 0 []", "sleep"]
    assert row["sync/learner_sleep_seconds"] > 0
    assert moving_seconds(row) == 1.5 + row["sync/learner_sleep_seconds"]


@pytest.mark.parametrize("fatal", [1, 4])
def test_ranks_whose_states_did_not_move_are_replaced_and_repeat_the_step(fatal: int) -> None:
    """Where their states are is not known, though the process lives."""
    asked: list[str] = []
    learner = group_of(Rank(asked, fatal, error=MemoryError("no host memory")), successor=Rank(asked), sleeps=True)
    asyncio.run(asyncio.wait_for(learner.step("groups", 0), LIMIT_S))
    step = ["wake", "accumulate groups 0", "update 0 []", "sleep"]
    assert asked == step[:fatal] + step


def test_a_failed_move_names_the_rank_and_the_key() -> None:
    from actors.remote_calls import ActorLost

    learner = group_of(Rank([], 1, error=MemoryError("no host memory")), sleeps=True)
    message = r"learner-0 failed to move its states to host memory \(learner.sleep\): MemoryError: no host memory"
    with pytest.raises(ActorLost, match=message):
        asyncio.run(asyncio.wait_for(learner._sleep(0), LIMIT_S))


def test_reading_the_groups_of_an_earlier_step_does_not_hang_the_driver() -> None:
    released = threading.Event()
    learner = group_of(Rank([]))
    learner._history = lambda step: released.wait(LIMIT_S)
    learner._deadlines = learner._deadlines.model_copy(update={"checkpoint_s": 0.1})
    with pytest.raises(TimeoutError, match=r"read the groups of step 4 again \(see deadlines.checkpoint_s\)"):
        asyncio.run(asyncio.wait_for(learner._groups(3), LIMIT_S))
    released.set()


def test_ranks_replaced_while_probes_are_drawn_repeat_the_step() -> None:
    """The new ranks have no gradient: updating them with the old ones' would fail the run."""
    asked: list[str] = []

    async def scenario() -> None:
        drawn = asyncio.Event()

        async def probe():
            await drawn.wait()
            return ["probe"]

        learner = group_of(Rank(asked))
        learner._supervisor.mark_failed = lambda *_: None  # of an incarnation that is gone already
        step = asyncio.create_task(learner.step("groups", 0, asyncio.create_task(probe())))
        while not asked:
            await asyncio.sleep(0.001)
        (member,) = learner._unit.members
        member.handle, member.serving = None, False  # the supervisor ends it ...
        await asyncio.sleep(0.01)
        member.handle, member.incarnation, member.serving = Rank(asked), 1, True  # ... and has a successor
        drawn.set()
        await step

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))
    assert asked == ["accumulate groups 0", "accumulate groups 0", "update 0 ['probe']"]
