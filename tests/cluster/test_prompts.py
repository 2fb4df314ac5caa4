"""Prompts as token ids: what is trained is what any user of the exported model sends."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from cluster.config import RunConfig
from cluster.dry_run import warnings_of
from cluster.errors import UsageError
from cluster.prompts import load_prompts
from cluster.sft import _examples
from learner.model_directory import copy_companions
from verifiers.task import make_task

SHIPPED = Path(__file__).parents[2] / "models" / "countdown-base"
BOS, EOS = 1, 2


def config(model: Path, **task: object) -> RunConfig:
    return RunConfig.model_validate({"model": {"path": str(model)}, "task": {"train_size": 8, **task}})


def test_an_export_reads_a_prompt_as_it_was_trained(tmp_path: Path) -> None:
    """transformers and `vllm serve` encode a text with the special tokens that the tokenizer itself adds."""
    copy_companions(SHIPPED, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    prompts = load_prompts(config(SHIPPED), "train")
    assert len(prompts) == 8
    for prompt in prompts:
        ids = prompt.tokens.tolist()
        assert ids == tokenizer(prompt.prompt.text).input_ids
        assert ids[0] == BOS and BOS not in ids[1:], "the shipped model was trained with one BOS before the prompt"


def test_imitation_puts_bos_before_the_prompt_alone() -> None:
    settings = config(SHIPPED)
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED, local_files_only=True)
    for example in islice(_examples(settings, make_task(settings.task), SHIPPED), 4):
        ids = [*example.prompt_tokens, *example.response_tokens]
        assert ids[0] == BOS and ids.count(BOS) == 1 and ids[-1] == EOS and ids.count(EOS) == 1
        assert tokenizer.decode(example.response_tokens[:-1]) and tokenizer.decode(example.prompt_tokens).endswith(":")


def test_a_model_without_an_end_token_or_with_an_unused_chat_template_is_warned_about(tmp_path: Path) -> None:
    copy_companions(SHIPPED, tmp_path)
    (tmp_path / "config.json").write_text((SHIPPED / "config.json").read_text())
    assert not warnings_of(config(tmp_path))
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}")
    assert ["task.template=chat" in warning for warning in warnings_of(config(tmp_path))] == [True]
    assert not warnings_of(config(tmp_path, template="chat"))
    for name, key in (
        ("config", "eos_token_id"),
        ("generation_config", "eos_token_id"),
        ("tokenizer_config", "eos_token"),
    ):
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != key}))
    (warning,) = warnings_of(config(tmp_path, template="chat"))
    assert "end token" in warning and "generation_config.json" in warning


def test_a_prompt_token_outside_of_the_vocabulary_is_refused(tmp_path: Path) -> None:
    copy_companions(SHIPPED, tmp_path)
    settings = json.loads((SHIPPED / "config.json").read_text()) | {"vocab_size": 12}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(UsageError, match=r"model\.path = .*vocabulary has 12 tokens"):
        load_prompts(config(tmp_path), "train")
