"""Training from a recorded run: its graded groups in their order, without samplers, verifiers and queue.

The groups of every step lie in the run directory in the order in which the learner took them, so an asynchronous run,
whose timing nobody can repeat, is repeated from them: on CPUs with the same configuration to the same weights, bit by
bit. With another objective or learning rate it trains on samples of another policy; the importance ratios say how far.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from actors.group_log import groups_file, read_groups
from actors.learner_group import LearnerGroup, Origin
from cluster.checkpoints import Checkpoints
from cluster.config import RunConfig
from cluster.dashboards import Dashboards
from cluster.departure import Departure
from cluster.errors import UsageError
from cluster.incidents import Incidents
from cluster.job import Outcome, carry_out, completion, starting
from cluster.processes import Processes
from cluster.run_directory import RunDirectory


def recorded_steps(source: Path) -> int:
    """Optimiser steps whose groups `source` holds without a gap.

    Raises:
        UsageError: it holds none.
    """
    steps = 0
    while (source / "groups" / groups_file(steps + 1)).is_file():
        steps += 1
    if not steps:
        raise UsageError(f"--replay {source}: no groups/{groups_file(1)} there; give the directory of a run")
    return steps


def replay(config: RunConfig, source: Path) -> Outcome:
    """Train on the groups that the run in `source` recorded; ``run.steps`` of them, at most all.

    Raises:
        UsageError: something cannot work, and nothing was trained.
    """
    steps = min(config.run.steps, recorded_steps(source))
    config = config.model_copy(update={"run": config.run.model_copy(update={"steps": steps})})
    with RunDirectory.create(config.run.directory, config.run.name, config.model_dump(mode="json")) as directory:
        checkpoints = Checkpoints(directory.checkpoints)
        with Dashboards(config, directory, first_step=0) as dashboards:
            dashboards.message(f"replaying {steps} steps of {source}")

            async def work(departure: Departure) -> None:
                processes = Processes(config, directory.path.name, Incidents(directory, dashboards).report)
                dashboards.phase("starting the learner")

                def origin() -> Origin:
                    newest = checkpoints.latest().checkpoint
                    return (newest.step, newest.path) if newest else (0, None)

                learner = await starting(processes.start_learner(origin, source / "groups"))
                await processes.supervisor.run(
                    _train(config, learner, source, directory, checkpoints, dashboards, departure)
                )

            result = carry_out(config, work)
            if isinstance(result, Outcome):
                return result
            return completion(directory, checkpoints, steps, [])


async def _train(
    config: RunConfig,
    learner: LearnerGroup,
    source: Path,
    directory: RunDirectory,
    checkpoints: Checkpoints,
    dashboards: Dashboards,
    departure: Departure,
) -> None:
    import ray

    started, settings = time.monotonic(), config.checkpoint

    async def save(step: int) -> None:
        deadline_s = config.deadlines.checkpoint_s
        async with checkpoints.writing(step, keep=settings.keep, deadline_s=deadline_s) as path:
            await learner.save(str(path))

    for step in range(config.run.steps):
        if departure.asked and step:
            await save(step)
        departure.check()
        groups = await asyncio.to_thread(read_groups, source / "groups" / groups_file(step + 1))  # deadline: one file
        row = await learner.step(ray.put(groups), step)
        row |= {"train/step": step + 1, "rollout/step": step + 1, "time/s": time.monotonic() - started}
        directory.append_metrics(row)
        dashboards.step(row)
        if step + 1 == config.run.steps or (settings.every and (step + 1) % settings.every == 0):
            await save(step + 1)
