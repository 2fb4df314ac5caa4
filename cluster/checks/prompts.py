"""The prompts of a run as token ids, read and checked before anything starts; `--dry-run` reads them too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from cluster.checks.demonstrations import examples_of
from cluster.checks.model_facts import read_config
from cluster.checks.model_support import text_settings
from cluster.checks.overlong import fitting
from cluster.checks.problems import Problems
from cluster.checks.user_code import check_user_code
from cluster.config import RunConfig
from cluster.errors import UsageError
from verifiers.rewards.task import RewardedTask
from verifiers.settings import TASKS
from verifiers.task import Prompt, Task
from verifiers.tasks.contamination import SHINGLE, contamination
from verifiers.tasks.references import check_references
from verifiers.tasks.registry import make_task
from verifiers.tasks.sources import is_pattern, matches
from verifiers.text.rendering import PromptRenderer, TokenizedPrompt, rendering_warnings, token_problem
from verifiers.text.stop_tokens import end_token_id

Purpose = Literal["train", "evaluation"]
T = TypeVar("T")
S = TypeVar("S")

_FEW_REPEATED = 0.01  # of the evaluation problems: public sets repeat as many


def load_tokenizer(path: str) -> Any:
    """The tokenizer of a model directory.

    Raises:
        UsageError: its files are missing or broken.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path, local_files_only=True)
    except Exception as error:  # tokenizers raises bare Exception, transformers whatever the files make it raise
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UsageError(
            f"model.path = {path}: its tokenizer cannot be loaded ({reason}); save the model's tokenizer.json and "
            "tokenizer_config.json there again"
        ) from error


@dataclass(frozen=True)
class SplitProblems:
    """The problems of a split that a run uses.

    Attributes:
        purpose: what they are for, ``train`` or ``evaluation``.
        notes: where they come from, and which were left out.
        warnings: what is doubtful about them.
    """

    split: str
    purpose: Purpose
    prompts: list[Prompt]
    notes: Sequence[str] = ()
    warnings: Sequence[str] = ()

    def counts(self, config: RunConfig, kept: int) -> str:
        """How many prompts are used, and where others are; `kept` of them are short enough."""
        dropped, limit = len(self.prompts) - kept, config.rollout.max_prompt_tokens
        notes = [
            *self.notes,
            *([f"{dropped:,} dropped: longer than rollout.max_prompt_tokens = {limit}"] if dropped else []),
        ]
        name = "train, for evaluation" if (self.split, self.purpose) == ("train", "evaluation") else self.split
        return f"{kept:,} ({'; '.join([name, *notes])})"


def evaluates(config: RunConfig) -> bool:
    """Whether a training run has any evaluation."""
    evaluation = config.evaluation
    return bool(evaluation.every or evaluation.at_start or evaluation.at_end)


def without_unused_validation(config: RunConfig) -> RunConfig:
    """The configuration of a new run; it does not hold out validation problems that the run never uses.

    It says so (``task.validation_size: 0``), so that later evaluations of the run do not take the problems it was
    trained on for held-out ones.
    """
    task, evaluation = config.task, config.evaluation
    own = task.jsonl.validation is not None or task.jsonl.validation_share is not None
    if task.name != "jsonl" or own or task.validation_size is not None:
        return config
    if evaluates(config) and evaluation.split == "validation":
        return config
    return config.model_copy(update={"task": task.model_copy(update={"validation_size": 0})})


def task_of(config: RunConfig) -> Task:
    """The task of a configuration. It caches what it has read, so a start creates only one for all purposes.

    Raises:
        UsageError: it cannot be made.
    """
    try:
        return make_task(config.task)
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error


