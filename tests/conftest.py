"""Shared fixtures. The fast tier (`-m "not slow"`) starts no Ray, vLLM or DeepSpeed and must not import them."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parent.parent

# A wrong model path must fail at once instead of asking a hub; and no test may write to a user's wandb account.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["WANDB_MODE"] = "offline"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# A machine that does other work is no defect of the code: time is measured in benchmarks/.
hypothesis.settings.register_profile("bonrl", deadline=None)
hypothesis.settings.load_profile("bonrl")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return ROOT


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked `gpu` where there is no NVIDIA GPU."""
    from cluster.checks.memory.card import local_gpus

    if local_gpus() == 0:
        reason = "needs an NVIDIA GPU, and none is visible (nvidia-smi, CUDA_VISIBLE_DEVICES)"
        for item in items:
            if item.get_closest_marker("gpu") is not None:
                item.add_marker(pytest.mark.skip(reason=reason))
