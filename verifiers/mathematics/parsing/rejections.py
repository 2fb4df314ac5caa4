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
_LABEL = re.compile(rf"\b(?:{REJECTED}|not|never)\b", re.IGNORECASE)


def rejects(words: str) -> bool:
    """Whether words after a value reject it, or are a statement about it other than that it is the answer."""
    if _REJECTED_AT_END.search(words) is not None:
        return True
    return _STATEMENT.match(words) is not None and _AFFIRMED.match(words) is None


def is_rejecting_label(words: str) -> bool:
    """Whether a label before a value rejects it: "Extraneous: 12"."""
    return _LABEL.search(words) is not None
