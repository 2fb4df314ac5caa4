"""What an engine must do, against plain torch and against what it writes."""

from __future__ import annotations

from dataclasses import replace
from math import isfinite
from pathlib import Path

import numpy as np
import pytest
import torch

from cluster.checks.memory.gradients import gradient_memory
from learner.batching import TrainingSequence
from learner.engine import Engine
from tests.learner.partitioning import check_partitioned
from tests.learner.plain_torch import LORA, reference_logprobs


def check_scores(engine: Engine, path: Path, sequences: list[TrainingSequence], temperature: float) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    with torch.no_grad():
        for s, scored in zip(sequences, engine.score(sequences), strict=True):
            np.testing.assert_allclose(scored, reference_logprobs(model, s, temperature).numpy(), atol=3e-5)


def check_gradient(
    engine: Engine, sequences: list[TrainingSequence], normaliser: float, expected: dict[str, torch.Tensor]
) -> None:
    """The gradient that the optimizer is about to apply, against the reference."""
    figures, norm = step_with_gradient(engine, sequences, normaliser, expected)
    assert abs(figures["optimizer/gradient_norm"] - norm) < 1e-4 * norm
    assert abs(figures["optimizer/learning_rate"] - 1e-3 / 3) < 1e-12
    assert figures["batch/sequences"] == len(sequences) - 1


def step_with_gradient(
    engine: Engine, sequences: list[TrainingSequence], normaliser: float, expected: dict[str, torch.Tensor]
) -> tuple[dict[str, float], float]:
    """One step; the gradient it applies must be `expected`. Returns the step's figures and the gradient's norm.

    Scoring between the two halves of the step, as the comparison with the samplers does, leaves the gradient alone.
    """
    from deepspeed.utils import safe_get_full_grad

    seen: dict[str, torch.Tensor] = {}
    apply = engine._backend.apply

    def capture() -> float:
        seen.update({name: safe_get_full_grad(p).clone() for name, p in engine._backend.parameters})
        return apply()

    engine._backend.apply = capture
    before = engine.score(sequences)
    accumulated = engine.accumulate(sequences, normaliser, step=0)
    for old, new in zip(before, engine.score(sequences), strict=True):
        np.testing.assert_array_equal(old, new)
    figures = engine.update(accumulated)
    engine._backend.apply = apply
    assert seen.keys() == expected.keys()
    norm = torch.stack([g.norm() for g in expected.values()]).norm().item()
    error = max((seen[name] - gradient).abs().max().item() for name, gradient in expected.items())
    print(f"stage {engine.learner.zero_stage}: gradient error {error:.1e}, norm {norm:.3g}")
    assert error < 1e-6 * norm
    return figures, norm


def watch_gradients(engine: Engine) -> list[int]:
    """A list that gets the bytes of gradients on the device, after each micro-batch."""
    found: list[int] = []
    backward = engine._backend.backward

    def watched(loss: torch.Tensor) -> None:
        backward(loss)
        found.append(_gradient_bytes(engine))

    engine._backend.backward = watched
    return found


def check_gradient_memory(engine: Engine, after_micro_batches: list[int]) -> None:
    """What DeepSpeed keeps of bfloat16 gradients in and after a step, against the estimate of the dry run."""
    learner = engine.learner
    sizes = [getattr(p, "ds_numel", p.numel()) for _, p in engine._backend.parameters]
    expected = gradient_memory(learner, "bfloat16", sum(sizes), max(sizes))
    *before, last = after_micro_batches
    if learner.zero_stage == 1 and learner.offload == "optimizer" and engine.world_size == 1:
        last += max(before) - expected.held  # they are copied, and only then freed: both were there at once
    tolerance = 0.01 * 4 * sum(sizes)
    assert abs(max(*before, last) - expected.held - expected.step) < tolerance, (
        learner.zero_stage,
        expected,
        before[-1],
        last,
    )
    assert abs(_gradient_bytes(engine) - expected.held) < tolerance, (learner.zero_stage, expected)


