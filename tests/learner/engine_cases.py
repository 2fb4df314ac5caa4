"""What the engine tests run in processes of their own (tests/learner/ranks.py), one function per test."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from learner.batching import TrainingSequence
from learner.schedule import Schedule
from tests.learner.engine_checks import (
    check_adapter_files,
    check_gradient,
    check_gradient_memory,
    check_reference,
    check_refusals,
    check_scores,
    check_sent_adapters,
    check_skip,
    check_sleep,
    check_stream,
    optimizer_states,
    step_with_gradient,
    watch_gradients,
)
from tests.learner.engine_setup import in_chunks, make_engine, make_sequences, settings
from tests.learner.partitioning import partitioned_one_at_a_time
from tests.learner.plain_torch import (
    LORA,
    TERMS,
    adapter_gradient,
    reference_gradient,
    reference_logprobs,
    terms_gradient,
)


def gradients_and_weights(rank: int, world_size: int, port: int, directory: Path, *, tied: bool) -> None:
    """At every ZeRO stage: gradients and scores equal plain torch, the stream equals a reloaded export.

    All stages share a process: starting one costs more than the stage itself.
    """
    temperature, normaliser = 0.8, 7.0
    path = directory / ("tied" if tied else "untied")
    sequences = make_sequences()
    expected = reference_gradient(path, sequences, normaliser, temperature)
    for stage in (0, 1, 2, 3):
        learner = settings(zero_stage=stage, activation_checkpointing=stage in (1, 3), packing=stage in (2, 3))
        learner = in_chunks(learner, 5) if stage else learner
        engine = make_engine(path, rank, world_size, port, learner, temperature=temperature)
        check_scores(engine, path, sequences, temperature)
        assert len(engine._batches(sequences)) > 2, "the case must span several micro-batches"
        check_gradient(engine, sequences, normaliser, expected)
        check_skip(engine, sequences)
        check_stream(engine, directory / f"export-{tied}-{stage}-{world_size}", sequences, temperature)
    engine.close()


def policy_terms(rank: int, world_size: int, port: int, directory: Path, *, stages: list[int]) -> None:
    """KL to the reference, entropy and the decoupled ratio: the gradient of all together equals plain torch."""
    path, sequences, temperature = directory / "untied", make_sequences(), 0.8
    for stage in stages:
        arguments = dict(loss=TERMS, reference=True, temperature=temperature)
        learner = in_chunks(settings(zero_stage=stage, packing=stage == 3), 7) if stage else settings()
        with partitioned_one_at_a_time(rank) if stage == 3 else nullcontext():
            engine = make_engine(path, rank, world_size, port, learner, **arguments)
        check_reference(engine, path, sequences, temperature)
        first = engine.train_step(sequences, 7.0, step=0)
        assert abs(first["policy/kl_reference"]) < 1e-6, "the run starts from the reference"
        assert first["batch/sequences"] == len(sequences), "KL and entropy want samples of zero advantage too"
        moved = directory / f"terms-{stage}-{world_size}"
        engine.export_huggingface(moved)
        figures, _ = step_with_gradient(engine, sequences, 7.0, terms_gradient(moved, path, sequences, temperature))
        assert figures["policy/kl_reference"] > 1e-6
        engine.refresh_reference()
        for now, reference in zip(engine.score(sequences), engine.score_reference(sequences), strict=True):
            np.testing.assert_allclose(now, reference, atol=3e-5)
        engine.save(moved / "checkpoint", {})
        again = make_engine(path, rank, world_size, port, learner, **arguments)
        again.load(moved / "checkpoint")
        for kept, loaded in zip(engine.score_reference(sequences), again.score_reference(sequences), strict=True):
            np.testing.assert_array_equal(kept, loaded)
    again.close()


def adapters(rank: int, world_size: int, port: int, directory: Path, *, stages: list[int]) -> None:
    """LoRA, also with logits in chunks and packed sequences: the gradient, the merged weights, the update and the
    reference equal plain torch without peft.
    """
    path, sequences, temperature = directory / "untied", make_sequences(), 0.8
    loss = TERMS.model_copy(update={"kl_refresh_every": 0})
    for stage in stages:
        learner = settings(
            zero_stage=stage, lora=LORA, activation_checkpointing=stage in (1, 3), packing=stage in (0, 3)
        )
        learner = in_chunks(learner, 5) if stage else learner
        engine = make_engine(path, rank, world_size, port, learner, loss=loss, reference=True, temperature=temperature)
        base = engine.score(sequences)
        first = engine.train_step(sequences, 7.0, step=0)
        assert abs(first["policy/kl_reference"]) < 1e-6, "B is 0 at first, so that the policy is the model"
        engine.train_step(sequences, 7.0, step=1)
        moved = directory / f"adapters-{stage}-{world_size}"
        engine.export_adapters(moved / "adapter")
        update = {name: tensor for bucket in engine.weight_buckets(300_000, partial=True) for name, tensor in bucket}
        buckets = [{name: p.clone() for name, p in bucket} for bucket in engine.adapter_buckets(10_000)]
        check_stream(engine, moved, sequences, temperature)
        figures, _ = step_with_gradient(engine, sequences, 7.0, adapter_gradient(path, moved, sequences, temperature))
        assert figures["policy/kl_reference"] > 1e-6
        for before, reference in zip(base, engine.score_reference(sequences), strict=True):
            np.testing.assert_allclose(before, reference, atol=1e-6)
        if rank == 0:
            check_adapter_files(path, moved, update, sequences)
            check_sent_adapters(moved, buckets)
    engine.close()


def resume(rank: int, world_size: int, port: int, directory: Path, *, cases: list[list]) -> None:
    """Four steps with a checkpoint in the middle, and a fresh engine that resumes from it: equal to the bit, with a
    learning rate that its schedule changes."""
    rising = Schedule(end=2e-3, over=4)
    for stage, dtype, what in cases:
        path = directory / ("tied" if dtype == "float32" else "bfloat16")
        checkpoint = directory / f"checkpoint-{stage}-{world_size}-{dtype}-{what}"
        results = []
        lora = LORA.model_copy(update={"targets": "all-linear"}) if what == "adapters" else None
        learner = settings(zero_stage=stage, lora=lora)
        for resumed in (False, True):
            engine = make_engine(path, rank, world_size, port, learner, dtype=dtype, rate_schedule=rising)
            if resumed:
                assert engine.load(checkpoint) == {"cursor": 17, "note": "kept"}
            for step in range(2 if resumed else 0, 4):
                figures = engine.train_step(make_sequences(seed=step), 7.0, step)
                rate = (1e-3 + 1e-3 * step / 4) * min((step + 1) / 3, 1)
                assert abs(figures["optimizer/learning_rate"] - rate) < 1e-12
                noise = torch.rand(3)
                if step == 1:
                    engine.save(checkpoint, {"cursor": 17, "note": "kept"})
            weights = [t for bucket in engine.weight_buckets(1 << 20) for _, t in bucket]
            results.append([*weights, noise, torch.tensor(figures["optimizer/gradient_norm"])])
        assert len(results[0]) == len(results[1])
        equal = [torch.equal(a, b) for a, b in zip(*results, strict=True)]
        assert all(equal), (stage, dtype, equal)
        if rank == 0:
            trained = {n for n, p in fresh_weights(path) if lora is None or n.endswith("_proj.weight")}
            moved = {n for (n, p), w in zip(fresh_weights(path), results[0], strict=False) if not torch.equal(p, w)}
            assert moved == trained, "training must have moved every weight that it trains"
            size = sum(file.stat().st_size for file in checkpoint.rglob("*") if file.is_file())
            assert lora is None or size < (path / "model.safetensors").stat().st_size / 2, (
                "the frozen weights are saved"
            )
        check_refusals(engine, checkpoint, directory)
    engine.close()


def float32_sums(rank: int, world_size: int, port: int, directory: Path, *, cases: list[list]) -> None:
    """Sums of gradients over micro-batches and ranks have no more than the rounding of float32.

    A micro-batch's own gradient is in bfloat16. Powers of two scale it exactly, so the sum has a known value, which
    bfloat16 cannot hold: 33 x 2^5 + 2^-6 times the gradient. The sums are all that is kept of the gradients, as the dry
    run counts them. Nothing is kept of a gradient that is not finite.
    """
    from deepspeed.utils import safe_get_full_grad

    tokens = np.arange(3, 15, dtype=np.int32)
    one = TrainingSequence(tokens[:5], tokens[5:], np.full(7, -6.0, np.float32), 1.0, fresh=True)
    many = [*[1.0] * 16, 1024.0, 0.015625, *[1.0] * 16]
    for stage, offload in cases:
        learner = settings(
            ranks=world_size,
            zero_stage=stage,
            offload=offload,
            tokens_per_micro_batch=16,
            learning_rate=1e-12,
            gradient_clip=0.0,
        )
        engine = make_engine(directory / "bfloat16", rank, world_size, port, learner, dtype="bfloat16")
        found, norms = [], []
        kept = watch_gradients(engine)
        for weights in ([1.0], many):
            kept.clear()
            figures = engine.accumulate([replace(one, advantage=weight) for weight in weights], 1.0, 0)
            assert figures["batch/micro_batches"] == -(-len(weights) // world_size)
            found.append({name: safe_get_full_grad(p).double() for name, p in engine._backend.parameters})
            norms.append(engine.update(figures)["optimizer/gradient_norm"])
        for name, gradient in found[0].items():
            assert torch.equal(gradient, gradient.bfloat16().double()), (stage, name, "one micro-batch")
            torch.testing.assert_close(
                found[1][name], gradient * sum(many), rtol=1e-6, atol=0.0, msg=lambda m, s=stage, n=name: f"{s} {n} {m}"
            )
        np.testing.assert_allclose(norms[1], sum(many) * norms[0], rtol=1e-5, err_msg=f"stage {stage}")
        check_gradient_memory(engine, kept)
        skipped = engine.train_step([replace(one, advantage=float("inf"))] * 2, 1.0, 0)
        again = engine.train_step([one], 1.0, 0)
        assert (skipped["optimizer/skipped"], again["optimizer/skipped"]) == (1.0, 0.0), (stage, offload)
        np.testing.assert_allclose(again["optimizer/gradient_norm"], norms[0], rtol=1e-5)
    engine.close()


def offloaded(rank: int, world_size: int, port: int, directory: Path, *, cases: list[list]) -> None:
    """Memory on the host changes where the update is computed, not what it is."""
    for stage, offload in cases:
        weights = []
        for where in ("none", offload):
            learner = settings(zero_stage=stage, offload=where)
            engine = make_engine(directory / "tied", rank, world_size, port, learner)
            for step in range(2):
                engine.train_step(make_sequences(seed=step), 7.0, step)
            weights.append([tensor for bucket in engine.weight_buckets(1 << 20) for _, tensor in bucket])
        for plain, moved in zip(*weights, strict=True):
            torch.testing.assert_close(moved, plain, atol=1e-6, rtol=1e-5)
    engine.close()


def sleeping(rank: int, world_size: int, port: int, directory: Path, *, cases: list[list]) -> None:
    """Four steps of an engine that never sleeps, of one that sleeps between them, and of one that continues from the
    checkpoint that the second wrote asleep: equal to the bit, weights as well as moments."""
    for dtype, what in cases:
        path = directory / ("tied" if dtype == "float32" else "bfloat16")
        checkpoint = directory / f"asleep-{world_size}-{dtype}-{what}"
        learner = settings(zero_stage=2, lora=LORA if what == "adapters" else None)
        results = []
        for kind in ("awake", "asleep", "continued"):
            engine = make_engine(path, rank, world_size, port, learner, dtype=dtype)
            if kind == "continued":
                engine.load(checkpoint)
            for step in range(2 if kind == "continued" else 0, 4):
                if kind != "awake":
                    check_sleep(engine)
                engine.train_step(make_sequences(seed=step), 7.0, step)
                if kind == "asleep" and step == 1:
                    engine.sleep()
                    engine.save(checkpoint, {})
                    engine.wake()
            weights = [tensor for bucket in engine.weight_buckets(1 << 20) for _, tensor in bucket]
            results.append([*weights, *optimizer_states(engine), torch.rand(3)])
        for others in results[1:]:
            assert len(others) == len(results[0]) > 4
            assert all(torch.equal(a, b) for a, b in zip(results[0], others, strict=True)), (dtype, what)
    engine.close()


def not_sleeping(rank: int, world_size: int, port: int, directory: Path, *, stage: int, dtype: str, error: str) -> None:
    engine = make_engine(directory / dtype, rank, world_size, port, settings(zero_stage=stage), dtype=dtype)
    with pytest.raises((AttributeError, AssertionError), match=error):
        engine.sleep()
    engine.close()


def sleeping_on_a_gpu(rank: int, world_size: int, port: int, directory: Path) -> None:
    """As :func:`check_sleep` says. Two runs are not compared: not all kernels on a GPU are deterministic."""
    engine = make_engine(
        directory / "bfloat16", rank, world_size, port, settings(zero_stage=2), dtype="bfloat16", device="cuda"
    )
    for step in range(3):
        check_sleep(engine)
        engine.train_step(make_sequences(seed=step), 7.0, step)
    check_sleep(engine)
    engine.close()


def supervised(rank: int, world_size: int, port: int, directory: Path) -> None:
    """Cross-entropy falls, at temperature 1 whatever the sampling temperature, and equals the plain computation."""
    from transformers import AutoModelForCausalLM

    path = directory / "untied"
    sequences = make_sequences()
    engine = make_engine(path, rank, world_size, port, settings(warmup_steps=0), temperature=0.5)
    rate = engine.learner.learning_rate
    first = engine.update(engine.accumulate_imitation(sequences, rate))["loss"]
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = -torch.cat([reference_logprobs(model, s) for s in sequences]).mean().item()
    assert abs(first - expected) < 1e-4, (first, expected)
    for _ in range(4):
        last = engine.update(engine.accumulate_imitation(sequences, rate))["loss"]
    assert last < first - 0.5
    engine.close()


def fresh_weights(path: Path) -> list[tuple[str, torch.Tensor]]:
    from transformers import AutoModelForCausalLM

    return list(AutoModelForCausalLM.from_pretrained(path, dtype="auto").named_parameters())
