"""Encodes a prompt and an answer as token ids for a classifier."""

from __future__ import annotations

from typing import Any

from verifiers.text.rendering import PromptRenderer, PromptSettings


def encode(prompt: str, response: str, tokenizer: Any, settings: PromptSettings, max_tokens: int) -> list[int]:
    """Token ids of one answer after its prompt.

    A causal backbone gets the rendered prompt and the answer as in sampling, without an end token, so that the last
    token, at which it classifies, belongs to the answer. An encoder (its tokenizer has a CLS token) gets a pair of
    texts. Long inputs are truncated at the beginning, because the final answer is at the end.
    """
    if tokenizer.cls_token_id is not None:
        first = tokenizer.encode(prompt, add_special_tokens=False)
        second = tokenizer.encode(response, add_special_tokens=False)
        room = max_tokens - tokenizer.num_special_tokens_to_add(pair=True)
        second = second[-room:]
        first = first[-(room - len(second)) :] if len(second) < room else []
        return list(tokenizer.build_inputs_with_special_tokens(first, second))
    start = PromptRenderer(tokenizer, settings)(prompt)
    return [*start, *tokenizer.encode(response, add_special_tokens=False)][-max_tokens:]
