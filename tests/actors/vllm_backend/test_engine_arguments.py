"""What vLLM is told about GPUs; no engine is started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from actors.settings import RolloutSettings, SamplerSettings
from actors.vllm_backend.arguments import engine_arguments


def on_gpus(**changes: Any) -> dict[str, Any]:
    sampler = SamplerSettings(**({"gpus": 1, "enforce_eager": False} | changes))
    return engine_arguments("model", "bfloat16", sampler, RolloutSettings(), 0)


@pytest.mark.parametrize(("devices", "executor"), [(1, "uni"), (4, "mp")])
def test_an_engine_in_a_placement_group_does_not_use_ray(devices: int, executor: str) -> None:
    assert on_gpus(gpus=devices, tensor_parallel=devices)["distributed_executor_backend"] == executor


@pytest.mark.parametrize(("sequences", "captured"), [(256, None), (512, None), (1000, 1008), (1024, 1024)])
def test_full_batches_are_decoded_with_cuda_graphs(sequences: int, captured: int | None) -> None:
    assert on_gpus(max_num_seqs=sequences).get("max_cudagraph_capture_size") == captured
    assert "max_cudagraph_capture_size" not in on_gpus(max_num_seqs=sequences, enforce_eager=True)


def test_sampler_and_learner_load_the_same_files(tmp_path: Path) -> None:
    def load_format() -> str:
        arguments = engine_arguments(str(tmp_path), "float32", SamplerSettings(), RolloutSettings(), 0)
        return str(arguments["load_format"])

    (tmp_path / "consolidated.safetensors").touch()
    assert load_format() == "auto"
    (tmp_path / "model.safetensors.index.json").touch()  # the learner reads what it names; "auto" would take the other
    assert load_format() == "hf"
