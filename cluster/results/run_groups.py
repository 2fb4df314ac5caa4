"""Groups of runs that differ in nothing but the seed, named by the keys in which the groups differ."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cluster.config import dotted_keys
from cluster.errors import UsageError
from cluster.results.subjects import Subject

SEED = "run.seed"
# Where a run lives and how it is watched: these change no result.
_NO_RESULT = (
    *("run.name", "run.directory", "run.log_level", "wandb.", "tracking", "deadlines.", "checkpoint."),
    "cluster.address",
)


@dataclass(frozen=True)
class RunGroup:
    """Runs of one configuration with different seeds.

    Attributes:
        label: the keys in which the groups differ, or the names of the runs.
        keys: those keys with their values.
    """

    label: str
    keys: Mapping[str, Any]
    runs: tuple[Subject, ...]


def group_runs(runs: Sequence[Subject]) -> list[RunGroup]:
    """The groups, in the order of their first runs. Runs that differ in the seed alone are compared one by one.

    Raises:
        UsageError: fewer than two runs, or one that is given twice.
    """
    _check(runs)
    runs = _with_unique_names(runs)
    flat = {run.name: settings_of(run) for run in runs}
    groups = _grouped(runs, flat, without=SEED)
    if len(groups) == 1:
        groups = [[run] for run in runs]
    return [_labelled(group, groups, flat) for group in groups]


def _check(runs: Sequence[Subject]) -> None:
    if len(runs) < 2:
        raise UsageError("give at least two runs to compare, such as bonrl compare runs/A runs/B")
    places = [(run.path.resolve(), run.last) for run in runs]
    for run, place in zip(runs, places, strict=True):
        if places.count(place) > 1:
            raise UsageError(f"{run.path} is given twice; give each run once")


def _with_unique_names(runs: Sequence[Subject]) -> list[Subject]:
    """Runs whose directories have the same name are called by their paths."""
    names = [run.name for run in runs]
    return [run if names.count(run.name) == 1 else replace(run, name=str(run.path)) for run in runs]


def _grouped(runs: Sequence[Subject], flat: Mapping[str, Mapping[str, Any]], without: str) -> list[list[Subject]]:
    groups: dict[str, list[Subject]] = {}
    for run in runs:
        keys = {key: value for key, value in flat[run.name].items() if key != without}
        identity = json.dumps([run.is_run, keys if run.trained else run.name], sort_keys=True, default=str)
        groups.setdefault(identity, []).append(run)
    return list(groups.values())


def _labelled(group: Sequence[Subject], groups: Sequence[Sequence[Subject]], flat: Mapping[str, Any]) -> RunGroup:
    """Named among the groups of the same kind: the configuration of `bonrl eval` differs from that of a run anyway."""
    alike = [other for other in groups if other[0].is_run == group[0].is_run and other[0].trained]
    names = ", ".join(run.name for run in group)
    if not group[0].trained or len(alike) < 2:
        return RunGroup(names, {}, tuple(group))
    settings = [flat[other[0].name] for other in alike]
    seeds = all(len(other) == 1 for other in alike)
    differing = [
        key
        for key in dict.fromkeys(key for one in settings for key in one)
        if any(one.get(key) != settings[0].get(key) for one in settings) and (key != SEED or seeds)
    ]
    keys = {key: flat[group[0].name].get(key) for key in differing}
    label = ", ".join(f"{key}={_brief(value)}" for key, value in keys.items())
    return RunGroup(label or names, keys, tuple(group))


def settings_of(run: Subject) -> dict[str, Any]:
    """The keys that may change a result, by dotted name."""
    if run.settings is None:
        return {}
    flat = dict(dotted_keys(run.settings.to_mapping()))
    if run.checkpoint is not None:  # the checkpoints of two seeds are in different directories
        flat["model.path"] = run.checkpoint
    return {key: value for key, value in flat.items() if not key.startswith(_NO_RESULT)}


def _brief(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
