"""The GSM8K step of `one-card` in TRL with vLLM in the same process: the anchor of its step time."""

from __future__ import annotations

import importlib.util
import os
import statistics
import time
from typing import Any

from benchmarks.gpu_stages.setting import Setting, Skip
from benchmarks.gpu_stages.training import PROMPT_TOKENS, PROMPTS, RESPONSE_TOKENS, SAMPLES, STEPS

_PER_MICRO_BATCH = 32  # samples: as many tokens as a micro-batch of one-card
_ENGINE_SHARE = 0.5  # of the card


def steps(setting: Setting) -> dict[str, Any]:
    """Seconds of an optimizer step of TRL's GRPO: the same prompts, samples, lengths, reward and micro-batches.

    vLLM sleeps while the policy trains, as `sampler.sleep: weights` does. The first step warms up.
    """
    missing = [name for name in ("trl", "datasets") if importlib.util.find_spec(name) is None]
    if missing:
        raise Skip(f"needs the packages {' and '.join(missing)}")
    if setting.device == "cpu":
        raise Skip("vllm_mode=colocate needs a GPU")
    if setting.model is None or setting.data is None:
        raise Skip("needs --model (SmolLM2-135M-Instruct) and --data (the directory of GSM8K)")
    return _steps(setting)


def _steps(setting: Setting) -> dict[str, Any]:
    _prepare_environment()
    import trl
    from transformers import TrainerCallback

    from benchmarks.learner import free_port

    os.environ["MASTER_PORT"] = str(free_port())
    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            import torch

            torch.cuda.synchronize()
            ends.append(time.perf_counter())

    dataset, reward = _gsm8k(setting)
    trainer = trl.GRPOTrainer(
        model=str(setting.model),
        reward_funcs=reward,
        args=trl.GRPOConfig(**arguments(setting)),
        train_dataset=dataset,
        callbacks=[Clock()],
    )
    trainer.train()
    seconds = [end - begin for begin, end in zip(ends, ends[1:], strict=False)]
    return {"time/step_s": statistics.median(seconds[1:]), "first_step_s": seconds[0], "steps": len(seconds) - 1}


def arguments(setting: Setting) -> dict[str, Any]:
    """Arguments of GRPOConfig."""
    return {
        "output_dir": str(setting.scratch / "trl"),
        "max_steps": STEPS,
        "per_device_train_batch_size": _PER_MICRO_BATCH,
        "gradient_accumulation_steps": PROMPTS * SAMPLES // _PER_MICRO_BATCH,
        "num_generations": SAMPLES,
        "max_completion_length": RESPONSE_TOKENS,
        "temperature": 1.0,
        "beta": 0.0,
        "learning_rate": 1e-6,
        "bf16": True,
        "gradient_checkpointing": True,
        "use_vllm": True,
        "vllm_mode": "colocate",
        "vllm_enable_sleep_mode": True,
        "vllm_gpu_memory_utilization": _ENGINE_SHARE,
        "vllm_max_model_length": PROMPT_TOKENS + RESPONSE_TOKENS,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
    }


def _prepare_environment() -> None:
    """What a launcher sets for a single process, and what bonrl's samplers set for vLLM."""
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", HF_HUB_OFFLINE="1")
    os.environ.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")


def _gsm8k(setting: Setting) -> tuple[Any, Any]:
    """The prompts as a dataset, and bonrl's verifier as a reward."""
    from datasets import Dataset

    from verifiers.settings import TaskSettings
    from verifiers.tasks.registry import make_task

    task = make_task(TaskSettings(name="gsm8k", template="chat", path=str(setting.data)))
    prompts = {prompt.id: prompt for prompt in task.prompts("train")}
    rows = [{"prompt": [{"role": "user", "content": p.text}], "problem": p.id} for p in prompts.values()]

    def reward(completions: list[Any], problem: list[str], **_: Any) -> list[float]:
        answers = zip(completions, problem, strict=True)
        return [task.verify(prompts[name], answer[0]["content"]).reward for answer, name in answers]

    return Dataset.from_list(rows), reward
