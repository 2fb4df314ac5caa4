"""Parts of a job: both signals cancel its work, and it says which evaluation prompts it trains on."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

pytestmark = pytest.mark.slow  # imports Ray, though it starts nothing


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_both_signals_cancel_the_work(number: signal.Signals) -> None:
    from cluster.job import _interruptible

    cleaned = []

    async def work() -> None:
        try:
            os.kill(os.getpid(), number)
            await asyncio.sleep(10)
        finally:
            cleaned.append(True)

    before = signal.getsignal(number)
    try:
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(_interruptible(work()))
    finally:
        signal.signal(number, before)
    assert cleaned == [True]


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
