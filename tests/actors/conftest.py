"""Tiny random models and their transformers log-probabilities, to compare the sampler with."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

END = 1  # end-of-sequence id of the tiny models
ARCHITECTURES = ["llama-tied", "llama-untied", "qwen2-biased"]


def _config(architecture: str) -> Any:
    from transformers import LlamaConfig, Qwen2Config

    sizes = dict(
        vocab_size=64 if architecture == "llama-tied" else 50,  # with and without vLLM's padding to 64
        hidden_size=128,  # heads of 32: vLLM's CPU attention knows no smaller ones
        intermediate_size=320,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=END,
        tie_word_embeddings=architecture != "llama-untied",
        initializer_range=0.15,  # far from a uniform distribution, so that an error shows
    )
    return (Qwen2Config if architecture.startswith("qwen2") else LlamaConfig)(**sizes)


@pytest.fixture(scope="session")
def make_model() -> Callable[[str, Path], torch.nn.Module]:
    """Write a random float32 model of one of ARCHITECTURES to a directory and return it."""

    def make(architecture: str, directory: Path) -> torch.nn.Module:
        from transformers import AutoModelForCausalLM

        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(_config(architecture)).float().eval()
        with torch.no_grad():  # transformers starts norms at one and biases at zero, where errors would hide
            for name, parameter in model.named_parameters():
                if "norm" in name or "bias" in name:
                    parameter.add_(0.3 * torch.randn_like(parameter))
        model.save_pretrained(directory)
        return model

    return make


@pytest.fixture(scope="session")
def reference_logprobs() -> Callable[..., np.ndarray]:
    """Log-probabilities float64 [R] that a transformers model gives the tokens of a response.

    In float64 throughout: in float32 transformers would be as far off as vLLM, and a test would have to allow both.
    """

    def score(model: torch.nn.Module, prompt: list[int], response: np.ndarray, temperature: float = 1.0) -> np.ndarray:
        torch.set_num_threads(1)  # tiny models: a second thread only waits for its turn
        tokens_1T = torch.tensor([prompt + response.tolist()])
        with torch.no_grad():
            logits_TV = copy.deepcopy(model).double()(tokens_1T).logits[0] / temperature
        logprobs_TV = torch.log_softmax(logits_TV, dim=-1)
        positions = torch.arange(len(prompt) - 1, len(prompt) - 1 + len(response))
        return logprobs_TV[positions, torch.as_tensor(response, dtype=torch.long)].numpy()

    return score


@pytest.fixture(scope="module")
def run_async() -> Iterator[Callable[[Coroutine[Any, Any, Any]], Any]]:
    """One event loop for a module: an engine lives on the loop that started it."""
    loop = asyncio.new_event_loop()
    yield lambda work: loop.run_until_complete(asyncio.wait_for(work, 120))
    loop.close()


@pytest.fixture(scope="module")
def start_sampler(make_model, run_async, tmp_path_factory) -> Iterator[Callable[..., tuple]]:
    """Start a sampler on a tiny model: `sampler, model = start_sampler(architecture)`."""
    from actors.settings import RolloutSettings, SamplerSettings
    from actors.workers.sampler import Sampler

    started = []

    def start(architecture: str, lora: Any = None, **settings: Any) -> tuple[Any, torch.nn.Module]:
        directory = tmp_path_factory.mktemp(architecture)
        model = make_model(architecture, directory)
        sampler = Sampler(
            "sampler 0",
            str(directory),
            "float32",
            SamplerSettings(**{"threads": 1, "kv_cache_gib": 0.05, "max_num_seqs": 64} | settings),
            RolloutSettings(max_prompt_tokens=32, max_response_tokens=192),
            lora=lora,
        )
        started.append(sampler)
        run_async(sampler.start())
        return sampler, model

    yield start
    for sampler in started:
        run_async(sampler.shutdown())
