"""Loads the plugins of a configuration: files and modules of the user that register strategies, estimators, tasks or
scorers. The driver and every actor that looks up one of these names loads them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from learner.estimators import ESTIMATORS
from learner.strategies import STRATEGIES
from verifiers.scorers import USER_SCORERS
from verifiers.settings import SCORERS
from verifiers.tasks.registry import TASKS
from verifiers.user_code import UserCodeError, load_module, loaded_plugins, parse

_REGISTRIES: dict[str, Mapping[str, Any]] = {
    "strategy": STRATEGIES,
    "estimator": ESTIMATORS,
    "task": TASKS,
    "scorer": USER_SCORERS,
}
_refused: dict[str, str] = {}  # plugin -> why; its module stays loaded
_owners: dict[tuple[str, str], str] = {}  # (kind, name) -> the plugin that registered it


def load_plugins(plugins: Sequence[str]) -> None:
    """Load each plugin once per process.

    Raises:
        UserCodeError: One cannot be loaded, registers nothing, or a name that exists.
    """
    for plugin in plugins:
        if plugin in _refused:
            raise UserCodeError(_refused[plugin])
        if plugin not in loaded_plugins:
            before = {kind: dict(registry) for kind, registry in _REGISTRIES.items()}
            imported = set(sys.modules)
            module = load_module(parse(plugin, needs_name=False))
            problem = _problem(plugin, before, module.__name__ in imported)
            if problem:
                _restore(before)
                _refused[plugin] = problem
                raise UserCodeError(problem)
            loaded_plugins.append(plugin)


def _problem(plugin: str, before: Mapping[str, Mapping[str, Any]], imported: bool) -> str:
    """What is wrong with what a plugin registered; `imported`: another plugin imported it first."""
    added = []
    for kind, registry in _REGISTRIES.items():
        for name, value in registry.items():
            own = before[kind].get(name, name if kind == "scorer" and name in SCORERS else None)
            if own is not None and own is not value:
                owner = _owners.get((kind, name), "bonrl itself")
                return f"{plugin} registers the {kind} {name!r}, which {owner} registers too; rename it"
            if name not in before[kind]:
                added.append((kind, name))
    _owners.update(dict.fromkeys(added, plugin))
    if added or imported:
        return ""
    return (
        f'{plugin} registers nothing; decorate what it adds with @bonrl.strategy("NAME"), @bonrl.estimator("NAME"), '
        '@bonrl.task("NAME") or @bonrl.scorer("NAME"), with the name in parentheses, or leave it out of plugins '
        "(docs/bring-your-own.md)"
    )


def _restore(before: Mapping[str, Mapping[str, Any]]) -> None:
    for kind, registry in _REGISTRIES.items():
        assert isinstance(registry, dict)
        registry.clear()
        registry.update(before[kind])