def read_problems(config: RunConfig, task: Task, purpose: Purpose) -> SplitProblems:
    """The problems to train on (``train``), or those of ``evaluation``: the first of ``evaluation.split``.

    Raises:
        UsageError: the files of the task are missing or broken.
    """
    split = config.evaluation.split if purpose == "evaluation" else "train"
    try:
        prompts = list(task.prompts(split))
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error
    if not prompts:
        raise UsageError(_no_prompts(config, split))
    if unanswered := _missing_answers(config):
        raise UsageError(unanswered)
    used = prompts[: config.evaluation.prompts] if purpose == "evaluation" else prompts
    return SplitProblems(split, purpose, used, *task_messages(task, split))


def _no_prompts(config: RunConfig, split: str) -> str:
    if config.task.name in TASKS:
        return f"the split {split!r} of task {config.task.name!r} holds no prompts; set task.{split}_size"
    other = "" if split == "train" else ", or set evaluation.split to one that has some"
    return f"task.name = {config.task.name}: its prompts({split!r}) gave none; return prompts for that split{other}"


def task_messages(task: Task, split: str) -> tuple[list[str], list[str]]:
    """Notes and warnings of a split that was read: source of its problems, which were left out, what is doubtful."""
    notes, warnings = getattr(task, "notes", None), getattr(task, "warnings", None)
    return (notes(split) if notes else [], warnings(split) if warnings else [])


def _missing_answers(config: RunConfig) -> str:
    if config.task.name != "jsonl" or config.task.jsonl.answer is not None or config.task.reward is not None:
        return ""
    return (
        "task.jsonl.answer = null: rows without answers can be imitated (`bonrl sft`), but not graded; name the field "
        "with the right answer, or set task.reward"
    )


def check_answers(config: RunConfig, task: Task, prompts: Sequence[Prompt], evaluated: Sequence[Prompt] = ()) -> str:
    """A warning about references that no answer can match, or about the user's code; empty where there are none.

    Args:
        task: that of the configuration.
        prompts: those to train on.
        evaluated: those of the evaluations, on which the user's code is tried too.

    Raises:
        UsageError: none of the references can be matched, so no answer would ever earn a reward; or the user's code
            does not work.
    """
    warnings = check_user_code(config, task, [prompts[0], *evaluated[:1]])
    if isinstance(task, RewardedTask):
        return "; ".join(warnings)
    report = check_references(task, prompts)
    if report.none_passes:
        raise UsageError(
            f"{report.message()}: set task.name, or task.jsonl.answer and task.jsonl.verifier, to what these "
            "references are"
        )
    return "; ".join(filter(None, [report.message(), *warnings]))


def load_prompts(
    config: RunConfig, purpose: Purpose, tokenizer: Any = None, task: Task | None = None
) -> list[TokenizedPrompt]:
    """The prompts of a purpose as token ids; prints how many there are, and how many were held out or dropped.

    Args:
        purpose: ``train`` or ``evaluation``; see `read_problems`.
        tokenizer: that of ``model.path``; None loads it.
        task: that of the configuration; None makes it.

    Raises:
        UsageError: a prompt is longer than ``rollout.max_prompt_tokens`` and ``task.drop_overlong`` is off, all are,
            or the task cannot be made.
    """
    tokenizer = tokenizer or load_tokenizer(config.model.path)
    task = task_of(config) if task is None else task
    problems = read_problems(config, task, purpose)
    fitting = fitting_prompts(config, problems, tokenizer)
    print(f"prompts: {problems.counts(config, len(fitting))}", flush=True)
    for warning in problems.warnings:
        print(f"warning: {warning}", flush=True)
    if purpose != "train" or config.objective.imitation == "none":
        return [TokenizedPrompt(prompt, np.array(tokens, np.int32), None) for prompt, tokens in fitting]
    end = end_token_of(config, tokenizer)
    examples, line = examples_of(config, task, fitting, tokenizer, end)
    print(f"demonstrations: {line}", flush=True)
    return [
        TokenizedPrompt(one.prompt, np.array(one.tokens, np.int32), np.array(one.response, np.int32))
        for one in examples
    ]


