"""One training or evaluation job from start to end: start, run, report, tear down.

`bonrl train` and `bonrl eval` call :func:`train` and :func:`evaluate_checkpoint`; nothing here knows about the command
line. Whatever ends a job (the last step, a lost actor, a full disk, Ctrl-C), it ends with one message, names the
checkpoint to go on from, and leaves no process behind. The message comes first: what is torn down after it may hang.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from actors.fleet.broadcaster import Broadcaster
from actors.fleet.learner_group import LearnerGroup, Origin
from actors.queue.state import Ticket
from actors.workers.learner_rank import HUGGINGFACE
from cluster.config import RunConfig
from cluster.errors import UsageError
from cluster.evaluation.evaluate import (
    Evaluation,
    EvaluationPrompt,
    evaluate,
    evaluation_file,
    objective_terms,
    prompts_in_flight,
    recorded_evaluation,
    strategies_of,
    trained_ks_of,
)
from cluster.exit_status import COMPLETED, FAILED, INTERRUPTED
from cluster.records.checkpoints import Checkpoint, CheckpointError, Checkpoints
from cluster.records.run_directory import RunDirectory, RunDirectoryError
from cluster.records.weight_fingerprint import weights_sha256
from cluster.run.loop import train as training_loop
from cluster.run.processes import Processes
from cluster.run.prompts import (
    check_answers,
    check_recorded,
    dated,
    evaluates,
    load_prompts,
    load_tokenizer,
    tokenizer_warnings,
    without_idle_validation,
)
from cluster.run.recorder import Recorder, recording
from cluster.run.result import JobResult, run_to_result, starting
from cluster.run.run import QUEUE_FILE, Run
from cluster.run.shutdown import Shutdown, ShutdownRequested
from cluster.run.startup import Startup, announced_start
from cluster.telemetry.dashboards import Dashboards
from cluster.telemetry.health import Health, Warning
from cluster.telemetry.incidents import Incidents, keep_warnings
from learner.metrics import Difference
from verifiers.tasks.contamination import SHINGLE, contamination


def train(config: RunConfig, *, resume: Path | None = None, rollout_only: bool = False) -> JobResult:
    """Run the main job, and tell its user how it ended.

    Args:
        config: resolved configuration; on resume that of the run directory, with overrides.
        resume: run directory to continue from its newest valid checkpoint.
        rollout_only: record graded groups and train nothing.

    Raises:
        UsageError: something cannot work, and nothing was started.
    """
    if resume is None:
        config = without_idle_validation(config)
    if rollout_only:
        config = recording(config)
    config = dated(config, resumed=resume is not None)
    tokenizer = load_tokenizer(config.model.path)
    training = load_prompts(config, "train", tokenizer)
    held_out = load_prompts(config, "evaluation", tokenizer) if evaluates(config) else []
    problems = [source.prompt for source in training]
    doubtful = [*filter(None, [check_answers(config, problems)]), *tokenizer_warnings(config, problems, tokenizer)]
    if resume is not None:
        check_recorded(resume, training)
    with _open_directory(config, resume) as directory:
        checkpoints = Checkpoints(directory.checkpoints)
        start = _resume_point(directory, checkpoints, rollout_only) if resume else None
        with Dashboards(config, directory, first_step=start.step if start else 0) as dashboards:
            if held_out:
                dashboards.message(contamination_line(config, training, held_out))
            for warning in doubtful:
                dashboards.message(f"warning: {warning}")
            incidents = Incidents(directory, dashboards)
            health = Health(config, incidents.warn, directory.path)
            health.start(len(training))

            async def work(shutdown: Shutdown) -> Run:
                run = await shutdown.unless_asked(
                    starting(
                        _assemble(
                            *(config, directory, checkpoints, dashboards, shutdown),
                            *(training, held_out, start, rollout_only, incidents),
                        )
                    )
                )
                run.watch = health.step
                dashboards.begin()
                await run.supervisor.run(_until_asked(run))
                return run

            advice = partial(_advice, directory, checkpoints, rollout_only)

            def conclude(result: Run | JobResult) -> JobResult:
                warnings = health.at_end()
                outcome = _ended(result, dashboards, advice, rollout_only, warnings)
                dashboards.last_words("\n".join([outcome.message, *map(str, warnings)]), outcome.status)
                return outcome

            return run_to_result(config, work, conclude, advice)


def evaluate_checkpoint(
    config: RunConfig, model_path: str, *, n: int, temperatures: Sequence[float], output: Path | None = None
) -> tuple[JobResult, list[Evaluation]]:
    """pass@k curves of one model on the evaluation split, at several temperatures.

    Args:
        model_path: Hugging Face directory (a checkpoint holds one under ``huggingface``).
        output: directory that gets the graded groups of each temperature, as Parquet.

    Raises:
        UsageError: something cannot work, and nothing was started.
    """
    config = dated(config.model_copy(update={"model": config.model.model_copy(update={"path": model_path})}))
    held_out = load_prompts(config, "evaluation")

    async def work(shutdown: Shutdown) -> list[Evaluation]:
        processes = Processes(config, "evaluation", lambda incident: print(incident, flush=True), Startup(print))
        async with announced_start(processes.supervisor, print):
            pool = await starting(processes.start_rollouts())

        async def curves() -> list[Evaluation]:
            return [
                await evaluate(
                    pool,
                    held_out,
                    n=n,
                    temperature=temperature,
                    max_tokens=config.rollout.max_response_tokens,
                    seed=config.run.seed,
                    step=0,
                    max_in_flight=prompts_in_flight(config, n),
                    strategies=strategies_of(config),
                    trained_ks=trained_ks_of(config),
                    terms=objective_terms(config),
                    log=output / evaluation_output(temperature) if output else None,
                )
                for temperature in temperatures
            ]

        return await processes.supervisor.run(shutdown.unless_asked(curves()))

    result = run_to_result(config, work)
    return (result, []) if isinstance(result, JobResult) else (JobResult(COMPLETED, "evaluation done"), result)


def earlier_evaluations(config: RunConfig, directory: Path, temperatures: Sequence[float]) -> list[Evaluation]:
    """What `bonrl eval --output` wrote to a directory, at the same temperatures.

    Raises:
        UsageError: it holds no groups at one of the temperatures, or they cannot be read.
    """
    found = []
    for temperature in temperatures:
        path = directory / evaluation_output(temperature)
        at = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"temperature": temperature})})
        try:
            evaluation = recorded_evaluation(at, path, 0)
        except (OSError, ValueError) as error:
            raise UsageError(f"--baseline {directory}: {path.name} cannot be read: {error}") from error
        if evaluation is None:
            raise UsageError(
                f"--baseline {directory}: no {path.name} there; give the --output directory of a `bonrl eval` with "
                f"-t {temperature:g}"
            )
        found.append(evaluation)
    return found


def evaluation_output(temperature: float) -> str:
    """Name of the file with the graded groups that `bonrl eval --output` writes."""
    return f"groups-temperature-{temperature:g}.parquet"


def contamination_line(
    config: RunConfig, training: Sequence[EvaluationPrompt], held_out: Sequence[EvaluationPrompt]
) -> str:
    """How many evaluation prompts stand among the training prompts too, with examples if any do."""
    found = contamination(
        (p.prompt for p in training), (p.prompt for p in held_out), instruction=config.task.instruction
    )
    line = (
        f"contamination: {found.same_text} of {found.evaluated} evaluation prompts are also training prompts, "
        f"{found.overlapping} share a passage of {SHINGLE} words with one"
    )
    pairs = ", ".join(f"{evaluation} and {trained}" for evaluation, trained in found.examples)
    return f"{line}: {pairs}" if pairs else line


async def _assemble(
    config: RunConfig,
    directory: RunDirectory,
    checkpoints: Checkpoints,
    dashboards: Dashboards,
    shutdown: Shutdown,
    training: Sequence[EvaluationPrompt],
    held_out: Sequence[EvaluationPrompt],
    start: Checkpoint | None,
    rollout_only: bool,
    incidents: Incidents,
) -> Run:
    """Start every actor of the run and wire them together; on resume all of them hold the checkpoint's weights."""
    processes = Processes(config, directory.path.name, incidents.report, Startup(dashboards.message, directory))
    dashboards.message("starting samplers, verifiers" + ("" if rollout_only else " and learner"))

    def origin() -> Origin:
        newest = checkpoints.latest().checkpoint
        return (newest.step, newest.path) if newest else (0, None)

    first_step = start.step if start else 0
    learner: LearnerGroup | Recorder
    broadcaster: Broadcaster | Recorder
    async with announced_start(processes.supervisor, dashboards.message):
        if rollout_only:
            pool = await processes.start_rollouts(incidents.quarantine)
            learner = broadcaster = Recorder(first_step)
        else:
            # deadline: start_s of every actor
            pool, ranks = await asyncio.gather(
                processes.start_rollouts(incidents.quarantine), processes.start_learner(origin, directory.groups)
            )
            learner, broadcaster = ranks, await processes.connect_broadcaster(ranks)
        queue = await processes.start_queue(directory.path, str(start.path / QUEUE_FILE) if start else None)
    return Run(
        config=config,
        directory=directory,
        checkpoints=checkpoints,
        observer=dashboards,
        prompts=training,
        held_out=held_out,
        pool=pool,
        queue=queue,
        learner=learner,
        broadcaster=broadcaster,
        supervisor=processes.supervisor,
        shutdown=shutdown,
        first_step=first_step,
    )


