"""Checks that evaluations can be compared: refuses meaningless comparisons, warns about other differences."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

from cluster.results.run_groups import settings_of
from cluster.results.run_results import ResultsError
from cluster.results.subjects import Prompts, Subject

# Of the configuration; with every key of the section task. n and temperature are read from the groups themselves.
_MEASURING = ("rollout.max_response_tokens", "evaluation.split", "evaluation.prompts", "task.")
_MAX_NAMES = 3  # of runs that a message lists for each value


def common_prompts(
    evaluations: Sequence[tuple[Subject, Prompts]], earlier: Sequence[Prompts] = ()
) -> tuple[list[str], list[str]]:
    """(ids of the prompts that every evaluation judged, warnings about differences in how they were measured).

    Args:
        evaluations: the last of each run.
        earlier: the others that are compared.

    Raises:
        ResultsError: different tasks, different problems under the same id, or fewer than two prompts in common.
    """
    _check_tasks([run for run, _ in evaluations])
    judged = [set(prompts.problems) for prompts in (*(last for _, last in evaluations), *earlier)]
    common, seen = set.intersection(*judged), set.union(*judged)
    if len(common) < 2:
        keys = _differences([run for run, _ in evaluations], ("evaluation.split", "evaluation.prompts", "task."))
        raise ResultsError(
            "\n".join([f"the evaluations have {len(common)} prompts in common, so they cannot be compared", *keys])
        )
    _check_problems(evaluations, common)
    warnings = [*_sampling(evaluations), *_differences([run for run, _ in evaluations], _MEASURING)]
    if len(common) < len(seen):
        warnings.append(
            f"{len(common):,} of {len(seen):,} prompts were judged in every evaluation; the others are left out"
        )
    return sorted(common), warnings


def _check_tasks(runs: Sequence[Subject]) -> None:
    tasks = {run.name: run.settings.task.name for run in runs if run.settings is not None}
    if len(set(tasks.values())) > 1:
        raise ResultsError(f"{_by_value('task.name', tasks)}: evaluations of different tasks cannot be compared")


def _check_problems(evaluations: Sequence[tuple[Subject, Prompts]], common: set[str]) -> None:
    (first, reference), *others = evaluations
    for run, prompts in others:
        for prompt in common:
            ours, theirs = reference.problems[prompt], prompts.problems[prompt]
            if ours is not None and theirs is not None and ours != theirs:
                raise ResultsError(
                    f"prompt {prompt!r} is not the same problem in {first.name} and {run.name}: the task's files or "
                    "generator (section task) differ, so the evaluations cannot be compared"
                )


def _sampling(evaluations: Sequence[tuple[Subject, Prompts]]) -> Iterator[str]:
    """Differences in sampling, as recorded in the groups."""
    sizes = {run.name: prompts.n for run, prompts in evaluations}
    if len(set(sizes.values())) > 1:
        yield f"{_by_value('evaluation.n', sizes)}: values stay unbiased, but only k up to the smallest n is compared"
    temperatures = {run.name: prompts.temperature for run, prompts in evaluations}
    if len(set(temperatures.values())) > 1:
        yield (
            f"{_by_value('evaluation.temperature', temperatures)}: the difference is that of model and temperature "
            "together"
        )
    (first, reference), *others = evaluations
    for run, prompts in others:
        shared = reference.tokens.keys() & prompts.tokens.keys()
        if any(reference.tokens[prompt] != prompts.tokens[prompt] for prompt in shared):
            yield (
                f"prompts have other token ids in {run.name} than in {first.name} (model.path, task.template, "
                "task.system_prompt or task.instruction differs)"
            )
            return


def _differences(runs: Sequence[Subject], prefixes: tuple[str, ...]) -> list[str]:
    """A line for each key that differs between the runs whose configuration is known."""
    known = {run.name: settings_of(run) for run in runs if run.settings is not None}
    keys = dict.fromkeys(key for settings in known.values() for key in settings if key.startswith(prefixes))
    found = {key: {name: settings.get(key) for name, settings in known.items()} for key in keys}
    return [_by_value(key, values) for key, values in found.items() if len(set(map(repr, values.values()))) > 1]


def _by_value(key: str, values: Mapping[str, Any]) -> str:
    """`evaluation.n differs: 32 (a, b), 64 (c)`."""
    names: dict[Hashable, list[str]] = {}
    for name, value in values.items():
        shown = f"{value:g}" if isinstance(value, float) else str(value)
        names.setdefault(shown, []).append(name)
    parts = [
        f"{value} ({', '.join(of[:_MAX_NAMES])}{', ...' if len(of) > _MAX_NAMES else ''})"
        for value, of in names.items()
    ]
    return f"{key} differs: {', '.join(parts)}"
