r"""Removes LaTeX that only decorates an answer, and rewrites infix commands: ``{a \over b}`` as ``\frac{a}{b}``."""

from __future__ import annotations

import re

_STYLE = re.compile(
    r"\\(?:tiny|scriptsize|footnotesize|small|normalsize|large|Large|LARGE|huge|Huge|bf|it|sf|tt|sc|em|bfseries|itshape"
    r"|mathstrut|strut|scriptstyle|scriptscriptstyle|noindent|centering|boldmath)(?![A-Za-z])"
)
_COLOR = re.compile(
    r"\\(?:color *\{[^{}]{1,40}\}|(?:textcolor|colorbox) *\{[^{}]{1,40}\} *(?=\{)|bbox *\[[^\]]{0,80}\])"
)
_WRAPPER = re.compile(r"\\(?:underline|ensuremath|mathord|mathop|mathrel|uline|underbar) *(?=\{ *[^{} ])")
_SKIPPED = re.compile(r"\\(?:tag\*?|label|[hv]space\*?|cline) *\{[^{}]{0,40}\}|\\hline|\\kern *[-\d.]+ *[a-z]{2}")
_CONCLUDES = re.compile(r"^(?:\\(?:therefore|implies|Rightarrow|Longrightarrow|iff|hence) *)+(?![A-Za-z])")
_QED = re.compile(
    r"(?<=[\w}).%])(?: |~|\\[,;:! ]|\\q?quad(?![A-Za-z])){0,6}"
    r"\\(?:blacksquare|square|Box|qed|qedsymbol|checkmark) *$"
)
_ROW_SKIP = re.compile(r"\\\\ *\[ *-?[\d.]+ *(?:pt|em|ex|mm|cm|in|px|bp) *\]")
_LAST_ROW = re.compile(r"(?:\\\\ *)+$")
_INFIX = re.compile(r"\\(over|choose)(?![A-Za-z])")
_INFIX_COMMANDS = {"over": "\\frac", "choose": "\\binom"}
# An open end in French notation: ]1,2[ is (1,2).
_INTERVAL_END = r"(?:(?!\\c[au]p)[^\]\[();,]){1,80}"
_INTERVAL = re.compile(rf"([\]\[])((?! *[,;]){_INTERVAL_END}[,;]{_INTERVAL_END})([\]\[])")

MAX_INFIX = 20
"""More infix commands than this in one answer are left as they are."""


def undecorated(text: str) -> str:
    """An answer in LaTeX without colors, sizes, frames, labels and signs that only say "therefore"."""
    if "\\" not in text:
        return _INTERVAL.sub(_interval, text) if "[" in text else text
    text = _STYLE.sub("", _WRAPPER.sub("", _COLOR.sub("", _SKIPPED.sub(" ", _ROW_SKIP.sub(r"\\\\", text)))))
    text = text.replace("\\langle", "(").replace("\\rangle", ")")
    if "\\begin" not in text:
        text = _LAST_ROW.sub("", text)
    text = _QED.sub("", _CONCLUDES.sub("", text.strip()))
    if "[" in text and "sqrt" not in text and "\\begin" not in text:
        text = _INTERVAL.sub(_interval, text)
    for _ in range(MAX_INFIX):
        match = _INFIX.search(text)
        if match is None:
            break
        text = _prefixed(text, match)
    return text


def _interval(match: re.Match[str]) -> str:
    opening, ends, closing = match.groups()
    if opening == "[" and closing == "]":
        return match.group()
    return ("(" if opening == "]" else "[") + ends + (")" if closing == "[" else "]")


def _prefixed(text: str, match: re.Match[str]) -> str:
    """The text with one infix command as a prefix one: its operands are the rest of its group."""
    start, end = _group(text, match.start(), -1), _group(text, match.end(), 1)
    left, right = text[start : match.start()].strip(), text[match.end() : end].strip()
    return f"{text[:start]}{_INFIX_COMMANDS[match[1]]}{{{left}}}{{{right}}}{text[end:]}"


def _group(text: str, position: int, step: int) -> int:
    """Where the group around a position begins (``step`` -1) or ends (1)."""
    depth = 0
    index = position - 1 if step < 0 else position
    while 0 <= index < len(text):
        escaped = index > 0 and text[index - 1] == "\\"
        if not escaped and text[index] in "{}":
            depth += 1 if (text[index] == "{") == (step > 0) else -1
            if depth < 0:
                break
        index += step
    return index + 1 if step < 0 else index
