"""Words around a value: remarks that do not change it, as in "14 (fourteen)", and "loss", which makes it negative."""

from __future__ import annotations

import re
from fractions import Fraction

from verifiers.mathematics.parsing import units
from verifiers.mathematics.parsing.number_words import spelled_number

_BRACKETED = re.compile(
    r"(?P<value>.*[\w})%]) *(?:\\text *\{ *)?\( *(?P<words>[A-Za-z]{3}[A-Za-z -]{0,60}) *\)(?: *\})?"
)
_SPELLED_FIRST = re.compile(
    r"(?:\\text *\{)? *(?P<words>[A-Za-z][A-Za-z -]{2,60}?) *(?:\})? *\( *(?P<value>-?\d+) *\) *\}?"
)
_CLOSING = re.compile(
    r"(?<=[\w})%]),? *(?:\\text *\{ *)?(?:in (?:total|all)|altogether|overall"
    r"|as (?:required|desired|claimed|expected|needed|requested|stated))\.? *\}?$"
)

_AMOUNT = r"\.?\d[\d.,]*%?|\\frac\{\d+\}\{\d+\}"
_LOSS = re.compile(
    rf"(?P<after>{_AMOUNT}) *(?:\\text *\{{ *)?\(? *(?:net )?(?:loss|deficit|debt)\b *\)?\.? *\}}?"
    rf"|(?:\\text *\{{ *)?(?:a )?(?:net )?(?:loss|deficit|debt) of *\}}? *(?P<before>{_AMOUNT})"
)
_GAIN = re.compile(rf"(?:\\text *\{{ *)?(?:a )?(?:net )?(?:profit|gain) of *\}}? *(?P<before>{_AMOUNT})")


def loss_as_negative(text: str) -> str:
    """A loss of 5 as -5, a gain of 5 as 5: a loss is no gain of the same amount."""
    if (gain := _GAIN.fullmatch(text)) is not None:
        return gain["before"]
    loss = _LOSS.fullmatch(text)
    return text if loss is None else "-" + (loss["after"] or loss["before"])


def without_remark(text: str) -> str:
    """A normalized answer without such a remark. A numeral in words is one only if it has the same value."""
    text = _CLOSING.sub("", text)
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
    first = bracketed["words"].split(" ")[0]
    is_comment = len(first) > 3 and units.is_comment(bracketed["words"])  # (abc) is a product
    return bracketed["value"] if is_comment else text


def _has_value(text: str, number: Fraction) -> bool:
    plain = text.strip().replace(",", "")
    return re.fullmatch(r"-?\d{1,30}(?:\.\d{1,30}|/\d{1,30})?", plain) is not None and Fraction(plain) == number
