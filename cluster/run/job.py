"""One training or evaluation job from start to end: start, run, report, tear down.

`bonrl train` and `bonrl eval` call :func:`train`, :func:`replay` and :func:`evaluate_checkpoint`; nothing here depends
on the command line. However a job ends (the last step, a lost actor, a full disk, Ctrl-C), it prints one message, names
the checkpoint to continue from, and leaves no process behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from actors.fleet.rollout_pool import RolloutPool
from actors.logs import driver_log, set_step
from actors.process_stats import Heartbeat
from cluster.checks.earlier import check_recorded_groups, replay_text, replayed_steps, usable_checkpoint
from cluster.checks.prompts import (
    check_answers,
    contamination_lines,
    epoch_warnings,
    evaluates,
    load_prompts,
    load_tokenizer,
    task_of,
    tokenizer_warnings,
    without_unused_validation,
)
from cluster.checks.recorded_prompts import check_recorded, with_fixed_date
from cluster.checks.starting_weights import FILE as WEIGHTS_FILE
from cluster.checks.starting_weights import starting_weights, weights_warning
from cluster.checks.user_code import check_user_code
from cluster.config import RunConfig
from cluster.config.learner_absent import recording, unshared, without_learner
from cluster.config.learner_alone import without_sampling
from cluster.evaluation.summary import Evaluation, evaluation_output
from cluster.exit_status import COMPLETED
from cluster.records.checkpoints import QUEUE_FILE, Checkpoint, Checkpoints
from cluster.records.config_changes import changes, record_changes, recorded_config, training_changes
from cluster.records.kept_files import changed_files, keep_files
from cluster.records.log_places import LogPlaces
from cluster.records.named_run import set_aside
from cluster.records.run_directory import RunDirectory
from cluster.records.software import changed_software
from cluster.run.conclusion import advice, conclude
from cluster.run.context import RunContext
from cluster.run.interfaces import GroupSource, Learner, WeightSync
from cluster.run.live_groups import LiveGroups
from cluster.run.loop import train as training_loop
from cluster.run.processes import Processes, groups_in
from cluster.run.recorder import GroupRecorder, NoWeightSync
from cluster.run.replay import RecordedGroups
from cluster.run.result import JobResult, run_to_result, starting
from cluster.run.run import Run, evaluate_prompts
from cluster.run.selection import NoFurtherGain
from cluster.run.shutdown import Shutdown, ShutdownRequested
from cluster.run.startup import Startup, announced_start
from cluster.telemetry.dashboards import Dashboards
from cluster.telemetry.memory import JobMemory
from cluster.telemetry.output import surviving_output
from cluster.telemetry.samplers import SamplerLoads
from verifiers.task import Prompt
from verifiers.text.rendering import TokenizedPrompt
from verifiers.text.tokenizer_class import tokenizer_class


def train(
    config: RunConfig, *, resume: Path | None = None, replaces: Path | None = None, rollout_only: bool = False
) -> JobResult:
    """Sample groups and train on them, and tell the user how it ended.

    Args:
        config: resolved configuration; on resume that of the run directory, with overrides.
        resume: run directory to continue from its newest valid checkpoint.
        replaces: directory of a run without a checkpoint, which is moved aside for this one.
        rollout_only: record graded groups and train nothing.

    Raises:
        UsageError: something cannot work, and nothing was started.
    """
    if resume is None:
        config = without_unused_validation(config)
    if rollout_only:
        config = recording(config)
    tokenizer = load_tokenizer(config.model.path)
    config = with_fixed_date(config, tokenizer, resumed=resume is not None)
    training, held_out, doubtful = _checked_prompts(config, tokenizer)
    if resume is not None:
        check_recorded(resume, config, training)
        doubtful += [*changed_files(resume, config), *changed_software(resume)]
        doubtful += weights_warning(resume, config, rollout_only=rollout_only)
    weights = starting_weights(config.model.path) if resume is None else None
    if replaces is not None:
        print(f"{replaces} is moved to {set_aside(replaces)}, and the run begins again", flush=True)
    with _open_directory(config, resume) as directory, _messages(directory, config):
        start = _resume_point(directory, Checkpoints(directory.checkpoints), rollout_only) if resume else None
        if start is None:
            keep_files(directory, config)
            directory.write_json(WEIGHTS_FILE, weights)
        with Dashboards(config, directory, first_step=start.step if start else 0) as dashboards:
            repeated, leaked = contamination_lines(config, _problems(training), _problems(held_out))
            for line in repeated:
                dashboards.message(line)
            for warning in [*doubtful, *leaked]:
                dashboards.message(f"warning: {warning}")
            context = RunContext(
                config,
                directory,
                dashboards,
                training,
                held_out,
                start,
                rollout_only,
                tokenizer=tokenizer_class(tokenizer),
                changes=changes(recorded_config(directory.path), config) if start else (),
            )
            for change in context.changes:
                dashboards.message(f"changed by this resume: {change}")
            context.health.start(len(training))
            return _run(context)


@contextmanager
def _messages(directory: RunDirectory, config: RunConfig) -> Iterator[None]:
    """The driver's log file, and a terminal whose failure does not end the run."""
    with driver_log(directory.logs, config.run.log_level), surviving_output():
        yield


