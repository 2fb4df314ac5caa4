"""Small tokenizers of the kinds that released models have, and chat templates of every shape in public use."""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

MARKS = ("<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
START, END = MARKS[:2]


def byte_tokenizer(begin: bool = False, end: bool = False, **options: Any) -> PreTrainedTokenizerFast:
    """One token per byte, as GPT-2's without merges; it adds `begin` (Llama) or `end` (T5) to a text where asked."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*MARKS, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    around = [START] * begin + ["$A"] + [END] * end
    if begin or end:
        template = processors.TemplateProcessing(
            single=around, pair=[*around[:-1], *around[-1:], "$B"], special_tokens=[(START, 0), (END, 1)]
        )
        tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **{
            "bos_token": START,
            "eos_token": END,
            "pad_token": "<pad>",
            "extra_special_tokens": list(MARKS[3:]),
            **options,
        },
    )


TURNS = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKING = TURNS.replace(
    "assistant\n",
    "assistant\n{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n{% endif %}",
)
OPENS_THINKING = TURNS.replace("assistant\n", "assistant\n<think>\n")
WITH_BOS = "{{ bos_token }}" + TURNS
PARTS = TURNS.replace(
    "{{ message.content | trim }}",
    "{% for part in message.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}",
)
USER_PARTS = TURNS.replace(
    "{{ message.content | trim }}",
    "{% if message.role == 'user' %}{% for part in message.content %}{{ part['text'] }}{% endfor %}"
    "{% else %}{{ message.content + '' }}{% endif %}",
)
NEEDS_SYSTEM = "{% if messages[0].role != 'system' %}{{ raise_exception('first turn: system') }}{% endif %}" + TURNS
FORBIDS_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}" + TURNS
DROPS_SYSTEM = TURNS.replace(
    "{% for message in messages %}", "{% for message in messages if message.role != 'system' %}"
)
DATED = "Today is {{ strftime_now('%d %b %Y') }}.\n" + TURNS
DATED_LIKE_LLAMA = (
    "{% if not date_string is defined %}{% if strftime_now is defined %}"
    "{% set date_string = strftime_now('%-d %B %Y') %}{% else %}"
    "{% set date_string = '26 Jul 2024' %}{% endif %}{% endif %}"
    "Today: {{ date_string }}\n"
) + TURNS
