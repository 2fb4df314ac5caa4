"""What `learner.torch_compile` needs. The compiled engine is in test_engine.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from learner.backends.compilation import check_compiler, decoder_layers


@pytest.mark.parametrize(
    ("device", "variable", "compiler"), [("cpu", "CXX", "g++"), ("cuda", "CC", "gcc"), ("cuda", "CC", "clang")]
)
def test_a_missing_compiler_is_named(
    device: str, variable: str, compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(variable, raising=False)
    with pytest.raises(ValueError, match=r"learner\.torch_compile needs a compiler .*; install g(\+\+|cc), or set"):
        check_compiler(torch.device(device))
    (tmp_path / compiler).touch(mode=0o755)
    check_compiler(torch.device(device))
    monkeypatch.setenv(variable, "other")
    with pytest.raises(ValueError, match=f"{variable} = other is not there"):
        check_compiler(torch.device(device))


def test_a_model_without_layers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"learner\.torch_compile: Linear has no layers to compile"):
        decoder_layers(torch.nn.Linear(2, 2))
