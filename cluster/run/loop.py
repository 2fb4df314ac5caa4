"""The control loop (docs/architecture.md).

    prompts -> sampler -> verifier -> replay queue -> learner -> broadcast -> samplers

The loop is the same for synchronous runs (`queue.staleness: 0`) and asynchronous ones (`staleness: S`): only the number
of slots in the queue differs. With P slots nothing is left to sample while the learner works; with (S+1)·P slots the
groups of later steps are sampled in the background. Recording and replaying use this loop too, with other parts
(``cluster/run/interfaces.py``). There is no second trainer.
"""

from __future__ import annotations

import asyncio

from actors.fleet.learner_group import moving_seconds
from cluster.run.clock import StepClock
from cluster.run.run import Run


async def train(run: Run) -> None:
    """Train until ``run.steps`` optimizer steps are done, with evaluations and checkpoints in between.

    The supervisor replaces lost actors (``actors/fleet/supervision.py``); here such a step only takes longer.

    Raises:
        ExceptionGroup: of :class:`actors.remote_calls.ActorFailure` when the run cannot continue, of
            :class:`cluster.run.run.AgreementError` when sampler and learner disagree, of
            :class:`cluster.run.shutdown.ShutdownRequested` when a signal asked the run to stop, or of
            :class:`cluster.run.selection.NoFurtherGain` when the evaluations no longer improve.
    """
    if run.lacks_evaluation():
        await run.evaluate(run.first_step)
    async with asyncio.TaskGroup() as tasks, run.source.rollouts_in(tasks):
        for step in range(run.first_step, run.steps):
            run.selection.check(step)
            clock = StepClock(run.pool)

            probes = tasks.create_task(run.source.probe(step))  # first, because the update waits for it
            await run.source.start_rollouts()  # prompts -> sampler -> verifier -> replay queue, in the background
            batch, depth = await run.shutdown.unless_requested(run.lease(step))
            clock.lap("waiting")

            learned = await run.learner.step(batch, step, probes)
            clock.lap("learning", sync_s=moving_seconds(learned))

            synced = await run.broadcaster.broadcast(version=step + 1)
            await run.source.ack(version=step + 1)
            clock.lap("sync")

            row = run.record(step + 1, learned | depth | synced, clock)
            run.check_agreement(row)
            if run.evaluates_at(step + 1):
                await run.evaluate(step + 1)
            if run.checkpoints_at(step + 1):
                await run.checkpoint(step + 1)
            run.shutdown.check()
