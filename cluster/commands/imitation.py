"""Imitation of a task's expert solutions, for `bonrl sft`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.checks.preflight import check_output
from cluster.commands.options import NO_EVALUATION_IN_TRAINING, check_start, load_earlier
from cluster.errors import UsageError

if TYPE_CHECKING:
    from cluster.checks.demonstrations import Example
    from cluster.config import RunConfig
    from learner.batching import TrainingSequence
    from learner.imitation import ImitationSettings

SETTINGS_FILE = "imitation.json"
# A resumed imitation draws the same examples in the same order, so nothing may change that they depend on.
CHANGEABLE = ("cluster", "deadlines", "supervision", "checkpoint")


def imitate(
    config: RunConfig,
    output: Path,
    settings: ImitationSettings,
    *,
    new: Mapping[str, int] | None,
    report: Callable[[str], None],
) -> int:
    """Fine-tune `model.path` on expert solutions and write a Hugging Face directory; returns the exit status.

    Args:
        new: start from a fresh small Llama instead, with these sizes (`TinyModelSettings`) and defaults for the others.

    Raises:
        UsageError: the task has no demonstrations, an unfinished imitation exists, or the model does not fit the task.
    """
    _clear_unused(output)
    from cluster.checks.starting_weights import FILE as WEIGHTS_FILE
    from cluster.checks.starting_weights import starting_weights
    from cluster.records.kept_files import keep_files
    from cluster.records.run_directory import RunDirectory

    partial = partial_directory(output)
    if new is not None:
        model = _fresh_model(config, new, partial / "model")
        config = config.model_copy(update={"model": config.model.model_copy(update={"path": str(model)})})
    with RunDirectory.create(partial, "run", config.to_mapping()) as directory:  # fails if another imitation has it
        try:
            directory.write_json(SETTINGS_FILE, settings.model_dump(mode="json"))
            keep_files(directory, config)
            directory.write_json(WEIGHTS_FILE, starting_weights(config.model.path))
            return _train(config, settings, directory, output, report)
        except UsageError:  # nothing was started
            shutil.rmtree(partial, ignore_errors=True)
            raise


def resume(output: Path, overrides: Sequence[str], report: Callable[[str], None]) -> int:
    """Continue the unfinished imitation of `output`, as it was started; returns the exit status.

    Raises:
        UsageError: there is none, or an override would change what is learned.
    """
    check_output("--output", output)
    run = partial_directory(output) / "run"
    if not (run / SETTINGS_FILE).is_file():
        raise UsageError(f"--resume: there is no unfinished `bonrl sft --output {output}` ({run} does not exist)")
    for override in overrides:
        if override.partition(".")[0] not in CHANGEABLE:
            raise UsageError(
                f"override {override}: --resume continues with the settings of the start; only keys of "
                f"{', '.join(CHANGEABLE)} may change"
            )
    from cluster.config.learner_alone import NO_SAMPLING, learner_alone

    config = load_earlier("--resume", run, [*overrides, *NO_EVALUATION_IN_TRAINING, *NO_SAMPLING])
    from cluster.checks.starting_weights import weights_problem
    from cluster.records.run_directory import RunDirectory
    from learner.imitation import ImitationSettings

    try:
        settings = ImitationSettings.model_validate(json.loads((run / SETTINGS_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:  # also pydantic's
        reason = " ".join(str(error).split())
        raise UsageError(
            f"--resume: {run / SETTINGS_FILE} is damaged, or of another release ({reason}); delete {run.parent} and "
            "start again without --resume"
        ) from error
    alone = learner_alone(config, batch_size=settings.batch_size)
    check_start(alone, new_run=False)
    if problem := weights_problem(run, alone):
        raise UsageError(problem)
    with RunDirectory.open(run) as directory:
        return _train(config, settings, directory, output, report)


def partial_directory(output: Path) -> Path:
    """Where an imitation keeps its checkpoints until `output` is written."""
    return output.absolute().with_name(f"{output.name}.partial")


def _clear_unused(output: Path) -> None:
    """Remove what an imitation left that saved no checkpoint.

    Raises:
        UsageError: it saved one, or it is still running.
    """
    from cluster.records.checkpoints import Checkpoints
    from cluster.records.run_directory import check_unused

    partial = partial_directory(output)
    run = partial / "run"
    if not partial.exists():
        return
    if not (run / SETTINGS_FILE).is_file() and not (partial / "model").is_dir():
        raise UsageError(f"--output {output}: {partial} exists and is not of an imitation; remove it, or name another")
    check_unused(run)
    if (kept := Checkpoints(run / "checkpoints").latest(contents=False).checkpoint) is not None:
        raise UsageError(
            f"--output {output}: an unfinished imitation is in {partial}, with a checkpoint of step {kept.step}; "
            "add --resume to continue it, or delete that directory to start again"
        )
    shutil.rmtree(partial)


def _train(
    config: RunConfig,
    settings: ImitationSettings,
    directory: Any,
    output: Path,
    report: Callable[[str], None],
) -> int:
    from verifiers.tasks.registry import make_task

    try:
        task = make_task(config.task)
    except ValueError as error:
        raise UsageError(str(error)) from error
    examples = _examples(config, task, Path(config.model.path), report)
    from cluster.config.learner_alone import learner_alone
    from cluster.run.imitation import imitate as imitate_on_ranks

    alone = learner_alone(config, batch_size=settings.batch_size)
    result = imitate_on_ranks(alone, settings, directory, output.absolute(), examples, report)
    report(result.message)
    return result.status


def _fresh_model(config: RunConfig, sizes: Mapping[str, int], directory: Path) -> Path:
    from learner.tiny_model import TinyModelSettings, save_tiny_model

    context = max(config.rollout.max_sequence_tokens, TinyModelSettings().context)
    return save_tiny_model(directory, TinyModelSettings(**sizes, context=context), seed=config.run.seed)


def _examples(config: RunConfig, task: Any, model: Path, report: Callable[[str], None]) -> Iterator[TrainingSequence]:
    """An endless stream of examples: generated, or from the train split in epochs.

    Raises:
        UsageError: there are none, or one is too long.
    """
    from cluster.checks.prompts import end_token_of, load_tokenizer
    from learner.imitation import as_sequence
    from verifiers.tasks.demonstrations import in_epochs

    tokenizer = load_tokenizer(str(model))
    end = end_token_of(config, tokenizer, model)
    if hasattr(task, "expert_solutions"):
        return _generated(config, task, tokenizer, end)
    examples = _recorded(config, task, tokenizer, end, report)
    return (as_sequence(one.tokens, one.response) for one in in_epochs(examples, config.run.seed))


def _generated(config: RunConfig, task: Any, tokenizer: Any, end: int) -> Iterator[TrainingSequence]:
    from learner.imitation import as_sequence
    from verifiers.text.rendering import PromptRenderer

    renderer = PromptRenderer(tokenizer, config.task)
    for prompt, solution in task.expert_solutions(config.run.seed):
        response = tokenizer.encode(solution, add_special_tokens=False)
        yield as_sequence(renderer(prompt.text), [*response, end])


def _recorded(config: RunConfig, task: Any, tokenizer: Any, end: int, report: Callable[[str], None]) -> list[Example]:
    """The problems of the train split with their solutions; says how many there are and which were left out."""
    from cluster.checks.demonstrations import examples_of
    from cluster.checks.prompts import SplitProblems, fitting_prompts, task_messages

    try:
        prompts = list(task.prompts("train"))
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error
    problems = SplitProblems("train", "train", prompts, *task_messages(task, "train"))
    rendered = fitting_prompts(config, problems, tokenizer)
    report(f"prompts: {problems.counts(config, len(rendered))}")
    for warning in problems.warnings:
        report(f"warning: {warning}")
    examples, line = examples_of(config, task, rendered, tokenizer, end)
    report(f"demonstrations: {line}")
    return examples