def check_prompts(
    config: RunConfig, *, render: bool = True, model_elsewhere: bool = False
) -> tuple[list[str], list[str]]:
    """What `--dry-run` finds out about the data: a line with the prompts of each split, and warnings.

    Args:
        config: the resolved configuration.
        render: whether the model's tokenizer is tried as well.
        model_elsewhere: the model's directory may be on another machine; missing problem files are then a warning too.

    Raises:
        UsageError: as `load_prompts`; of every split, and of the tokenizer.
    """
    here = Path(config.model.path).is_dir()
    doubtful: list[str] = []
    purposes: list[Purpose] = ["train", "evaluation"] if evaluates(config) else ["train"]
    try:
        task = task_of(config)
        found = _for_all(purposes, lambda purpose: read_problems(config, task, purpose))
    except UsageError as error:
        if here or not model_elsewhere or not _is_elsewhere(config):
            raise
        return [], [f"{error}: a run here would be refused, and the problems were not checked"]
    kept = [len(problems.prompts) for problems in found]
    training, more = found[0].prompts, list[str]()
    doubtful += [*_size_warnings(config, found), *(warning for problems in found for warning in problems.warnings)]
    if here and render:
        tokenizer = load_tokenizer(config.model.path)
        fitting = _for_all(found, lambda problems: fitting_prompts(config, problems, tokenizer))
        kept = [len(prompts) for prompts in fitting]
        if config.objective.imitation != "none":
            end = end_token_of(config, tokenizer)
            more = [f"demonstrations: {examples_of(config, task, fitting[0], tokenizer, end)[1]}"]
        doubtful += tokenizer_warnings(config, training, tokenizer)
    doubtful += epoch_warnings(config, kept[0])
    evaluated = [prompt for problems in found[1:] for prompt in problems.prompts]
    if problem := check_answers(config, task, training, evaluated):
        doubtful.append(problem)
    more = [*more, passes_line(config, kept[0])]
    repeated, leaked = contamination_lines(config, training, evaluated)
    more, doubtful = [*more, *repeated], [*doubtful, *leaked]
    return [*(problems.counts(config, count) for problems, count in zip(found, kept, strict=True)), *more], doubtful


def _for_all(items: Iterable[S], work: Callable[[S], T]) -> list[T]:
    """The result of `work` for every item.

    Raises:
        UsageError: with the problems of all items.
    """
    problems = Problems()
    results = [problems.of(partial(work, item)) for item in items]
    problems.refuse()
    return [result for result in results if result is not None]


def _size_warnings(config: RunConfig, found: Sequence[SplitProblems]) -> list[str]:
    """A warning where fewer prompts than asked for are evaluated."""
    asked = config.evaluation.prompts
    return [
        f"evaluation.prompts = {asked}, but the split {problems.split!r} has only {len(problems.prompts)}: lower it"
        for problems in found
        if problems.purpose == "evaluation" and len(problems.prompts) < asked
    ]


def _places(config: RunConfig) -> int:
    """How many times in all a training prompt is taken."""
    allocation = config.rollout.allocation
    return config.run.steps * config.rollout.prompts_per_step * (allocation.candidates if allocation else 1)


def passes_line(config: RunConfig, prompts: int) -> str:
    """How often the training prompts are passed over, which other trainers call epochs."""
    times = _places(config) / max(prompts, 1)
    return f"passes: {times:.3g} over {prompts:,} training prompts in {config.run.steps:,} steps"


def epoch_warnings(config: RunConfig, prompts: int) -> list[str]:
    """A warning where ``rollout.allocation`` has no effect, because no prompt of the training split comes twice."""
    allocation = config.rollout.allocation
    if allocation is None:
        return []
    if (places := _places(config)) > prompts:
        return []
    return [
        f"rollout.allocation has no effect: {config.run.steps} steps read {places:,} of {prompts:,} training prompts, "
        "so none has results of an earlier epoch; raise run.steps, or leave rollout.allocation out"
    ]


