"""Words around a value: remarks that do not change it, as in "14 (fourteen)", and "profit" and "loss"."""

from __future__ import annotations

import re
from fractions import Fraction

from verifiers.mathematics.parsing import units
from verifiers.mathematics.parsing.number_words import spelled_number

_BRACKETED = re.compile(
    r"(?P<value>.*[\w})%]) *(?:\\text *\{ *)?\( *(?P<words>[A-Za-z]{2}[A-Za-z -]{0,60}) *\)(?: *\})?"
)
_SPELLED_FIRST = re.compile(
    r"(?:\\text *\{)? *(?P<words>[A-Za-z][A-Za-z -]{2,60}?) *(?:\})? *\( *(?P<value>-?\d+) *\) *\}?"
)
_CLOSING = re.compile(
    r"(?<=[\w})%]),? *(?:\\text *\{ *)?(?:in (?:total|all)|only|altogether|overall"
    r"|as (?:required|desired|claimed|expected|needed|requested|stated))\.? *\}?$"
)

_COMMENTS = frozenset(("exactly", "approximately", "rounded", "total", "in total", "valid", "accepted"))
"""Words in brackets that may be left out. Others may reject the value: "4 (extraneous)"."""

_AMOUNT = r"\.?\d[\d.,]*%?|\\frac\{\d+\}\{\d+\}"
_CHANGES = {"loss": "loss|deficit|debt", "profit": "profit|gain"}
_CHANGE = {
    name: re.compile(
        rf"(?P<after>{_AMOUNT}) *(?:\\text *\{{ *)?\(? *(?:net )?(?:{words})\b *\)?\.? *\}}?"
        rf"|(?:\\text *\{{ *)?(?:an? )?(?:net )?(?:{words}) of *\}}? *(?P<before>{_AMOUNT})"
    )
    for name, words in _CHANGES.items()
}

_KIND = "increase|decrease|reduction|discount|rise|drop|decline"
_CHANGE_OF = re.compile(rf"an? (?:(?P<kind>{_KIND}) of (?P<amount>{_AMOUNT})|(?P<first>{_AMOUNT}) (?P<last>{_KIND}))")


def profit_or_loss(text: str) -> tuple[str, str] | None:
    """The amount of a profit or a loss, and which of the two it is; None for other texts."""
    for name, pattern in _CHANGE.items():
        if (match := pattern.fullmatch(text)) is not None:
            return match["after"] or match["before"], name
    return None


def without_remark(text: str) -> str:
    """A normalized answer without such a remark. A numeral in words is one only if it has the same value."""
    text = _CLOSING.sub("", text)
    if (change := _CHANGE_OF.fullmatch(text)) is not None:
        return rf"{change['amount'] or change['first']} \text{{ {change['kind'] or change['last']}}}"
    if "(" not in text:
        return text
    spelled = _SPELLED_FIRST.fullmatch(text)
    if spelled is not None and spelled_number(spelled["words"]) == Fraction(spelled["value"]):
        return spelled["value"]
    bracketed = _BRACKETED.fullmatch(text)
    if bracketed is None:
        return text
    number = spelled_number(bracketed["words"])
    if number is not None:
        return bracketed["value"] if _has_value(bracketed["value"], number) else text
    words = bracketed["words"].strip()
    if units.measure(words.removeprefix("in ")) is not None:
        return rf"{bracketed['value']} \text{{ {words.removeprefix('in ')}}}"
    return bracketed["value"] if words.lower() in _COMMENTS else text


def _has_value(text: str, number: Fraction) -> bool:
    plain = text.strip().replace(",", "")
    return re.fullmatch(r"-?\d{1,30}(?:\.\d{1,30}|/\d{1,30})?", plain) is not None and Fraction(plain) == number
