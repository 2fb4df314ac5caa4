"""A rank that shares its card gives back the memory of finished work, but not between the halves of a step."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

pytestmark = pytest.mark.slow  # imports torch


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
