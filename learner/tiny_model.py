"""A very small Llama and a character tokenizer, from which ``bonrl sft`` trains the shipped base model."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from pydantic import Field
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from learner.section import Section

PAD, BOS, EOS, UNKNOWN = "<pad>", "<s>", "</s>", "<unk>"
ALPHABET = "0123456789+-*/(),=:"


class TinyModelSettings(Section):
    """Architecture of the small model: a Llama with tied embeddings, float32."""

    width: int = Field(192, ge=32, multiple_of=32, description="Size of the residual stream.")
    layers: int = Field(4, ge=1, description="Transformer layers.")
    head_size: int = Field(32, ge=32, multiple_of=32, description="Size of a head; vLLM on CPU wants at least 32.")
    feed_forward: int | None = Field(
        None,
        ge=32,
        multiple_of=32,
        description="Inner size of the gated feed-forward layers; null: 8/3 of the width, rounded up to 32.",
    )
    context: int = Field(64, ge=16, description="Longest sequence, prompt and response together, in tokens.")
    alphabet: str = Field(
        ALPHABET, min_length=1, description="The characters that the tokenizer knows, one token each."
    )


def character_tokenizer(alphabet: str = ALPHABET, context: int = 64) -> PreTrainedTokenizerFast:
    """A tokenizer with one token per character of ``alphabet``, after pad, bos, eos and unknown (ids 0 to 3).

    It puts bos before a text, as in training; encode a response with ``add_special_tokens=False``.

    Raises:
        ValueError: ``alphabet`` repeats a character.
    """
    if len(set(alphabet)) != len(alphabet):
        raise ValueError("the alphabet of a character tokenizer repeats a character; give each once")
    vocabulary = {token: index for index, token in enumerate([PAD, BOS, EOS, UNKNOWN, *alphabet])}
    # A word-level model after a split into characters; Fuse joins the tokens without spaces.
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B:1", special_tokens=[(BOS, vocabulary[BOS])]
    )
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
        model_max_length=context,
        padding_side="left",
    )


def tiny_config(settings: TinyModelSettings, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """The Llama configuration for the settings and the tokenizer."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.width,
        intermediate_size=settings.feed_forward or 32 * math.ceil(settings.width / 12),
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.width // settings.head_size,
        num_key_value_heads=settings.width // settings.head_size,
        head_dim=settings.head_size,
        max_position_embeddings=settings.context,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        dtype="float32",
    )


def save_tiny_model(directory: str | Path, settings: TinyModelSettings, *, seed: int) -> Path:
    """Write a newly initialized model as a Hugging Face directory: configs, tokenizer, weights.

    Args:
        directory: Created if missing.
        settings: The architecture.
        seed: Of the initial weights; the same seed gives the same bytes. The global random state is not changed.

    Raises:
        ValueError: The width is not a multiple of the head size.
    """
    if settings.width % settings.head_size:
        raise ValueError(f"width {settings.width} is not a multiple of head_size {settings.head_size}")
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = character_tokenizer(settings.alphabet, settings.context)
    config = tiny_config(settings, tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).float()
    # Sampling as in training: the full distribution at temperature 1.
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory
