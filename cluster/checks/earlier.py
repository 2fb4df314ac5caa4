"""Whether a configuration fits the run that is resumed or replayed, checked before anything starts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from actors.group import check_schema
from actors.queue.allocation import size_problem
from actors.queue.group_log import groups_file
from actors.queue.snapshot import SnapshotError, read_snapshot
from actors.queue.state import waiting_problem
from actors.sampling import SAMPLING_COLUMNS, Sampling, restricted_problem
from cluster.checks.recorded_prompts import check_recorded_prompts, with_fixed_date
from cluster.checks.starting_weights import weights_problem
from cluster.checks.weight_files import read_tensors
from cluster.config import RunConfig
from cluster.errors import UsageError
from cluster.records.checkpoints import ALLOCATION_FILE, QUEUE_FILE, Checkpoint, Checkpoints, Latest
from cluster.records.config_changes import recorded_config
from cluster.records.run_directory import check_unused
from learner.checkpoint_identity import ENGINE, HUGGINGFACE, WEIGHTS, identity_problem, learner_identity
from learner.objective_settings import FOR_ANY_REWARD
from learner.schedule import sampling_mismatch, scheduled_integer


def earlier_problems(
    config: RunConfig,
    *,
    resume: Path | None,
    replay: Path | None,
    replaces: Path | None,
    rollout_only: bool,
    dry_run: bool,
) -> Callable[[], Iterable[str]] | None:
    """The check of the run that is resumed, replayed or begun again; None where there is none.

    Args:
        replaces: the run that is begun again.
        dry_run: also compare prompts and recorded groups, which a start reads and compares by itself.
    """
    if resume is not None:
        return lambda: resume_problems(config, resume, rollout_only=rollout_only, prompts=dry_run)
    if replay is not None:
        return lambda: replay_problems(config, replay, groups=dry_run)
    if replaces is not None:
        return lambda: unused_problems(replaces)
    return None


def unused_problems(run: Path) -> list[str]:
    """No problems; raises RunDirectoryError where a process works in the run directory."""
    check_unused(run)
    return []


def resume_problems(config: RunConfig, run: Path, *, rollout_only: bool, prompts: bool) -> Iterator[str]:
    """Why the run cannot be resumed with this configuration; `prompts`: compare its prompts too.

    Raises:
        UsageError: it is in use, has no usable checkpoint, or its prompts have changed.
    """
    check_unused(run)
    recorded = recorded_config(run)
    for key in ("name", "directory"):
        if (value := getattr(config.run, key)) != getattr(recorded.run, key):
            yield (
                f"run.{key} = {value} has no effect: --resume continues in {run} and replaces its later steps; leave "
                "it out, or copy that directory and resume the copy"
            )
    before = recorded.rollout.prompts_per_step
    if config.rollout.prompts_per_step != before:
        yield (
            f"rollout.prompts_per_step = {config.rollout.prompts_per_step}, but --resume {run} has {before}, and "
            "its replay queue counts steps by it; leave it unchanged"
        )
        return
    checkpoint = usable_checkpoint(run, Checkpoints(run / "checkpoints").latest(contents=False), rollout_only)
    yield from step_problems(config, run, checkpoint)
    yield from waiting_problems(config, run, checkpoint)
    if not rollout_only:
        yield from _engine_problems(config, run, checkpoint)
    if problem := weights_problem(run, config, rollout_only=rollout_only):
        yield problem
    with_fixed_date(config, resumed=True)
    if prompts:
        check_recorded_prompts(config, run)


def replay_problems(config: RunConfig, source: Path, *, groups: bool) -> list[str]:
    """No problems; raises instead. `groups`: also compare the recorded groups.

    Raises:
        UsageError: the run recorded no groups, or as `check_recorded_groups`.
    """
    steps = replayed_steps(config, source)
    if groups:
        check_recorded_groups(config, source, steps)
    return []


def usable_checkpoint(run: Path, latest: Latest, rollout_only: bool) -> Checkpoint:
    """The checkpoint to continue from.

    Raises:
        UsageError: there is none, or it is one of another kind of run.
    """
    if latest.checkpoint is None:
        raise UsageError(
            "\n".join([*latest.warnings, f"{run} holds no usable checkpoint: start a new run instead of --resume"])
        )
    path = latest.checkpoint.path
    if not (path / QUEUE_FILE).is_file():
        raise UsageError(
            f"--resume {run}: it was made with --replay, so there is no replay queue to continue from; "
            f"replay its source again, or start a run with model.path={path / HUGGINGFACE}"
        )
    if (path / HUGGINGFACE).is_dir() == rollout_only:
        raise UsageError(
            f"{run} was trained: resume it without --rollout-only"
            if rollout_only
            else f"{run} was recorded with --rollout-only: add that to continue recording, or train from "
            "it with --replay"
        )
    return latest.checkpoint


def step_problems(config: RunConfig, run: Path, checkpoint: Checkpoint) -> Iterator[str]:
    """The problem of a run that is past its last step. At its last step it may lack the last evaluation and summary."""
    if checkpoint.step > config.run.steps:
        yield (
            f"run.steps = {config.run.steps}, but --resume {run} continues after step {checkpoint.step}: raise "
            "run.steps, or leave it out"
        )


def waiting_problems(config: RunConfig, run: Path, checkpoint: Checkpoint) -> Iterator[str]:
    """Problems with groups that wait in the checkpoint's queue; they are trained on as they were sampled and graded."""
    try:
        state, groups = read_snapshot(checkpoint.path / QUEUE_FILE)
    except SnapshotError as error:
        yield f"--resume {run}: {error}"
        return
    per_step, queue = config.rollout.prompts_per_step, config.queue
    if groups and (
        problem := waiting_problem(
            state, groups, prompts_per_step=per_step, staleness=queue.staleness, overtake=queue.overtake
        )
    ):
        yield f"--resume {run}: {problem}"
        return
    allocation = config.rollout.allocation
    if groups and allocation and allocation.candidates > 1 and not (checkpoint.path / ALLOCATION_FILE).is_file():
        yield (
            f"--resume {run}: the prompts of groups in the checkpoint were not chosen among candidates; set "
            f"rollout.allocation.candidates = 1 (is {allocation.candidates})"
        )
    for sequence, batch in groups.items():
        row = batch.select(["finish_reason", *SAMPLING_COLUMNS, "reward"]).to_pylist()[0]
        step = sequence // per_step
        if problem := group_problem(config, step, [row]):
            yield f"--resume {run}: {problem}"
            return


