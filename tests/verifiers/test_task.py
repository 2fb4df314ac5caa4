"""Verdicts, the registry of tasks, and rendering of prompts."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from verifiers import Prompt, Status, TaskSettings, Verdict, make_task, render


class Bytes:
    """A tokenizer of one token per byte, with what rendering uses; it adds `before` and `after` to a text."""

    bos_token_id, eos_token_id = 300, 301

    def __init__(self, before: tuple[int, ...] = (), after: tuple[int, ...] = (), chat_template: str | None = None):
        self.before, self.after, self.chat_template = before, after, chat_template

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        middle = list(text.encode())
        return [*self.before, *middle, *self.after] if add_special_tokens else middle

    def apply_chat_template(self, conversation: list[dict[str, Any]], **options: Any) -> Any:
        if not options["tokenize"]:
            return f"[{conversation[0]['content']}]"
        assert options == {"add_generation_prompt": True, "tokenize": True, "return_dict": True}
        return {"input_ids": [1, *conversation[0]["content"].encode(), 2]}


PROMPT = Prompt("p", "3=3:", {}, "easy")


def test_render() -> None:
    assert render(PROMPT, Bytes(), "plain") == list(b"3=3:")
    assert render(PROMPT, Bytes(before=(300,)), "plain") == [300, *b"3=3:"]
    assert render(PROMPT, Bytes(before=(300,), after=(301,)), "plain") == [300, *b"3=3:"], "no end before the answer"
    assert render(PROMPT, Bytes(before=(300,), chat_template="x"), "chat") == [1, *b"3=3:", 2]


def test_render_refuses() -> None:
    with pytest.raises(ValueError, match=r"no chat template; set task\.template: plain"):
        render(PROMPT, Bytes(), "chat")
    with pytest.raises(ValueError, match=r"task\.template is 'jinja'"):
        render(PROMPT, Bytes(), "jinja")


def test_a_failed_verifier_is_never_a_reward() -> None:
    verdict = Verdict.failed("no connection")
    assert verdict.status is Status.VERIFIER_ERROR and verdict.reward is None and verdict.score is None
    with pytest.raises(ValueError, match="verifier_error"):
        Verdict(Status.VERIFIER_ERROR, reward=0.0, score=0.0)
    with pytest.raises(ValueError, match="reward"):
        Verdict(Status.WRONG, reward=None, score=0.0)


@pytest.mark.parametrize("status", [s for s in Status if s is not Status.VERIFIER_ERROR])
def test_binary_verdicts(status: Status) -> None:
    verdict = Verdict.binary(status)
    assert verdict.reward == verdict.score == (1.0 if status is Status.CORRECT else 0.0)


def test_settings_refuse_unknown_keys_and_tasks() -> None:
    with pytest.raises(ValidationError):
        TaskSettings(nmae="countdown")
    with pytest.raises(ValidationError):
        TaskSettings(name="chess")
    with pytest.raises(ValueError, match="choose one of countdown, gsm8k, humaneval, jsonl, math, math500, mbpp"):
        make_task(TaskSettings.model_construct(name="chess"))
    assert make_task(TaskSettings()).name == "countdown"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ messages[0].content }}", "1+1"),
        ("{% for part in messages[0].content %}{{ part.text }}{% endfor %}", "1+1"),
        ("{{ raise_exception('a system turn is missing') }}", "a system turn is missing.*task.template: plain"),
        ("1", "text is missing from what it renders.*task.template: plain"),
    ],
)
def test_a_chat_template_gets_the_content_that_it_reads(template: str, expected: str) -> None:
    from learner.tiny_model import character_tokenizer

    tokenizer = character_tokenizer()
    tokenizer.chat_template = template
    prompt = Prompt("p", "1+1", {}, "easy")
    if "plain" in expected:
        with pytest.raises(ValueError, match=expected):
            render(prompt, tokenizer, "chat")
    else:
        assert tokenizer.decode(render(prompt, tokenizer, "chat")) == expected
