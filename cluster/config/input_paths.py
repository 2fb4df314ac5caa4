"""The keys of the configuration that name files or directories to read. The one list of them."""

from __future__ import annotations

from operator import attrgetter

from cluster.config import RunConfig
from cluster.config.hub_ids import hub_id
from verifiers.settings import is_code
from verifiers.user_code import Reference, parse

INPUT_KEYS = (
    "model.path",
    "task.path",
    "task.scorer.path",
    "task.jsonl.train",
    "task.jsonl.validation",
    "task.jsonl.test",
)
CODE_KEYS = ("task.reward", "task.name", "task.scorer.kind")  # may name user code; and each of `plugins`
HUB = "hf://"  # fetched where it is read, so that it need not travel


def input_paths(config: RunConfig) -> dict[str, str]:
    """Key -> path of everything that the configuration reads from a file system."""
    values = {key: attrgetter(key)(config) for key in INPUT_KEYS}
    if hub_id(config.model.path):
        del values["model.path"]
    return {key: value for key, value in values.items() if isinstance(value, str) and not value.startswith(HUB)}


def user_code(config: RunConfig) -> dict[str, Reference]:
    """Key -> reference of all user code that the configuration names; the plugins are `plugins.0`, `plugins.1`, ..."""
    named = {key: attrgetter(key)(config) for key in CODE_KEYS}
    found = {key: parse(value) for key, value in named.items() if value is not None and is_code(value)}
    return found | {f"plugins.{i}": parse(plugin, needs_name=False) for i, plugin in enumerate(config.plugins)}
