"""`bonrl sft`: imitation of the task's expert solutions."""

from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from cluster.checks.preflight import check_output
from cluster.commands.options import NO_EVALUATION_IN_TRAINING, Config, Overrides, Rate, check_start, load
from cluster.errors import UsageError

if TYPE_CHECKING:
    from cluster.checks.demonstrations import Example
    from cluster.config import RunConfig
    from learner.batching import TrainingSequence

# What `bonrl sft` takes from its options: plain imitation would not read these keys, and bon_sft's are set from them.
SFT_OPTIONS = {
    "objective.imitation": "--objective",
    "run.steps": "--steps",
    "rollout.prompts_per_step": "--batch-size",
    "learner.learning_rate": "--learning-rate",
}


def sft(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Model directory to write.")],
    overrides: Overrides = None,
    config: Config = None,
    objective: Annotated[
        str,
        typer.Option(
            "--objective",
            metavar="sft|bon_sft",
            help="sft: plain imitation. bon_sft: imitation through the Best-of-k policy that will be deployed "
            "(objective.k); it uses samplers and verifiers as `bonrl train` does, --batch-size counts prompts, and the "
            "learning rate is constant.",
        ),
    ] = "sft",
    new: Annotated[
        bool,
        typer.Option(
            "--new",
            help="Start from a freshly initialized small Llama with a character tokenizer instead of model.path.",
        ),
    ] = False,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Optimizer steps.")] = 900,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Examples per step.")] = 256,
    learning_rate: Rate = 1e-3,
) -> None:
    """Fine-tune on expert solutions of the task (imitation learning). The shipped base model was made this way.

    Objective, steps, batch size and learning rate are set by the options, not by overrides.

    \b
    Examples
      bonrl sft --new --output models/mine
      bonrl sft --output models/again model.path=models/countdown-base --steps 100
      bonrl sft --objective bon_sft --output models/bon --steps 100 --batch-size 24 --learning-rate 1e-4 objective.k=8
    """
    if objective not in ("sft", "bon_sft"):
        raise UsageError(f"--objective {objective}: choose sft or bon_sft")
    _refuse_idle_overrides(overrides, objective)
    if objective == "bon_sft":
        _bon_sft(output, overrides, config, new, steps, batch_size, learning_rate)
    resolved = load(config, [*(overrides or []), *NO_EVALUATION_IN_TRAINING], fetch=not new)
    if new and resolved.learner.lora:
        raise UsageError("--new with learner.lora: adapters of a random model learn little; leave one of them out")
    if not new:
        check_start(resolved, new_run=False)
    imitate(
        resolved,
        output,
        new=new,
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        report=typer.echo,
    )


def _refuse_idle_overrides(overrides: list[str] | None, objective: str) -> None:
    """Refuse overrides that would be ignored: keys that options set, and the objective of plain imitation."""
    from cluster.config import apply_override

    given: dict[str, Any] = {}
    for override in overrides or []:
        apply_override(given, override)
    problems = []
    for key, option in SFT_OPTIONS.items():
        section, name = key.split(".")
        inner = given.get(section)
        if isinstance(inner, dict) and name in inner:
            problems.append(
                f"override {key} = {inner[name]!r}: `bonrl sft` takes this from {option}; give that instead"
            )
    if objective == "sft" and not problems:
        problems += [
            f"override of {section}: plain imitation has none; leave it out, or use --objective bon_sft"
            for section in ("objective", "schedule")
            if section in given
        ]
    if problems:
        raise UsageError("\n".join(problems))


def _bon_sft(
    output: Path,
    overrides: list[str] | None,
    config: Path | None,
    new: bool,
    steps: int,
    batch_size: int,
    learning_rate: float,
) -> NoReturn:
    """BoN-SFT needs samples and verdicts, so it is a run of the main job, whose last model becomes the output."""
    if new:
        raise UsageError("--new goes with --objective sft: Best-of-N of a fresh model has nothing to select from")
    check_output("--output", output)
    chosen = ["objective.imitation=bon_sft", f"run.steps={steps}", f"rollout.prompts_per_step={batch_size}"]
    # Last, so that an override of a whole section (`objective={k: 4}`) does not undo them.
    resolved = load(config, [*(overrides or []), *chosen, f"learner.learning_rate={learning_rate}"])
    check_start(resolved)
    from cluster.run.job import train as train_job
    from learner.checkpoint_identity import ADAPTER

    outcome = train_job(resolved)
    if outcome.model is not None:
        shutil.copytree(outcome.model, output)
        if (adapters := outcome.model.parent / ADAPTER).is_dir():
            shutil.copytree(adapters, output / ADAPTER)
        typer.echo(f"wrote {output}")
    raise typer.Exit(outcome.status)


def imitate(
    config: RunConfig,
    output: Path,
    *,
    new: bool,
    steps: int,
    batch_size: int,
    learning_rate: float,
    report: Callable[[str], None],
) -> None:
    """Fine-tune `model.path` (or a fresh small Llama) on expert solutions and write a Hugging Face directory.

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
        model = _fresh_model(config, Path(scratch) / "model") if new else Path(config.model.path)
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


def _fresh_model(config: RunConfig, directory: Path) -> Path:
    from learner.tiny_model import TinyModelSettings, save_tiny_model

    context = max(config.rollout.max_sequence_tokens, TinyModelSettings().context)
    return save_tiny_model(directory, TinyModelSettings(context=context), seed=config.run.seed)


def _examples(config: RunConfig, task: Any, model: Path, report: Callable[[str], None]) -> Iterator[TrainingSequence]:
    """An endless stream of examples: generated ones, or those of the train split in epochs.

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
    from cluster.checks.prompts import SplitProblems, described, fitting_prompts

    try:
        prompts = list(task.prompts("train"))
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error
    problems = SplitProblems("train", "train", prompts, *described(task, "train"))
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
