"""Reads a field of a row as text: nested names, lists of messages, lists with one element, as in public data sets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def lookup(fields: Mapping[str, Any], name: str) -> Any:
    """The value of a field; a dot in the name reads a nested object. None if missing."""
    if name in fields:
        return fields[name]
    head, dot, rest = name.partition(".")
    while dot:
        inner = fields.get(head)
        if isinstance(inner, Mapping):
            found = lookup(inner, rest)
            if found is not None:
                return found
        more, dot, rest = rest.partition(".")
        head = f"{head}.{more}"
    return None


def single(value: Any) -> Any:
    """The value, the text of a list of messages, or the element of a list with one element.

    Raises:
        ValueError: The list has several elements or none, or messages other than optional system messages and one user
            message. The error message continues a sentence that begins with the field's name.
    """
    if not isinstance(value, list):
        return value
    if value and all(isinstance(item, Mapping) and "role" in item and "content" in item for item in value):
        return _conversation(value)
    if len(value) != 1:
        raise ValueError(f"is a list of {len(value)} elements; one value is needed; name a field with one value")
    return value[0]


def _conversation(messages: list[Mapping[str, Any]]) -> str:
    """The text of the system messages and of the user message, separated by blank lines."""
    roles = [message["role"] for message in messages]
    if roles[-1] != "user" or any(role not in ("system", "developer") for role in roles[:-1]):
        shown = ", ".join(map(str, roles[:6])) + (", ..." if len(roles) > 6 else "")
        raise ValueError(
            f"is a conversation of {len(roles)} messages ({shown}); only one user message, perhaps after a system "
            "message, can be read: write the conversation into its text, or leave the row out"
        )
    texts = [_content(message["content"]) for message in messages]
    return "\n\n".join(text for text in texts if text)


def _content(content: Any) -> str:
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    texts = []
    for part in parts:
        text = part.get("text") if isinstance(part, Mapping) and part.get("type", "text") == "text" else None
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
    if numbers and isinstance(value, (int, float)) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise ValueError(f"is {value}; give a finite number or text")
        value = str(value)
    if not isinstance(value, str) or not (value.strip() or may_be_empty):
        raise ValueError("is missing or not text; add it to the line")
    if any("\ud800" <= sign <= "\udfff" for sign in value):
        raise ValueError("contains half of a surrogate pair; write the whole character")
    return value
