"""Errors of validation as lines for the user: the dotted key, its value, what is wrong with it and the remedy."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cluster.config.other_names import EPOCHS, OTHER_NAMES, VERL_SECTIONS
from cluster.config.tree import RunConfig, key_paths, models_in, section_of
from cluster.config.wording import spelled, wanted
from cluster.config.yaml_reader import brief
from learner.strategies.array_inputs import IN_PLUGINS

_TYPE_NAMES = ("int", "float", "str", "bool", "constrained")
_UNKNOWN = ("extra_forbidden", "invalid_key")


def nearest_key(key: str) -> str | None:
    """The existing dotted key that the user most likely meant by `key`, or None when nothing is near."""
    paths = list(key_paths())
    leaf = key.rsplit(".", 1)[-1]
    if leaf in OTHER_NAMES:
        return OTHER_NAMES[leaf]
    inside = [path for path in paths if path.rpartition(".")[0] == key.rpartition(".")[0]]
    if near := difflib.get_close_matches(key, inside, n=1, cutoff=0.75) if "." in key else []:
        if difflib.SequenceMatcher(None, leaf, near[0].rsplit(".", 1)[-1]).ratio() >= 0.75:
            return near[0]
    same_leaf = {path.rpartition(".")[0]: path for path in paths if path.rsplit(".", 1)[-1] == leaf}
    section = difflib.get_close_matches(key.rpartition(".")[0], same_leaf, n=1, cutoff=0.6) or list(same_leaf)
    by_leaf = {path.rsplit(".", 1)[-1]: path for path in reversed(paths)}
    close = (
        [same_leaf[name] for name in section[:1]]
        or difflib.get_close_matches(key, paths, n=1, cutoff=0.75)
        or [by_leaf[name] for name in difflib.get_close_matches(leaf, by_leaf, n=1, cutoff=0.75)]
        or difflib.get_close_matches(key, paths, n=1, cutoff=0.5)
    )
    return close[0] if close else None


def problem_lines(items: Sequence[Any]) -> list[str]:
    """A line for each problem. Of the forms that a value may have, the one that fits best is reported."""
    by_key: dict[str, Any] = {}
    for item in items:
        key = _key(item)
        # A rule of the form that was meant says more than "no integer" for the other form.
        if key not in by_key or (item["type"] == "value_error" and by_key[key]["type"].endswith("_type")):
            by_key[key] = item
    kept = {
        key: item for key, item in by_key.items() if not any(other.startswith(f"{key}.") for other in by_key if key)
    }
    if any(key.split(".")[0] == "plugins" for key in kept):  # then their names are unknown, which says nothing new
        kept = {key: item for key, item in kept.items() if IN_PLUGINS not in str(item["msg"])}
    lines = [line for key, item in kept.items() if key for line in _explain(key, item)]
    rules = [
        line
        for line in (_explain("", kept[""]) if "" in kept else [])
        if not line.startswith(tuple(filter(None, kept)))
    ]
    return [*lines, *rules]


def _key(item: Any) -> str:
    """The dotted key of a pydantic error, without the names of the types that pydantic tried in a union."""
    *above, last = (str(part) for part in item["loc"] or ("",))
    parts = [part for part in above if re.fullmatch(r"[a-z0-9_]+", part)]
    if item["type"] in _UNKNOWN:
        return ".".join([*parts, last])
    parts += [last] if re.fullmatch(r"[a-z0-9_]+", last) else []
    while len(parts) > 1 and parts[-1] in _TYPE_NAMES and ".".join(parts) not in key_paths():
        parts.pop()
    return ".".join(parts)


def _unknown_key(key: str) -> str:
    above, _, name = key.rpartition(".")
    paths = key_paths()
    if key in VERL_SECTIONS:
        return f"{key}: unknown key; docs/configuration.md lists every key, docs/migrate.md those for verl's settings"
    if name in EPOCHS:
        return (
            f"{key}: unknown key; there are no epochs: run.steps = epochs x training prompts / rollout.prompts_per_step"
        )
    if all(part not in paths or section_of(paths[part]) for part in _prefixes(above)):
        near = nearest_key(key)
        if near == key:
            *sections, last = key.split(".")
            written = ": {".join([*sections, f"{last}: ..."]) + "}" * len(sections)
            return f"{key}: a key with dots is for the command line; in a file write `{written}`"
    elif OTHER_NAMES.get(name, "").startswith(f"{above}."):
        near = OTHER_NAMES[name]
    else:  # inside a value
        close = difflib.get_close_matches(name, list(_fields_in(above)), n=1)
        near = f"{above}.{close[0]}" if close else None
    return f"{key}: unknown key; " + (f"did you mean {near}?" if near else "docs/configuration.md lists every key")


def _prefixes(key: str) -> list[str]:
    """`a.b.c`, `a.b` and `a`."""
    parts = key.split(".")
    return [".".join(parts[:end]) for end in range(len(parts), 0, -1)]


def _fields_in(key: str) -> dict[str, FieldInfo]:
    """Fields of the models that a value may have; positions in lists and keys of mappings are passed over."""
    models: list[type[BaseModel]] = [RunConfig]
    for part in key.split("."):
        fields = [model.model_fields[part] for model in models if part in model.model_fields]
        models = [model for info in fields for model in models_in(info.annotation)] or models
    return {name: info for model in models for name, info in model.model_fields.items()}


def _description(key: str) -> str | None:
    """The description of a key; that of the nearest key above it where it has none, as positions in lists."""
    for part in _prefixes(key):
        above, _, name = part.rpartition(".")
        if (info := _fields_in(above).get(name)) is not None:
            return info.description
    return None


def _explain(key: str, item: Any) -> list[str]:
    """Lines for one pydantic error: key, value, what is wrong, and the key's description as the remedy."""
    if item["type"] in _UNKNOWN:
        return [_unknown_key(key)]
    paths = key_paths()
    info = paths.get(key)
    if info is not None and (section := section_of(info)) and item["type"] == "model_type":
        example = next(iter(section.model_fields))
        return [f"{key} = {spelled(item['input'])}: is a section; give its keys, for example {key}.{example}"]
    message = str(item["msg"]).removeprefix("Value error, ")
    named = message.split(" ", 1)[0]
    if isinstance(item["input"], Mapping) and named in item["input"]:
        key = f"{key}.{named}"
        return [f"{key} = {brief(item['input'][named])}: {message}"]
    if item["type"] == "value_error" and (info is None or section_of(info)):
        lines = message.split("\n")  # a rule over several keys names them itself
        return [line if not key or "." in line.split(":")[0].split(" ")[0] else f"{key}: {line}" for line in lines]
    # A rule of ours names its remedy itself, after a semicolon.
    own_remedy = item["type"] == "value_error" and ";" in message
    described = f" {text}" if (text := _description(key)) else ""
    if item["type"] == "missing":
        return [f"{key}: is required.{described}"]
    example = next(iter(_fields_in(f"{key}.")), "") if item["type"] == "model_type" else ""
    end = "" if own_remedy else f".{described}"
    return [f"{key} = {spelled(item['input'])}: {wanted(item, example)}{end}"]