def tokenizer_warnings(config: RunConfig, prompts: Sequence[Prompt], tokenizer: Any) -> list[str]:
    """What is doubtful about the tokenizer, for prompts that it can render."""
    tokens = PromptRenderer(tokenizer, config.task)(prompts[0].text, prompts[0].history)
    return rendering_warnings(tokens, tokenizer, config.task, _vocabulary(config.model.path))


def contamination_lines(
    config: RunConfig, training: Sequence[Prompt], held_out: Sequence[Prompt]
) -> tuple[list[str], list[str]]:
    """A line with how many evaluation prompts are also training prompts, and examples; a warning if they are not few.

    Neither if the run evaluates nothing, or on purpose the training prompts.
    """
    if not held_out or config.evaluation.split == "train":
        return [], []
    found = contamination(training, held_out, instruction=config.task.instruction)
    line = (
        f"contamination: {found.same_text} of {found.evaluated} evaluation prompts are also training prompts, "
        f"{found.overlapping} share a passage of {SHINGLE} words with one"
    )
    pairs = ", ".join(f"{evaluation} and {trained}" for evaluation, trained in found.examples)
    warnings = []
    if found.same_text > _FEW_REPEATED * found.evaluated:
        warnings.append(
            f"{found.same_text} of {found.evaluated} evaluation prompts are also training prompts, so evaluations tell "
            "little about new ones; leave them out of the training problems, or evaluate others"
        )
    return [f"{line}: {pairs}" if pairs else line], warnings


def fitting_prompts(config: RunConfig, problems: SplitProblems, tokenizer: Any) -> list[tuple[Prompt, list[int]]]:
    """The prompts with their token ids, without those that ``task.drop_overlong`` drops."""
    vocabulary = _vocabulary(config.model.path)
    where = f"split {problems.split!r}"

    def sized() -> Iterator[tuple[tuple[Prompt, list[int]], int, str]]:
        rendered = _rendered(config, problems.prompts, problems.split, tokenizer)
        for prompt, tokens in zip(problems.prompts, rendered, strict=True):
            if problem := token_problem(prompt.id, tokens, vocabulary):
                raise UsageError(f"model.path = {config.model.path}, {where}: {problem}")
            yield (prompt, tokens), len(tokens), prompt.id

    limit = config.rollout.max_prompt_tokens
    return fitting(config, f"prompts of the {where}", sized(), "rollout.max_prompt_tokens", limit)


def _vocabulary(path: str) -> int | None:
    """How many tokens the model has embeddings for; None where neither config.json nor transformers says."""
    return text_settings(Path(path), read_config(path)).get("vocab_size")


def end_token_of(config: RunConfig, tokenizer: Any, model: str | Path | None = None) -> int:
    """The token that is put after a response that the model learns to imitate.

    Raises:
        UsageError: the model has none.
    """
    model = config.model.path if model is None else model
    end = end_token_id(tokenizer, model, config.task.template)
    if end is None:
        raise UsageError(
            f"model.path = {model}: neither the tokenizer, its chat template, generation_config.json nor config.json "
            "names an end token, so imitation would teach responses without an end; set eos_token_id in "
            "generation_config.json"
        )
    return end


def _is_elsewhere(config: RunConfig) -> bool:
    """Whether the problem files that the task names are not on this machine at all."""
    files = config.task.jsonl
    values = [files.train, files.validation, files.test] if config.task.name == "jsonl" else [config.task.path]
    names = [name for value in values for name in ([value] if isinstance(value, str) else value or ())]
    return any(not (matches(name) if is_pattern(name) else Path(name).exists()) for name in names)


def _rendered(config: RunConfig, prompts: list[Prompt], split: str, tokenizer: Any) -> Iterator[list[int]]:
    """Token ids of each prompt."""
    try:
        renderer = PromptRenderer(tokenizer, config.task)
    except ValueError as error:
        raise UsageError(f"model.path = {config.model.path}: {error}") from error
    for prompt in prompts:
        try:
            yield renderer(prompt.text, prompt.history)
        except ValueError as error:
            raise UsageError(f"prompt {prompt.id!r} of the split {split!r}: {error}") from error
