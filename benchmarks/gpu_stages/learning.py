"""Model FLOPs utilization and peak memory of the learner in several configurations."""

from __future__ import annotations

import gc
import json
import statistics
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import head
from benchmarks.gpu_stages.setting import GIB, Setting, synchronize
from benchmarks.learner import free_port
from cluster.checks.adapters import adapter_sizes
from cluster.checks.memory.estimates import derive
from cluster.checks.model_facts import read_model
from cluster.config import load_config
from learner.batching import TrainingSequence
from learner.engine import Engine
from learner.settings import LearnerSettings, LossSettings

PROMPT_SHARE = 0.25  # of a sequence
COMPILE_S = 90.0  # expected in addition, with learner.torch_compile
CHUNK_MIB = 2048  # learner.logits_chunk_mib, which a large card has room for
_KERNELS = 15  # how many of a step are listed


@dataclass(frozen=True)
class Form:
    """One configuration: keys of the section `learner`."""

    packing: bool
    activation_checkpointing: bool
    torch_compile: bool


def forms(packs: bool) -> list[Form]:
    """All of them; those that are likely to be fast or to fit come first, because the stage ends when its time is over.

    Packed sequences are fast with FlashAttention (`packs`).
    """
    return [
        Form(packing, checkpointing, compiled)
        for packing in (packs, not packs)
        for compiled in (False, True)
        for checkpointing in (True, False)
    ]


def _packs(setting: Setting) -> bool:
    """Whether the learner has FlashAttention here: torch's own runs on cards of this generation or later."""
    import torch

    return setting.device == "cuda" and torch.cuda.get_device_capability() >= (8, 0)


@dataclass(frozen=True)
class Work:
    """What is trained: a model, alone or under adapters, in steps of `tokens` tokens."""

    setting: Setting
    model: Path
    tokens: int
    sequences: list[TrainingSequence]
    parameters: int
    lora: dict[str, Any]


def utilization(
    setting: Setting, shape: str, tokens: int, until_s: float, lora_rank: int | None = None
) -> dict[str, Any]:
    """Training with sequences of 1024 to 3072 tokens, `tokens` in an optimizer step, in each of the forms.

    until_s: no form starts that is expected to end later, in seconds from the start of the stage.
    """
    tokens, shortest, longest = setting.size(tokens, 256), setting.size(1024, 32), setting.size(3072, 96)
    model = setting.random_model(shape)
    facts, lora = read_model(model), {"lora": {"rank": lora_rank}} if lora_rank else {}
    work = Work(
        setting, model, tokens, make_sequences(tokens, shortest, longest, facts.vocabulary), facts.parameters, lora
    )
    rows = list(_measured_forms(work, until_s))
    measured = [row for row in rows if "error" not in row]
    if not measured:
        raise RuntimeError(f"no form could be measured: {rows}")
    best, peak = max(measured, key=lambda row: row["trained_tokens_per_second"]), setting.peak_flops()
    return {
        "parameters": facts.parameters,
        "lora_rank": lora_rank,
        "tokens_per_step": tokens,
        "sequences": len(work.sequences),
        "peak_tflops": peak and peak / 1e12,
        "mfu": best["mfu"],
        "trained_tokens_per_second": best["trained_tokens_per_second"],
        "forms": rows,
    }


def _measured_forms(work: Work, until_s: float) -> Iterator[dict[str, Any]]:
    slowest = 0.0
    chosen = forms(_packs(work.setting))
    for form in [chosen[0], chosen[4]] if work.setting.tiny else chosen:
        extra, begin = COMPILE_S if form.torch_compile else 0.0, work.setting.elapsed()
        if begin + slowest + extra > until_s:
            yield asdict(form) | {"error": "no time was left"}
            continue
        row = asdict(form) | _measure(work, form)
        print({key: value for key, value in row.items() if key != "kernels"}, file=sys.stderr, flush=True)
        slowest = max(slowest, work.setting.elapsed() - begin - extra)
        yield row


def make_sequences(tokens: int, shortest: int, longest: int, vocabulary: int) -> list[TrainingSequence]:
    """Random sequences of unequal lengths with `tokens` tokens in all; the last one takes what is left."""
    rng = np.random.default_rng(0)
    made: list[TrainingSequence] = []
    while (left := tokens - sum(map(len, made))) > 0:
        length = int(rng.integers(shortest, longest + 1))
        if left - length < shortest // 2:  # too short for a sequence
            length = left
        prompt = max(1, int(length * PROMPT_SHARE))
        made.append(
            TrainingSequence(
                prompt_tokens=rng.integers(3, vocabulary, prompt).astype(np.int32),
                response_tokens=rng.integers(3, vocabulary, length - prompt).astype(np.int32),
                behaviour_logprobs=np.full(length - prompt, -np.log(vocabulary), dtype=np.float32),
                advantage=float(rng.normal()),
            )
        )
    return made


def flops(config: Any, parameters: int, sequences: Sequence[TrainingSequence], *, frozen: bool = False) -> float:
    """FLOPs of forward and backward of all sequences, without recomputation.

    Each weight of a matrix takes 6 for a token: 2 forward, 2 for the gradient of its input, 2 for its own, which
    `frozen` weights (under adapters) do not have. The output head is used for response tokens only, the input embedding
    is no product. Causal attention takes 6 x layers x heads x head size x length^2, for half of the square. The
    adapters are left out.
    """
    each = 4.0 if frozen else 6.0
    head = config.vocab_size * config.hidden_size
    body = parameters - head * (1 if config.tie_word_embeddings else 2)
    tokens, responses = sum(map(len, sequences)), sum(len(s.response_tokens) for s in sequences)
    squares = sum(float(len(s)) ** 2 for s in sequences)
    attention = 6.0 * config.num_hidden_layers * config.num_attention_heads * config.head_dim * squares
    return each * (body * tokens + head * responses) + attention


