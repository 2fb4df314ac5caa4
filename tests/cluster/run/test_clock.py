"""The shares of a step."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from cluster.run.clock import StepClock


def test_freeing_memory_for_the_learner_is_weight_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    sampled = 0.0
    pool = SimpleNamespace(sampling_seconds=lambda: sampled, sampled_tokens=0)
    clock = StepClock(pool)  # type: ignore[arg-type]
    now, sampled = 105.0, 5.0
    clock.lap("waiting")
    now = 109.0
    clock.lap("learning", sync_s=1.0)
    now = 110.0
    clock.lap("sync")
    row = clock.row()
    assert row["time/sampling_share"] == pytest.approx(0.5)
    assert row["time/learning_share"] == pytest.approx(0.3)
    assert row["time/sync_share"] == pytest.approx(0.2)
    assert row["time/other_share"] == pytest.approx(0.0)
