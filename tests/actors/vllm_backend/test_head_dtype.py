"""The type in which vLLM computes logits."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.settings import RolloutSettings, SamplerSettings
from actors.vllm_backend.arguments import engine_arguments


@pytest.mark.parametrize(
    ("gpus", "dtype", "float32"), [(1, "bfloat16", True), (1, "float32", False), (0, "bfloat16", False)]
)
def test_logits_of_bfloat16_models_are_float32_on_gpus(gpus: int, dtype: str, float32: bool, repository: Path) -> None:
    """As those of the learner (learner/chunked_head.py)."""
    model = str(repository / "models" / "countdown-base")
    rollout = RolloutSettings(max_prompt_tokens=32, max_response_tokens=16)
    arguments = engine_arguments(model, dtype, SamplerSettings(gpus=gpus), rollout, 0)
    assert arguments.get("hf_overrides") == ({"head_dtype": "float32"} if float32 else None)


@pytest.mark.slow
def test_vllm_knows_the_key(repository: Path) -> None:
    import torch
    from vllm.engine.arg_utils import AsyncEngineArgs

    model = str(repository / "models" / "countdown-base")
    arguments = AsyncEngineArgs(model=model, dtype="bfloat16", hf_overrides={"head_dtype": "float32"})
    config = arguments.create_model_config()
    assert config.dtype == torch.bfloat16 and config.head_dtype == torch.float32
