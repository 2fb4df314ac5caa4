"""Answers in objects of JSON: the value that one gives to ``answer`` or ``final_answer``."""

from __future__ import annotations

import json
import re

_NAMED = re.compile(
    r'"(?:final[_ ]?|correct[_ ]?)?answer"\s{0,4}:\s{0,4}'
    r'("(?:\\.|[^"\\]){0,2000}"|\[[^\[\]{}]{0,500}\]|-?\d[\d.]{0,100}(?:[eE][-+]?\d{1,3})?)',
    re.IGNORECASE,
)
_OBJECT = re.compile(r'\s*(?:```(?:json)?\s*)?\{\s*".*":.*\}\s*(?:```)?\s*', re.IGNORECASE | re.DOTALL)
_SOME_NUMBER = re.compile(r"\d[\d.,]*")


def json_answers(text: str) -> list[str]:
    """The different values that objects of JSON in a text give to ``answer`` or ``final_answer``."""
    if 'nswer"' not in text and 'NSWER"' not in text:
        return []
    found = [match[1] for match in _NAMED.finditer(text)]
    return list(dict.fromkeys(_string(value) if value.startswith('"') else value for value in found))


def is_vague_json(text: str) -> bool:
    """Whether a text is an object of JSON that gives no value to ``answer`` and several numbers to other names."""
    if '":' not in text or _OBJECT.fullmatch(text) is None:
        return False
    return 'answer"' in text.lower() or len(set(_SOME_NUMBER.findall(text))) > 1


def _string(text: str) -> str:
    """The content of a string of JSON. Models often write LaTeX's backslashes there without escaping them."""
    inner = text[1:-1]
    if re.search(r"(?<!\\)\\[A-Za-z]{2}", inner):
        return inner
    try:
        return str(json.loads(text, strict=False))
    except ValueError:
        return inner
