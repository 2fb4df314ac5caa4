"""The optimizer and the DeepSpeed configuration for given settings. Nothing here calls DeepSpeed."""

from __future__ import annotations

from typing import Any

import torch

from learner.settings import LearnerSettings


def adamw(
    parameters: list[tuple[str, torch.nn.Parameter]], settings: LearnerSettings, dtype: str
) -> torch.optim.Optimizer:
    """AdamW over the named parameters of a model in `dtype`; weight decay on matrices only.

    Raises:
        ValueError: ``learner.optimizer`` needs a package that is not installed, or cannot update so many weights.
    """
    matrices = [p for _, p in parameters if p.ndim >= 2]
    vectors = [p for _, p in parameters if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    options: dict[str, Any] = {
        "lr": settings.learning_rate,
        "betas": (settings.beta1, settings.beta2),
        "eps": settings.adam_epsilon,
    }
    if settings.optimizer == "adamw_8bit":
        problem = settings.too_many_for_8bit(dtype, sum(p.numel() for p in matrices))
        if problem:
            raise ValueError(problem)
        return _adamw_8bit()(groups, **options)
    return torch.optim.AdamW(groups, fused=True, **options)


def _adamw_8bit() -> Any:
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise ValueError(
            f"learner.optimizer = adamw_8bit needs the package bitsandbytes ({error}); run pip install bitsandbytes, "
            "or use adamw"
        ) from error
    return AdamW8bit


def deepspeed_config(
    settings: LearnerSettings, dtype: str, device: torch.device, parameters: int, clip_here: bool
) -> dict[str, Any]:
    """The configuration of one engine with `parameters` weights. `clip_here`: the engine clips instead of DeepSpeed."""
    config = _common(settings, dtype, device, parameters)
    config |= {"gradient_accumulation_steps": 1, "gradient_clipping": 0.0 if clip_here else settings.gradient_clip}
    if settings.offload != "none":
        config["zero_optimization"]["offload_optimizer"] = _host(device)
        config["zero_force_ds_cpu_optimizer"] = False  # torch's AdamW: DeepSpeed's would compile an extension at start
    if dtype == "bfloat16":
        config |= _float32_gradients()
    if settings.optimizer != "adamw":
        config["zero_allow_untested_optimizer"] = True  # it is one of float32 vectors to ZeRO, like any other
    return config


def _float32_gradients() -> dict[str, Any]:
    """Sums of bfloat16 gradients in float32, over micro-batches and over ranks.

    By default DeepSpeed adds up the ranks in bfloat16, and rounds a sum in float32 to bfloat16 for that even if there
    is one rank. `immediate_grad_update` adds a gradient to the sum as soon as it exists and frees it; by default stage
    1 keeps those of all weights until the step. The other stages always do.
    """
    return {
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "bf16": {"enabled": True, "immediate_grad_update": True},
    }


def frozen_config(settings: LearnerSettings, dtype: str, device: torch.device, parameters: int) -> dict[str, Any]:
    """The configuration of a model without gradients, partitioned like the trained one at ZeRO stage 3."""
    return _common(settings, dtype, device, parameters)


def _common(settings: LearnerSettings, dtype: str, device: torch.device, parameters: int) -> dict[str, Any]:
    bucket, stage = max(1 << 20, min(parameters, 1 << 26)), settings.stage(dtype)
    zero: dict[str, Any] = {
        "stage": stage,
        "overlap_comm": device.type == "cuda",
        "reduce_bucket_size": bucket,
    }
    if settings.offload == "all":
        zero["offload_param"] = _host(device)
    if stage == 3:
        zero["stage3_prefetch_bucket_size"] = bucket
    else:
        zero["allgather_bucket_size"] = bucket
    return {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": zero,
        "bf16": {"enabled": dtype == "bfloat16"},
        "timers": {"throughput": {"enabled": False}},  # it waits for the GPU before every forward pass
    }


def _host(device: torch.device) -> dict[str, Any]:
    return {"device": "cpu", "pin_memory": device.type == "cuda"}
