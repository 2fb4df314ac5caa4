"""Evaluation on held-out prompts: one pool of n samples per prompt, unbiased pass@k for every k up to n.

Training and `bonrl eval` use this same code. Samples never repeat training's random numbers, and groups of an
evaluation are logged as Parquet like those of training.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
from ray import ObjectRef

from actors.fleet.rollout_pool import RolloutPool
from actors.group import Group, SampleRequest
from actors.queue.group_log import write_groups
from actors.queue.prompt_stream import sampling_seed
from actors.remote_calls import ActorFailure, call
from actors.sampling import Sampling
from actors.threads import in_daemon_thread
from cluster.config import RunConfig
from cluster.evaluation.summary import Evaluation, NothingJudged, summarize
from learner.objective_settings import TermSettings
from verifiers.text.rendering import TokenizedPrompt

EVALUATION_STREAM = 1  # see actors.queue.prompt_stream.sampling_seed
SUMMARY_S, SUMMARY_S_PER_PROMPT = 600.0, 10.0  # a majority curve over a large pool takes up to a second of a prompt


def prompts_in_flight(config: RunConfig, n: int) -> int:
    """Prompts with `n` samples each that keep every engine full, with as many again waiting in it."""
    return max(1, 2 * config.sampler.max_num_seqs * config.actors.sampler_range.min // n)


async def evaluate(
    pool: RolloutPool,
    prompts: Sequence[TokenizedPrompt],
    *,
    n: int,
    sampling: Sampling,
    max_tokens: int,
    seed: int,
    step: int,
    max_in_flight: int,
    strategies: Sequence[str] = ("pass_at_k",),
    trained_ks: Sequence[int] = (),
    terms: Sequence[TermSettings] = (),
    log: Path | None = None,
) -> Evaluation:
    """Sample every prompt n times, grade the samples, and estimate the pass@k curve.

    Args:
        pool: samplers and verifiers, holding the weights to evaluate.
        prompts: held-out prompts.
        n: samples of each prompt; greedy sampling draws one.
        seed: the run's seed; the same seed gives the same random numbers at every evaluation (paired comparison).
        max_in_flight: prompts under way at once.
        strategies: whose curves are wanted.
        trained_ks: points of the curves in addition to 1, 2, 4 .. n; those above n are left out.
        terms: the objective's, whose weighted sum is evaluated too.
        log: Parquet file for the graded groups.

    Raises:
        ExceptionGroup: holding the ActorFailure of the first actor that failed.
        ActorFailure: the verifier failed on all groups.
        TimeoutError: the curves were not ready, or the groups not written, in time.
    """
    started = time.monotonic()
    gate = asyncio.Semaphore(max_in_flight)

    async def fetch(group: ObjectRef) -> pa.RecordBatch:
        return await call(group, owner="object store", to="return an evaluation group", deadline_s=60)

    async def one(index: int) -> pa.RecordBatch:
        held_out = prompts[index]
        request = SampleRequest(
            sequence=index,
            epoch=0,
            prompt_id=held_out.prompt.id,
            level=held_out.prompt.level,
            prompt_tokens=held_out.tokens,
            admitted_version=step,
            n=sampling.samples(n),
            sampling=sampling,
            max_tokens=max_tokens,
            seed=sampling_seed(seed, index, stream=EVALUATION_STREAM),
        )
        # deadline: the groups that hold it have theirs
        async with gate:
            return await pool.deliver(request, held_out.prompt, fetch, purpose="evaluation")

    async with asyncio.TaskGroup() as tasks:
        pending = [tasks.create_task(one(index)) for index in range(len(prompts))]
    batches = [task.result() for task in pending]

    def finish() -> Evaluation:
        if log is not None:
            write_groups(log, batches)
        groups = [Group.from_record_batch(batch) for batch in batches]
        try:
            return summarize(groups, step, sampling, time.monotonic() - started, strategies, trained_ks, terms)
        except NothingJudged as error:
            raise ActorFailure(str(error)) from error

    # On a thread: the curves of a vote take minutes, and signs of life must be heard meanwhile.
    return await in_daemon_thread(
        finish,
        owner="evaluation",
        to=f"summarize {len(batches)} groups",
        deadline_s=SUMMARY_S + SUMMARY_S_PER_PROMPT * len(batches),
    )
