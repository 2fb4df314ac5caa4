"""Reads the YAML of a configuration: a file, or the value of an override. It knows no keys."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from cluster.errors import UsageError
from verifiers.credentials import masked

_MAX_BYTES = 1 << 20  # of a configuration file: more is another file, given by mistake
_MISREAD = re.compile(r"[-+]?0[0-9_]+|[-+]?[0-9][0-9_]*(?::[0-9.]+)+")  # octal, and base 60
_UNCLOSED = re.compile(r"[,:]$|^[\[{][^\]}]*$")
_MAX_VALUE = 120  # characters of a wrong value that a message repeats


class ConfigError(UsageError):
    """The configuration cannot be run; the message holds one line per problem."""


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping; a key given twice is an error (the plain loader would keep the last in silence)."""
    try:
        if path.is_file() and path.stat().st_size > _MAX_BYTES:
            raise ConfigError(
                f"{path} has {path.stat().st_size:,} bytes: that is too large for a configuration; give another "
                "file to --config"
            )
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason, remedy = str(error), "save it as UTF-8"
        if isinstance(error, OSError):
            reason, remedy = error.strerror or reason, "give --config an existing YAML file"
        raise ConfigError(f"cannot read the configuration {path}: {reason}; {remedy}") from error
    try:
        tree = yaml.load(text, Loader=_StrictLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"{path} is not valid YAML: {_yaml_reason(error)}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} must hold sections (`run:`, `model:` ...), not a {type(tree).__name__}")
    return tree


def _yaml_reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply; write sections and keys only"
    hint = "; indent with spaces, not tabs" if "'\\t'" in str(error) else ""
    reason = str(error).replace('in "<unicode string>", ', "in ")  # the caller names the file
    return f"{masked(reason)}{hint}"


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses aliases, duplicate keys, keys that are neither text nor whole numbers (`on:`), and
    numbers that YAML 1.1 reads otherwise than they look: 010 is 8 there, and 1:30 is 90."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):  # a few lines of aliases can expand to gigabytes
            event = self.peek_event()
            raise yaml.composer.ComposerError(
                None, None, f"alias *{event.anchor} is not read here; write the value out", event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        return super().construct_yaml_int(self._plain_number(node))

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        return super().construct_yaml_float(self._plain_number(node))

    def _plain_number(self, node: yaml.ScalarNode) -> yaml.ScalarNode:
        if _MISREAD.fullmatch(node.value):
            raise yaml.constructor.ConstructorError(
                None, None, f"{node.value} is not read as a number here; put quotes around a text", node.start_mark
            )
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str) and type(key) is not int:  # whole numbers name steps, as in a schedule's `at`
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is not text", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"duplicate key {key!r}", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_StrictLoader.add_constructor("tag:yaml.org,2002:int", _StrictLoader.construct_yaml_int)
_StrictLoader.add_constructor("tag:yaml.org,2002:float", _StrictLoader.construct_yaml_float)


def apply_override(tree: dict[str, Any], override: str) -> None:
    """Set one `section.key=value` in `tree`, in place; the value is read as YAML (`null`, `true`, `[a, b]`)."""
    key, equals, text = override.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        is_file = not equals and key.endswith((".yaml", ".yml"))
        hint = f"; a configuration is given with --config {key}" if is_file else ", for example objective.k=8"
        raise ConfigError(f"override {brief(override)} is not of the form section.key=value{hint}")
    try:
        value = yaml.load(text, Loader=_StrictLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        # The shell splits `objective.mixture=[{strategy: mean}]` into two words.
        hint = "\nput an override with blanks in quotes, as 'section.key=[a, b]'" if _UNCLOSED.search(text) else ""
        raise ConfigError(
            f"override {brief(override)}: the value is not valid YAML: {_yaml_reason(error)}{hint}"
        ) from error
    for part in path[:-1]:
        inner = tree.get(part)
        if inner is None:
            inner = tree[part] = {}
        elif not isinstance(inner, dict):
            raise ConfigError(f"override {brief(override)}: {part} is a value, not a section")
        tree = inner
    tree[path[-1]] = value


def brief(value: Any) -> str:
    """A value as a message shows it, without the credentials of its addresses."""
    text = masked(repr(value))
    return text if len(text) <= _MAX_VALUE else f"{text[:_MAX_VALUE]}... ({len(text)} characters)"
