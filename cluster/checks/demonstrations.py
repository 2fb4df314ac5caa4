"""The demonstrations of a run that imitates, as token ids: those that are missing, too long or wrong are counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cluster.checks.overlong import fitting
from cluster.config import RunConfig
from cluster.errors import UsageError
from verifiers.rewards.task import RewardedTask
from verifiers.task import Prompt, Task
from verifiers.tasks.code_task import CodeVerifier
from verifiers.tasks.demonstrations import check_demonstrations
from verifiers.text.rendering import unknown_token

Rendered = tuple[Prompt, list[int]]


@dataclass(frozen=True, slots=True)
class Example:
    """A problem with the token ids of its prompt, and of its demonstration with the end token."""

    prompt: Prompt
    tokens: list[int]
    response: list[int]


def examples_of(
    config: RunConfig, task: Task, rendered: Sequence[Rendered], tokenizer: Any, end: int
) -> tuple[list[Example], str]:
    """Problems of the train split that have a demonstration, and a line that says which were left out.

    Args:
        task: Gives the verifier.
        rendered: Problems with the token ids of their prompts.
        end: Token after each demonstration.

    Raises:
        UsageError: None has one, or see :func:`fitting`.
    """
    shown = [(prompt, tokens) for prompt, tokens in rendered if prompt.demonstration is not None]
    if not shown:
        raise UsageError(f"task.name = {config.task.name} has no demonstrations to imitate: {_remedy(config)}")
    notes = [f"{len(rendered) - len(shown):,} problems have none"] if len(shown) < len(rendered) else []
    limit = config.rollout.max_response_tokens
    made = [
        Example(prompt, tokens, [*tokenizer.encode(prompt.demonstration, add_special_tokens=False), end])
        for prompt, tokens in shown
    ]
    sized = ((example, len(example.response), example.prompt.id) for example in made)
    examples = fitting(config, "demonstrations", sized, "rollout.max_response_tokens", limit)
    if dropped := len(shown) - len(examples):
        notes.append(f"{dropped:,} dropped: longer than rollout.max_response_tokens = {limit}")
    unknown = unknown_token(tokenizer)
    if strange := sum(unknown in example.response for example in examples):
        notes.append(f"{strange:,} with characters that the tokenizer does not know ({tokenizer.unk_token})")
    if _gradable(config):
        examples, checked = _checked(config, task, examples)
        notes.append(checked)
    return examples, f"{len(examples):,} ({'; '.join(notes)})" if notes else f"{len(examples):,}"


def _checked(config: RunConfig, task: Task, examples: list[Example]) -> tuple[list[Example], str]:
    """The examples that are kept, and what the verifier says about them."""
    drop = config.task.drop_wrong_solutions
    try:
        if isinstance(task, RewardedTask):
            _start(task)
        lengths = [len(example.response) for example in examples]
        report = check_demonstrations(task, [example.prompt for example in examples], lengths, every=drop)
    finally:
        if isinstance(task, RewardedTask):
            task.grades.close()
        elif isinstance(task, CodeVerifier):
            task.close()
    if report.failed and len(report.failed) == report.checked:
        identity, reason = next(iter(report.failed.items()))
        raise UsageError(
            f"the verifier fails on every demonstration, first on the one of prompt {identity!r}: {reason}"
        )
    if not drop or not report.wrong:
        return examples, report.message()
    kept = [example for example in examples if example.prompt.id not in report.wrong]
    if not kept:
        raise UsageError(f"task.drop_wrong_solutions = true leaves no demonstration: {report.message()}")
    return kept, f"{len(report.wrong):,} dropped: {report.message()}"


def _start(task: RewardedTask) -> None:
    try:
        task.prepare()
    except RuntimeError as error:
        raise UsageError(str(error)) from error


def _gradable(config: RunConfig) -> bool:
    task = config.task
    return task.name != "jsonl" or task.jsonl.answer is not None or task.reward is not None


def _remedy(config: RunConfig) -> str:
    if config.task.name == "jsonl":
        named = config.task.jsonl.solution
        found = "" if named is None else f"no row has a solution in the field {named!r}; "
        return f"{found}set task.jsonl.solution to the field with the worked solutions"
    if config.task.name in ("gsm8k", "math", "math500", "mbpp"):
        return "its files have no field 'solution'; add it"
    return "use countdown, gsm8k, math or mbpp, or task.name=jsonl with task.jsonl.solution"
