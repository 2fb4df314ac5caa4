"""The control loop: the picture of DESIGN.md, section 1, in code.

    prompts -> sampler -> verifier -> replay queue -> learner -> broadcast -> samplers

The same loop is synchronous (`queue.staleness: 0`) and asynchronous (`staleness: S`): the only difference is how many
slots the queue has. With P slots nothing is left to sample while the learner works; with (S+1)·P the groups of later
steps grow in the background. There is no second trainer.
"""

from __future__ import annotations

import asyncio

from actors.queue.state import Ticket
from cluster.run.clock import StepClock
from cluster.run.run import Run


async def train(run: Run) -> None:
    """Train until ``run.steps`` optimiser steps are done; evaluation and checkpoints on the way.

    Lost actors are replaced behind the five nouns (``actors/fleet/supervision.py``): here a step just takes longer.

    Raises:
        ExceptionGroup: holding an :class:`actors.fleet.supervision.ActorFailure` when the run cannot go on, or
            :class:`cluster.run.shutdown.ShutdownRequested` between two steps when it was asked to leave.
    """
    if run.first_step == 0 and run.evaluates_at(0):
        await run.evaluate(0)
    async with asyncio.TaskGroup() as rollouts:
        run.queue.issue = lambda ticket: rollouts.create_task(rollout(run, ticket))
        for step in range(run.first_step, run.steps):
            clock = StepClock(run.pool.sampling_seconds())

            probes = rollouts.create_task(run.probe(step))  # first: the update waits for it
            for ticket in await run.queue.reserve():
                run.queue.issue(ticket)
            batch, depth = await run.shutdown.unless_asked(run.queue.lease(step))
            clock.lap("waiting", run.pool.sampling_seconds())

            learned = await run.learner.step(batch, step, probes)
            clock.lap("learning", run.pool.sampling_seconds())

            synced = await run.broadcaster.broadcast(version=step + 1)
            await run.queue.ack(version=step + 1)
            clock.lap("sync", run.pool.sampling_seconds())

            run.observe(step + 1, learned | depth | synced, clock)
            if run.evaluates_at(step + 1):
                await run.evaluate(step + 1)
            if run.checkpoints_at(step + 1):
                await run.checkpoint(step + 1)
            run.shutdown.check()


async def rollout(run: Run, ticket: Ticket) -> None:
    """One admitted prompt becomes a graded group in the queue."""
    request, prompt = run.request(ticket)
    await run.pool.deliver(request, prompt, lambda group: run.queue.commit(ticket.sequence, group))
