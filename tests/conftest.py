"""Shared fixtures. The fast tier (`-m "not slow"`) starts no Ray, vLLM or DeepSpeed and must not import them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
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


@pytest.fixture()
def clean_plugins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No plugin of the test, and nothing that one registers, is left for the tests after it in this process."""
    from actors import plugins
    from verifiers import user_code

    modules = set(sys.modules)
    before = {kind: dict(registry) for kind, registry in plugins._REGISTRIES.items()}
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(plugins, "_refused", {})
    monkeypatch.setattr(plugins, "_owners", {})
    loaded = list(user_code.loaded_plugins)
    user_code.loaded_plugins.clear()
    monkeypatch.setattr(user_code, "_loaded", {})
    yield
    plugins._restore(before)
    user_code.loaded_plugins[:] = loaded
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked `gpu` where there is no NVIDIA GPU."""
    from cluster.checks.memory.card import local_gpus

    if local_gpus() == 0:
        reason = "needs an NVIDIA GPU, and none is visible (nvidia-smi, CUDA_VISIBLE_DEVICES)"
        for item in items:
            if item.get_closest_marker("gpu") is not None:
                item.add_marker(pytest.mark.skip(reason=reason))