def _checked_prompts(
    config: RunConfig, tokenizer: Any
) -> tuple[list[TokenizedPrompt], list[TokenizedPrompt], list[str]]:
    """The prompts to train on, those to evaluate on, and what is doubtful about them."""
    task = task_of(config)
    training = load_prompts(config, "train", tokenizer, task)
    held_out = load_prompts(config, "evaluation", tokenizer, task) if evaluates(config) else []
    problems = _problems(training)
    answers = check_answers(config, task, problems, _problems(held_out))
    doubtful = [*tokenizer_warnings(config, problems, tokenizer), *epoch_warnings(config, len(training))]
    return training, held_out, [*filter(None, [answers]), *doubtful]


def _problems(sources: Sequence[TokenizedPrompt]) -> list[Prompt]:
    return [source.prompt for source in sources]


def replay(config: RunConfig, source: Path) -> JobResult:
    """Train on the groups that the run in `source` recorded: ``run.steps`` steps, or as many as it holds.

    Raises:
        UsageError: something cannot work, and nothing was started.
    """
    steps, text = replayed_steps(config, source), replay_text(config, source)
    check_recorded_groups(config, source, steps)
    config = unshared(with_fixed_date(config, resumed=True))  # the export renders prompts as the recorded run did
    config = config.model_copy(update={"run": config.run.model_copy(update={"steps": steps})})
    with _open_directory(config, None) as directory, _messages(directory, config):  # `bonrl eval` needs its samplers
        with Dashboards(config, directory, first_step=0) as dashboards:
            keep_files(directory, config)
            dashboards.message(f"replaying {text}")
            for change in training_changes(source):
                dashboards.message(
                    f"warning: {source} changed a setting during the run, and the last value is used: {change}"
                )
            return _run(RunContext(without_sampling(config), directory, dashboards, replay=source))


def _run(context: RunContext) -> JobResult:
    """Start the actors of a run, train to the last step or to a signal, and report."""

    set_step(context.first_step)

    async def work(shutdown: Shutdown) -> Run:
        run = await shutdown.unless_requested(starting(_assemble(context, shutdown)))
        if context.start is not None:  # only now: the next resume must not begin with settings that start no actor
            record_changes(context.directory, context.config, context.changes, context.first_step)
        context.dashboards.begin()
        async with context.directory.written_on_a_thread(context.config.deadlines.checkpoint_s):
            async with run.memory.measuring():
                await run.supervisor.run(_train_until_asked(run))
        return run

    return run_to_result(_started(context), work, partial(conclude, context), partial(advice, context))


def _started(context: RunContext) -> RunConfig:
    """The configuration of what is started; that of the run directory keeps the learner, for a replay."""
    return without_learner(context.config) if context.rollout_only else context.config


async def _train_until_asked(run: Run) -> None:
    """The training loop; a run that a signal stops saves its finished steps, one that stops early has saved them."""
    try:
        await training_loop(run)
    except* NoFurtherGain as stop:
        run.stopped = str(stop.exceptions[0])
    except* ShutdownRequested:
        await run.checkpoint_if_new()


