"""Error class and environment variables shared by the vLLM engines."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


class EngineError(RuntimeError):
    """The engine cannot start, died, or refused a request; the message names the remedy."""


class UpdateInterrupted(EngineError):
    """The weights of an update stopped arriving. The engine is not at fault, and takes the next update."""


@contextlib.contextmanager
def environment(*, gpus: float, threads: int, engine_process: bool = True) -> Iterator[None]:
    """Set the environment that the engine core inherits while it is started.

    On CPUs samplers, learner and driver share the cores. The engine's threads are therefore not pinned, so that they do
    not wait for a busy core, and they sleep instead of spinning, which costs a factor of three to five next to other
    work. Thread settings are restored afterwards, so that other child processes do not inherit them.
    """
    os.environ.update(
        VLLM_NO_USAGE_STATS="1",
        VLLM_DO_NOT_TRACK="1",
        HF_HUB_OFFLINE="1",  # a wrong path fails at once, with a clear message
        TOKENIZERS_PARALLELISM="false",
        VLLM_ENABLE_V1_MULTIPROCESSING="1" if engine_process else "0",
    )
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    os.environ.setdefault("PYTHONWARNINGS", "ignore::FutureWarning")
    saved = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "LD_PRELOAD")}
    if gpus == 0:
        os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)  # it would override kv_cache_gib
        os.environ["OMP_NUM_THREADS"] = str(threads)
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    else:
        # FlashInfer compiles its sampling kernels at the first start, over 100 s with 16 cores; they serve top-k and
        # top-p only, which training does not use.
        os.environ.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")
    try:
        yield
    finally:
        for name, value in saved.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def summary(error: BaseException) -> str:
    """The first helpful line of an error that may span pages (pydantic lists, tracebacks in a message)."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if len(lines) > 1 and "validation error" in lines[0]:
        lines = lines[1:]
    text = lines[0] if lines else type(error).__name__
    text = text.removeprefix("Value error, ").split(" [type=")[0]
    return text if len(text) <= 300 else f"{text[:300]} ..."
