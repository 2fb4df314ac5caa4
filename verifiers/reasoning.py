"""Separates a model's reasoning from its answer, for the tags in public use.

Only the answer is graded, never a result inside the reasoning. The tags are those of vLLM's reasoning parsers
(DeepSeek, Qwen, Mistral, Seed, MiniMax, Hunyuan, Kimi, Cohere, Gemma, Granite, gpt-oss) and of public training recipes.
"""

from __future__ import annotations

import re
from bisect import bisect, bisect_left

_NAMES = (
    "think|thinking|thoughts?|reason|reasoning|reflect|reflection|analysis|scratchpad|rationale|cot|chain_of_thought"
    "|(?:inner|internal)_(?:thoughts?|monologue)|deep_(?:thought|think)|(?:thought|thinking|reasoning)_process"
    "|working_out"
)
# More names that only recipes with angle brackets use: in square brackets they may be an index, as in `costs[plan]`.
_MORE_NAMES = (
    "long_?cot|draft|internal|monologue|plan|planning|scratch|brainstorm(?:ing)?|deliberation|introspection|hidden"
    "|(?:thought|reasoning|thinking)_(?:trace|steps?)|self_?reflection|pre_?think(?:ing)?|workings?|pondering"
)
_ATTRIBUTES = r"(?:\s+[\w-]{1,20}\s*=[^<>]{0,80})?\s*"
# A prefix such as `seed:` or `start_`, and a suffix such as `:6124c78e` or `_start`; the groups tell whether it ends.
_TAG = (
    rf"<\s{{0,4}}(?P<slash>/)?\s{{0,4}}(?:[a-z]{{1,12}}:)?(?P<edge>start_|begin_|end_)?(?:{_NAMES}|{_MORE_NAMES})(?P<edge8>_start|_begin|_end)?(?::\w{{1,16}})?{_ATTRIBUTES}>"
    rf"|<[|｜]\s{{0,4}}(?P<slash2>/)?(?P<edge2>(?:start|begin|end)(?:[_▁]of)?[_▁])?(?:{_NAMES})(?P<edge3>[_▁](?:start|begin|end))?\s*[|｜]>"
    rf"|\[(?P<slash3>/)?(?P<edge10>begin_|start_|end_)?(?:{_NAMES})(?P<edge11>_start|_begin|_end)?\]|◁(?P<slash4>/)?(?:{_NAMES})▷"
    rf"|<\|(?:open|(?P<edge4>close))\|>\s*(?:{_NAMES})\s*<\|sep\|>"
    r"|<\|channel\|>\s*(?:(?:analysis|commentary)|(?P<edge5>final)[^\n]{0,80}?<\|message\|>)"
    r"|<\|channel>|(?P<edge6><channel\|>)|<unused94>|(?P<edge7><unused95>)"
    r"|(?P<edge9><\|begin_of_solution\|>|<\|START_RESPONSE\|>|<\|open\|>\s*response\s*<\|sep\|>)"
)
_WORDED_EDGES = ("edge", "edge2", "edge3", "edge8", "edge10", "edge11")
_MARK = re.compile(_TAG, re.IGNORECASE)
# Marks without special tokens: gpt-oss without its special tokens, recipients of messages, and Granite.
_WORDED = re.compile(
    r"\A\s*analysis(?=[A-Z][a-z' ])|assistant(?:analysis|commentary)(?=[A-Z])|(?P<final>assistantfinal)"
    r"|to=(?:self|(?P<user>user))<\|message\|>"
    r"|Here(?:'s| is) my thought process:|(?P<response>Here(?:'s| is) my response:)"
)
_CANDIDATE = re.compile(r"[<\[◁](?=/?[A-Za-z]|(?<=<)[\s|｜])")  # where a mark may begin; fast to search for
_WORDS = (
    "to=self",
    "to=user",
    "analysis",
    "assistantfinal",
    "assistantcommentary",
    "my thought process:",
    "my response:",
)
_FENCE = re.compile(r"^[ \t]*(?:`{3,}|~{3,})|(?<!`)`{3,}(?:i?python|py)[\d.]*[ \t]*$", re.IGNORECASE | re.MULTILINE)
_TAIL_CHARS = 64
_OPENING_CHARS = 1_000
"""Unclosed reasoning that starts within this many characters takes up the whole response."""


def after_reasoning(response: str, *, code: bool = False) -> str:
    """The part of a response that may contain the answer; empty if the reasoning never ends.

    A closing tag without an opening one counts, because many chat templates open the reasoning themselves. Text after a
    later tag that is opened but not closed is reasoning again.

    Args:
        code: Whether the answer is a program, in which `counts[reason]` and `text.split("</think>")` are not tags.
    """
    end, start = 0, -1
    program = _Program(response) if code else None
    for position, after, closes in _marks(response):
        if program is not None and start < 0 and program.holds(position, after, closes, end):
            continue
        if closes:
            end, start = after, -1
        elif start < 0:
            start = position
    if start < 0:
        return response[end:]
    if end == 0 and start < _OPENING_CHARS:
        return ""
    return response[end:start]


class _Program:
    """Distinguishes tags of the response from tags inside its program."""

    def __init__(self, response: str) -> None:
        self.response = response
        self.fences = [match.start() for match in _FENCE.finditer(response)]
        self.opened = 0

    def holds(self, position: int, after: int, closes: bool, end: int) -> bool:
        """Whether a mark is the program's, where no reasoning is open and the last one, if any, ended at ``end``."""
        line = self.response[self.response.rfind("\n", 0, position) + 1 : position]
        fenced = (bisect(self.fences, position) - bisect_left(self.fences, end)) % 2 == 1
        if closes:
            # Before any end of reasoning the block may be part of it, except where the tag is text of the program.
            rest = self.response[after : after + _TAIL_CHARS].partition("\n")[0]
            quoted = any(quote in line and quote in rest for quote in "\"'")
            held = fenced and (end > 0 or self.opened > 0 or quoted)
            self.opened -= held and self.opened > 0
            return held
        if self.response[position] == "[" and self.response[position:after].islower():
            held = fenced or bool(line.strip())
        else:
            held = fenced or line[-1:] in ('"', "'")
        self.opened += held
        return held


def opened_reasoning(prompt: str) -> str:
    """The tag at the end of a prompt if it opens the reasoning, as some chat templates do; else ""."""
    tail = prompt[-_TAIL_CHARS:].rstrip()
    opened = [tail[start:] for start, end, closes in _marks(tail) if end == len(tail) and not closes]
    return opened[0] if opened else ""


def as_written(opened: str, response: str) -> str:
    """The response with the reasoning tag that its prompt opened, unless it closes it: then it has no answer yet."""
    if not opened or any(closes for _, _, closes in _marks(response)):
        return response
    return opened + response


def _marks(response: str) -> list[tuple[int, int, bool]]:
    """Start and end of each mark, and whether it closes the reasoning; in order."""
    found: list[tuple[int, int, bool]] = []
    for candidate in _CANDIDATE.finditer(response):
        match = _MARK.match(response, candidate.start())
        if match is not None:
            found.append((match.start(), match.end(), _closes(match)))
    if any(word in response for word in _WORDS):
        words = _WORDED.finditer(response)
        found += [(match.start(), match.end(), match.lastgroup is not None) for match in words]
        found.sort()
    return found


def _closes(match: re.Match[str]) -> bool:
    groups = match.groupdict()
    edges = (value for name, value in groups.items() if value and name in _WORDED_EDGES)
    if any(groups[name] for name in groups if name not in _WORDED_EDGES):
        return True
    return any("end" in edge.lower() for edge in edges)
