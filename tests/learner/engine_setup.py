"""Engines of the tests, on random tiny models and random sequences."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from learner.batching import TrainingSequence
from learner.engine import Engine
from learner.settings import LearnerSettings
from tests.learner.plain_torch import LOSS

VOCABULARY = 420


def settings(**changes: object) -> LearnerSettings:
    base = dict(learning_rate=1e-3, warmup_steps=3, weight_decay=0.1, tokens_per_micro_batch=32, threads=1)
    return LearnerSettings(**(base | changes))


def in_chunks(learner: LearnerSettings, positions: int) -> LearnerSettings:
    """The same settings with the logits of few positions at a time; less than the configuration allows."""

    class InChunks(LearnerSettings):
        @property
        def logits_chunk_bytes(self) -> int:
            return positions * 4 * VOCABULARY

    return InChunks(**learner.model_dump())


def make_model(directory: Path, *, tied: bool, dtype: torch.dtype = torch.float32, bias: bool = False) -> Path:
    """A random Llama with weights both above and below DeepSpeed's persistence threshold of 100,000 elements."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=448,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        attention_bias=bias,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.05,
        attention_dropout=0.1,
    )
    LlamaForCausalLM(config).to(dtype).save_pretrained(directory)
    (directory / "tokenizer.json").write_text("{}")
    return directory


def make_sequences(count: int = 13, seed: int = 0) -> list[TrainingSequence]:
    rng = np.random.default_rng(seed)
    out = []
    for i in range(count):
        prompt, response = rng.integers(2, 9), rng.integers(1, 12)
        out.append(
            TrainingSequence(
                prompt_tokens=rng.integers(3, VOCABULARY, prompt).astype(np.int32),
                response_tokens=rng.integers(3, VOCABULARY, response).astype(np.int32),
                behaviour_logprobs=(-6 + rng.normal(0, 0.3, response)).astype(np.float32),
                advantage=0.0 if i == 4 else float(rng.normal()),
                fresh=i % 2 == 0,
            )
        )
    return out


def make_engine(
    path: Path, rank: int, world_size: int, port: int, learner: LearnerSettings, **changes: object
) -> Engine:
    return Engine(
        path,
        learner=learner,
        rank=rank,
        world_size=world_size,
        master_port=port,
        timeout_s=60,
        **({"loss": LOSS} | changes),
    )
