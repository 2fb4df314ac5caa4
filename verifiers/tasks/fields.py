"""Reads fields of a row: nested names, JSON in text, conversations, lists of answers, as public data sets have them."""

from __future__ import annotations

import datetime as dt
import json
import math
from base64 import b64encode
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from verifiers.task import ROLES

_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant", "developer": "system"}
_TEXT_PARTS = ("text", "input_text", "output_text")
_LARGEST_PLAIN = 1e21  # larger floats are written with an exponent


class Bytes(str):
    """Binary data of a Parquet file as base64. It is no text, so a field that must be text refuses it."""


def lookup(fields: Mapping[str, Any], name: str) -> Any:
    """The value of a field. None if missing.

    A dot in the name reads an object, an object that is written as JSON text, or an element of a list
    (``generations.0``).
    """
    if name in fields:
        return fields[name]
    head, dot, rest = name.partition(".")
    while dot:
        inner = _parts(fields.get(head))
        if inner is not None:
            found = lookup(inner, rest)
            if found is not None:
                return found
        more, dot, rest = rest.partition(".")
        head = f"{head}.{more}"
    return None


def _parts(value: Any) -> Mapping[str, Any] | None:
    """What a dot after the field's name reads."""
    if isinstance(value, str) and value.lstrip().startswith(("{", "[")):
        value = _json(value)
    if isinstance(value, list):
        return {str(index): item for index, item in enumerate(value)}
    return value if isinstance(value, Mapping) else None