def _measure(work: Work, form: Form) -> dict[str, Any]:
    """Figures of one form, or why there are none."""
    import torch

    keys = asdict(form) | work.lora | {"tokens_per_micro_batch": work.tokens, "logits_chunk_mib": CHUNK_MIB}
    left_over = _free_memory(work.setting)
    try:
        engine = _engine(work, keys)
        try:
            seconds = list(_steps(work, engine))
            total = flops(engine.config, work.parameters, work.sequences, frozen=bool(work.lora))
            memory = _memory(work, keys)
            kernels = _kernels(work, engine)
        finally:
            engine.close(leave_group=False)
    except Exception as error:  # noqa: BLE001  the figures of the other forms count; the log says where
        traceback.print_exc()
        what = "out of memory" if isinstance(error, torch.OutOfMemoryError) else type(error).__name__
        return {"error": f"{what}: {str(error)[:200]}"}
    took, peak = statistics.median(seconds[1:]), work.setting.peak_flops()
    return {
        "step_s": took,
        "first_step_s": seconds[0],
        "trained_tokens_per_second": work.tokens / took,
        "tflops": total / took / 1e12,
        "mfu": peak and total / took / peak,
        "left_over_gib": left_over,
        **memory,
        "kernels": kernels,
    }


def _engine(work: Work, keys: dict[str, Any]) -> Engine:
    gpu = work.setting.device == "cuda"
    return Engine(
        work.model,
        dtype=work.setting.dtype,
        learner=LearnerSettings(zero_stage=int(gpu), gpus_per_rank=int(gpu), threads=1, **keys),
        loss=LossSettings(),
        master_port=free_port(),
        device=work.setting.device,
    )


def _steps(work: Work, engine: Engine) -> Iterator[float]:
    """Seconds of optimizer steps; the first one warms up, and compiles."""
    for step in range(work.setting.size(4, 2)):
        synchronize(work.setting.device)
        begin = time.perf_counter()
        engine.train_step(work.sequences, float(len(work.sequences)), step)
        synchronize(work.setting.device)
        yield time.perf_counter() - begin


def _kernels(work: Work, engine: Engine) -> list[dict[str, Any]] | str:
    """The kernels of one more step (on a CPU, the operators) that take the most time, or why they are not known."""
    from torch.profiler import ProfilerActivity, profile

    gpu = work.setting.device == "cuda"
    try:
        with profile(activities=[ProfilerActivity.CUDA if gpu else ProfilerActivity.CPU]) as recorded:
            engine.train_step(work.sequences, float(len(work.sequences)), work.setting.size(4, 2))
            synchronize(work.setting.device)
    except RuntimeError as error:  # profiling may be forbidden on the machine; the other figures count
        return str(error)[:200]
    rows = []
    for event in recorded.key_averages():
        microseconds = event.self_device_time_total if gpu else event.self_cpu_time_total
        rows.append({"name": event.key[:100], "calls": event.count, "ms": round(microseconds / 1e3, 3)})
    return sorted(rows, key=lambda row: -row["ms"])[:_KERNELS]


def output_head(setting: Setting, shape: str, tokens: int) -> dict[str, Any]:
    """Times of the output head in all forms of `benchmarks.head`, with the vocabulary and width of a shape."""
    facts = read_model(setting.random_model(shape))
    return head.measure(
        positions=setting.size(tokens, 64),
        width=facts.hidden,
        vocabulary=facts.vocabulary,
        chunk_mib=CHUNK_MIB,
        device=setting.device,
        dtype=setting.dtype,
        repeats=setting.size(5, 1),
    )


def _free_memory(setting: Setting) -> float | None:
    """Free what an earlier engine left and start the measurement of the peak; GiB that are still allocated."""
    import torch

    gc.collect()
    torch._dynamo.reset()
    if setting.device == "cpu":
        return None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated() / GIB


def _memory(work: Work, keys: dict[str, Any]) -> dict[str, float | None]:
    """GiB that the dry run predicts for the rank, and the peak of this process on the card.

    The process has the card alone, so what is in use besides torch's own memory is its CUDA context and libraries.
    """
    import torch

    longest = max(map(len, work.sequences))
    overrides = [f"model.path={work.model}", f"model.dtype={work.setting.dtype}", "model.parameters_billions=null"]
    overrides += [f"rollout.max_prompt_tokens={longest // 4}", f"rollout.max_response_tokens={longest - longest // 4}"]
    overrides += [f"learner.{key}={json.dumps(value)}" for key, value in keys.items()]
    config = load_config("cluster/presets/one-gpu.yaml", overrides)
    predicted = derive(config, read_model(work.model), adapter_sizes(config)).learner_memory
    found: dict[str, float | None] = {"predicted_memory_gib": predicted and predicted / GIB}
    if work.setting.device == "cpu":
        return found | {"peak_memory_gib": None, "predicted_over_measured": None}
    free, total = torch.cuda.mem_get_info()
    peak = torch.cuda.max_memory_reserved() + total - free - torch.cuda.memory_reserved()
    return found | {
        "peak_allocated_gib": torch.cuda.max_memory_allocated() / GIB,
        "peak_memory_gib": peak / GIB,
        "predicted_over_measured": predicted and predicted / peak,
    }
