"""Answers that JSON names, and phrases that announce one in other languages: 答案是 12, la respuesta es 12."""

from __future__ import annotations

import json
import re

_PHRASE = re.compile(
    r"(?<![不别別勿非])故?(?:应|應)?[选選](?:择|擇|项|項)?\s{0,4}[:：]?\s{0,4}(?=[(（]?[A-J][)）]?(?:\W|$))|(?:最终|最終)?(?:答案|答え|答)\s{0,4}(?:是|为|為|は|[:：])\s{0,4}[:：]?|(?:정답|답)\s{0,4}(?:은|[:：])"
    r"|ответ\s{0,4}(?:[:：=—–-]|равен\b)|απάντηση\s{0,4}(?:[:：]|είναι\b)|(?:الجواب|الإجابة)\s{0,4}(?:[:：]|هو\b|هي\b)"
    r"|उत्तर\s{0,4}(?:[:：]|है)|r[ée]ponse\s{0,4}(?:[:：]|(?:finale\s{1,4})?est\b(?:\s{0,4}:)?)"
    r"|\b(?:respuesta|resposta|risposta|antwort)\s{0,4}(?:[:：]|(?:final\w?\s{1,4})?(?:es|é|è|ist|lautet)\b(?:\s{0,4}:)?)",
    re.IGNORECASE,
)
_STEMS = (
    "选",
    "選",
    "答",
    "답",
    "твет",
    "πάντηση",
    "جواب",
    "إجابة",
    "उत्तर",
    "ponse",
    "espuesta",
    "esposta",
    "isposta",
    "ntwort",
)
_STOP = re.compile(r"[。！？\n]|\.(?=\s|$)")
_COPULA = re.compile(r"(?:です|だ|である|입니다|이다)$")


_NAMED = re.compile(
    r'"(?:final[_ ]?|correct[_ ]?)?answer"\s{0,4}:\s{0,4}'
    r'("(?:\\.|[^"\\]){0,2000}"|\[[^\[\]{}]{0,500}\]|-?\d[\d.]{0,100}(?:[eE][-+]?\d{1,3})?)',
    re.IGNORECASE,
)


def json_answers(text: str) -> list[str]:
    """The different values that objects of JSON in a text give to ``answer`` or ``final_answer``."""
    if 'nswer"' not in text and 'NSWER"' not in text:
        return []
    found = [match[1] for match in _NAMED.finditer(text)]
    return list(dict.fromkeys(_string(value) if value.startswith('"') else value for value in found))


_OBJECT = re.compile(r'\s*(?:```(?:json)?\s*)?\{\s*".*":.*\}\s*(?:```)?\s*', re.IGNORECASE | re.DOTALL)
_SOME_NUMBER = re.compile(r"\d[\d.,]*")


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


def announced_answer(text: str) -> str | None:
    """The answer after the last such phrase, up to the end of its sentence; None without a phrase."""
    if not any(stem in text for stem in _STEMS):
        return None
    ends = [match.end() for match in _PHRASE.finditer(text)]
    if not ends:
        return None
    tail = text[ends[-1] : ends[-1] + 2_000].strip(" *:：\t\n\"“”'「」")
    sentence = _STOP.split(tail, maxsplit=1)[0].strip(" *")
    return _COPULA.sub("", sentence).strip()
