"""The last message of a run and its summary.json: what was reached, what was kept, and how to continue."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from cluster.evaluation.summary import Evaluation, evaluation_file, recorded_evaluation
from cluster.exit_status import COMPLETED, FAILED, INTERRUPTED
from cluster.records.checkpoints import CheckpointError
from cluster.records.disk import RunDirectoryError
from cluster.records.metric_names import EVALUATION_STEP
from cluster.records.next_command import in_job, report_again, train_again
from cluster.records.weight_fingerprint import weights_sha256
from cluster.run.context import RunContext
from cluster.run.result import JobResult
from cluster.run.run import Run
from cluster.telemetry.health import Warning
from cluster.telemetry.incidents import keep_warnings
from learner.checkpoint_identity import HUGGINGFACE


def conclude(context: RunContext, outcome: Run | JobResult) -> JobResult:
    """Tell the user how the run ended.

    Args:
        outcome: the run, if it reached its last step, stopped early or stopped at a signal; else the failure's result.
    """
    warnings = context.health.at_end()
    if isinstance(outcome, JobResult):
        result = outcome
    elif outcome.shutdown.requested:
        result = JobResult(INTERRUPTED, f"interrupted; the run stopped after step {outcome.learner.version}")
    else:
        result = _finish(context, outcome, warnings)
    if result.status != COMPLETED:
        result = JobResult(result.status, f"{result.message}\n{advice(context)}")
    context.dashboards.final_message("\n".join([result.message, *map(str, warnings)]), result.status)
    return result


def advice(context: RunContext) -> str:
    """What was kept and how to continue. Reads no file contents, because the process may have to exit at once."""
    kept = context.checkpoints.latest(contents=False).checkpoint
    if context.replay is not None:  # it is not resumed: started again it repeats the same steps
        model = f"kept: the model of step {kept.step} in {kept.path / HUGGINGFACE}" if kept else ""
        return f"{model or 'no checkpoint was saved yet'}\nstart over with: {_replay(context)}"
    if kept is None:
        return "no checkpoint was saved yet"
    options = ["--rollout-only"] if context.rollout_only else []
    options += [change.override() for change in context.changes]  # not in config.yaml yet if an actor did not start
    command = train_again("--resume", context.directory.path, *options)
    return f"kept: the checkpoint of step {kept.step}\ncontinue with: {command}"


def _replay(context: RunContext) -> str:
    """The command that repeats a replay. A run that travelled with the job is sent again from a relative path."""
    source = context.replay or Path()
    travelled = in_job() and not source.is_absolute()
    directory = [shlex.quote(f"run.directory={context.directory.path.parent}")] if travelled else []
    return train_again("--replay", source, *directory)


def _finish(context: RunContext, run: Run, warnings: Sequence[Warning]) -> JobResult:
    """Write the summary of a run that reached its last step or stopped early."""
    try:
        keep_warnings(context.directory, warnings)
        return _recorded(context, warnings) if context.rollout_only else _trained(context, run, warnings)
    except (OSError, RunDirectoryError, CheckpointError) as error:
        return JobResult(FAILED, f"the last step is done, but its summary cannot be written: {error}")


def _recorded(context: RunContext, warnings: Sequence[Warning]) -> JobResult:
    steps = context.config.run.steps
    context.directory.write_summary({"steps": steps, "recorded_only": True, "warnings": [w.text for w in warnings]})
    replay = train_again("--replay", context.directory.path)
    return JobResult(COMPLETED, f"recorded {steps} steps\ntrain from them with: {replay}")


def _trained(context: RunContext, run: Run, warnings: Sequence[Warning]) -> JobResult:
    """Show the curves, and name the weights and where everything is."""
    directory = context.directory
    rows = [row for row in directory.read_metrics() if EVALUATION_STEP in row]  # also those of earlier processes
    evaluations = _compared(context, run, [int(row[EVALUATION_STEP]) for row in rows])
    differences = context.dashboards.curves(evaluations)
    best = run.selection.best
    if best is not None and evaluations and best.step != evaluations[-1].step:
        context.dashboards.best(evaluations, _evaluation_of(context, evaluations, best.step))
    final = context.checkpoints.latest().checkpoint
    if final is None:
        return JobResult(FAILED, "the last checkpoint cannot be read back: see the run directory")
    model = final.path / HUGGINGFACE
    digest = weights_sha256(model)
    directory.write_summary(
        {
            "steps": final.step,
            "stopped_early": run.stopped,
            "best": best.to_json() if best else None,
            "weights_sha256": digest,
            "model": str(model),
            "evaluations": rows,
            "differences": {name: asdict(difference) for name, difference in differences.items()},
            "warnings": [warning.text for warning in warnings],
        }
    )
    lines = [run.stopped] if run.stopped else []
    lines += [f"done: {final.step} steps", f"weights {digest}", f"model   {model}", f"run     {directory.path}"]
    lines += [f"best    {line}" for line in _best_lines(run)]
    lines.append(f"see     {report_again(directory.path)}")
    return JobResult(COMPLETED, "\n".join(lines), model)


def _compared(context: RunContext, run: Run, recorded: Sequence[int]) -> list[Evaluation]:
    """The evaluations of this process. A resumed run adds that of the base model, and where it made none the last one.

    Args:
        recorded: steps of all evaluations of the run.
    """
    if not run.first_step:
        return run.evaluations
    steps = dict.fromkeys([0, *([] if run.evaluations else recorded[-1:])])
    return [*(found for step in steps if (found := _earlier(context, step))), *run.evaluations]


def _best_lines(run: Run) -> list[str]:
    """The best evaluated step, and why its value may mislead."""
    best = run.selection.best
    if best is None:
        return []
    lines = [f"{best}: {run.context.directory.path / best.checkpoint}"]
    if best.selected_on_test:
        lines.append("was chosen on the test split, so this value is biased upwards; evaluate it on other problems")
    if run.selection.base_is_better:
        lines.append("is below the base model: no evaluated step improved on it")
    return lines


def _evaluation_of(context: RunContext, evaluations: Sequence[Evaluation], step: int) -> Evaluation | None:
    """The evaluation after `step` steps, which an earlier process may have made."""
    found = next((evaluation for evaluation in evaluations if evaluation.step == step), None)
    return found or _earlier(context, step)


def _earlier(context: RunContext, step: int) -> Evaluation | None:
    """An evaluation of an earlier process; if its file is damaged, only its column in a table is missing."""
    file = context.directory.groups / evaluation_file(step)
    try:
        return recorded_evaluation(context.config, file, step)
    except (OSError, ValueError) as error:
        context.dashboards.message(f"warning: {file} cannot be read, so it is not compared: {error}")
        return None
