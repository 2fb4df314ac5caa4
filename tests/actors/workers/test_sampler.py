"""The sampler without a model: import cost and messages for bad input."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import numpy as np
import pytest
from pydantic import ValidationError

from actors.errors import InputLost
from actors.settings import RolloutSettings, SamplerSettings
from actors.vllm_backend import UpdateInterrupted
from actors.vllm_backend.engine import _spread
from actors.workers.sampler import Sampler, SamplerError


def make(model_path) -> Sampler:
    return Sampler("sampler 3", str(model_path), "float32", SamplerSettings(), RolloutSettings())


@pytest.mark.slow
def test_importing_the_sampler_imports_neither_vllm_nor_ray():
    program = "import sys, actors.workers.sampler; print([m for m in ('vllm', 'ray', 'deepspeed') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert result.stdout.strip() == "[]", result.stderr


def test_a_missing_model_is_named_before_anything_is_imported(tmp_path):
    with pytest.raises(
        SamplerError, match=r"sampler 3 cannot start: the model directory .*nowhere does not exist .*model\.path"
    ):
        asyncio.run(make(tmp_path / "nowhere").start())
    with pytest.raises(SamplerError, match=r"has no config\.json"):
        asyncio.run(make(tmp_path).start())


def test_work_before_start_is_refused(tmp_path):
    sampler = make(tmp_path)
    with pytest.raises(SamplerError, match="sampler 3 died: the vLLM engine is not running"):
        asyncio.run(sampler.check())
    with pytest.raises(SamplerError, match=r"cannot load the weights of version 1"):
        asyncio.run(sampler.load_weights(1, []))


def test_a_missing_bucket_is_not_a_sampler_failure(tmp_path):
    """The update fails before it reaches the engine, which is not running here and would report that."""
    gone = {"path": str(tmp_path / "gone"), "nbytes": 4, "entries": []}
    with pytest.raises(
        InputLost, match=r"sampler 3 did not begin to load the weights of version 1: cannot open .*gone"
    ):
        asyncio.run(make(tmp_path).load_weights(1, [gone]))


def test_weights_that_stop_arriving_are_not_a_sampler_failure(tmp_path, monkeypatch):
    async def interrupted(version, updates):
        raise UpdateInterrupted("the learner ended")

    sampler = make(tmp_path)
    monkeypatch.setattr(sampler._engine, "update_weights", interrupted)
    with pytest.raises(InputLost, match=r"sampler 3 did not get all weights of version 1: the learner ended"):
        asyncio.run(sampler.load_weights(1, []))


def test_neighbouring_seeds_share_no_sample_seeds():
    spread = np.sort([_spread(seed) for seed in range(2000)])
    assert np.diff(spread).min() > 4096 and spread.max() < 2**62


def test_truncated_sampling_is_refused():
    with pytest.raises(ValidationError):
        RolloutSettings(top_p=0.9)
    with pytest.raises(ValidationError):
        RolloutSettings(top_k=50)
