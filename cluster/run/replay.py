"""Training from a recorded run: its graded groups in their order, without samplers, verifiers and queue.

The groups of every step lie in the run directory in the order in which the learner took them, so an asynchronous run,
whose timing nobody can repeat, is repeated from them: on CPUs with the same configuration to the same weights, bit by
bit. With another objective or learning rate it trains on samples of another policy; the importance ratios say how far.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from actors.fleet.learner_group import LearnerGroup, Origin
from actors.group import check_schema
from actors.queue.group_log import groups_file, read_groups
from actors.threads import in_daemon_thread
from actors.workers.learner_rank import HUGGINGFACE
from cluster.config import RunConfig
from cluster.errors import UsageError
from cluster.exit_status import COMPLETED
from cluster.records.checkpoints import Checkpoints
from cluster.records.run_directory import RunDirectory
from cluster.run.job import completion, summarised
from cluster.run.processes import Processes
from cluster.run.prompts import dated
from cluster.run.result import JobResult, run_to_result, starting
from cluster.run.shutdown import Shutdown
from cluster.run.startup import announced_start
from cluster.telemetry.dashboards import Dashboards
from cluster.telemetry.health import Health
from cluster.telemetry.incidents import Incidents
from learner.schedule import sampled_otherwise


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


def check_recorded(config: RunConfig, source: Path, steps: int) -> None:
    """Compare what `source` recorded with what the configuration trains on, before anything starts.

    Raises:
        UsageError: groups of another size or temperature, unreadable, or without the demonstrations that are to be
            imitated.
    """
    for step in range(steps):
        file = source / "groups" / groups_file(step + 1)
        try:
            check_schema(pq.read_schema(file))
            table = pq.read_table(file, columns=["finish_reason", "temperature", "demonstration_tokens"])
        except (OSError, ValueError) as error:
            raise UsageError(f"--replay {source}: {file.name} cannot be read: {error}") from error
        sizes = set(pc.list_value_length(table["finish_reason"]).to_pylist()) - {0}  # a quarantined prompt has none
        temperatures = table["temperature"].to_pylist()
        problem = sampled_otherwise("n", config.schedule, step, config.rollout.n, sizes)
        problem = problem or sampled_otherwise(
            "temperature", config.schedule, step, config.rollout.temperature, temperatures
        )
        if problem:
            raise UsageError(f"--replay {source}: {problem}")
        if config.objective.imitation != "none" and table["demonstration_tokens"].null_count:
            raise UsageError(
                f"objective.imitation = {config.objective.imitation}, but groups in {file} hold no demonstration; "
                "replay a run that imitated, or set objective.imitation = none"
            )


def replay(config: RunConfig, source: Path) -> JobResult:
    """Train on the groups that the run in `source` recorded; ``run.steps`` of them, at most all.

    Raises:
        UsageError: something cannot work, and nothing was trained.
    """
    steps = min(config.run.steps, recorded_steps(source))
    check_recorded(config, source, steps)
    config = dated(config, resumed=True)  # the export renders prompts as the recorded run did
    config = config.model_copy(update={"run": config.run.model_copy(update={"steps": steps})})
    with RunDirectory.create(config.run.directory, config.run.name, config.model_dump(mode="json")) as directory:
        checkpoints = Checkpoints(directory.checkpoints)
        with Dashboards(config, directory, first_step=0) as dashboards:
            dashboards.message(f"replaying {steps} steps of {source}")
            incidents = Incidents(directory, dashboards)
            health = Health(config, incidents.warn, directory.path)

            async def work(shutdown: Shutdown) -> None:
                processes = Processes(config, directory.path.name, incidents.report)
                dashboards.message("starting the learner")

                def origin() -> Origin:
                    newest = checkpoints.latest().checkpoint
                    return (newest.step, newest.path) if newest else (0, None)

                async with announced_start(processes.supervisor, dashboards.message):
                    learner = await starting(processes.start_learner(origin, source / "groups"))
                dashboards.begin()

                def observe(row: dict[str, float]) -> None:
                    directory.append_metrics(row)
                    dashboards.step(row)
                    health.step(row)

                await processes.supervisor.run(_train(config, learner, source, checkpoints, observe, shutdown))

            advice = partial(_advice, checkpoints, source)

            def conclude(result: None | JobResult) -> JobResult:
                warnings = health.at_end()
                outcome = result or summarised(partial(completion, directory, checkpoints, steps, [], {}, warnings))
                if outcome.status != COMPLETED:
                    outcome = JobResult(outcome.status, f"{outcome.message}\n{advice()}")
                dashboards.last_words("\n".join([outcome.message, *map(str, warnings)]), outcome.status)
                return outcome

            return run_to_result(config, work, conclude, advice)


def _advice(checkpoints: Checkpoints, source: Path) -> str:
    """What was kept. A replay is not resumed: begun again it takes the same steps."""
    kept = checkpoints.latest(contents=False).checkpoint
    model = (
        f"kept: the model of step {kept.step} in {kept.path / HUGGINGFACE}" if kept else "no checkpoint was saved yet"
    )
    return f"{model}\nstart over with: bonrl train --replay {source}"


async def _train(
    config: RunConfig,
    learner: LearnerGroup,
    source: Path,
    checkpoints: Checkpoints,
    observe: Callable[[dict[str, float]], None],
    shutdown: Shutdown,
) -> None:
    import ray

    started, settings = time.monotonic(), config.checkpoint

    async def save(step: int) -> None:
        deadline_s = config.deadlines.checkpoint_s
        async with checkpoints.writing(step, keep=settings.keep, deadline_s=deadline_s) as path:
            await learner.save(str(path))

    for step in range(config.run.steps):
        if shutdown.asked and step:
            await save(step)
        shutdown.check()
        groups = await in_daemon_thread(
            partial(read_groups, source / "groups" / groups_file(step + 1)),
            owner="the driver",
            to=f"read the groups of step {step + 1} in {source} (see deadlines.checkpoint_s)",
            deadline_s=config.deadlines.checkpoint_s,
        )
        row = await learner.step(ray.put(groups), step)
        row |= {"train/step": step + 1, "rollout/step": step + 1, "time/s": time.monotonic() - started}
        observe(row)
        if step + 1 == config.run.steps or (settings.every and (step + 1) % settings.every == 0):
            await save(step + 1)
