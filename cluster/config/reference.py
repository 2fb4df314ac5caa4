"""Writes docs/configuration.md from the schema: `python -m cluster.config.reference docs/configuration.md`."""

from __future__ import annotations

import datetime
import json
import sys
import types
import typing
from enum import Enum
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from cluster.config import RunConfig, models_in, section_of

_INTRODUCTION = """\
# Configuration

Generated from the schema by `make reference`; do not edit. Any key can be overridden on the command line
(`bonrl train objective.k=4`). Unknown keys, wrong types, values out of range and combinations that cannot work are
refused before anything starts, with the key and what to change. `--dry-run` prints the resolved configuration and
estimates of batch sizes and memory.
"""


def render_reference() -> str:
    """The whole page, Markdown."""
    parts = [_INTRODUCTION]
    for name, info in RunConfig.model_fields.items():
        section = section_of(info)
        parts.append(_render_key(name, info) if section is None else _render_section(name, info, section))
    return "\n".join(parts)


_COLUMNS = ["| key | type | default | what it does |", "| --- | --- | --- | --- |"]


def _render_key(name: str, info: FieldInfo) -> str:
    """A key that is not in a section."""
    return "\n".join([f"## `{name}`", "", *_COLUMNS, _row(name, info), ""])


def _row(key: str, field: FieldInfo) -> str:
    description = (field.description or "").replace("|", "\\|")
    return f"| `{key}` | {_type_text(field)} | {_default(field)} | {description} |"


def _render_section(path: str, info: FieldInfo, section: type[BaseModel]) -> str:
    lines = [
        f"## `{path}`",
        "",
        info.description or "",
        "",
        *_COLUMNS,
    ]
    nested: list[str] = []
    shapes: dict[type[BaseModel], list[str]] = {}  # models that are values, and the keys that take them
    for name, field in section.model_fields.items():
        inner = section_of(field)
        if inner is not None:
            nested.append(_render_section(f"{path}.{name}", field, inner))
            continue
        for shape in models_in(field.annotation):
            shapes.setdefault(shape, []).append(name)
        lines.append(_row(f"{path}.{name}", field))
    for shape, names in shapes.items():
        value = FieldInfo(description=f"Keys of the value of {', '.join(f'`{path}.{name}`' for name in names)}.")
        nested.append(_render_section(f"{path}.{names[0] if len(names) == 1 else '<key>'}", value, shape))
    return "\n".join([*lines, "", *nested])


def _type_text(field: FieldInfo) -> str:
    """Type and range as a person reads them: `integer, 1 to 64`."""
    text = _annotation_text(field.annotation)
    bounds = {type(item).__name__: item for item in field.metadata}
    low = bounds.get("Ge") or bounds.get("Gt")
    high = bounds.get("Le") or bounds.get("Lt")
    limits = []
    if low is not None:
        limits.append(f"{'>=' if hasattr(low, 'ge') else '>'} {getattr(low, 'ge', getattr(low, 'gt', None)):g}")
    if high is not None:
        limits.append(f"{'<=' if hasattr(high, 'le') else '<'} {getattr(high, 'le', getattr(high, 'lt', None)):.10g}")
    return ", ".join([text, *limits])


def _annotation_text(annotation: Any) -> str:
    origin = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if origin is typing.Literal:
        return " or ".join(f"`{_yaml(value)}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_annotation_text(part) for part in arguments)
    if origin is typing.Annotated:
        return _annotation_text(arguments[0])
    if origin in (tuple, list):
        return f"list of {_annotation_text(arguments[0])}"
    if origin is dict and models_in(arguments[1]):
        return "its own keys, below, for each name"
    if origin is dict:
        return f"{_annotation_text(arguments[1])} by {_annotation_text(arguments[0])}"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return " or ".join(f"`{_yaml(member.value)}`" for member in annotation)
    if models_in(annotation):
        return "its own keys, below"
    names: dict[Any, str] = {
        int: "integer",
        float: "number",
        str: "text",
        bool: "true or false",
        type(None): "null",
        datetime.date: "date",
        typing.Any: "any value",
    }
    return names.get(annotation, str(annotation))


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True, validated_data={})
    return "required" if value is PydanticUndefined else f"`{_yaml(value)}`"


def _yaml(value: Any) -> str:
    return value if isinstance(value, str) and value.isprintable() and value else json.dumps(value)


def main() -> None:
    """Write the page to the path given, or print it."""
    text = render_reference()
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
