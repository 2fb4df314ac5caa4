"""What only a card can show, at sizes that take seconds; benchmarks/gpu.py measures the rest. Not run on a GPU yet."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.gpu_stages.card_memory import used_mib
from benchmarks.gpu_stages.setting import Setting

pytestmark = [pytest.mark.gpu, pytest.mark.slow]


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return Setting("cuda", True, tmp_path_factory.mktemp("models"))


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_BATCH_INVARIANT", "0")  # restored after a test that uses such kernels


@pytest.mark.parametrize("backend", ["host", "ipc"])
@pytest.mark.parametrize("graphs", [False, True])
def test_unchanged_updates_change_no_log_probability(setting: Setting, backend: str, graphs: bool) -> None:
    from benchmarks.gpu_stages.unchanged import unchanged_updates

    found = unchanged_updates(setting, backend=backend, graphs=graphs)
    assert found["passed"], found


@pytest.mark.parametrize("kind", ["cache", "weights"])
def test_a_sleeping_engine_frees_memory_and_answers_as_before(setting: Setting, kind: str) -> None:
    from actors.settings import BroadcastSettings
    from benchmarks.gpu_stages.sampling import Work, sample
    from benchmarks.gpu_stages.syncing import Learner
    from benchmarks.gpu_stages.unchanged import compare, use_invariant_kernels

    alone = not use_invariant_kernels()
    work = Work(setting, "tiny", graphs=True)
    work.sampler = work.sampler.model_copy(update={"sleep": kind, "gpu_memory_utilization": 0.2})

    async def turns() -> None:
        async def turn() -> list[Any]:
            return [c for group in await sample(sampler, work, 0, one_at_a_time=alone) for c in group]

        sampler = work.make()
        await sampler.start()
        learner = Learner(work, BroadcastSettings(backend="host"))
        before, awake = await turn(), used_mib()
        for version in (1, 2):
            await sampler.sleep()
            assert used_mib() < 0.7 * awake
            await learner.update(sampler, version)
            assert compare(before, await turn()) == (True, 0.0)
        await sampler.shutdown()

    asyncio.run(turns())


@pytest.mark.parametrize(
    "changes",
    [{}, {"offload": "optimizer", "zero_stage": 1}, {"offload": "all", "zero_stage": 3}, {"optimizer": "adamw_8bit"}],
)
def test_the_learner_scores_as_on_the_processor(setting: Setting, tmp_path: Path, changes: dict[str, Any]) -> None:
    if changes.get("optimizer") == "adamw_8bit":
        pytest.importorskip("bitsandbytes")
    model, scores = Setting("cpu", True, tmp_path).random_model("tiny"), []
    for device, options in (("cuda", changes), ("cpu", {})):
        file = tmp_path / f"{device}.npz"
        command = [sys.executable, "-m", "tests.device_scores", device, str(model), json.dumps(options), str(file)]
        if device == "cuda":
            subprocess.run(command, check=True, timeout=300)
        else:  # DeepSpeed takes the card where it sees one
            subprocess.run(command, check=True, timeout=300, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""})
        with np.load(file) as found:
            scores.append([found[name] for name in found.files])
    assert len(scores[0]) == len(scores[1]) == 8
    tolerance = 2e-2 if changes.get("optimizer") else 2e-3
    for on_card, on_processor in zip(*scores, strict=True):
        np.testing.assert_allclose(on_card, on_processor, atol=tolerance)


def test_a_learner_rank_that_sleeps_frees_memory_and_wakes_as_it_was(tmp_path: Path) -> None:
    import torch

    from tests.learner.engine_setup import make_model
    from tests.learner.ranks import run_ranks

    make_model(tmp_path / "bfloat16", tied=True, dtype=torch.bfloat16)
    run_ranks("engine_cases:sleeping_on_a_gpu", 1, tmp_path)
