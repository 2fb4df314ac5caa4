"""Finds credentials in addresses, so that no record of a run holds them."""

from __future__ import annotations

import re
from typing import Any

MASK = "***"
# Regular expressions and placeholders begin with one of these; names and secrets do not.
_REAL = r"(?![\[(\\.<{])"
_USER = re.compile(rf"(?<=://){_REAL}[^\s/?#\"']+(?=@)")  # to the last @ before the path
# A password may hold / ? #, but HOST:PORT/path@x is none.
_PASSWORD = re.compile(rf"(://{_REAL}[^\s/?#@:\"']*:)(?!\d*[/?#]|\*\*\*@)[^\s@\"']+(?=@)")
_ADDRESS = re.compile(r"://[^\s\"']+")
_WORDS = r"api[-_]?key|password|passwd|pwd|secret|signature|credential|token"  # also at the end of a name
_SECRET = re.compile(
    rf"([?&;](?:[\w.-]*(?:{_WORDS})|(?:[\w.-]*[-_.])?(?:key|sig|auth))=){_REAL}[^\s&;#\"']+", re.IGNORECASE
)


def has_credentials(value: Any) -> bool:
    """Whether an address in a text, or in texts of nested dicts and lists, has a user name, a password or a secret."""
    if isinstance(value, dict):
        return any(map(has_credentials, value.values()))
    if isinstance(value, list | tuple):
        return any(map(has_credentials, value))
    return isinstance(value, str) and masked(value) != value


def masked(text: str) -> str:
    """The text with `***` instead of the credentials of its addresses."""
    text = _PASSWORD.sub(rf"\1{MASK}", _USER.sub(_without_password, text))
    return _ADDRESS.sub(lambda address: _SECRET.sub(rf"\1{MASK}", address[0]), text)


def _without_password(found: re.Match[str]) -> str:
    """`NAME:***`, or `***` for a name or token alone."""
    name, colon, _ = found[0].partition(":")
    return f"{name}:{MASK}" if colon else MASK


def masked_tree(value: Any) -> Any:
    """The same for every text in nested dicts and lists."""
    if isinstance(value, dict):
        return {key: masked_tree(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(masked_tree(inner) for inner in value)
    return masked(value) if isinstance(value, str) else value
