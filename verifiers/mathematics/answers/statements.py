"""Sentences that state an answer without announcing it: "B is correct", "42 is the answer", "Yes, it is."."""

from __future__ import annotations

import re

_KIND = r"(?:option|choice|answer|statement|alternative)"
_RIGHT = (
    r"(?:(?:clearly|indeed|therefore|thus|also|actually|definitely)\s+)?(?:(?:the|our|my)\s+)?"
    r"(?:(?:only|final|best)\s+)?(?:correct|right|true|answer)\b"
    # not "a right angle"
    r"(?!\s+(?!(?:answer|choice|option|one|statement|alternative|because|since|as|while|whereas|and)\b)\w)"
)
_LETTER = r"\(?(?<![A-Za-z])[A-J]\b(?!['’])\)?"
_CHOSEN = re.compile(
    rf"(?P<before>[^.!?\n]{{0,80}}?)(?P<letter>{_LETTER})\s+(?:is|must\s+be|has\s+to\s+be)\s+{_RIGHT}"
    rf"|\b(?:[Ii]|[Ww]e)(?:['’]d|\s+would|\s+will|['’]ll)?\s+(?:choose|chose|pick|select|go\s+with)\s+(?:{_KIND}\s+)?"
    rf"(?P<picked>{_LETTER})\s*(?=[.,;!:\n]|$)"
    rf"|\b[Aa]nswer\s+(?:must|should|has\s+to)\s+be\s+(?:{_KIND}\s+)?(?P<must>{_LETTER})\s*(?=[.,;!:\n]|$)"
)
# The words that may stand before the letter in its clause. Others may deny it, doubt it or report it.
_HARMLESS = frozenset(
    "so thus therefore hence then but only that means which this we i conclude find see think believe it follows now"
    " clearly finally in conclusion the final after all option choice answer statement alternative".split()
)
# The rest of the sentence: no other letter, denial or doubt, except in a reason.
_DOUBT = r"\b(?:or|if|unless|maybe|perhaps|guess|not|too|also|really|so|false|wrong|no)\b|n['’]t\b|\b[A-J]\b"
_LAST = re.compile(
    rf"(?:(?!{_DOUBT})[^.!?\n\d$\\]){{0,100}}"
    r"(?:(?:\b(?:because|since|as|while|whereas)\b[^.!?\n\d$\\]{0,200})"
    r"|[;—–-](?:(?!\b(?:or|if|unless|maybe|perhaps|guess|not|too|also|so)\b|\b[A-J]\b)[^.!?\n\d$\\]){0,200})?"
    r"[.!]?[*_)\"']{0,3}",
)
_NAMED = re.compile(
    r"(?P<before>(?:[A-Za-z]{1,12}[,:]?\s){0,4})"
    r"(?P<value>\$[^$\n]{1,80}\$|-?\d[\d.,/]{0,30}(?<=\d)%?)\s+is\s+(?:(?:the|our|my)\s+)"
    r"(?:(?:final|correct|right)\s+)?answer[.!]{0,3}[*_)\"'\s]{0,6}",
    re.IGNORECASE,
)
_VERDICT = r"\b(?:yes|no|true|false)\b"
# An answer in words without a formula. Nothing else in it may be a verdict, or doubt the one it gives.
_IN_WORDS = re.compile(
    rf"\W{{0,4}}(?P<verdict>yes|no)\b[.,;:!—–-](?:(?!{_VERDICT}|\b(?:but|however|maybe|perhaps|sure|wait|answer|would"
    r"|might|could|unless|if|or)\b)[^\n]){0,300}"
    r"|\W{0,4}(?P<alone>true|false)[.!]"
    r"|(?P<before>(?:[A-Za-z]{1,12}[,:]?\s){0,4})(?:statement|claim|assertion|conjecture) is "
    r"(?:therefore |thus |indeed |always )?(?P<claim>true|false)[.!]?"
    r"|(?P<name>(?:there (?:is|are) )?no (?:real )?solutions?|does not exist"
    r"|(?:the|an?) [a-z]+(?:[ -][a-z]+){0,2})[.!]?",
    re.IGNORECASE,
)
_VERDICTS = re.compile(_VERDICT, re.IGNORECASE)

MAX_CHARS = 2_000
"""Only the end of a response is searched."""


def chosen(text: str) -> str | None:
    """The letters that a response calls right up to its last sentence, as a list; None without such an end."""
    text = text[-MAX_CHARS:].rstrip()
    found: list[str] = []
    end = 0
    for match in _CHOSEN.finditer(text):
        if not _HARMLESS.issuperset(re.findall(r"[^\W_]+", _clause(match["before"] or "").lower())):
            continue
        letter = match["letter"] or match["picked"] or match["must"]
        found.append(letter.strip("()"))
        end = match.end()
    return ", ".join(dict.fromkeys(found)) if found and _LAST.fullmatch(text, end) else None


def _clause(before: str) -> str:
    """The words of the clause that a letter ends, which may deny or share what is said of it."""
    return re.split(r"(?<![A-J])(?<![A-J]\)),\s|[;:]", before)[-1]


def named_first(text: str) -> str | None:
    """The value that the last sentence of a response calls the answer after it: "So 42 is the answer"."""
    match = _NAMED.fullmatch(_last_sentence(text))
    return match["value"].strip("$") if match is not None and _is_harmless(match["before"]) else None


def in_words(text: str) -> str | None:
    """The answer of a response that states it in words only: yes or no, true or false, a name, that there is none."""
    text = text[-MAX_CHARS:].strip()
    match = _IN_WORDS.fullmatch(text)
    if match is None:
        match = _IN_WORDS.fullmatch(last := _last_sentence(text))
        if match is None or match["claim"] is None or _VERDICTS.search(text[: -len(last)]) is not None:
            return None
    if match["claim"] is not None and not _is_harmless(match["before"]):
        return None
    return match["verdict"] or match["alone"] or match["claim"] or match["name"]


def _last_sentence(text: str) -> str:
    return re.split(r"[.!?]\s+|\n", text[-MAX_CHARS:].strip())[-1]


def _is_harmless(words: str) -> bool:
    return _HARMLESS.issuperset(re.findall(r"[^\W_]+", words.lower()))
