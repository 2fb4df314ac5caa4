"""Text of models, users and actors for the terminal."""

from __future__ import annotations

import unicodedata


def printable(text: str) -> str:
    r"""Control characters as escapes (`\x1b`), so that a model's answer cannot control the terminal."""
    return "".join(
        character
        if character in "\n\t" or unicodedata.category(character)[0] != "C"
        else character.encode("unicode_escape").decode()
        for character in text
    )