def replayed_steps(config: RunConfig, source: Path) -> int:
    """``run.steps``, or as many steps as `source` recorded.

    Raises:
        UsageError: it recorded none, or a step before a later one is missing.
    """
    folder, steps = source / "groups", 0
    while (folder / groups_file(steps + 1)).is_file():
        steps += 1
    if steps >= config.run.steps:
        return config.run.steps
    numbers = (file.stem.removeprefix("step-") for file in folder.glob("step-*.parquet"))
    later = max((int(number) for number in numbers if number.isdigit()), default=0)
    if later > steps:
        shorter = f", or replay only the steps before it with run.steps={steps}" if steps else ""
        raise UsageError(
            f"--replay {source}: groups/{groups_file(steps + 1)} is missing, although later steps are there (the last "
            f"is {later}), and without it the run cannot be repeated; restore that file{shorter}"
        )
    if not steps:
        raise UsageError(f"--replay {source}: no groups/{groups_file(1)} there; give the directory of a run")
    return steps


def replay_text(config: RunConfig, source: Path) -> str:
    """How many steps are replayed, and why if they are fewer than ``run.steps``.

    Raises:
        UsageError: as `replayed_steps`.
    """
    steps, wanted = replayed_steps(config, source), config.run.steps
    return f"{steps} steps of {source}" + (f", which recorded no more (run.steps = {wanted})" if steps < wanted else "")


