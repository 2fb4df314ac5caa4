"""The type in which vLLM computes logits."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.settings import RolloutSettings, SamplerSettings

pytestmark = pytest.mark.slow


def test_logits_are_float32_in_both_types(repository: Path) -> None:
    import torch
    from vllm.engine.arg_utils import AsyncEngineArgs

    from actors.vllm_backend.engine import engine_arguments

    model = str(repository / "models" / "countdown-base")
    rollout = RolloutSettings(max_prompt_tokens=32, max_response_tokens=16)
    for dtype in ("float32", "bfloat16"):
        arguments = AsyncEngineArgs(**engine_arguments(model, dtype, SamplerSettings(), rollout, 0))
        config = arguments.create_model_config()
        assert str(config.dtype) == f"torch.{dtype}" and config.head_dtype == torch.float32
