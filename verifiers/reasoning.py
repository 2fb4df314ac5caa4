"""Where a model's reasoning ends and its answer begins, for all the tags in public use.

Only the answer is judged: a result that stands inside of the reasoning earns nothing.
"""

from __future__ import annotations

import re

_NAMES = "think|thinking|thoughts?|reasoning|reflection|analysis|scratchpad|inner_monologue|seed:think"
_START = re.compile(
    rf"<(?:{_NAMES})>|\[(?:THINK|THINKING|REASONING)\]|◁think▷|<\|begin_of_thought\|>"
    r"|<\|(?:start_)?(?:think|thinking)\|>|<\|channel\|>\s*(?:analysis|commentary)",
    re.IGNORECASE,
)
_END = re.compile(
    rf"</(?:{_NAMES})>|\[/(?:THINK|THINKING|REASONING)\]|◁/think▷|<\|end_of_thought\|>|<\|begin_of_solution\|>"
    r"|<\|(?:/|end_)(?:think|thinking)\|>|<\|channel\|>\s*final\s*<\|message\|>",
    re.IGNORECASE,
)
_OPENING_CHARS = 1_000
"""Reasoning that starts within so many characters and never ends takes the whole response."""


def after_reasoning(response: str) -> str:
    """The part of a response that may hold the answer; empty where the reasoning never ended.

    A closing tag without an opening one counts too, because many chat templates open the reasoning themselves. What
    follows a later tag that is opened and not closed is reasoning again.
    """
    end = 0
    for match in _END.finditer(response):
        end = match.end()
    start = _START.search(response, end)
    if start is None:
        return response[end:]
    if end == 0 and start.start() < _OPENING_CHARS:
        return ""
    return response[end : start.start()]