def _gradient_bytes(engine: Engine) -> int:
    """Bytes of gradients that DeepSpeed keeps, except for those in its communication buffers and on the host."""
    optimizer = engine._backend._optimizer
    parameters = [p for _, p in engine._backend.parameters]
    tensors = [p.grad for p in parameters] + [getattr(p, "grad_accum", None) for p in parameters]
    tensors += getattr(optimizer, "fp32_groups_gradients_flat", [])  # stage 1
    partitions = [] if engine.learner.zero_stage == 3 else getattr(optimizer, "averaged_gradients", {}).values()
    tensors += [group.flat_partition for group in partitions if group is not None]  # stage 2
    tensors.append(getattr(optimizer, "temp_grad_buffer_for_gpu_offload", None))
    if engine.learner.offload == "none":
        tensors.append(getattr(optimizer, "grad_partitions_flat_buffer", None))  # stage 3
    buffers = [buffer for bucket in getattr(optimizer, "ipg_buckets", {}).values() for buffer in _buffers(bucket)]
    shared = {buffer.untyped_storage().data_ptr() for buffer in buffers}
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if t is not None}
    return sum(size for pointer, size in storages.items() if pointer not in shared)


def _buffers(bucket: object) -> list[torch.Tensor]:
    buffer = getattr(bucket, "buffer", None)
    return [] if buffer is None else [buffer] if torch.is_tensor(buffer) else [b for b in buffer if b is not None]


def check_skip(engine: Engine, sequences: list[TrainingSequence]) -> None:
    """No advantage anywhere, or a gradient that is not finite: no step, although weight decay and momentum would move
    the weights."""
    before = engine.score(sequences)
    infinite = [replace(sequences[0], advantage=float("inf")), *sequences[1:]]
    for skipped in ([replace(s, advantage=0.0) for s in sequences], infinite):
        figures = engine.train_step(skipped, 7.0, step=1)
        assert figures["optimizer/skipped"] == 1.0
        assert all((a == b).all() for a, b in zip(before, engine.score(sequences), strict=True))
    assert not isfinite(figures["optimizer/gradient_norm"])


def check_sleep(engine: Engine) -> None:
    """States come back as they were, and what is published meanwhile is what it was before. On a GPU 12 bytes for each
    weight are freed. On a CPU DeepSpeed copies the float32 weights, and leaves the moments where they are."""
    on_gpu, optimizer = engine.device.type == "cuda", engine._backend._optimizer
    before = [state.clone() for state in optimizer_states(engine)]
    published = [tensor for bucket in engine.weight_buckets(1 << 20) for _, tensor in bucket]
    held = [weights.data_ptr() for weights in optimizer.single_partition_of_fp32_groups]
    used = torch.cuda.memory_allocated() if on_gpu else 0
    engine.sleep()
    assert {state.device.type for state in optimizer_states(engine)} == {"cpu"}
    assert held != [weights.data_ptr() for weights in optimizer.single_partition_of_fp32_groups]
    if on_gpu:
        freed = sum(state.nbytes for state in before if state.numel() > 1)
        assert abs(used - torch.cuda.memory_allocated() - freed) < 0.02 * freed
    asleep = [tensor for bucket in engine.weight_buckets(1 << 20) for _, tensor in bucket]
    assert all(torch.equal(a, b) for a, b in zip(published, asleep, strict=True))
    engine.wake()
    after = optimizer_states(engine)
    assert {state.device.type for state in after} == {engine.device.type}
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def optimizer_states(engine: Engine) -> list[torch.Tensor]:
    """The rank's float32 weights at ZeRO 2, its moments and the numbers of their updates."""
    optimizer = engine._backend._optimizer
    states = [t for state in optimizer.optimizer.state.values() for _, t in sorted(state.items())]
    return [*(weights.detach() for weights in optimizer.single_partition_of_fp32_groups), *states]


