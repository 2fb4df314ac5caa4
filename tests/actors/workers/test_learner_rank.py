"""A rank that shares its card gives back the memory of finished work, but not between the halves of a step."""

from __future__ import annotations

import asyncio
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = pytest.mark.slow  # imports torch


def test_the_engine_gets_the_longest_deadline_and_the_schedule_of_the_learning_rate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rank 0 alone writes the exported model. With a limit of its own the other ranks gave up after 600 s."""
    from actors.settings import BroadcastSettings, DeadlineSettings
    from actors.workers.learner_rank import LearnerRank
    from learner.objective_settings import ObjectiveSettings
    from learner.schedule import Schedule, ScheduleSettings
    from learner.settings import LearnerSettings, LossSettings
    from verifiers.settings import TaskSettings

    given: dict[str, Any] = {}
    engine = SimpleNamespace(Engine=lambda *_, **options: given.update(options))
    monkeypatch.setitem(sys.modules, "learner.engine", engine)
    decay = Schedule(end=0.0, over=9)
    rank = LearnerRank(
        rank=1, world_size=2, model_path="model", dtype="float32", learner=LearnerSettings(), loss=LossSettings(),
        objective=ObjectiveSettings(k=1), schedule=ScheduleSettings(learning_rate=decay), n=2, allocation=None,
        temperature=1.0, seed=0,
        broadcast=BroadcastSettings(), run_id="run", prompts=TaskSettings(),
        deadlines=DeadlineSettings(checkpoint_s=7200.0),
    )  # fmt: skip
    rank._load_engine("127.0.0.1", 1)
    assert given["timeout_s"] == 7200.0
    assert given["rate_schedule"] == decay


@pytest.mark.parametrize("shares_card", [True, False])
def test_cached_memory_is_given_back_after_work(shares_card: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from actors.workers import learner_rank

    events: list[str] = []
    monkeypatch.setattr(learner_rank, "_free_cached_memory", lambda: events.append("free"))
    rank: Any = object.__new__(learner_rank.LearnerRank)
    rank._thread, rank._shares_card, rank._accumulated = ThreadPoolExecutor(1), shares_card, None

    def accumulate() -> None:
        events.append("gradient")
        rank._accumulated = object()

    def update() -> None:
        events.append("update")
        rank._accumulated = None

    def fail() -> None:
        events.append("publish")
        raise RuntimeError("no room in shared memory")

    async def turns() -> None:
        await rank._run(accumulate, "compute the gradient")
        await rank._run(update, "update the weights")
        with pytest.raises(RuntimeError, match="no room"):
            await rank._run(fail, "publish")

    asyncio.run(turns())
    expected = ["gradient", "update", "free", "publish", "free"]
    assert events == (expected if shares_card else [event for event in expected if event != "free"])


def test_a_rank_that_sleeps_gives_back_the_memory_of_what_it_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the thread of its other work, because DeepSpeed's calls must not overlap."""
    from actors.workers import learner_rank

    events: list[str] = []

    def record(what: str) -> None:
        assert threading.current_thread().name.startswith("learner")
        events.append(what)

    monkeypatch.setattr(learner_rank, "_free_cached_memory", lambda: record("free"))
    rank: Any = object.__new__(learner_rank.LearnerRank)
    rank._thread = ThreadPoolExecutor(1, thread_name_prefix="learner")
    rank._shares_card, rank._accumulated = True, None
    rank._engine = SimpleNamespace(sleep=lambda: record("sleep"), wake=lambda: record("wake"))

    async def turns() -> None:
        await rank.sleep()
        await rank.wake()

    asyncio.run(turns())
    assert events == ["sleep", "free", "wake", "free"]
