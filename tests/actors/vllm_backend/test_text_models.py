"""The torchvision stub: sufficient for imports, removed afterwards, and unused if the real package exists."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from actors.vllm_backend.text_models import stand_in


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is not None, reason="torchvision is installed")
def test_names_can_be_imported_only_inside():
    with stand_in():
        import torchvision.transforms as T  # noqa: F401
        from torchvision import transforms
        from torchvision.transforms import InterpolationMode, v2
        from torchvision.transforms.v2 import functional as tvF

        assert transforms.v2 is v2 and v2.functional is tvF
        assert isinstance(InterpolationMode, type)
    assert not [name for name in sys.modules if name.startswith("torchvision")]
    assert importlib.util.find_spec("torchvision") is None
    with pytest.raises(ModuleNotFoundError):
        import torchvision.io  # noqa: F401


def test_a_module_that_came_meanwhile_stays():
    real = sys  # any module
    try:
        with stand_in():
            sys.modules["torchvision"] = real  # not by monkeypatch, which would restore the stub
        assert sys.modules["torchvision"] is real
    finally:
        del sys.modules["torchvision"]
