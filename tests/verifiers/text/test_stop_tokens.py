"""Where sampling stops, and which tokens are part of a response's text."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from actors.group import Group
from actors.workers.verifier_worker import VerifierWorker
from learner.tiny_model import character_tokenizer
from tests.actors.test_group import make_group
from verifiers.settings import TaskSettings
from verifiers.task import Prompt
from verifiers.text.stop_tokens import frame_tokens, stop_token_ids

SHIPPED = Path(__file__).parents[3] / "models" / "countdown-base"


def write(directory: Path, **files: object) -> None:
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps(content))


def test_a_model_with_one_end_token_stops_at_it() -> None:
    assert stop_token_ids(SHIPPED) == [2]


def test_stop_tokens_are_the_union_of_what_the_files_name(tmp_path: Path) -> None:
    assert stop_token_ids(tmp_path) == []
    write(tmp_path, config={"text_config": {"eos_token_id": 7}})
    assert stop_token_ids(tmp_path) == [7]
    write(tmp_path, generation_config={"eos_token_id": [1, 106]})
    assert stop_token_ids(tmp_path) == [1, 106, 7]
    write(tmp_path, config={"eos_token_id": 1, "text_config": {"eos_token_id": None}})
    write(tmp_path, tokenizer={"added_tokens": [{"id": 9, "content": "<e>"}, {"id": 8, "content": "<|im_end|>"}]})
    write(tmp_path, tokenizer_config={"eos_token": {"content": "<e>"}, "chat_template": "no turns"})
    assert stop_token_ids(tmp_path) == [1, 106, 9]
    (tmp_path / "chat_template.jinja").write_text("{{ m }}<|im_end|>")
    assert stop_token_ids(tmp_path) == [1, 106, 9, 8]
    (tmp_path / "generation_config.json").write_text("{torn")
    with pytest.raises(ValueError, match=r"generation_config\.json is not valid JSON"):
        stop_token_ids(tmp_path)


@pytest.mark.parametrize(("template", "stops"), [("{{ m }}<|end|>", [5]), ("<|channel|>{{ m }}<|end|>", [])])
def test_a_message_of_a_turn_with_channels_is_not_its_end(tmp_path: Path, template: str, stops: list[int]) -> None:
    write(tmp_path, tokenizer_config={"added_tokens_decoder": {"5": {"content": "<|end|>"}}, "chat_template": template})
    assert stop_token_ids(tmp_path) == stops


def test_tags_of_reasoning_survive_decoding(tmp_path: Path) -> None:
    tokenizer = character_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>", "<|im_end|>"]})
    tokenizer.chat_template = "{{ messages[0].content }}<|im_end|>"
    tokenizer.save_pretrained(tmp_path)
    worker = VerifierWorker("verifier-0", TaskSettings(), str(tmp_path))
    ids = tokenizer.encode("<think>1+1</think>2", add_special_tokens=False)
    assert len(ids) == 6, "each tag is one token"
    turn_end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    rows = [np.array([*ids, end]) for end in (tokenizer.eos_token_id, turn_end, tokenizer.pad_token_id)]
    assert worker._decode(rows) == ["<think>1+1</think>2"] * 3


def test_an_answer_without_tags_reads_as_before() -> None:
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED, local_files_only=True)
    assert frame_tokens(tokenizer, SHIPPED) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("prompt", "response", "verdict"),
    [
        ("1=<think>", "42", "unparsable"),  # cut off in the reasoning that the prompt opened
        ("1=<think>", "7</think>42", "correct"),
        ("1=<think></think>", "42", "correct"),
        ("<think>1=", "42", "correct"),
        ("1=", "42", "correct"),
    ],
)
def test_an_answer_inside_of_reasoning_that_the_prompt_opened_earns_nothing(
    tmp_path: Path, prompt: str, response: str, verdict: str
) -> None:
    tokenizer = character_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "train.jsonl").write_text('{"id": "p", "problem": "1=", "answer": "42"}\n')
    files = {"train": str(tmp_path / "train.jsonl"), "test": str(tmp_path / "train.jsonl")}
    worker = VerifierWorker("verifier-0", TaskSettings(name="jsonl", jsonl=files), str(tmp_path))
    ids = [tokenizer.encode(text, add_special_tokens=False) for text in (prompt, response)]
    group = make_group([len(ids[1])], graded=False)
    group = replace(group, prompt_tokens=np.array(ids[0], np.int32), response_tokens=[np.array(ids[1], np.int32)])
    problem = Prompt("p", "1=", {"answer": "42"}, "")
    _, graded = asyncio.run(worker.grade(group.to_record_batch(), problem))
    assert Group.from_record_batch(graded).verdict == [verdict]
