"""Runs the network of a learned verifier on a vLLM pooling engine, which needs no padding."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actors.vllm_backend.environment import EngineError, environment, summary
from verifiers.learned.classifier import read_card

_CPU_CACHE_BYTES = 2**26  # a classifier reads each sequence once and keeps nothing
_HEADROOM = 0.9  # of the worker's share of a GPU's memory


class VllmLogits:
    """Logits of a sequence classifier; see ``verifiers.learned.classifier.Logits``.

    The engine runs in the worker's process: a classifier has no streams to serve, and fewer processes can fail.

    Args:
        directory: written by `bonrl train-verifier`.
        batch_tokens: most tokens of one forward pass.
        gpus: the worker's share of a GPU; 0: the CPU.

    Raises:
        EngineError: vLLM cannot run this architecture as a classifier.
    """

    def __init__(self, directory: Path, batch_tokens: int, gpus: float) -> None:
        threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
        with environment(gpus=gpus, threads=threads, engine_process=False):
            from vllm import LLM

            try:
                self._llm = LLM(**_arguments(directory, batch_tokens, gpus))
            except Exception as error:
                raise EngineError(
                    f"task.scorer.path = {directory}: vLLM cannot serve this classifier ({summary(error)}); set "
                    "task.scorer.engine: transformers"
                ) from error

    def __call__(self, sequences: Sequence[Sequence[int]]) -> np.ndarray:
        """See ``verifiers.learned.classifier.Logits``."""
        from vllm import PoolingParams
        from vllm.inputs import TokensPrompt

        found = self._llm.classify(
            [TokensPrompt(prompt_token_ids=list(ids)) for ids in sequences],
            pooling_params=PoolingParams(use_activation=False),  # logits; calibration follows
            use_tqdm=False,
        )
        return np.array([output.outputs.probs[0] for output in found], dtype=np.float64)


def _arguments(directory: Path, batch_tokens: int, gpus: float) -> dict[str, Any]:
    from vllm.v1.executor.uniproc_executor import UniProcExecutor

    longest = read_card(directory).max_tokens
    arguments: dict[str, Any] = dict(
        model=str(directory),
        runner="pooling",
        max_model_len=longest,
        max_num_batched_tokens=max(batch_tokens, longest),
        enable_prefix_caching=False,  # each answer is scored once
        enforce_eager=True,
        disable_log_stats=True,
        use_tqdm_on_load=False,
    )
    if gpus:
        arguments["gpu_memory_utilization"] = _HEADROOM * gpus
    else:
        arguments |= dict(
            dtype="float32",
            kv_cache_memory_bytes=_CPU_CACHE_BYTES,
            enable_chunked_prefill=False,
            distributed_executor_backend=UniProcExecutor,
        )
    return arguments
