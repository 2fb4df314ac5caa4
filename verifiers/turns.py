"""Marks of chat templates that are left in a response as text: where the assistant's turn begins and ends.

A run leaves out its model's own marks by their ids (``stop_tokens``); files of responses have them as text.
"""

from __future__ import annotations

import re

_SENTENCE = "[｜|]end[▁_]of[▁_]sentence[｜|]"
_ENDS = (
    rf"</s>|<eos>|<pad>|<end_of_turn>|<turn\|>|<{_SENTENCE}>|<\|END_OF_TURN_TOKEN\|>|\[/?INST\]"
    r"|<｜(?:User|Assistant)｜>"
)
# Tags such as <|begin_of_box|> belong to the answer.
_END = re.compile(rf"<\|(?!begin_of_box|end_of_box)[a-z_]{{2,20}}\|>|{_ENDS}")
_LAST = re.compile(rf"(?:\s*(?:<\|[a-z_]{{2,20}}\|>|{_ENDS}))+\s*\Z")
_OPENS = r"<\|(?:im_start|start_header_id|end_header_id|begin_of_text|startoftext|start|assistant|bos)\|>"
_FIRST = re.compile(
    rf"\A\s*(?:(?:\[INST\](?s:.{{0,4000}}?)\[/INST\]|{_OPENS}|<s>|<bos>|<start_of_turn>|<\|turn>|<[｜|]begin[▁_]of[▁_]sentence[｜|]>|<｜Assistant｜>)"
    r"\s*(?:(?:assistant|model)\b\s*)?)+"
)


def without_start(text: str) -> str:
    """The text without the marks that open the assistant's turn, such as ``<|im_start|>assistant``."""
    return _FIRST.sub("", text, count=1) if "<" in text[:40] or "[INST]" in text[:40] else text


def first_turn(text: str) -> str:
    """The text before the first mark that ends a turn."""
    mark = _END.search(text)
    return text[: mark.start()] if mark else text


def without_end(text: str) -> str:
    """The text without such marks at its end. Others may be strings of a program."""
    mark = _LAST.search(text, max(0, len(text) - 400))
    return text[: mark.start()] + "\n" if mark else text
