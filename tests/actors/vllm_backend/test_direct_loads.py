"""Updates that make the copies of a model's loaders again give the weights that the loaders give."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch

from actors.vllm_backend import direct_loads
from actors.vllm_backend.direct_loads import DirectLoads
from actors.weights import buckets
from actors.weights.base import NamedTensor
from benchmarks.tiny_architectures import save_tiny_model

MERGED = "llama-tied", "llama-untied", "qwen2-biased"  # q, k and v are one parameter, and gate and up
OTHERS = "DeepSeek-V2", "Mamba 2"  # layers whose kernels want another form, and loaders that compute


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, make_model: Any) -> dict[str, dict[str, Any]]:
    directory = tmp_path_factory.mktemp("direct") / "models"
    for name in MERGED:
        make_model(name, directory / name)
    for name in OTHERS:
        save_tiny_model(name, directory / name)
    command = [sys.executable, "-m", "tests.actors.vllm_backend.direct_load_cases", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"model"')]
    return {row["model"]: row for row in rows}


@pytest.mark.slow
@pytest.mark.parametrize("name", MERGED)
def test_copies_are_repeated_and_give_what_the_loaders_give(name: str, found: dict[str, dict[str, Any]]) -> None:
    assert found[name]["direct"] == [False, True, True, True, True]
    assert found[name]["equal"] == [True] * 5, "also after the memory was discarded"
    assert found[name]["calls"] == 4, "the loaders ran for the two buckets of the reload, and of the recorded update"


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_other_models_take_the_reload(name: str, found: dict[str, dict[str, Any]]) -> None:
    assert not found[name]["direct"][2] and not any(found[name]["direct"][3:])
    assert found[name]["equal"] == [True] * 5


class Model(torch.nn.Module):
    """Two parameters of three rows; `load` is called with each tensor."""

    def __init__(self, load: Callable[[Model, str, torch.Tensor], None]) -> None:
        super().__init__()
        self.a, self.b = (torch.nn.Parameter(torch.zeros(3, 2), requires_grad=False) for _ in range(2))
        self._load = load

    def load_weights(self, tensors: Iterable[NamedTensor]) -> None:
        for name, tensor in tensors:
            self._load(self, name, tensor)


def plain(model: Model, name: str, tensor: torch.Tensor) -> None:
    parameter = getattr(model, name)
    parameter.data[:2].copy_(tensor)
    parameter.data[2:].fill_(7.0)


def computed(model: Model, name: str, tensor: torch.Tensor) -> None:
    getattr(model, name).data[:2].copy_(-tensor)


def by_value(model: Model, name: str, tensor: torch.Tensor) -> None:
    getattr(model, name).data[:2].fill_(tensor[0, 0].item())


def swapped(model: Model, name: str, tensor: torch.Tensor) -> None:
    getattr(model, name).data[:2].copy_(tensor.flip(0))


def twice(model: Model, name: str, tensor: torch.Tensor) -> None:
    model.a.data[:2].copy_(tensor)


def with_gaps(model: Model, name: str, tensor: torch.Tensor) -> None:
    getattr(model, name).data[:2, :1].copy_(tensor[:, 1:])


def update(direct: DirectLoads, model: Model, value: float, *, complete: bool = True) -> bool:
    """One update with `value` and a different one for b; whether it was direct."""
    part = [("a", torch.full((2, 2), value)), ("b", torch.full((2, 2), value + 1))]
    manifest, flat = buckets.flatten(part)
    if direct.begin([manifest]):
        direct.load(buckets.views(manifest, flat))
        direct.finish(complete=complete)
        return True
    model.load_weights(part)
    direct.reloaded([manifest])
    return False


@pytest.fixture
def make_direct(monkeypatch: pytest.MonkeyPatch) -> Callable[[Model], DirectLoads]:
    monkeypatch.setattr(direct_loads, "has_only_plain_layers", lambda model: True)
    return DirectLoads


def test_copies_and_padding_are_repeated(make_direct: Callable[[Model], DirectLoads]) -> None:
    model = Model(plain)
    direct = make_direct(model)
    assert [update(direct, model, value) for value in (1.0, 2.0)] == [False, True]
    model._load = by_value  # must not be called any more
    model.a.fill_(torch.nan)
    assert update(direct, model, 3.0)
    assert model.a.tolist() == [[3.0] * 2] * 2 + [[7.0] * 2] and model.b.tolist()[0] == [4.0] * 2


@pytest.mark.parametrize("load", [computed, by_value, swapped, twice, with_gaps])
def test_what_is_no_copy_is_not_repeated(load: Any, make_direct: Callable[[Model], DirectLoads]) -> None:
    model = Model(load)
    direct = make_direct(model)
    assert [update(direct, model, value) for value in (1.0, 2.0, 3.0)] == [False, True, False]


def test_an_update_that_stopped_arriving_is_not_repeated(make_direct: Callable[[Model], DirectLoads]) -> None:
    model = Model(plain)
    direct = make_direct(model)
    update(direct, model, 1.0)
    update(direct, model, 2.0, complete=False)
    model._load = computed  # which the next update would not notice if it repeated copies
    update(direct, model, 3.0)
    assert model.a[0].tolist() == [-3.0] * 2


def test_an_update_with_other_tensors_takes_the_reload(make_direct: Callable[[Model], DirectLoads]) -> None:
    model = Model(plain)
    direct = make_direct(model)
    for value in (1.0, 2.0, 3.0):
        update(direct, model, value)
    only_a, flat = buckets.flatten([("a", torch.zeros(2, 2))])
    assert not direct.begin([only_a])
    direct.reloaded([only_a])
    assert direct.begin([only_a])
    direct.load(buckets.views(only_a, flat))
    direct.finish(complete=True)
    assert model.b[0].tolist() == [4.0] * 2 and model.a[0].tolist() == [0.0] * 2
    assert not update(direct, model, 5.0)
