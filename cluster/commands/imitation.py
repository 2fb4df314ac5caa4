"""Imitation of a task's expert solutions, for `bonrl sft`."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.checks.preflight import check_output
from cluster.errors import UsageError

if TYPE_CHECKING:
    from cluster.checks.demonstrations import Example
    from cluster.config import RunConfig
    from learner.batching import TrainingSequence


def imitate(
    config: RunConfig,
    output: Path,
    *,
    new: Mapping[str, int] | None,
    steps: int,
    batch_size: int,
    learning_rate: float,
    report: Callable[[str], None],
) -> None:
    """Fine-tune `model.path` on expert solutions and write a Hugging Face directory.

    Args:
        new: start from a fresh small Llama instead, with these sizes (`TinyModelSettings`) and defaults for the others.

    Raises:
        UsageError: the task has no demonstrations, `output` exists, or the model does not fit the task.
    """
    from verifiers.tasks.registry import make_task

    check_output("--output", output)
    try:
        task = make_task(config.task)
    except ValueError as error:
        raise UsageError(str(error)) from error

    from learner.checkpoint_identity import ADAPTER
    from learner.engine import Engine
    from learner.imitation import ImitationSettings, Progress, run_sft
    from verifiers.text.exported_prompts import finish_export

    settings = ImitationSettings(steps=steps, batch_size=batch_size, learning_rate=learning_rate, seed=config.run.seed)

    def show(progress: Progress) -> None:
        report(
            f"step {progress.step}/{progress.steps}  loss {progress.loss:.4f} nats/token  "
            f"{progress.examples_per_second:.0f} examples/s  {progress.seconds:.0f} s"
        )

    with tempfile.TemporaryDirectory() as scratch:
        model = Path(config.model.path) if new is None else _fresh_model(config, new, Path(scratch) / "model")
        examples = _examples(config, task, model, report)
        engine = Engine(
            model,
            dtype=config.model.dtype,
            learner=config.learner,
            loss=config.loss,
            master_port=_free_port(),
            device="cuda" if config.learner.gpus_per_rank else "cpu",
            seed=config.run.seed,
        )
        try:
            run_sft(engine, examples, settings, output=output, report=show)
            if engine.adapters is not None:
                engine.export_adapters(output / ADAPTER)
        finally:
            engine.close()
    finish_export(output, config.task)
    report(f"wrote {output}")


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


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
