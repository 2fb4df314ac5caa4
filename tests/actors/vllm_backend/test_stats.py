"""How loaded an engine is, from what vLLM reports after each step."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from actors.engine_load import EngineLoad
from actors.vllm_backend.stats import EngineStats


def scheduler(use: float = 0.0, running: int = 0, waiting: int = 0, *, deferred: int = 0, **begun: int) -> Any:
    """vLLM's SchedulerStats; `begun`: queries and hits of the prefix cache."""
    prefix = SimpleNamespace(**{"queries": 0, "hits": 0} | begun)
    return SimpleNamespace(
        kv_cache_usage=use,
        num_running_reqs=running,
        num_waiting_reqs=waiting,
        num_skipped_waiting_reqs=deferred,
        prefix_cache_stats=prefix,
    )


def iteration(preempted: int = 0) -> Any:
    return SimpleNamespace(num_preempted_reqs=preempted)


def test_every_reading_resets_maxima_and_sums() -> None:
    stats = EngineStats()
    stats.record(scheduler(0.5, 8, 3, queries=100, hits=30), iteration())
    stats.record(scheduler(0.9, 6, 0, deferred=4), iteration(2))
    stats.record(scheduler(0.2, 2, 0, queries=100, hits=60), iteration(1))
    taken = stats.take()
    assert taken == EngineLoad(0.9, 8, 4, preemptions=3, prompt_tokens=200, cached_tokens=90)
    assert taken.prefix_cache_hit_rate == 0.45
    stats.record(scheduler(0.1, 1, 0), None)
    assert stats.take() == EngineLoad(0.2, 2, 0)  # the second period began with two running requests
    assert stats.take() == EngineLoad(0.1, 1, 0)
    assert stats.take().prefix_cache_hit_rate is None


def test_requests_that_a_weight_update_puts_back_are_not_preemptions() -> None:
    """They are reported one by one, each with its next token; a full cache preempts others meanwhile."""
    stats = EngineStats()
    stats.record(scheduler(0.8, 5, 1), iteration(1))
    stats.cache_cleared()
    stats.record(scheduler(0.3, 2, 4), iteration(2))
    stats.record(scheduler(0.6, 5, 1), iteration(3))
    assert stats.take().preemptions == 1
    stats.record(scheduler(1.0, 5, 1), iteration(2))
    assert stats.take().preemptions == 2


def test_a_cleared_cache_is_empty() -> None:
    stats = EngineStats()
    stats.record(scheduler(0.8, 5, 1), None)
    stats.take()
    stats.cache_cleared()
    stats.take()
    assert stats.take() == EngineLoad(0.0, running=0, waiting=6)


def test_outputs_without_a_schedule_count_too() -> None:
    stats = EngineStats()
    stats.record(scheduler(0.8, 5, 1), None)
    stats.record(None, iteration(2))
    assert stats.take() == EngineLoad(0.8, 5, 1, preemptions=2)