async def _until_asked(run: Run) -> None:
    """The training loop; when the run is asked to leave, its last act."""
    try:
        await training_loop(run)
    except* ShutdownRequested:
        run.queue.issue = _later  # a queue that is lost and replaced now has nobody to hand positions to
        await run.leave()


def _later(ticket: Ticket) -> None:
    """Nothing is sampled any more: a position that the queue is owed is handed out when the run goes on."""


def _ended(
    result: Run | JobResult,
    dashboards: Dashboards,
    advice: Callable[[], str],
    rollout_only: bool,
    warnings: Sequence[Warning] = (),
) -> JobResult:
    """How the job ended: of a run that did not reach its last step also how to go on."""
    if isinstance(result, Run) and not result.shutdown.asked:
        summary = _recorded if rollout_only else _completed
        result = summarised(partial(summary, result, dashboards, warnings))
        if result.status == COMPLETED:
            return result
    elif isinstance(result, Run):
        result = JobResult(INTERRUPTED, f"interrupted; the run stopped after step {result.learner.version}")
    return JobResult(result.status, f"{result.message}\n{advice()}")


def summarised(summary: Callable[[], JobResult]) -> JobResult:
    """The outcome that `summary` makes of a job at its last step; a disk that is full now has failed it too."""
    try:
        return summary()
    except (OSError, RunDirectoryError, CheckpointError) as error:
        return JobResult(FAILED, f"the last step is done, but its summary cannot be written: {error}")


