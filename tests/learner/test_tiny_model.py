"""The small model that `bonrl sft --new` starts from: its tokenizer, its directory, and the shipped weights."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from learner.tiny_model import ALPHABET, TinyModelSettings, character_tokenizer, save_tiny_model, tiny_config

SMALL = TinyModelSettings(width=32, layers=1, feed_forward=32)
SHIPPED = Path(__file__).parents[2] / "models" / "countdown-base"
TOKENIZER = character_tokenizer()


@given(st.text(alphabet=ALPHABET, max_size=40))
def test_one_token_per_character_and_back(text: str) -> None:
    tokens = TOKENIZER.encode(text, add_special_tokens=False)
    assert len(tokens) == len(text)
    assert TOKENIZER.decode(tokens) == text
    # What training decodes: bos and eos around the text leave no trace.
    framed = [TOKENIZER.bos_token_id, *tokens, TOKENIZER.eos_token_id]
    assert TOKENIZER.decode(framed, skip_special_tokens=True) == text


def test_it_puts_bos_before_a_text() -> None:
    assert TOKENIZER("1+2").input_ids == [1, *TOKENIZER.encode("1+2", add_special_tokens=False)]
    assert TOKENIZER("1", "2").input_ids == [1, *TOKENIZER.encode("12", add_special_tokens=False)]


def test_special_tokens_are_not_written_by_text() -> None:
    """No prompt can contain an end of sequence: the characters of its name are not in the vocabulary."""
    special = {TOKENIZER.pad_token_id, TOKENIZER.bos_token_id, TOKENIZER.eos_token_id, TOKENIZER.unk_token_id}
    assert len(special) == 4 and len(TOKENIZER) == 4 + len(ALPHABET)
    assert TOKENIZER.encode("x 1", add_special_tokens=False) == [
        TOKENIZER.unk_token_id,
        TOKENIZER.unk_token_id,
        TOKENIZER.convert_tokens_to_ids("1"),
    ]


def test_a_repeated_character_is_refused() -> None:
    with pytest.raises(ValueError, match="repeats a character"):
        character_tokenizer("0120")


@pytest.mark.slow
def test_the_directory_loads_and_the_seed_decides_the_weights(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    first, again, other = (
        save_tiny_model(tmp_path / name, SMALL, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert torch.equal(torch.get_rng_state(), before)
    digests = [hashlib.sha256((d / "model.safetensors").read_bytes()).digest() for d in (first, again, other)]
    assert digests[0] == digests[1] != digests[2]
    model = AutoModelForCausalLM.from_pretrained(first, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(first, local_files_only=True)
    assert model.dtype == torch.float32 and model.config.tie_word_embeddings
    assert model.config.vocab_size == len(tokenizer)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    text = "3,7,12=24:"
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_the_feed_forward_layers_follow_the_width() -> None:
    sizes = [tiny_config(TinyModelSettings(width=w), character_tokenizer()).intermediate_size for w in (64, 192, 256)]
    assert sizes == [192, 512, 704]


def test_a_width_that_heads_do_not_divide_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a multiple of head_size"):
        save_tiny_model(tmp_path, TinyModelSettings(width=96, head_size=64), seed=0)


def test_the_shipped_model_is_small_and_speaks_countdown() -> None:
    weights = SHIPPED / "model.safetensors"
    assert weights.stat().st_size <= 8 << 20
    with safe_open(weights, framework="pt") as file:
        assert {str(file.get_tensor(name).dtype) for name in file.keys()} == {"torch.float32"}
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED, local_files_only=True)
    assert tokenizer.get_vocab() == TOKENIZER.get_vocab()
