"""The keys of the configuration that name files or directories. The one list of them.

A new key that takes text goes into one of these lists, or into the test's list of texts that are no paths
(TEXTS in tests/cluster/test_packaging.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

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
CODE_KEYS = ("task.reward", "task.name", "task.scorer.kind")  # may name user code; and each of PLUGINS
PLUGINS = "plugins"
OPTIONS = "task.options"  # arguments of user code: a text that is an existing relative path counts as one
OUTPUT_KEYS = ("run.directory", "mlflow.tracking_uri")
HUB = "hf://"  # fetched where it is read, so that it need not travel


def input_paths(config: RunConfig | Mapping[str, Any]) -> dict[str, str]:
    """Key -> path of everything that the configuration reads from a file system.

    Args:
        config: a configuration, or the nested mapping of a part of one, as from overrides.
    """
    tree = config.to_mapping() if isinstance(config, RunConfig) else config
    values = {key: value_at(tree, key) for key in INPUT_KEYS}
    found = {key: value for key, value in values.items() if isinstance(value, str) and not value.startswith(HUB)}
    if hub_id(found.get("model.path", "")):
        del found["model.path"]
    return found | {key: text for key, text in _texts(OPTIONS, value_at(tree, OPTIONS)) if _is_here(text)}


def user_code(config: RunConfig | Mapping[str, Any]) -> dict[str, Reference]:
    """Key -> reference of all user code that the configuration names; the plugins are `plugins.0`, `plugins.1`, ..."""
    tree = config.to_mapping() if isinstance(config, RunConfig) else config
    named = {key: value_at(tree, key) for key in CODE_KEYS}
    found = {key: parse(value) for key, value in named.items() if isinstance(value, str) and is_code(value)}
    plugins = value_at(tree, PLUGINS)
    # What is no text here comes from an override, which is refused where it is read.
    plugins = enumerate(plugins if isinstance(plugins, list | tuple) else ())
    return found | {f"{PLUGINS}.{i}": parse(text, needs_name=False) for i, text in plugins if isinstance(text, str)}


def value_at(tree: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key; None if the mapping does not have it."""
    value: Any = tree
    for name in key.split("."):
        if isinstance(value, list | tuple):
            value = value[int(name)] if name.isdecimal() and int(name) < len(value) else None
        else:
            value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _texts(key: str, value: Any) -> Iterator[tuple[str, str]]:
    """Every text in nested values, by dotted key."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _texts(f"{key}.{name}", inner)
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            yield from _texts(f"{key}.{i}", inner)


def _is_here(text: str) -> bool:
    """Whether a text is a relative path that exists; a name of a parent (`.`, `..`) is not a file to send along."""
    path = Path(text)
    if path.is_absolute() or not path.name or path.name == "..":
        return False
    try:
        return path.exists()
    except (OSError, ValueError):  # too long for a name
        return False
