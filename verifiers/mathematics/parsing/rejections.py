"""Words that reject the value before them, or say something of it: "4 (rejected)", "12 is extraneous"."""

from __future__ import annotations

import re

REJECTED = (
    r"(?:rejected?|discard(?:ed)?|disregard(?:ed)?|dismissed|extraneous|spurious|invalid|inadmissible|unacceptable|excluded"
    r"|eliminated|omitted|ignored?|dropped|impossible|unsuitable|(?:ruled|crossed|thrown) out|wrong|incorrect|false"
    r"|untrue|not (?:valid|allowed|possible|acceptable|admissible))"
)
"""Before a noun such a word only describes it: 12 invalid votes."""

# At the end of the words, or before a reason.
_REJECTED_AT_END = re.compile(
    rf"\b{REJECTED}(?=\W*$|\W*[,;.)]|\s+(?:since|because|as|for|due|by|when|here|too)\b)", re.IGNORECASE
)
_STATEMENT = re.compile(
    r"\W*(?:is|are|was|were|does|seems|would|should|could|might|cannot|fails)\b|.*n['’]t\b", re.IGNORECASE
)
_AFFIRMED = re.compile(
    r"\W*is(?: (?:the|our|my|your))?(?: (?:final|correct|right|required|desired|only))*"
    r"(?: (?:answer|solution|result|value|one|correct|right|total))?\W*$",
    re.IGNORECASE,
)
# Not "Number of wrong answers: 20".
_LABEL = re.compile(
    rf"(?:\W|\\text\b)*(?:the )?(?:{REJECTED}|not|never)(?: (?:answer|solution|root|value))?\W*", re.IGNORECASE
)
# "7 values excluded", "7 were wrong".
_COUNTED = re.compile(
    r"\W*(?:(?!fails|does|this|thus|extraneous|spurious)[a-z]{3,20}s(?= [a-z])|are\b|were\b)", re.IGNORECASE
)


def rejects(words: str) -> bool:
    """Whether words after a value reject it, or are a statement about it other than that it is the answer."""
    if _COUNTED.match(words) is not None:
        return False
    if _REJECTED_AT_END.search(words) is not None:
        return True
    return _STATEMENT.match(words) is not None and _AFFIRMED.match(words) is None


def is_rejecting_label(words: str) -> bool:
    """Whether a label before a value rejects it: "Extraneous: 12"."""
    return _LABEL.fullmatch(words) is not None
