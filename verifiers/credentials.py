"""Finds credentials in addresses, so that no record of a run holds them."""

from __future__ import annotations

import re
from typing import Any

MASK = "***"
_SECRETS = r"api[-_]?key|key|password|passwd|pwd|secret|sig|signature|auth|credential|token"
_TOKEN = re.compile(r"(?<=://)(?!\*\*\*@)[^\s/?#@:\"']+(?=@)")
# A password may hold / ? #, but HOST:PORT/path@x is none.
_PASSWORD = re.compile(r"(://[^\s/?#@:\"']*:)(?!\d*[/?#]|\*\*\*@)[^\s@\"']+(?=@)")
_QUERY = re.compile(rf"(://[^\s\"']*[?&;](?:[\w.-]*[-_.])?(?:{_SECRETS})=)(?!\*\*\*)[^\s&;#\"']+", re.IGNORECASE)


def has_credentials(value: Any) -> bool:
    """Whether an address in a text, or in texts of nested dicts and lists, has a user name, a password or a secret."""
    if isinstance(value, dict):
        return any(map(has_credentials, value.values()))
    if isinstance(value, list | tuple):
        return any(map(has_credentials, value))
    return isinstance(value, str) and masked(value) != value


def masked(text: str) -> str:
    """The text with `***` instead of the credentials of its addresses."""
    text, found = _PASSWORD.sub(rf"\1{MASK}", _TOKEN.sub(MASK, text)), 1
    while found:  # each match reaches to the last secret of an address
        text, found = _QUERY.subn(rf"\1{MASK}", text)
    return text


def masked_tree(value: Any) -> Any:
    """The same for every text in nested dicts and lists."""
    if isinstance(value, dict):
        return {key: masked_tree(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(masked_tree(inner) for inner in value)
    return masked(value) if isinstance(value, str) else value
