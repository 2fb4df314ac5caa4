"""The optimizer and the DeepSpeed configuration for given settings. Nothing here calls DeepSpeed."""

from __future__ import annotations

from typing import Any

import torch

from learner.settings import LearnerSettings


def adamw(parameters: list[tuple[str, torch.nn.Parameter]], settings: LearnerSettings) -> torch.optim.AdamW:
    """AdamW over the named parameters; weight decay on matrices only."""
    matrices = [p for _, p in parameters if p.ndim >= 2]
    vectors = [p for _, p in parameters if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=settings.adam_epsilon,
        fused=True,
    )


def deepspeed_config(
    settings: LearnerSettings, dtype: str, device: torch.device, parameters: int, clip_here: bool
) -> dict[str, Any]:
    """The configuration of one engine with `parameters` weights. `clip_here`: the engine clips instead of DeepSpeed."""
    bucket = max(1 << 20, min(parameters, 1 << 26))
    zero: dict[str, Any] = {
        "stage": settings.zero_stage,
        "overlap_comm": device.type == "cuda",
        "reduce_bucket_size": bucket,
    }
    if settings.zero_stage == 3:
        zero["stage3_prefetch_bucket_size"] = bucket
    else:
        zero["allgather_bucket_size"] = bucket
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0 if clip_here else settings.gradient_clip,
        "zero_optimization": zero,
        "bf16": {"enabled": dtype == "bfloat16"},
    }
    if dtype == "bfloat16" and settings.zero_stage > 0:
        # Sums of many micro-batches in bfloat16 lose small gradients. Stage 0 does not support this.
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    return config
