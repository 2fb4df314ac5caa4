"""Parts of a job: how signals end it, and that it says which evaluation prompts it trains on."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from cluster.departure import Departure, Leaving

pytestmark = pytest.mark.slow  # imports Ray, though it starts nothing


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_what_only_waits_and_lets_a_step_end(number: signal.Signals) -> None:
    done = []

    async def work(departure: Departure) -> None:
        os.kill(os.getpid(), number)
        await asyncio.sleep(0.1)
        done.append("step")
        departure.check()

    with pytest.raises(Leaving):
        depart(work, number)
    assert done == ["step"]

    async def waits(departure: Departure) -> None:
        os.kill(os.getpid(), number)
        await departure.unless_asked(asyncio.sleep(60))

    with pytest.raises(Leaving):
        depart(waits, number)


def test_a_second_signal_and_the_end_of_patience_stop_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def stubborn(departure: Departure) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(60)

    with pytest.raises(asyncio.CancelledError):
        depart(stubborn, signal.SIGTERM)

    async def slow(departure: Departure) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(60)

    monkeypatch.setattr("cluster.departure.LEAVE_SECONDS", 0.1)
    with pytest.raises(asyncio.CancelledError):
        depart(slow, signal.SIGTERM)


def depart(work: Callable[[Departure], Coroutine[Any, Any, None]], number: signal.Signals) -> None:
    async def main() -> None:
        departure = Departure()
        await departure.carry(work(departure))

    before = signal.getsignal(number)
    started = time.monotonic()
    try:
        asyncio.run(main())
    finally:
        signal.signal(number, before)
        assert time.monotonic() - started < 10


def test_a_run_says_which_evaluation_prompts_it_trains_on() -> None:
    import numpy as np

    from cluster.config import build_config
    from cluster.evaluation import EvaluationPrompt
    from cluster.job import contamination_line
    from verifiers.task import Prompt

    def prompts(*texts: str) -> list[EvaluationPrompt]:
        return [EvaluationPrompt(Prompt(f"{t}-id", t, {}, "all"), np.zeros(1, np.int32)) for t in texts]

    line = contamination_line(build_config({}), prompts("2 + 2?", "3 + 3?"), prompts("3 + 3?", "5 + 5?"))
    assert line.startswith("contamination: of 2 evaluation prompts 1 have the text of a training prompt")
    assert line.endswith("3 + 3?-id and 3 + 3?-id")
