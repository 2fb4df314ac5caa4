"""Samplers free memory after the groups of a step are complete, and only where `sampler.sleep` asks for it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from cluster.config import build_config

pytestmark = pytest.mark.slow  # imports Ray, though it starts nothing


@pytest.mark.parametrize(("kind", "calls"), [("none", ["lease 3"]), ("weights", ["lease 3", "sleep"])])
def test_samplers_sleep_after_the_lease(kind: str, calls: list[str]) -> None:
    from cluster.run.live_groups import LiveGroups
    from cluster.run.recorder import recording

    config = build_config(
        {
            "sampler": {"gpus": 1, "sleep": kind},
            "learner": {"gpus_per_rank": 1},
            "cluster": {"placement": "colocated"},
        }
    )
    seen: list[str] = []

    async def lease(step: int) -> tuple[str, dict[str, float]]:
        seen.append(f"lease {step}")
        return "groups", {}

    async def sleep() -> None:
        seen.append("sleep")

    queue, pool = SimpleNamespace(lease=lease), SimpleNamespace(sleep=sleep)
    prompts: list = [None]
    assert asyncio.run(LiveGroups(config, prompts, pool, queue).lease(3)) == ("groups", {})  # type: ignore[arg-type]
    assert seen == calls
    seen.clear()
    asyncio.run(LiveGroups(recording(config), prompts, pool, queue).lease(3))  # type: ignore[arg-type]
    assert seen == ["lease 3"], "no learner would wake them"
