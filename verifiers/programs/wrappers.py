"""What responses put around a program instead of a Markdown fence: tags, brackets, LaTeX, quotation marks."""

from __future__ import annotations

import html
import re

# Each with its end: the content is the program. The last one in a text counts.
_WRAPPERS = (
    re.compile(
        r"<(answer|solution|final_answer|python|pre|code)\b[^<>\n]{0,80}>(.*?)(?:</\1\s{0,4}>|\Z)",
        re.IGNORECASE | re.DOTALL,
    ),
    re.compile(r"^\[(PYTHON|ANSWER|CODE|SOLUTION)\][ \t]*\n(.*?)(?:^\[/\1\]|\Z)", re.DOTALL | re.MULTILINE),
    re.compile(r"^\[(BEGIN)\][ \t]*\n(.*?)(?:^\[(?:DONE|END)\]|\Z)", re.DOTALL | re.MULTILINE),
    re.compile(
        r"\\begin\{(lstlisting|verbatim|minted|python)\}(?:[\[{][^\n]{0,80}[\]}])?[ \t]*\n(.*?)(?:\\end\{\1\}|\Z)",
        re.DOTALL,
    ),
)
# Few-shot prompts of MBPP open with [BEGIN], so that a response only closes.
_DONE = re.compile(r"^\[(?:DONE|END|/PYTHON|/ANSWER|/CODE)\][ \t]*$", re.MULTILINE)
_ON_ONE_LINE = re.compile(r"^[ \t]*```(?:python3?|py)[ \t]+([^`\n]+?)[ \t]*```[ \t]*$", re.IGNORECASE | re.MULTILINE)
_QUOTED_FENCE = re.compile(r"^> ?(?:`{3}|~{3})", re.MULTILINE)
_QUOTE = re.compile(r"^> ?", re.MULTILINE)
INVISIBLE = "\ufeff\u200b"
_PYTHON_TAG = "<|python_tag|>"
# Quotation marks as a fence: with a label, they are no string of the program.
_QUOTES = re.compile(
    r"\A('''|\"\"\")(?:python|py)3?[ \t]*\n(.*?)^[ \t]*\1[ \t]*$", re.IGNORECASE | re.DOTALL | re.MULTILINE
)
# The end of a wrapper after a fence that was not closed.
_END_TAG = re.compile(r"^[ \t]*</(?:answer|solution|final_answer|response|code)>\s*\Z", re.IGNORECASE | re.MULTILINE)


def unquoted(text: str) -> str:
    """The text without a byte-order mark, and with fenced blocks in place of quoted and one-line ones."""
    text = text.lstrip(INVISIBLE).removeprefix(_PYTHON_TAG).lstrip(INVISIBLE)
    text = _QUOTES.sub(r"```python\n\2```", text)
    if text.count("```") % 2:
        text = _END_TAG.sub("```\n", text)
    if _QUOTED_FENCE.search(text):
        text = _QUOTE.sub("", text)
    return _ON_ONE_LINE.sub(r"```python\n\1\n```", text)


def unwrapped(text: str, *, tags: bool) -> str:
    """The content of the last wrapper of a text without fences; the text as it is without one.

    Args:
        tags: Whether wrappers are removed; in a text that begins as a program they are parts of its strings.
    """
    for wrapper in _WRAPPERS if tags else ():
        found = [match[2] for match in wrapper.finditer(text)]
        if found:
            text = _without_tags(found[-1].strip("\n")) + "\n"
    done = _DONE.search(text)
    return text[: done.start()] if done else text


def _without_tags(content: str) -> str:
    """The content without tags of HTML around it. Its escapes are resolved where no other sign < shows plain text."""
    inner = re.fullmatch(r"\s*<(pre|code)\b[^<>\n]{0,80}>(.*?)(?:</\1\s{0,4}>)?\s*", content, re.IGNORECASE | re.DOTALL)
    if inner is not None:
        content = inner[2]
    escaped = "&lt;" in content or "&gt;" in content or "&quot;" in content
    return html.unescape(content) if escaped and "<" not in content else content