def _advice(directory: RunDirectory, checkpoints: Checkpoints, rollout_only: bool) -> str:
    """What was kept of the run, and how to go on with it. Reads no file's contents: whoever asks is about to leave."""
    kept = checkpoints.latest(contents=False).checkpoint
    if kept is None:
        return "no checkpoint was saved yet"
    option = " --rollout-only" if rollout_only else ""
    return f"kept: the checkpoint of step {kept.step}\ncontinue with: bonrl train --resume {directory.path}{option}"


def _open_directory(config: RunConfig, resume: Path | None) -> RunDirectory:
    if resume is not None:
        return RunDirectory.open(resume)
    return RunDirectory.create(config.run.directory, config.run.name, config.model_dump(mode="json"))


def _resume_point(directory: RunDirectory, checkpoints: Checkpoints, rollout_only: bool) -> Checkpoint:
    latest = checkpoints.latest()
    for warning in latest.warnings:
        print(warning, flush=True)
    if latest.checkpoint is None:
        raise UsageError(f"{directory.path} holds no usable checkpoint: start a new run instead of --resume")
    if not (latest.checkpoint.path / QUEUE_FILE).is_file():
        raise UsageError(
            f"--resume {directory.path}: it was made with --replay, so there is no replay queue to continue from; "
            f"replay its source again, or start a run with model.path={latest.checkpoint.path / HUGGINGFACE}"
        )
    if (latest.checkpoint.path / HUGGINGFACE).is_dir() == rollout_only:
        raise UsageError(
            f"{directory.path} was trained: resume it without --rollout-only"
            if rollout_only
            else f"{directory.path} was recorded with --rollout-only: add that to continue recording, or train from it "
            "with --replay"
        )
    directory.rewind(latest.checkpoint.step)
    return latest.checkpoint


def _recorded(run: Run, dashboards: Dashboards, warnings: Sequence[Warning]) -> JobResult:
    """The last message of a run that recorded only."""
    keep_warnings(run.directory, warnings)
    run.directory.write_summary({"steps": run.steps, "recorded_only": True, "warnings": [w.text for w in warnings]})
    return JobResult(
        COMPLETED, f"recorded {run.steps} steps\ntrain from them with: bonrl train --replay {run.directory.path}"
    )


def _completed(run: Run, dashboards: Dashboards, warnings: Sequence[Warning]) -> JobResult:
    """The last message of a run that reached its last step: curves, weights, where everything lies."""
    evaluations = list(run.evaluations)
    if evaluations and run.first_step:  # an earlier process evaluated the base model
        base = recorded_evaluation(run.config, run.directory.groups / evaluation_file(0), 0)
        evaluations = [*([base] if base else []), *evaluations]
    changes = dashboards.curves(evaluations)
    return completion(run.directory, run.checkpoints, run.steps, run.evaluations, changes, warnings)


def completion(
    directory: RunDirectory,
    checkpoints: Checkpoints,
    steps: int,
    evaluations: Sequence[Evaluation],
    changes: Mapping[str, Difference] = {},
    warnings: Sequence[Warning] = (),
) -> JobResult:
    """The outcome of training that reached its last step, with summary.json written."""
    final = checkpoints.latest().checkpoint
    if final is None:
        return JobResult(FAILED, "the last checkpoint cannot be read back: see the run directory")
    model = final.path / HUGGINGFACE
    digest = weights_sha256(model)
    keep_warnings(directory, warnings)
    directory.write_summary(
        {
            "steps": steps,
            "weights_sha256": digest,
            "model": str(model),
            "evaluations": [e.row() for e in evaluations],
            "differences": {name: asdict(change) for name, change in changes.items()},
            "warnings": [warning.text for warning in warnings],
        }
    )
    lines = f"done: {steps} steps", f"weights {digest}", f"model   {model}", f"run     {directory.path}"
    return JobResult(COMPLETED, "\n".join(lines), model)
