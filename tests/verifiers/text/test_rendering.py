"""Prompts as token ids, for tokenizers and chat templates of every shape."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from tests import tokenizers_of_models as shapes
from tests.tokenizers_of_models import byte_tokenizer
from verifiers import Prompt, PromptFormat, PromptRenderer, render
from verifiers.text.rendering import rendering_warnings, token_problem

TEXT = "What is 2+3?\nSay why."
PROMPT = Prompt("p", TEXT, {}, "easy")
NOON = dt.date(2024, 2, 9)


def chat(template: Any, **settings: Any) -> PromptRenderer:
    tokenizer = byte_tokenizer(begin=True)
    tokenizer.chat_template = template
    return PromptRenderer(tokenizer, PromptFormat("chat", **settings))


@pytest.mark.parametrize(
    ("begin", "end", "before"), [(False, False, []), (True, False, [0]), (False, True, []), (True, True, [0])]
)
def test_plain_is_what_the_tokenizer_makes_of_a_text_without_an_end(begin: bool, end: bool, before: list[int]) -> None:
    tokenizer = byte_tokenizer(begin=begin, end=end)
    bare = tokenizer.encode(TEXT, add_special_tokens=False)
    assert render(PROMPT, tokenizer, PromptFormat()) == [*before, *bare]
    assert tokenizer(TEXT).input_ids == [*before, *bare, *([1] if end else [])]
    assert render(Prompt("p", "</s>", {}, "easy"), tokenizer, PromptFormat()) == [*before, 1], "of the text itself"


TURN = f"<|im_start|>user\n{TEXT}<|im_end|>\n<|im_start|>assistant\n"
SYSTEM = "<|im_start|>system\nBe brief.<|im_end|>\n"


@pytest.mark.parametrize(
    ("template", "settings", "expected"),
    [
        (shapes.TURNS, {}, TURN),
        (shapes.TURNS, {"system_prompt": "Be brief."}, SYSTEM + TURN),
        (shapes.WITH_BOS, {}, "<s>" + TURN),
        (shapes.PARTS, {}, TURN),
        (shapes.PARTS, {"system_prompt": "Be brief."}, SYSTEM + TURN),
        (shapes.USER_PARTS, {"system_prompt": "Be brief."}, SYSTEM + TURN),
        (shapes.NEEDS_SYSTEM, {"system_prompt": "Be brief."}, SYSTEM + TURN),
        (shapes.FORBIDS_SYSTEM, {}, TURN),
        (shapes.THINKING, {}, TURN),
        (shapes.THINKING, {"chat_template_kwargs": {"enable_thinking": False}}, TURN + "<think>\n\n</think>\n"),
        (shapes.OPENS_THINKING, {}, TURN + "<think>\n"),
        (shapes.DATED, {"date": NOON}, "Today is 09 Feb 2024.\n" + TURN),
        (shapes.DATED_LIKE_LLAMA, {"date": NOON}, "Today: 9 February 2024\n" + TURN),
        ({"default": shapes.TURNS, "tool_use": "{{ 1 }}"}, {}, TURN),
        ({"chat": shapes.TURNS}, {}, TURN),
    ],
)
def test_a_chat_template_gets_what_it_reads(template: Any, settings: dict[str, Any], expected: str) -> None:
    tokenizer = byte_tokenizer()
    assert chat(template, **settings)(TEXT) == tokenizer.encode(expected, add_special_tokens=False)


@pytest.mark.parametrize(
    ("template", "settings", "remedy"),
    [
        (None, {}, "no chat template; set task.template=plain"),
        ("", {}, "no chat template"),
        (
            "",
            {"system_prompt": "Be brief.", "chat_template_kwargs": {"enable_thinking": False}},
            r"task.template=plain \(and task.system_prompt=null, task.chat_template_kwargs={}\), use an instruction",
        ),
        (
            {"rag": "{{ 1 }}", "tool_use": "{{ 2 }}"},
            {},
            r"several.* \(rag, tool_use\).*chat_template.jinja",
        ),
        (shapes.NEEDS_SYSTEM, {}, "first turn: system.*set task.system_prompt"),
        (shapes.FORBIDS_SYSTEM, {"system_prompt": "Be brief."}, "not accept a system turn.*remove task.system_prompt"),
        (
            shapes.DROPS_SYSTEM,
            {"system_prompt": "Be brief."},
            "the output misses their text; it does not accept a system turn",
        ),
        ("<|im_start|>assistant\n", {}, "the output misses their text; set task.template=plain"),
        ("{{ messages[0].content[0].image.url }}", {}, "set task.template=plain"),
        ("{% if %}", {}, "it fails .*set task.template=plain"),
        ("{{ 1 / 0 }}", {}, "it fails .division by zero.*set task.template=plain"),
    ],
)
def test_a_template_that_cannot_render_is_refused_with_the_remedy(
    template: Any, settings: dict[str, Any], remedy: str
) -> None:
    with pytest.raises(ValueError, match=rf"task\.template is 'chat'.*{remedy}"):
        chat(template, **settings)(TEXT)


EXCHANGE = (("user", "What is 1+1?"), ("assistant", "<think>Easy.</think>It is 2."))
EARLIER = "<|im_start|>user\nWhat is 1+1?<|im_end|>\n<|im_start|>assistant\n<think>Easy.</think>It is 2.<|im_end|>\n"
OWN_SYSTEM = "<|im_start|>system\nBe long.<|im_end|>\n"


@pytest.mark.parametrize("template", [shapes.TURNS, shapes.PARTS, shapes.USER_PARTS, shapes.NEEDS_SYSTEM])
@pytest.mark.parametrize("system", [None, "Be brief."])
def test_a_conversation_becomes_turns(template: str, system: str | None) -> None:
    renderer = chat(template, system_prompt=system)
    if template != shapes.NEEDS_SYSTEM or system:
        assert renderer.chat_text(TEXT, EXCHANGE) == (SYSTEM if system else "") + EARLIER + TURN
    own = renderer.chat_text(TEXT, (("system", "Be long."), *EXCHANGE))
    assert own == OWN_SYSTEM + EARLIER + TURN, "the row's own system message replaces task.system_prompt"
    assert renderer(TEXT, EXCHANGE[:0]) == renderer(TEXT) if template != shapes.NEEDS_SYSTEM or system else True


def test_a_template_may_leave_out_earlier_reasoning_but_no_answer() -> None:
    shorter = shapes.TURNS.replace("message.content | trim", "message.content.split('</think>')[-1]")
    assert chat(shorter).chat_text(TEXT, EXCHANGE) == EARLIER.replace("<think>Easy.</think>", "") + TURN
    without = shapes.TURNS.replace("in messages %}", "in messages if message.role != 'assistant' %}")
    with pytest.raises(ValueError, match="the output misses their text; use a model whose chat template takes such"):
        chat(without)(TEXT, EXCHANGE)


def test_a_conversation_that_cannot_be_rendered_is_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match="not accept a system turn: move the text of the row's system message"):
        chat(shapes.FORBIDS_SYSTEM)(TEXT, [("system", "Be long.")])
    with pytest.raises(ValueError, match="requires a system turn: set task.system_prompt"):
        chat(shapes.NEEDS_SYSTEM)(TEXT, EXCHANGE)
    with pytest.raises(ValueError, match="conversation of 3 messages, and task.template=plain .* task.template=chat"):
        PromptRenderer(byte_tokenizer(), PromptFormat())(TEXT, EXCHANGE)


def test_a_text_that_the_template_changes_a_little_is_the_same_problem() -> None:
    dumped = shapes.TURNS.replace("message.content | trim", "message.content | tojson")
    assert chat(dumped)('Say "2" + 2')
    assert chat(shapes.TURNS)("  + = ?\n")
    with pytest.raises(ValueError, match="the output misses their text"):
        chat(shapes.TURNS.replace("message.content | trim", "message.content[:4]"))(TEXT)


def test_only_a_template_that_reads_the_clock_says_so() -> None:
    plain, dated = chat(shapes.TURNS), chat(shapes.DATED, date=NOON)
    plain(TEXT), dated(TEXT)
    assert dated.reads_clock and not plain.reads_clock


@pytest.mark.parametrize("template", ["plain", "chat"])
def test_ids_are_compared_with_the_vocabulary(template: str) -> None:
    tokenizer = byte_tokenizer(begin=True)
    tokenizer.chat_template = shapes.TURNS
    settings = PromptFormat(template)
    tokens = render(Prompt("long", "\x7f" * 50, {}, "easy"), tokenizer, settings)
    largest = max(tokens)
    for enough in (largest + 1, len(tokenizer), None):
        assert token_problem("long", tokens, enough) is None
    problem = token_problem("long", tokens, largest)
    assert f"'long' has the token {largest}, and the model's vocabulary has {largest}" in str(problem)
    assert rendering_warnings(tokens, tokenizer, settings, len(tokenizer)) == []
    (warning,) = rendering_warnings(tokens, tokenizer, settings, largest + 1)
    assert f"the model's vocabulary {largest + 1}" in warning


def test_the_checks_name_an_empty_prompt_and_a_begin_token_that_is_not_added() -> None:
    assert "'none' has no tokens" in str(token_problem("none", [], None))
    settings = PromptFormat()

    def warnings(**tokens: str | None) -> list[str]:
        tokenizer = byte_tokenizer(**tokens)
        return rendering_warnings(render(PROMPT, tokenizer, settings), tokenizer, settings, None)

    (warning,) = warnings()
    assert "'<s>' but does not put it before a text" in warning
    assert not warnings(bos_token=shapes.END), "as GPT-2"
    assert not warnings(bos_token=None), "as Qwen"
