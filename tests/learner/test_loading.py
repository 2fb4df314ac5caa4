"""A rank that receives the model has the model that rank 0 read; test_engine.py runs both with DeepSpeed."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from benchmarks.tiny_architectures import save_tiny_model
from learner.backends.checkpoint_layout import CheckpointLayout
from learner.backends.loading import allocate, load_on_rank_0

ARCHITECTURES = [
    *("Llama, tied", "Gemma 2", "GPT-2", "GPT-NeoX", "Falcon-H1", "Mamba 2"),
    *("Mixtral", "Qwen3-MoE", "DeepSeek-V3", "gpt-oss", "Gemma 3", "Qwen2.5-VL"),
]


class Wire:
    """A broadcast between two calls of one process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._sent = b""
        monkeypatch.setattr(dist, "broadcast_object_list", self._broadcast)

    def _broadcast(self, objects: list[Any]) -> None:
        if objects[0] is not None:
            self._sent = pickle.dumps(objects[0])
        else:
            objects[0] = pickle.loads(self._sent)


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    return Wire(monkeypatch)


def memory(model: torch.nn.Module) -> int:
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in model.parameters()}.values())


def parameters(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    return dict(model.named_parameters(remove_duplicate=False))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_receiving_rank_has_the_model_without_its_memory(architecture: str, wire: Wire, tmp_path: Path) -> None:
    save_tiny_model(architecture, tmp_path)
    torch.manual_seed(4)
    reader = load_on_rank_0(tmp_path, "bfloat16", 0, 2).eval()
    noise = torch.rand(3)
    torch.manual_seed(4)
    receiver = load_on_rank_0(tmp_path, "bfloat16", 1, 2).eval()
    assert torch.equal(noise, torch.rand(3)), "random numbers must be the same on every rank"

    assert memory(receiver) < 1000 < memory(reader)
    assert CheckpointLayout(receiver).metadata == CheckpointLayout(reader).metadata
    assert receiver.dropped_weights == reader.dropped_weights
    allocate(receiver.parameters(), torch.device("cpu"))
    with torch.no_grad():
        for mine, other in zip(receiver.parameters(), reader.parameters(), strict=True):
            assert mine.is_contiguous() and mine.requires_grad
            mine.copy_(other)
        tokens = torch.arange(3, 40).unsqueeze(0)
        assert torch.equal(receiver(input_ids=tokens).logits, reader(input_ids=tokens).logits)


def test_weights_are_tied_as_their_values_say(wire: Wire, tmp_path: Path) -> None:
    """transformers ties an embedding and a head that are both in the files if they are equal."""
    save_tiny_model("Llama, tied", tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    for head, tied in ((stored["model.embed_tokens.weight"].clone(), True), (torch.zeros(96, 128), False)):
        save_file(stored | {"lm_head.weight": head}, tmp_path / "model.safetensors", metadata={"format": "pt"})
        for rank in (0, 1):
            found = parameters(load_on_rank_0(tmp_path, "float32", rank, 2))
            assert (found["lm_head.weight"] is found["model.embed_tokens.weight"]) == tied, f"rank {rank}"


def test_only_placeholder_parameters_are_allocated(wire: Wire, tmp_path: Path) -> None:
    save_tiny_model("Llama, tied", tmp_path)
    reader = load_on_rank_0(tmp_path, "float32", 0, 2)
    before = {name: p.data_ptr() for name, p in parameters(reader).items()}
    allocate(reader.parameters(), torch.device("cpu"))
    assert before == {name: p.data_ptr() for name, p in parameters(reader).items()}
    receiver = load_on_rank_0(tmp_path, "float32", 1, 2)
    allocate(receiver.parameters(), torch.device("cpu"))
    assert memory(receiver) == memory(reader) == sum(p.nbytes for p in reader.parameters())


def test_other_files_on_another_node_are_refused(wire: Wire, tmp_path: Path) -> None:
    save_tiny_model("Llama, tied", tmp_path / "a")
    save_tiny_model("Qwen2", tmp_path / "b")
    load_on_rank_0(tmp_path / "a", "float32", 0, 2)
    with pytest.raises(RuntimeError, match=r"learner rank 3: .*k_proj\.bias than on rank 0 .*none.*same files"):
        load_on_rank_0(tmp_path / "b", "float32", 3, 4)


def test_a_single_rank_reads_the_model_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(dist, "broadcast_object_list", lambda _: pytest.fail("there is no other rank"))
    save_tiny_model("Llama, tied", tmp_path)
    model = load_on_rank_0(tmp_path, "float32", 0, 1)
    assert memory(model) == sum(p.nbytes for p in model.parameters())
