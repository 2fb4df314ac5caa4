"""The keys of DeepSpeed that follow from the settings; tests/learner/test_engine.py runs them."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from learner.backends.deepspeed_config import adamw, deepspeed_config, frozen_config
from learner.settings import LearnerSettings


def config(dtype: str = "float32", device: str = "cpu", **settings: object) -> dict:
    return deepspeed_config(LearnerSettings(**settings), dtype, torch.device(device), 1000, clip_here=False)


@pytest.mark.parametrize(("dtype", "stage", "runs"), [("bfloat16", 0, 1), ("bfloat16", 3, 3), ("float32", 0, 0)])
def test_bfloat16_gradients_are_summed_in_float32(dtype: str, stage: int, runs: int) -> None:
    made = config(dtype, zero_stage=stage)
    assert made["zero_optimization"]["stage"] == runs
    bfloat16 = dtype == "bfloat16"
    assert made.get("data_types") == ({"grad_accum_dtype": "fp32"} if bfloat16 else None)
    assert made.get("communication_data_type") == ("fp32" if bfloat16 else None)
    assert made["bf16"] == {"enabled": bfloat16} | ({"immediate_grad_update": True} if bfloat16 else {})


def test_offload_moves_the_optimizer_or_everything() -> None:
    plain = config(zero_stage=3)["zero_optimization"]
    assert "offload_optimizer" not in plain and "offload_param" not in plain
    optimizer = config(device="cuda", zero_stage=1, offload="optimizer")
    assert optimizer["zero_optimization"]["offload_optimizer"] == {"device": "cpu", "pin_memory": True}
    assert "offload_param" not in optimizer["zero_optimization"]
    assert optimizer["zero_force_ds_cpu_optimizer"] is False
    everything = config(zero_stage=3, offload="all")["zero_optimization"]
    assert everything["offload_param"] == everything["offload_optimizer"] == {"device": "cpu", "pin_memory": False}


def test_the_frozen_copy_is_partitioned_like_the_model_and_has_no_optimizer() -> None:
    settings = LearnerSettings(zero_stage=3, offload="all")
    frozen = frozen_config(settings, "bfloat16", torch.device("cuda"), 1000)
    trained = deepspeed_config(settings, "bfloat16", torch.device("cuda"), 1000, clip_here=False)
    assert frozen["bf16"] == {"enabled": True} and "data_types" not in frozen
    zero = trained["zero_optimization"]
    assert zero.pop("offload_optimizer") == frozen["zero_optimization"]["offload_param"]
    assert frozen["zero_optimization"] == zero and zero["stage"] == 3


def test_more_weights_than_bitsandbytes_counts_are_refused() -> None:
    """It would wrap the number, and leave the weights as they are or write elsewhere."""
    pair = [(name, torch.nn.Parameter(torch.empty(1 << 16, 1 << 14, device="meta"))) for name in "ab"]
    for stage in (0, 1, 2):  # in bfloat16 stage 0 runs as stage 1
        with pytest.raises(ValueError, match=f"at ZeRO stage {max(1, stage)} a rank has 2147483648; set learner"):
            adamw(pair, LearnerSettings(optimizer="adamw_8bit", zero_stage=stage), "bfloat16")
    weights = 2 * pair[0][1].numel()
    for enough in (LearnerSettings(ranks=2, zero_stage=1), LearnerSettings(zero_stage=3)):
        assert enough.too_many_for_8bit("bfloat16", weights) is None
    separate = LearnerSettings(zero_stage=0)  # in float32 stage 0 updates each tensor by itself
    assert separate.too_many_for_8bit("float32", weights) is None


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_the_missing_package_of_an_optimizer_is_named() -> None:
    with pytest.raises(ValueError, match="pip install bitsandbytes"):
        adamw([("w", torch.nn.Parameter(torch.zeros(2, 2)))], LearnerSettings(optimizer="adamw_8bit"), "float32")
    assert config(optimizer="adamw_8bit")["zero_allow_untested_optimizer"] is True