def check_stream(engine: Engine, export: Path, sequences: list[TrainingSequence], temperature: float) -> None:
    """Every weight is in the stream, once, within the bucket size, and the export scores like the engine."""
    from transformers import AutoModelForCausalLM

    buckets = list(engine.weight_buckets(300_000))
    engine.export_huggingface(export)
    scores = engine.score(sequences)
    if engine.rank:
        assert not any(buckets)
        return
    stream = {name: tensor for bucket in buckets for name, tensor in bucket}
    assert [(n, t.dtype, tuple(t.shape)) for n, t in stream.items()] == engine.weight_metadata()
    assert len(buckets) > 3
    assert all(len(b) == 1 or sum(t.nbytes for _, t in b) <= 300_000 for b in buckets)
    model = AutoModelForCausalLM.from_pretrained(export, dtype=torch.float32).eval()
    assert stream.keys() == dict(model.named_parameters()).keys()
    assert ("lm_head.weight" in stream) != model.config.tie_word_embeddings
    for name, p in model.named_parameters():
        assert torch.equal(p, stream[name]), name
    with torch.no_grad():
        for s, scored in zip(sequences, scores, strict=True):
            np.testing.assert_allclose(scored, reference_logprobs(model, s, temperature).numpy(), atol=3e-5)
    assert (export / "tokenizer.json").read_text() == "{}"


def check_reference(engine: Engine, path: Path, sequences: list[TrainingSequence], temperature: float) -> None:
    """The reference is the initial model, and partitioned if the weights are."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    with torch.no_grad():
        for s, scored in zip(sequences, engine.score_reference(sequences), strict=True):
            np.testing.assert_allclose(scored, reference_logprobs(model, s, temperature).numpy(), atol=3e-5)
    if engine.learner.zero_stage == 3:
        check_partitioned(engine._reference.model, engine.world_size)


def check_adapter_files(
    path: Path, moved: Path, update: dict[str, torch.Tensor], sequences: list[TrainingSequence]
) -> None:
    """The update holds what adapters change and what is fused with it; peft reads the adapters as the same policy."""
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    initial, merged = load_file(path / "model.safetensors"), load_file(moved / "model.safetensors")
    changed = {name for name in initial if not torch.equal(initial[name], merged[name])}
    assert changed == {n for n in initial if n.endswith(tuple(f"{t}.weight" for t in LORA.targets))}
    assert changed <= update.keys() and all(torch.equal(update[name], merged[name]) for name in update)
    rest = {n for n in initial if n.split(".")[0] == "lm_head" or "norm" in n or "embed" in n}
    assert update.keys() == initial.keys() - rest, "attention and feed-forward layers, whose parts engines fuse"
    model = AutoModelForCausalLM.from_pretrained(moved, dtype=torch.float32).eval()
    base = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(base, moved / "adapter").eval()
    with torch.no_grad():
        for s in sequences:
            torch.testing.assert_close(reference_logprobs(adapted, s), reference_logprobs(model, s), atol=3e-5, rtol=0)


def check_sent_adapters(moved: Path, buckets: list[dict[str, torch.Tensor]]) -> None:
    """The buckets hold what peft's file does, each tensor once."""
    from safetensors.torch import load_file

    saved = load_file(moved / "adapter" / "adapter_model.safetensors")
    sent = {f"base_model.model.{name}": tensor for bucket in buckets for name, tensor in bucket.items()}
    assert len(buckets) > 1 and sum(map(len, buckets)) == len(saved)
    assert sent.keys() == saved.keys() and all(torch.equal(sent[name], saved[name]) for name in saved)
    assert any(tensor.any() for name, tensor in sent.items() if ".lora_B." in name), "training has moved B"


def check_refusals(engine: Engine, checkpoint: Path, directory: Path) -> None:
    """A torn checkpoint, one of another ZeRO stage and one of other adapters are refused with the reason."""
    with pytest.raises(ValueError, match="no complete engine checkpoint"):
        engine.load(directory / "nothing-here")
    stage = engine.learner.zero_stage
    engine.learner = engine.learner.model_copy(update={"zero_stage": 3 - stage})
    with pytest.raises(ValueError, match="learner.zero_stage"):
        engine.load(checkpoint)
    engine.learner = engine.learner.model_copy(update={"zero_stage": stage, "lora": LORA})
    with pytest.raises(ValueError, match="learner.lora"):
        engine.load(checkpoint)
