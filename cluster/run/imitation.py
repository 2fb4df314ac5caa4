"""`bonrl sft`: the learner ranks of a run, without samplers and verifiers, imitate examples.

The ranks are placed, supervised and replaced as those of a run. While it works, everything is in DIR.partial next to
the output DIR: the configuration, logs and checkpoints, from which `--resume` continues. At the end the model is moved
to DIR, and DIR.partial is deleted.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import pyarrow as pa
import ray
from ray import ObjectRef

from actors.fleet.learner_group import LearnerGroup, Origin
from actors.logs import driver_log, set_step
from actors.remote_calls import ActorFailure
from actors.threads import in_daemon_thread
from actors.workers.imitation_rank import as_record_batch
from cluster.config import RunConfig
from cluster.exit_status import COMPLETED, FAILED
from cluster.records.checkpoints import Checkpoints
from cluster.records.run_directory import RunDirectory
from cluster.run.processes import Processes
from cluster.run.result import JobResult, run_to_result, starting
from cluster.run.shutdown import Shutdown
from cluster.run.startup import announced_start
from cluster.telemetry.output import surviving_output
from learner.batching import TrainingSequence
from learner.checkpoint_identity import ADAPTER, HUGGINGFACE
from learner.imitation import ImitationSettings, Progress, Reports, batches


def imitate(
    config: RunConfig,
    settings: ImitationSettings,
    directory: RunDirectory,
    output: Path,
    examples: Iterator[TrainingSequence],
    report: Callable[[str], None],
) -> JobResult:
    """Train the learner ranks of `config` on examples to the last step, and write the model to `output`.

    Args:
        config: without samplers and verifiers (`cluster.config.learner_alone`).
        directory: of this imitation; its newest checkpoint is where it starts.
        examples: from the first step on, also when later steps are left.
        report: gets lines for the user.

    Raises:
        UsageError: the cluster has no room for the ranks, and nothing was started.
    """
    checkpoints = Checkpoints(directory.checkpoints)
    latest = checkpoints.latest()
    for warning in latest.warnings:
        report(f"warning: {warning}")
    first = latest.checkpoint.step if latest.checkpoint else 0
    left = batches(examples, settings.batch_size)
    if first:
        report(f"resuming after step {first} of {settings.steps}")
        next(islice(left, first - 1, None), None)

    async def work(shutdown: Shutdown) -> None:
        processes = Processes(
            config, directory.path.parent.name, lambda incident: report(str(incident)), logs=directory.logs,
            imitation=settings,
        )  # fmt: skip
        course = _Course(config, settings, checkpoints, left, first, report)
        async with announced_start(processes.supervisor, report):
            start = starting(processes.start_learner(course.origin, course.examples_of))
            learner = await shutdown.unless_requested(start)
        await processes.supervisor.run(course.train(learner, shutdown, lambda: processes.supervisor.checkpoint_due))

    def conclude(outcome: None | JobResult) -> JobResult:
        if outcome is None:
            return JobResult(COMPLETED, f"wrote {output}")
        return JobResult(outcome.status, f"{outcome.message}\n{advice()}")

    def advice() -> str:
        kept = checkpoints.latest(contents=False).checkpoint
        if kept is None:
            return "no checkpoint was saved yet"
        command = f"bonrl sft --output {shlex.quote(str(output))} --resume"
        return f"kept: the checkpoint of step {kept.step}\ncontinue with: {command}"

    set_step(first)
    with driver_log(directory.logs, config.run.log_level), surviving_output():
        result = run_to_result(config, work, conclude, advice)
    if result.status != COMPLETED:
        return result
    try:
        _deliver(checkpoints, output)
    except OSError as error:
        return JobResult(FAILED, f"all steps are done, but {output} cannot be written: {error}\n{advice()}")
    shutil.rmtree(directory.path.parent)
    return result


class _Course:
    """The steps of one imitation, and the examples since the newest checkpoint for ranks that are replaced."""

    def __init__(
        self,
        config: RunConfig,
        settings: ImitationSettings,
        checkpoints: Checkpoints,
        batches: Iterator[list[TrainingSequence]],
        first: int,
        report: Callable[[str], None],
    ) -> None:
        self._config, self._settings, self._checkpoints = config, settings, checkpoints
        self._batches = batches
        self._saved = self._done = first
        self._since_saved: dict[int, ObjectRef] = {}  # by step
        self._report = report

    def origin(self) -> Origin:
        """Where new ranks begin: at the newest checkpoint."""
        newest = self._checkpoints.latest().checkpoint
        return (newest.step, newest.path) if newest else (0, None)

    def examples_of(self, step: int) -> ObjectRef:
        """The examples of a step, for ranks that are replaced.

        Raises:
            ActorFailure: the checkpoint after this step was saved, but cannot be read.
        """
        if step not in self._since_saved:
            raise ActorFailure(
                f"a learner rank was replaced, but the checkpoint of step {self._saved} cannot be read "
                f"({self._checkpoints.directory}), and the examples before it are no longer in memory; continue with "
                "--resume, which draws them again"
            )
        return self._since_saved[step]

    async def train(self, learner: LearnerGroup, shutdown: Shutdown, checkpoint_due: Callable[[], bool]) -> None:
        """All steps that are left. A run that a signal stops saves its finished steps.

        Raises:
            ShutdownRequested: a signal asked it to stop.
        """
        reports, every = Reports(self._settings), self._config.checkpoint.every
        for step in range(self._done, self._settings.steps):
            examples = self._since_saved[step] = ray.put(await self._next_batch(step))
            figures = await learner.step(examples, step)
            self._done = step + 1
            set_step(self._done)
            if (progress := reports.add(step, figures["loss"])) is not None:
                self._report(progress_line(progress))
            due = (every and self._done % every == 0) or checkpoint_due()
            if due or shutdown.requested or self._done == self._settings.steps:
                await self._save(learner)
            shutdown.check()

    async def _next_batch(self, step: int) -> Sequence[pa.RecordBatch]:
        batch = await in_daemon_thread(
            partial(next, self._batches, None),
            owner="the driver",
            to=f"draw the examples of step {step + 1} (see deadlines.checkpoint_s)",
            deadline_s=self._config.deadlines.checkpoint_s,
        )
        if batch is None:
            raise ActorFailure(
                f"the expert examples ran out after {step} steps of {self._settings.batch_size}; lower --steps or "
                "--batch-size, or give more examples"
            )
        return [as_record_batch(batch)]

    async def _save(self, learner: LearnerGroup) -> None:
        if self._saved == self._done:
            return
        settings = self._config.checkpoint
        deadline_s = self._config.deadlines.checkpoint_s
        async with self._checkpoints.writing(self._done, keep=settings.keep, deadline_s=deadline_s) as path:
            await learner.save(str(path))
        self._saved = self._done
        self._since_saved.clear()


def progress_line(progress: Progress) -> str:
    return (
        f"step {progress.step}/{progress.steps}  loss {progress.loss:.4f} nats/token  "
        f"{progress.examples_per_second:.0f} examples/s  {progress.seconds:.0f} s"
    )


def _deliver(checkpoints: Checkpoints, output: Path) -> None:
    """Move the model of the newest checkpoint, with its adapters, to `output`."""
    newest = checkpoints.latest(contents=False).checkpoint
    assert newest is not None  # the last step is always saved
    model = newest.path / HUGGINGFACE
    if (newest.path / ADAPTER).is_dir():
        shutil.copytree(newest.path / ADAPTER, model / ADAPTER, dirs_exist_ok=True)  # a full disk ended an earlier copy
    output.parent.mkdir(parents=True, exist_ok=True)
    model.rename(output)