def _json(text: str) -> Any:
    """The value of JSON text; None if it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def single(value: Any) -> Any:
    """The value, the user's text of a conversation, or the element of a list with one element.

    Raises:
        ValueError: The list has several elements or none, or the conversation has more than one user message. The error
            message continues a sentence that begins with the field's name.
    """
    messages = conversation(value)
    if messages:
        return _question(messages)
    if not isinstance(value, list):
        return value
    if len(value) != 1:
        raise ValueError(f"is a list of {len(value)} elements; one value is needed; name a field with one value")
    return value[0]


def conversation(value: Any) -> list[tuple[str, Any]]:
    """The messages of a conversation as (role, content); empty if the value is none.

    A message is ``{role, content}`` or ``{from, value}``; the list of them may be written as JSON text.
    """
    if isinstance(value, str) and value.lstrip().startswith("[") and ('"content"' in value or '"value"' in value):
        value = _json(value)
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        return []
    for role, content in (("role", "content"), ("from", "value")):
        if all(role in item and content in item for item in value):
            return [(_role(item[role]), item[content]) for item in value]
    return []


def _role(name: Any) -> str:
    plain = str(name).strip().lower()
    return _ROLES.get(plain, plain)


def _question(messages: list[tuple[str, Any]]) -> str:
    """The text of the system messages and of the user message, separated by blank lines. A last message of the
    assistant is the solution, which is not part of it."""
    asked = _without_solution(messages)
    if asked[-1][0] != "user" or any(role != "system" for role, _ in asked[:-1]):
        raise ValueError(
            f"is a conversation of {_roles(messages)}; only one user message, perhaps after a system message and "
            "before the assistant's solution, can be read: write the conversation into its text, or leave the row out"
        )
    texts = [_content(content) for _, content in asked]
    return "\n\n".join(text for text in texts if text)


def dialogue(value: Any) -> tuple[tuple[tuple[str, str], ...], str] | None:
    """The messages before the last one of the user as (role, content), and the text of that one; None if the value is
    no conversation. A last message of the assistant is the solution, which is not part of it.

    Raises:
        ValueError: It does not end with the user, or has other roles or contents than text. See ``single``.
    """
    messages = conversation(value)
    if not messages:
        return None
    asked = _without_solution(messages)
    if asked[-1][0] != "user" or any(role not in ROLES for role, _ in asked):
        raise ValueError(
            f"is a conversation of {_roles(messages)}; it must consist of messages of system, user and assistant, and "
            "end with the user or with the assistant's solution: change the row, or leave it out"
        )
    *history, (_, text) = ((role, _content(content)) for role, content in asked)
    return tuple((role, content) for role, content in history if content), text


def _without_solution(messages: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    return messages[:-1] if len(messages) > 1 and messages[-1][0] == "assistant" else messages


def _roles(messages: list[tuple[str, Any]]) -> str:
    roles = [role for role, _ in messages]
    return f"{len(roles)} messages ({', '.join(roles[:6])}{', ...' if len(roles) > 6 else ''})"


def _content(content: Any) -> str:
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    texts = []
    for part in parts:
        text = part.get("text") if isinstance(part, Mapping) and part.get("type", "text") in _TEXT_PARTS else None
        if not isinstance(text, str):
            raise ValueError("is a message whose content is not text; only text can be read")
        texts.append(text.strip())
    return "\n".join(texts)


def as_text(value: Any, *, numbers: bool, may_be_empty: bool) -> str:
    """The value as text.

    Raises:
        ValueError: It is not text. The error message continues a sentence that begins with the field's name.
    """
    value = single(value)
    if isinstance(value, Bytes):
        raise ValueError("is binary data and not text; write the column as strings, decoded from UTF-8")
    if numbers and isinstance(value, (int, float, Decimal)) and not isinstance(value, bool):
        value = _number(value)
    if isinstance(value, Mapping) and value:
        raise ValueError(f"is an object with the fields {', '.join(list(value)[:6])}; name one of them with a dot")
    if not isinstance(value, str) or not (value.strip() or may_be_empty):
        kind = "" if value is None or isinstance(value, str) else f" (it is {json.dumps(value, default=str)[:40]})"
        raise ValueError(f"is missing or not text{kind}; add it to the line")
    if any("\ud800" <= sign <= "\udfff" for sign in value):
        raise ValueError("contains half of a surrogate pair; write the whole character")
    return value


def _number(value: int | float | Decimal) -> str:
    """A number as people write it: 42 for 42.0 (a column with gaps makes its integers floats), 0.0000001 for 1e-07."""
    if isinstance(value, int):
        return str(value)
    if not math.isfinite(value):
        raise ValueError(f"is {value}; give a finite number or text")
    if abs(float(value)) >= _LARGEST_PLAIN:
        return str(value)
    if value == int(value):
        return str(int(value))
    return format(Decimal(str(value)).normalize(), "f")


def one_answer(value: Any) -> str:
    """The right answer.

    Raises:
        ValueError: There are several, or none. See ``as_text``.
    """
    answers = any_answer(value) if isinstance(value, list) or _listed(value) is not None else [_answer(value)]
    if len(answers) > 1:
        raise ValueError(
            f"holds {len(answers)} different answers; set task.jsonl.answers=any if each of them is right, or name a "
            "field with one value"
        )
    return answers[0]


def any_answer(value: Any) -> list[str]:
    """The acceptable answers, each once: the elements of a list, of a list in JSON text, or the only value.

    Raises:
        ValueError: There are none, or one is not text. See ``as_text``.
    """
    items = _listed(value, numbers=True)
    items = value if items is None and isinstance(value, list) and not conversation(value) else items
    if items is None:
        return [_answer(value)]
    if not items:
        raise ValueError("is a list of 0 elements; give at least one answer")
    if any(isinstance(item, list) for item in items):
        raise ValueError("is missing or not text: it is a list of lists; name the field of the inner list")
    return list(dict.fromkeys(_answer(item) for item in items))


def _answer(value: Any) -> str:
    return as_text(value, numbers=True, may_be_empty=False).strip()


def _listed(value: Any, *, numbers: bool = False) -> list[Any] | None:
    """The elements of a list that is written as JSON text; None if it is none.

    Without `numbers`, only a list of quoted texts is one: ``[1, 2]`` can be an interval.
    """
    found = _json(value) if isinstance(value, str) and value.lstrip().startswith("[") else None
    kinds = (str, int, float) if numbers else str
    if not isinstance(found, list) or not found or not all(isinstance(item, kinds) for item in found):
        return None
    return found


def solution(value: Any) -> str | None:
    """A worked solution: a text, or the last message of a conversation. None if there is none.

    Raises:
        ValueError: It is not text. See ``as_text``.
    """
    messages = conversation(value)
    if messages:
        role, content = messages[-1]
        if role != "assistant":
            raise ValueError(f"is a conversation whose last message is of the role {role!r}, not assistant")
        value = _content(content)
    return None if value in (None, "", []) else as_text(value, numbers=True, may_be_empty=True).strip() or None


def json_value(value: Any) -> Any:
    """A value of a Parquet file as JSON types: dates as ISO text, bytes as base64, NaN as null.

    Decimals are numbers, or text where a float would lose digits.
    """
    if isinstance(value, dict):
        return {str(name): json_value(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_value(item) for item in value]
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, Decimal):
        return _plain_number(value)
    if isinstance(value, (dt.date, dt.time)):
        return value.isoformat()
    if isinstance(value, dt.timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):
        return Bytes(b64encode(value).decode())
    return value


def _plain_number(value: Decimal) -> int | float | str:
    if value == value.to_integral_value():
        return int(value)
    return float(value) if Decimal(repr(float(value))) == value else format(value, "f").rstrip("0")
