"""Tells lines of Python from lines of prose, and what is inside a string from what is not."""

from __future__ import annotations

import keyword
import re

from verifiers.turns import first_turn

_OUTSIDE = re.compile(
    r'#.*|"""|\'\'\'|"(?:\\.|[^"\\\n])*(?:"|$)|\'(?:\\.|[^\'\\\n])*(?:\'|$)|[()\[\]{}]'  # in this order
)
_INSIDE = re.compile(r"\\.|\"\"\"|'''")

# How a line at the left margin begins where a program begins after prose or at the start of a text.
_CODE = re.compile(
    r"(?:async +def|def|class) +\w|import +\w|from +[\w.]+ +import\b"
    r"|(?:if|elif|for|while|with|except|match|case)\b.*:|(?:else|try|finally) *:"
    r"|[@#)\]}]|[rRbBuUfF]{0,2}(?:\"\"\"|''')|(?:pass|break|continue) *$|(?:del|global|assert|raise) +\w"
    r"|(?:return|yield)\b"
    r"|[A-Za-z_][\w.]*(?:\[[^\]]*\])? *(?:[-+*/|&%^@<>]{0,2}=(?!=)|: *\w+.*=)"
    r"|[*(\[]? *[A-Za-z_][\w.]*(?:\[[^\]]*\])? *,[^=]*=(?!=)"
    r"|\[? *[A-Za-z_][\w.]*(?:\[[^\]]*\])?\("
)
# Two words in a row of which neither is a keyword: a sentence.
_WORDS = re.compile(r"(?<![\w.])(\w[\w.]*) +(?=(\w+))")
# Marks of Markdown and of sentences in any script, a rule, and a heading of one word.
_NO_CODE = re.compile(
    r"[<>|]|\*\*|[-*] |.*[`$?'!](?!=)|.*[^\w\x00-\x7f]|.*(?:[^\d\W]|\))\.$|[-=*]{3,}$"
    r"|(?:\w+:|[A-Z][a-z]+|[^\W\x00-\x7f]\w*)$"
)
_KEYWORDS = {*keyword.kwlist, *keyword.softkwlist}


class Lexer:
    """Reads Python line by line, only to know whether the next line begins inside a string or brackets.

    Attributes:
        quote: The mark of the triple-quoted string that is open, or "".
        depth: Brackets that are open.
        goes_on: The next line belongs to the same statement.
    """

    def __init__(self) -> None:
        self.quote = ""
        self.depth = 0
        self.goes_on = False

    def feed(self, line: str) -> str:
        """Read one line. Returns it without comments and without the contents of strings."""
        bare = self._without_strings(line)
        self.goes_on = bool(self.quote or self.depth) or bare.rstrip("\n").endswith("\\")
        return bare

    def take(self, line: str) -> tuple[str, bool]:
        """Read one line. Returns it up to a mark outside of strings that ends a turn, and whether there is one."""
        bare = self.feed(line)
        ends = first_turn(bare) != bare
        return first_turn(line) + "\n" if ends else line, ends

    def _without_strings(self, line: str) -> str:
        bare: list[str] = []
        at = 0
        while True:
            if self.quote:
                end = next((m.end() for m in _INSIDE.finditer(line, at) if m.group() == self.quote), None)
                if end is None:
                    return "".join(bare)
                at, self.quote = end, ""
            token = _OUTSIDE.search(line, at)
            if token is None:
                return "".join([*bare, line[at:]])
            bare.append(line[at : token.start()])
            at = token.end()
            self._take(token.group(), bare)

    def _take(self, text: str, bare: list[str]) -> None:
        if text in ('"""', "'''"):
            self.quote = text
            bare.append('""')
        elif text[0] in "\"'":
            # One that is not closed on its line is an apostrophe, not a string, and stays visible.
            bare.append('""' if len(text) > 1 and text[-1] == text[0] else "'")
        elif text in "([{":
            self.depth += 1
            bare.append(text)
        elif text in ")]}":
            self.depth = max(0, self.depth - 1)
            bare.append(text)


def lines_of(text: str) -> list[str]:
    """With their ends. Not ``splitlines``, which also splits at characters that strings may hold."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def begins_as_code(lines: list[str]) -> bool:
    """Whether the first line of a text, apart from comments, is one of Python and not of prose or Markdown."""
    first = next((line for line in lines if line.strip() and not line.lstrip().startswith("#")), "")
    code = first.strip()
    if not code or is_prose(code) or code.startswith(("```", "~~~")):
        return False
    return first[0].isspace() or _CODE.match(code) is not None


def is_code(line: str) -> bool:
    """Whether a line at the left margin may begin a program."""
    return _CODE.match(line) is not None and not is_prose(line)


def is_prose(line: str) -> bool:
    """Whether a line at the left margin, outside of strings, is a sentence, a list item or other text."""
    bare = Lexer().feed(line).rstrip()
    if _NO_CODE.match(bare) and bare.removesuffix(":") not in _KEYWORDS:
        return True
    return any(not _KEYWORDS.intersection(pair) for pair in _WORDS.findall(bare))