def check_recorded_groups(config: RunConfig, source: Path, steps: int) -> None:
    """Compare what `source` recorded with what the configuration trains on, before anything starts.

    Raises:
        UsageError: groups have another size or temperature, cannot be read, or lack the demonstrations that are to be
            imitated.
    """
    for step in range(steps):
        file = source / "groups" / groups_file(step + 1)
        try:
            check_schema(pq.read_schema(file))
            columns = ["finish_reason", *SAMPLING_COLUMNS, "reward", "demonstration_tokens"]
            table = pq.read_table(file, columns=columns)  # leaves out what an older version lacks
        except (OSError, ValueError) as error:
            raise UsageError(f"--replay {source}: {file.name} cannot be read: {error}") from error
        if problem := group_problem(config, step, table.to_pylist()):
            raise UsageError(f"--replay {source}: {problem}")
        if config.objective.imitation != "none" and table["demonstration_tokens"].null_count:
            raise UsageError(
                f"objective.imitation = {config.objective.imitation}, but groups in {file} hold no demonstration; "
                "replay a run that imitated, or set objective.imitation = none"
            )


def group_problem(config: RunConfig, step: int, rows: Iterable[dict[str, Any]]) -> str | None:
    """Why groups that were sampled for an optimizer step cannot be trained on in it."""
    rows = [row for row in rows if row["finish_reason"]]  # a quarantined prompt has no samples
    sizes, temperatures = {len(row["finish_reason"]) for row in rows}, {row["temperature"] for row in rows}
    k = scheduled_integer(config.schedule.k, step, config.objective.k)
    rollout, schedule = config.rollout, config.schedule
    problem = size_problem(rollout.allocation, schedule, config.objective, sizes, step=step, k=k, n=rollout.n)
    problem = problem or sampling_mismatch("temperature", schedule, step, rollout.temperature, temperatures)
    problem = problem or restricted_problem(
        Sampling(**{column: row[column] for column in SAMPLING_COLUMNS if column in row}) for row in rows
    )
    if problem:
        return problem
    odd = {reward for row in rows for reward in row["reward"] or () if reward not in (None, 0.0, 1.0)}
    binary = config.objective.binary_terms()
    if not odd or not binary:
        return None
    return (
        f"the groups of step {step + 1} have rewards other than 0 and 1, such as {min(odd):g}, which {binary[0]} "
        f"cannot take; use {FOR_ANY_REWARD}"
    )


def _engine_problems(config: RunConfig, run: Path, checkpoint: Checkpoint) -> Iterator[str]:
    """Problems if the learner's checkpoint was written with other ranks, another ZeRO stage or other weights."""
    file = checkpoint.path / ENGINE / "engine.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        weights = {name: (dtype, shape) for name, dtype, shape in found[WEIGHTS]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        yield f"--resume {run}: {file} cannot be read ({error}); resume from an older checkpoint"
        return
    shapes = {tensor.name: list(tensor.shape) for tensor in read_tensors(Path(config.model.path))}
    wanted = learner_identity(config.learner, config.learner.ranks)
    floats = {"torch.float32", "torch.bfloat16"} & {dtype for dtype, _ in weights.values()}
    dtype = next(iter(floats)) if len(floats) == 1 else None  # some models keep a few weights in float32
    if shapes.keys() & weights.keys():
        ours = f"torch.{config.model.dtype}"
        wanted[WEIGHTS] = [
            [name, ours if stored == dtype else stored, shapes[name]]
            for name, (stored, _) in weights.items()
            if name in shapes
        ]
    if problem := identity_problem(found, wanted):
        yield (
            f"--resume {run}: its checkpoint of step {checkpoint.step} {problem}; resume with the same value, or "
            f"start a new run with model.path={checkpoint.path / HUGGINGFACE}"
        )
