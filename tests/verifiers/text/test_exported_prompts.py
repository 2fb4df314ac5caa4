"""Plain transformers, from text, on an exported directory: the token ids that the run trained on."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from tests import tokenizers_of_models as shapes
from tests.tokenizers_of_models import byte_tokenizer
from verifiers import Prompt, PromptFormat, PromptRenderer, render
from verifiers.text.exported_prompts import RECORD, finish_export

DAY = dt.date(2024, 2, 9)
TEXTS = ("What is 2+3?\nSay why.", "{% raw %} {{ messages }} 'a' \"b\" \\n", "Ünïcödé 😀 \u2028 <|im_end|>")
ODD = 'Say "so", isn\'t it?\n\\n {% endif %} %} }} 😀 \u2028 \x07'


@pytest.mark.parametrize("end", [False, True])
@pytest.mark.parametrize("begin", [False, True])
def test_a_plain_prompt(tmp_path: Path, begin: bool, end: bool) -> None:
    tokenizer = byte_tokenizer(begin=begin, end=end)
    tokenizer.save_pretrained(tmp_path)
    trained = [PromptRenderer(tokenizer, PromptFormat())(text) for text in TEXTS]
    finish_export(tmp_path, PromptFormat())
    exported = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert [exported(text).input_ids for text in TEXTS] == trained
    assert exported.encode(TEXTS[0], add_special_tokens=False) == tokenizer.encode(TEXTS[0], add_special_tokens=False)


@pytest.mark.parametrize(
    ("template", "settings"),
    [
        (shapes.TURNS, {}),
        (shapes.WITH_BOS, {"system_prompt": ODD}),
        ("\n  " + shapes.TURNS, {"system_prompt": ODD}),
        ("  {% if true %}\n" + shapes.TURNS + "{% endif %}", {"system_prompt": ODD}),
        (shapes.PARTS, {}),
        (shapes.PARTS, {"system_prompt": ODD}),
        (shapes.USER_PARTS, {"system_prompt": "Be brief."}),
        (shapes.NEEDS_SYSTEM, {"system_prompt": "Be brief."}),
        (shapes.THINKING, {"chat_template_kwargs": {"enable_thinking": False}}),
        (
            "{{ values.a[1] }} {{ values['b c'] is none }} {{ name }} {{ number + 1 }}" + shapes.TURNS,
            {"chat_template_kwargs": {"values": {"a": [1, 2.5], "b c": None}, "name": ODD, "number": 3}},
        ),
        (shapes.DATED, {"date": DAY, "system_prompt": "Be brief."}),
        (shapes.DATED_LIKE_LLAMA, {"date": DAY}),
        ({"default": shapes.DATED, "tool_use": shapes.TURNS}, {"date": DAY}),
        (shapes.OPENS_THINKING, {}),
    ],
)
def test_a_chat_prompt(tmp_path: Path, template: Any, settings: dict[str, Any]) -> None:
    tokenizer = byte_tokenizer(begin=True)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(tmp_path)
    renderer = PromptRenderer(tokenizer, PromptFormat("chat", **settings))
    trained = [renderer(text) for text in TEXTS]
    finish_export(tmp_path, PromptFormat("chat", **settings))
    exported = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    for text, ids in zip(TEXTS, trained, strict=True):
        for content in [text, *([[{"type": "text", "text": text}]] if renderer.parts else [])]:
            turns = [{"role": "user", "content": content}]
            assert exported.apply_chat_template(turns, add_generation_prompt=True)["input_ids"] == ids
    # The exported directory is a model like any other: a run on it, with or without the same keys, sends the same ids.
    for again in (PromptFormat("chat"), PromptFormat("chat", **settings)):
        assert [PromptRenderer(exported, again)(text) for text in TEXTS] == trained


@pytest.mark.parametrize("template", [shapes.TURNS, shapes.PARTS, shapes.USER_PARTS, shapes.FORBIDS_SYSTEM])
def test_a_conversation(tmp_path: Path, template: str) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    tokenizer.save_pretrained(tmp_path)
    exchange = (("user", "1+1?"), ("assistant", "2"))
    history = exchange if template == shapes.FORBIDS_SYSTEM else (("system", "Be long."), *exchange)
    prompt = Prompt("p", "And 2+2?", history=history)
    trained = render(prompt, tokenizer, PromptFormat("chat"))
    finish_export(tmp_path, PromptFormat("chat"))
    exported = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert exported.apply_chat_template(prompt.messages, add_generation_prompt=True)["input_ids"] == trained


def test_what_a_user_of_the_export_says_counts(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = shapes.THINKING
    tokenizer.save_pretrained(tmp_path)
    options = {"enable_thinking": False}
    finish_export(tmp_path, PromptFormat("chat", "Be brief.", options))
    exported = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    turns = [{"role": "system", "content": "Be long."}, {"role": "user", "content": "Hi"}]
    text = exported.apply_chat_template(turns, add_generation_prompt=True, tokenize=False, enable_thinking=True)
    assert "Be long." in text and "Be brief." not in text and "<think>" not in text
    assert json.loads((tmp_path / RECORD).read_text()) == {
        "template": "chat",
        "system_prompt": "Be brief.",
        "chat_template_kwargs": options,
        "date": None,
    }


def test_generation_stops_where_sampling_did_and_everybody_can_read_the_files(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = shapes.TURNS
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 1, "temperature": 0.6}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "model.safetensors").chmod(0o600)
    finish_export(tmp_path, PromptFormat("chat"))
    turn_end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    settings = json.loads((tmp_path / "generation_config.json").read_text())
    assert settings == {"eos_token_id": [1, turn_end], "temperature": 0.6}
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir() if file.is_file()} == {0o644}
