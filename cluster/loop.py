"""The control loop: the picture of DESIGN.md, section 1, in code.

    prompts -> sampler -> verifier -> replay queue -> learner -> broadcast -> samplers

The same loop is synchronous (`queue.staleness: 0`) and asynchronous (`staleness: S`): the only difference is how many
slots the queue has. With P slots nothing is left to sample while the learner works; with (S+1)·P the groups of later
steps grow in the background. There is no second trainer.
"""

from __future__ import annotations

import asyncio
import time

from actors.queue_state import Ticket
from cluster.run import Run


async def train(run: Run) -> None:
    """Train until ``run.steps`` optimiser steps are done; evaluation and checkpoints on the way.

    Lost actors are replaced behind the five nouns (``actors/supervision.py``): here a step just takes longer.

    Raises:
        ExceptionGroup: holding an :class:`actors.supervision.ActorFailure` when the run cannot go on, or
            :class:`cluster.departure.Leaving` between two steps when it was asked to leave.
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
            batch, depth = await run.departure.unless_asked(run.queue.lease(step))
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
            run.departure.check()


async def rollout(run: Run, ticket: Ticket) -> None:
    """One admitted prompt becomes a graded group in the queue."""
    request, prompt = run.request(ticket)
    await run.pool.deliver(request, prompt, lambda group: run.queue.commit(ticket.sequence, group))


class StepClock:
    """Where the wall time of one step went: waiting for groups, learning, weight sync; and how long samplers worked."""

    def __init__(self, sampled_seconds: float) -> None:
        self._started = self._last = time.monotonic()
        self._sampled_at_start = self._sampled = sampled_seconds
        self.laps: dict[str, float] = {}

    def lap(self, name: str, sampled_seconds: float) -> None:
        """The part that just ended is called `name`; `sampled_seconds` is the samplers' busy time so far."""
        now = time.monotonic()
        self.laps[name] = now - self._last
        self._last = now
        self._sampled = sampled_seconds

    def row(self) -> dict[str, float]:
        """The step's shares under the names of ``cluster/metric_names.py``."""
        step_s = max(self._last - self._started, 1e-9)
        sampling = self._sampled - self._sampled_at_start
        learning, sync = self.laps["learning"], self.laps["sync"]
        # While samplers are busy the loop is not idle, and while it learns or syncs neither: what is left is neither.
        covered = min(sampling, self.laps["waiting"]) + learning + sync
        return {
            "time/step_s": step_s,
            "time/sampling_share": sampling / step_s,
            "time/learning_share": learning / step_s,
            "time/sync_share": sync / step_s,
            "time/other_share": max(0.0, step_s - covered) / step_s,
            "time/overlap_efficiency": max(sampling, learning) / step_s,
        }
