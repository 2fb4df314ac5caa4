"""Ends a wait for an engine when the engine has died.

vLLM fails the running samples of an engine core that died, but never answers its other calls (pause, update, sleep,
...): they would hang until the caller's deadline.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from actors.vllm_backend.environment import EngineError

T = TypeVar("T")

DEAD = (
    "its vLLM engine core died (killed, out of memory, or a crash that its log shows above); if memory ran out, lower "
    "sampler.kv_cache_gib (CPU), sampler.gpu_memory_utilization (GPU) or sampler.max_num_seqs"
)
POLL_SECONDS = 0.1  # between two checks of the processes


def died(llm: Any) -> bool:
    """Whether a process of the engine core has ended, or vLLM has noticed that one failed."""
    manager = llm.engine_core.resources.engine_manager
    return bool(llm.errored) or (manager is not None and bool(manager.finished_procs()))


async def while_alive(llm: Any, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which calls `llm` (an `AsyncLLM`).

    Raises:
        EngineError: the engine core died; `work` is cancelled.
    """
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            await asyncio.wait([task], timeout=POLL_SECONDS)
            if not task.done() and died(llm):
                raise EngineError(DEAD)
        try:
            return task.result()
        except Exception as error:
            if died(llm) and not isinstance(error, EngineError):
                raise EngineError(DEAD) from error
            raise
    finally:
        task.cancel()