async def _assemble(context: RunContext, shutdown: Shutdown) -> Run:
    """Start every actor of the run and connect them; on resume all of them hold the checkpoint's weights."""
    config, directory, message = _started(context), context.directory, context.dashboards.message
    startup = Startup(message, directory)
    loads, places = SamplerLoads(context.dashboards.export), LogPlaces(directory)

    def on_heartbeat(actor: str, heartbeat: Heartbeat) -> None:
        loads.on_heartbeat(actor, heartbeat)
        places.on_heartbeat(actor, heartbeat)

    processes = Processes(config, directory.path.name, context.incidents.report, startup, directory.logs, on_heartbeat)
    snapshot = str(context.start.path / QUEUE_FILE) if context.start else None
    source: GroupSource
    learner: Learner
    broadcaster: WeightSync = NoWeightSync()
    pool: RolloutPool | None = None
    async with announced_start(processes.supervisor, message):
        if context.replay is not None:
            message("starting the learner")
            recorded = context.replay / "groups"
            learner = await processes.start_learner(context.origin, groups_in(recorded))
            source = RecordedGroups(recorded, config.deadlines.checkpoint_s)
        elif context.rollout_only:
            message("starting samplers and verifiers")
            pool = await processes.start_rollouts(context.tokenizer, context.incidents.quarantine)
            learner = GroupRecorder(context.first_step)
            queue = await processes.start_queue(directory.path, snapshot)
            source = LiveGroups(config, context.training, pool, queue, context.start)
        else:
            message("starting samplers, verifiers and learner")
            one_by_one = await processes.reserve_cards()  # an engine that starts measures the free memory of its GPU
            starts = (
                processes.start_rollouts(context.tokenizer, context.incidents.quarantine),
                processes.start_learner(context.origin, groups_in(directory.groups)),
            )
            # deadline: start_s of every actor
            live, ranks = (await starts[0], await starts[1]) if one_by_one else await asyncio.gather(*starts)
            pool, learner, broadcaster = live, ranks, await processes.connect_broadcaster(ranks, live)
            queue = await processes.start_queue(directory.path, snapshot)
            source = LiveGroups(config, context.training, pool, queue, context.start)
    memory = JobMemory(processes.supervisor, context.dashboards.export)
    return Run(context, source, learner, broadcaster, pool, processes.supervisor, memory, shutdown, loads)


def evaluate_checkpoint(
    config: RunConfig, model_path: str, *, n: int, temperatures: Sequence[float], output: Path | None = None
) -> tuple[JobResult, list[Evaluation]]:
    """Curves of one model on the evaluation split, at several temperatures.

    Args:
        model_path: Hugging Face directory (a checkpoint holds one under ``huggingface``).
        output: directory that gets the graded groups of each temperature, as Parquet.

    Raises:
        UsageError: something cannot work, and nothing was started.
    """
    model = config.model.model_copy(update={"path": model_path})
    config = config.model_copy(update={"model": model})
    tokenizer = load_tokenizer(model_path)
    config = without_learner(with_fixed_date(config, tokenizer))
    task = task_of(config)
    held_out = load_prompts(config, "evaluation", tokenizer, task)
    for warning in check_user_code(config, task, [held_out[0].prompt], trains=False):
        print(f"warning: {warning}", flush=True)

    async def work(shutdown: Shutdown) -> list[Evaluation]:
        processes = Processes(config, "evaluation", lambda incident: print(incident, flush=True), Startup(print))
        async with announced_start(processes.supervisor, print):
            pool = await starting(processes.start_rollouts(tokenizer_class(tokenizer)))

        async def curves() -> list[Evaluation]:
            return [
                await evaluate_prompts(
                    config,
                    pool,
                    held_out,
                    n=n,
                    sampling=sampling,
                    step=0,
                    log=output / evaluation_output(sampling.temperature) if output else None,
                )
                for sampling in map(config.evaluation.sampling_at, temperatures)
            ]

        return await processes.supervisor.run(shutdown.unless_requested(curves()))

    def report(outcome: list[Evaluation] | JobResult) -> tuple[JobResult, list[Evaluation]]:
        return (outcome, []) if isinstance(outcome, JobResult) else (JobResult(COMPLETED, "evaluation done"), outcome)

    return run_to_result(config, work, report)


def _open_directory(config: RunConfig, resume: Path | None) -> RunDirectory:
    if resume is not None:
        return RunDirectory.open(resume)
    return RunDirectory.create(config.run.directory, config.run.name, config.model_dump(mode="json"))


def _resume_point(directory: RunDirectory, checkpoints: Checkpoints, rollout_only: bool) -> Checkpoint:
    latest = checkpoints.latest()
    for warning in latest.warnings:
        print(warning, flush=True)
    checkpoint = usable_checkpoint(directory.path, latest, rollout_only)
    directory.rewind(checkpoint.step)
    directory.remove("summary.json")  # the run is no longer at its end
    return checkpoint
