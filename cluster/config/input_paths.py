"""The keys of the configuration that name files or directories. The one list of them.

A new key that takes text goes into one of these lists, or into the test's list of texts that are no paths
(TEXTS in tests/cluster/test_packaging.py).
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cluster.config import RunConfig
from cluster.config.hub_ids import hub_id
from verifiers.settings import is_code
from verifiers.tasks.sources import is_pattern, matches
from verifiers.user_code import Reference, parse

INPUT_KEYS = (
    "model.path",
    "task.path",
    "task.scorer.path",
    "task.jsonl.train",
    "task.jsonl.validation",
    "task.jsonl.test",
)
PATTERNS = "task.jsonl."  # keys that may hold a list of paths, and patterns of files
CODE_KEYS = ("task.reward", "task.name", "task.scorer.kind")  # may name user code; and each of PLUGINS
PLUGINS = "plugins"
OPTIONS = "task.options"  # arguments of user code: a text that is an existing relative path counts as one
OUTPUT_KEYS = ("run.directory", "mlflow.tracking_uri")
_VARIABLE = re.compile(r"(?P<directory>[^$]*(?P<variable>\$(?:\w+|\{\w+\}))[^/]*)")
HUB = "hf://"  # fetched where it is read, so that it need not travel
LEARNED = "learned"  # the scorer that reads task.scorer.path
# The tasks of bonrl that read a key. A task of the user reads none of them: its arguments are task.options.
READ_BY = {
    "task.path": ("gsm8k", "humaneval", "math", "math500", "mbpp"),
    "task.jsonl.train": ("jsonl",),
    "task.jsonl.validation": ("jsonl",),
    "task.jsonl.test": ("jsonl",),
}


def expand_home(tree: dict[str, Any]) -> None:
    """Replace `~` in the paths of a nested mapping, in place, so that records name the same file for every user."""
    for key in (*INPUT_KEYS, *OUTPUT_KEYS):
        above, _, name = key.rpartition(".")
        value = value_at(tree, key)
        paths = value if isinstance(value, list) else [value]
        expanded = [os.path.expanduser(path) if isinstance(path, str) else path for path in paths]
        if expanded != paths:
            value_at(tree, above)[name] = expanded if isinstance(value, list) else expanded[0]


def unexpanded_variables(tree: Mapping[str, Any]) -> Iterator[str]:
    """A line for each path with a variable of the shell, which only the shell expands: no directory has such a name."""
    for key in (*INPUT_KEYS, *OUTPUT_KEYS):
        texts = list(_texts(key, value_at(tree, key)))
        whole = ", ".join(path for _, path in texts)
        for name, path in texts:
            found = _VARIABLE.match(path)
            if found is not None and not os.path.exists(found["directory"]):
                override = f"{key}={path}" if name == key else f"{key}=[{whole}]"  # a list is given whole
                yield (
                    f"{name} = {path}: {found['variable']} is not replaced here; write the directory, or give the key "
                    f'on the command line in double quotes ("{override}"), where the shell replaces it'
                )


def input_paths(config: RunConfig | Mapping[str, Any]) -> dict[str, str]:
    """Key -> path of everything that the configuration reads from a file system.

    A key that the task or the scorer does not read is left out: a preset that was changed to another task may keep it.

    Args:
        config: a configuration, or the nested mapping of a part of one, as from overrides.
    """
    tree = config.to_mapping() if isinstance(config, RunConfig) else config
    read = [key for key in INPUT_KEYS if _is_read(tree, key)]
    values = {name: path for key in read for name, path in _texts(key, value_at(tree, key))}
    here = {key: value for key, value in values.items() if not value.startswith(HUB)}
    found = {name: path for key, value in here.items() for name, path in _files(key, value)}
    if hub_id(found.get("model.path", "")):
        del found["model.path"]
    return found | {key: text for key, text in _texts(OPTIONS, value_at(tree, OPTIONS)) if _is_here(text)}


def _is_read(tree: Mapping[str, Any], key: str) -> bool:
    """Whether the task or the scorer reads a key; one that a part of a configuration does not name may do so."""
    task, scorer = value_at(tree, "task.name"), value_at(tree, "task.scorer.kind")
    if key == "task.scorer.path":
        return scorer is None or scorer == LEARNED
    return task is None or key not in READ_BY or task in READ_BY[key]


def output_paths(config: RunConfig) -> dict[str, str]:
    """Key -> path of everything that a run writes to a file system."""
    found = {"run.directory": config.run.directory}
    store = local_store(config.mlflow.tracking_uri or "") if "mlflow" in config.tracking else None
    return found | ({"mlflow.tracking_uri": store} if store is not None else {})


def local_store(uri: str) -> str | None:
    """The path of an MLflow store that is a directory or a SQLite file; None for a server and for no store."""
    scheme, colon, rest = uri.partition(":")
    if not colon:
        return uri or None
    if scheme == "file":
        return urlsplit(uri).path if rest.startswith("//") else rest
    return rest.removeprefix("///") if scheme == "sqlite" else None


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


def with_values(tree: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a nested mapping with other values at dotted keys that it has; a number is an index of a list."""
    found: Any = copy.deepcopy(dict(tree))
    for key, value in values.items():
        *sections, name = key.split(".")
        place = found
        for section in sections:
            place = place[int(section) if isinstance(place, list) else section]
        place[int(name) if isinstance(place, list) else name] = value
    return dict(found)


def without_patterns(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a configuration's mapping that names the files which its patterns match here, if there are any."""
    changed = {}
    for key in (key for key in INPUT_KEYS if key.startswith(PATTERNS)):
        names = [text for _, text in _texts(key, value_at(tree, key))]
        files = [path for name in names for _, path in _files(key, name)]
        if files != names:
            changed[key] = files
    return with_values(tree, changed)


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


def _files(key: str, value: str) -> Iterator[tuple[str, str]]:
    """The path of a key; of a pattern of files, each file that it matches, numbered."""
    if key.startswith(PATTERNS) and is_pattern(value) and (found := matches(value)):
        yield from ((f"{key}.{i}", path) for i, path in enumerate(found))
    else:
        yield key, value


def _is_here(text: str) -> bool:
    """Whether a text is a relative path that exists; a name of a parent (`.`, `..`) is not a file to send along."""
    path = Path(text)
    if path.is_absolute() or not path.name or path.name == "..":
        return False
    try:
        return path.exists()
    except (OSError, ValueError):  # too long for a name
        return False
