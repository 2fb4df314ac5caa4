"""Frees GPU memory of an engine while a learner on the same GPU works (``sampler.sleep``).

Facts about vLLM 0.32, read from its source and not run on a GPU yet:

- `sleep(level=2)` discards weights and cache, and keeps buffers, CUDA graphs and communicators. Level 1 would copy the
  weights to host memory and back; nothing needs the copy, because the update after each step sends every weight.
- `release_kv_cache_memory` discards the cache alone, and requires a finished pause without requests.
- `wake_up(["weights"])` allocates memory of undefined content, so an update must follow; `wake_up(["kv_cache"])`
  allocates an empty cache. The scheduler resumes when everything is allocated again.
- On CPUs vLLM logs a warning and frees nothing, so the configuration refuses it there.
"""

from __future__ import annotations

from typing import Any, Literal

from actors.vllm_backend.environment import EngineError


class Sleep:
    """What one engine has freed. Requests that arrive while it sleeps wait in vLLM's queue; the driver sends none."""

    def __init__(self, kind: Literal["none", "cache", "weights"]) -> None:
        self._kind = kind
        self.asleep = False

    async def begin(self, llm: Any) -> None:
        """Free what `kind` names, after running requests have finished."""
        if self._kind == "none" or self.asleep:
            return
        self.asleep = True  # first: a failure leaves the engine in an unknown state
        if self._kind == "weights":
            await llm.sleep(level=2, mode="wait")
        else:
            await llm.pause_generation(mode="wait", clear_cache=True)
            await llm.release_kv_cache_memory()

    async def allocate_weights(self, llm: Any) -> None:
        """Give the weights their memory back, for an update that fills all of it."""
        if self.asleep and self._kind == "weights":
            await llm.wake_up(["weights"])

    async def end(self, llm: Any) -> None:
        """Allocate the cache; the engine samples again.

        Raises:
            EngineError: a part of the memory is still missing.
        """
        if not self.asleep:
            return
        if not await llm.wake_up(["kv_cache"]):
            raise EngineError("vLLM is not fully awake after its weights and its cache were allocated")
        self.asleep = False
