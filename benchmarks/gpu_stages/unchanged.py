"""Updates of unchanged weights must not change what an engine answers, and other weights must."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

from actors.settings import BroadcastSettings
from actors.workers.sampler import Sampler
from benchmarks.gpu_stages.sampling import Work, sample
from benchmarks.gpu_stages.setting import Setting
from benchmarks.gpu_stages.syncing import ENGINE_SHARE, Learner

UPDATES = 3
TOKENS = 64  # of each sample


def unchanged_updates(setting: Setting, *, backend: str, graphs: bool) -> dict[str, Any]:
    """Three updates to the weights that the engine has; the same seeds must give the same tokens and log-probabilities.
    Then one to other weights, which must give other tokens, and one back.

    vllm#48312 and #50523 report engines that answer differently after an update with equal weights. The kernels of a
    GPU round differently in batches of different sizes, and requests meet in other batches each time. So vLLM's
    batch-invariant kernels are used. Where the card has none, or two turns without an update differ in spite of them,
    requests run one at a time. `control_equal` says whether two such turns are equal; if they are not, the test cannot
    tell anything.
    """
    invariant = setting.device == "cpu" or use_invariant_kernels()
    work = Work(setting, "0.6b", graphs=graphs, share=ENGINE_SHARE)
    broadcast = BroadcastSettings(backend=backend)  # type: ignore[arg-type]
    return asyncio.run(_unchanged(work, broadcast, invariant)) | {
        "backend": backend,
        "cuda_graphs": graphs and setting.device == "cuda",
        "updates": UPDATES,
        "batch_invariant_kernels": invariant,
    }


def use_invariant_kernels() -> bool:
    """Have the engine use them; False if this vLLM or card cannot."""
    import torch
    import vllm.envs

    if torch.cuda.get_device_capability() < (9, 0) or "VLLM_BATCH_INVARIANT" not in vllm.envs.environment_variables:
        return False
    os.environ["VLLM_BATCH_INVARIANT"] = "1"
    return True


async def _unchanged(work: Work, broadcast: BroadcastSettings, invariant: bool) -> dict[str, Any]:
    sampler = work.make(broadcast)
    await sampler.start()
    learner = Learner(work, broadcast)

    async def turn(alone: bool) -> list[Any]:
        groups = await sample(sampler, work, 0, tokens=TOKENS, one_at_a_time=alone)
        return [completion for group in groups for completion in group]

    alone = not invariant
    before, control = await _control(sampler, turn, alone)
    if not alone and control != (True, 0.0):
        alone = True
        before, control = await _control(sampler, turn, alone)
    after = []
    for version in range(1, UPDATES + 1):
        await learner.update(sampler, version)
        after.append(compare(before, await turn(alone)))
    await learner.update(sampler, UPDATES + 1, factor=0.5)
    unmoved, _ = compare(before, await turn(alone))
    await learner.update(sampler, UPDATES + 2)
    after.append(compare(before, await turn(alone)))
    await sampler.shutdown()
    return {
        "samples": len(before),
        "one_at_a_time": alone,
        "control_equal": control == (True, 0.0),
        "tokens_equal": all(equal for equal, _ in after),
        "largest_logprob_difference": max(difference for _, difference in after),
        "other_weights_differ": not unmoved,
        "passed": control == (True, 0.0) and not unmoved and all(result == (True, 0.0) for result in after),
    }


async def _control(
    sampler: Sampler, turn: Callable[[bool], Awaitable[list[Any]]], alone: bool
) -> tuple[list[Any], tuple[bool, float]]:
    """A turn, and how a second one without an update compares with it."""
    before = await turn(alone)
    await _clear_cache(sampler)
    return before, compare(before, await turn(alone))


async def _clear_cache(sampler: Sampler) -> None:
    """As an update does: otherwise the second turn would take its prompts from the prefix cache."""
    llm = sampler._engine._llm
    await llm.pause_generation(mode="wait", clear_cache=True)
    await llm.resume_generation()


def compare(before: list[Any], after: list[Any]) -> tuple[bool, float]:
    """Whether all tokens are equal, and the largest difference of a log-probability up to the first other token."""
    equal, largest = True, 0.0
    for one, other in zip(before, after, strict=True):
        length = min(one.tokens.size, other.tokens.size)
        differs = np.flatnonzero(one.tokens[:length] != other.tokens[:length])
        equal &= one.tokens.size == other.tokens.size and not differs.size
        common = int(differs[0]) if differs.size else length
        if common:
            largest = max(largest, float(np.abs(one.logprobs[:common] - other.logprobs[:common]).max()))
    return equal, largest
