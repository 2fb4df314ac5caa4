"""Words that deny a value of a sentence, change it, or take it back: "not 12", "twice 12", "12. No, wait"."""

from __future__ import annotations

import re

from verifiers.mathematics.parsing.rejections import REJECTED

# "12 is wrong" denies 12, and "the wrong answer is 12" announces what is not the answer.
_DENIED_AFTER = re.compile(
    r"[\s$)\]}\\*\"'.,]{0,6}\s\(?(?:which\s+|but\s+(?:it|this|that)\s+)?"
    r"(?:(?:is|are|was|were|seems|would be|(?:(?:is|are|was|were)(?=n)))"
    r"(?:\s+|(?=n))(?:actually\s+|clearly\s+|also\s+|therefore\s+|thus\s+|then\s+)?"
    r"(?:wrong|incorrect|false|invalid|untrue|extraneous|impossible|inadmissible"
    r"|(?:not|n['’]t)\s+(?:the\s+|a\s+)?(?:correct|right|true|valid|it|answer|solution))\b"
    rf"|(?:is|was|must be|gets|(?<=\())\s*(?:then\s+|therefore\s+|thus\s+)?{REJECTED}(?!\s+[a-z])"
    r"|fails\b(?!\s+[a-z])|do(?:es)?(?:\s+not|n['’]t)(?:\s+(?:work|satisfy|fit|hold|count|qualify)\b|\s*(?:[.,;!]|$)))",
    re.IGNORECASE,
)
_FALSE = (
    r"(?:\b(?:wrong|incorrect|false|invalid|untrue|not)|(?:\bnot|n['’]t) (?:true|the case|correct|right))"
    r"(?:\s+(?:that|to say|to claim)){0,2}(?:\s+the)?(?:\s+(?:final|correct|right))?\s+"
)
_DENIED_PHRASE = re.compile(rf"{_FALSE}$", re.IGNORECASE)
_OTHER_PHRASE = re.compile(r"\b(?:alternative|alternate|another|other|second|backup)(?: possible)? $", re.IGNORECASE)
_MARKS = r"[\s$(\[{\\*\"'=]*$"
_DENIED_ANSWER = re.compile(
    rf"{_FALSE}(?:answer|solution|result|value|option|choice)\s*(?:is|was|would be)?\s*:?{_MARKS}", re.IGNORECASE
)
# "not", "less than" and the like right before a value negate it, unless "is" is between: "what is not prime is 9".
_DENIED = re.compile(
    r"(?:\b(?:not|at least|at most|up to|never|cannot|neither|nor|without|except|instead of|unlikely"
    r"|(?:less|greater|more|fewer|larger|smaller|other|rather) than"
    r"|(?:[Ww]e|I) (?:must |can |have to )?(?:reject|discard|exclude|eliminate|dismiss|disregard|ignore"
    r"|rule out|throw out)"
    r"|doubt(?: that)? (?:it|the answer)(?: is|['’]s))\b|n['’]t\b)"
    rf"(?:\s+(?!(?:is|are|was|equals|but|so|hence|thus|therefore)\b)[A-Za-z]+){{0,3}}{_MARKS}",
    re.IGNORECASE,
)
# Right before a value: it is only a bound, or another value is made of it.
_CHANGED = re.compile(
    r"\b(?:almost|nearly|barely|hardly|close to|near(?: to)?|far from"
    r"|differs? from|different from|over|under|above|below|beyond|exceed(?:s|ing)?|or equal to|twice|thrice|double"
    r"|triple|minus|negative|half(?: of)?"
    r"|(?:square|cube|root|reciprocal|inverse|opposite|negative|multiple|power|logarithm) of)"
    rf"(?:\s+(?:a|an|the))?{_MARKS}",
    re.IGNORECASE,
)
# "Not" in other languages, with the verb that may follow it.
_FOREIGN = re.compile(
    r"(?<![^\W\d_])(?:nicht|nie(?: jest)?|niet|ikke|inte|pas(?: égale? à)?|não é|no es|non è|ei ole|nem|bukan|tidak"
    rf"|не(?: равн[оа]| є| является)?|δεν είναι|không phải(?: là)?|không(?: là)?|ไม่ใช่|ليس|ليست|不是|不为|并非){_MARKS}",
    re.IGNORECASE,
)
# A relation next to a value: x > 4 says what 4 is not, and in 3 < x < 4 neither end is the answer.
_RELATION = r"(?:[<>]=?|[≤≥≠⩽⩾]|!=|\\(?:[lgn]e(?:q|qslant)?|[lg]t)(?![A-Za-z]))"
_TAG = r"</?[A-Za-z][A-Za-z0-9]{0,12}(?: [\w-]{1,20}=[^<>\n]{0,60})?/?>"  # "<b>18</b>" has no relation
_BOUND_BEFORE = re.compile(rf"[\w)}}\]][ \t]{{0,3}}{_RELATION}[ \t]{{0,3}}$")
_TAG_BEFORE = re.compile(rf"{_TAG}[ \t]{{0,3}}$")
_BOUND_AFTER = re.compile(rf"[ \t]{{0,3}}(?!{_TAG}){_RELATION}[ \t]{{0,3}}[\w\\(-]")
# "Actually" takes a value back only if another value is all that follows in its sentence.
_PLAIN_VALUE = r"(?:\$[^$\n]{1,60}\$|(?:\\?\$|\\\()?-?\d[\d.,/]{0,30}(?<=\d)(?:\\?%|\\\)|\$)?)"
_REPLACED = (
    rf"(?:,\s{{1,3}}(?:no,?\s)?{_PLAIN_VALUE}"
    r"|,?\s{1,3}(?:no,?\s)?(?:it['’]s|(?:it|the (?:correct |final )?answer)(?: is| should be| must be))\s{1,3}"
    rf"{_PLAIN_VALUE}(?: [a-z]{{2,15}})?)\s{{0,3}}(?:[.!](?!\w)|$|\n)"
)
_RETRACTION = re.compile(
    r"\b(?:oops|scratch that|(?:correction|edit)\s{0,2}:|i mean(?:t)?(?=[:,]?\s*[$\\(\d-])|no,? wait|wait,? no"
    rf"|(?:(?<=[.!?;,]\s)|(?<=\n))(?:but )?(?:actually|sorry|hold on|on reflection)(?={_REPLACED})"
    r"|my mistake|on second thought|i made (?:an error|a mistake)|let me (?:correct|fix|redo)"
    r"|that(?:'s| is| was) (?:wrong|incorrect|not right))(?!\w)",
    re.IGNORECASE,
)


def is_denied_phrase(text: str, start: int) -> bool:
    """Whether the words before a phrase such as "the answer is" deny it."""
    return _DENIED_PHRASE.search(text[max(0, start - 80) : start]) is not None


def is_other_phrase(text: str, start: int) -> bool:
    """Whether the words before such a phrase announce a second answer: "Alternative answer: 13"."""
    return _OTHER_PHRASE.search(text[max(0, start - 80) : start]) is not None


def is_negated(text: str, start: int, end: int | None = None) -> bool:
    """Whether the words before a value, or after its end, deny it or make another value of it."""
    if end is not None and (_DENIED_AFTER.match(text, end) or _BOUND_AFTER.match(text, end)):
        return True
    before = text[max(0, start - 80) : start]
    if any(denial.search(before) for denial in (_DENIED, _DENIED_ANSWER, _CHANGED, _FOREIGN)):
        return True
    return _BOUND_BEFORE.search(before) is not None and _TAG_BEFORE.search(before) is None


def retraction(text: str) -> int | None:
    """The end of the last words in a text that take back what was said before; None without such words."""
    ends = [match.end() for match in _RETRACTION.finditer(text)]
    return ends[-1] if ends else None
