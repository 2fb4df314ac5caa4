"""What the engine tests run in processes of their own, with random tiny models and sequences.

Module-level functions only, because `multiprocessing` spawn imports them by name.
"""

from __future__ import annotations

import json
import os
import pkgutil
import socket
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from learner.batching import TrainingSequence
from learner.settings import LearnerSettings
from tests.learner.partitioning import check_partitioned, partitioned_one_at_a_time
from tests.learner.plain_torch import (
    LORA,
    LOSS,
    TERMS,
    adapter_gradient,
    reference_gradient,
    reference_logprobs,
    terms_gradient,
)

VOCABULARY = 420


def settings(**changes: object) -> LearnerSettings:
    base = dict(learning_rate=1e-3, warmup_steps=3, weight_decay=0.1, tokens_per_micro_batch=32, threads=1)
    return LearnerSettings(**(base | changes))


def in_chunks(learner: LearnerSettings, positions: int) -> LearnerSettings:
    """The same settings with the logits of few positions at a time; less than the configuration allows."""

    class InChunks(LearnerSettings):
        @property
        def logits_chunk_bytes(self) -> int:
            return positions * 4 * VOCABULARY

    return InChunks(**learner.model_dump())


def make_model(directory: Path, *, tied: bool, dtype: torch.dtype = torch.float32, bias: bool = False) -> Path:
    """A random Llama with weights both above and below DeepSpeed's persistence threshold of 100,000
    elements.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=448,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        attention_bias=bias,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.05,
        attention_dropout=0.1,
    )
    LlamaForCausalLM(config).to(dtype).save_pretrained(directory)
    (directory / "tokenizer.json").write_text("{}")
    return directory


def make_sequences(count: int = 13, seed: int = 0) -> list[TrainingSequence]:
    rng = np.random.default_rng(seed)
    out = []
    for i in range(count):
        prompt, response = rng.integers(2, 9), rng.integers(1, 12)
        out.append(
            TrainingSequence(
                prompt_tokens=rng.integers(3, VOCABULARY, prompt).astype(np.int32),
                response_tokens=rng.integers(3, VOCABULARY, response).astype(np.int32),
                behaviour_logprobs=(-6 + rng.normal(0, 0.3, response)).astype(np.float32),
                advantage=0.0 if i == 4 else float(rng.normal()),
                fresh=i % 2 == 0,
            )
        )
    return out


def make_engine(path: Path, rank: int, world_size: int, port: int, learner: LearnerSettings, **changes: object):
    from learner.engine import Engine

    return Engine(
        path,
        learner=learner,
        rank=rank,
        world_size=world_size,
        master_port=port,
        timeout_s=60,
        **({"loss": LOSS} | changes),
    )


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def run_ranks(case: str, world_size: int, directory: Path, **arguments: object) -> None:
    """Run `case(rank, world_size, port, directory, **arguments)` in one process per rank.

    `case` is a function of this module, or "module:function".
    """
    import subprocess

    root = Path(__file__).resolve().parents[2]
    environment = os.environ | {
        "PYTHONPATH": f"{root}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        "OMP_NUM_THREADS": "1",
    }
    port = free_port()
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                __file__,
                case,
                str(rank),
                str(world_size),
                str(port),
                str(directory),
                json.dumps(arguments),
            ],
            cwd=root,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world_size)
    ]
    try:
        outputs = [p.communicate(timeout=240)[0] for p in processes]
    finally:
        for p in processes:
            if p.poll() is None:
                p.kill()
                p.wait()
    for rank, (p, output) in enumerate(zip(processes, outputs, strict=True)):
        assert p.returncode == 0, f"{case}: rank {rank} of {world_size} failed\n{output[-6000:]}"


# ---------------------------------------------------------------- cases


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


def check_gradient(
    engine, sequences: list[TrainingSequence], normaliser: float, expected: dict[str, torch.Tensor]
) -> None:
    """The gradient that the optimizer is about to apply, against the reference."""
    figures, norm = step_with_gradient(engine, sequences, normaliser, expected)
    assert abs(figures["optimizer/gradient_norm"] - norm) < 1e-4 * norm
    assert abs(figures["optimizer/learning_rate"] - 1e-3 / 3) < 1e-12
    assert figures["batch/sequences"] == len(sequences) - 1


def step_with_gradient(
    engine, sequences: list[TrainingSequence], normaliser: float, expected: dict[str, torch.Tensor]
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


def check_reference(engine, path: Path, sequences: list[TrainingSequence], temperature: float) -> None:
    """The reference is the initial model, and partitioned if the weights are."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    with torch.no_grad():
        for s, scored in zip(sequences, engine.score_reference(sequences), strict=True):
            np.testing.assert_allclose(scored, reference_logprobs(model, s, temperature).numpy(), atol=3e-5)
    if engine.learner.zero_stage == 3:
        check_partitioned(engine._reference.model, engine.world_size)


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
        check_stream(engine, moved, sequences, temperature)
        figures, _ = step_with_gradient(engine, sequences, 7.0, adapter_gradient(path, moved, sequences, temperature))
        assert figures["policy/kl_reference"] > 1e-6
        for before, reference in zip(base, engine.score_reference(sequences), strict=True):
            np.testing.assert_allclose(before, reference, atol=1e-6)
        if rank == 0:
            check_adapter_files(path, moved, update, sequences)
    engine.close()


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


def check_scores(engine, path: Path, sequences: list[TrainingSequence], temperature: float) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    with torch.no_grad():
        for s, scored in zip(sequences, engine.score(sequences), strict=True):
            np.testing.assert_allclose(scored, reference_logprobs(model, s, temperature).numpy(), atol=3e-5)


def check_skip(engine, sequences: list[TrainingSequence]) -> None:
    """No advantage anywhere: no step, although weight decay and momentum would move the weights."""
    from dataclasses import replace

    before = engine.score(sequences)
    figures = engine.train_step([replace(s, advantage=0.0) for s in sequences], 7.0, step=1)
    assert figures["optimizer/skipped"] == 1.0
    assert all((a == b).all() for a, b in zip(before, engine.score(sequences), strict=True))


def check_stream(engine, export: Path, sequences: list[TrainingSequence], temperature: float) -> None:
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


def resume(rank: int, world_size: int, port: int, directory: Path, *, cases: list[list]) -> None:
    """Four steps with a checkpoint in the middle, and a fresh engine that resumes from it: equal to the bit."""
    for stage, dtype, what in cases:
        path = directory / ("tied" if dtype == "float32" else "bfloat16")
        checkpoint = directory / f"checkpoint-{stage}-{world_size}-{dtype}-{what}"
        results = []
        lora = LORA.model_copy(update={"targets": "all-linear"}) if what == "adapters" else None
        learner = settings(zero_stage=stage, lora=lora)
        for resumed in (False, True):
            engine = make_engine(path, rank, world_size, port, learner, dtype=dtype)
            if resumed:
                assert engine.load(checkpoint) == {"cursor": 17, "note": "kept"}
            for step in range(2 if resumed else 0, 4):
                figures = engine.train_step(make_sequences(seed=step), 7.0, step)
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


def float32_sums(rank: int, world_size: int, port: int, directory: Path, *, stages: list[int]) -> None:
    """16 gradients, 1000 times as much, and 16 again: a bfloat16 sum would lose the last 16, whose step is 4 there."""
    tokens = np.arange(3, 15, dtype=np.int32)
    one = TrainingSequence(tokens[:5], tokens[5:], np.full(7, -6.0, np.float32), 1.0, fresh=True)
    for stage in stages:
        learner = settings(zero_stage=stage, tokens_per_micro_batch=16, learning_rate=1e-12, gradient_clip=0.0)
        engine = make_engine(directory / "bfloat16", rank, world_size, port, learner, dtype="bfloat16")
        norms = []
        for weights in ([1.0], [*[1.0] * 16, 1000.0, *[1.0] * 16]):
            figures = engine.accumulate([replace(one, advantage=weight) for weight in weights], 1.0, 0)
            assert figures["batch/micro_batches"] == len(weights)
            norms.append(engine.update(figures)["optimizer/gradient_norm"])
        np.testing.assert_allclose(norms[1], 1032 * norms[0], rtol=3e-3, err_msg=f"stage {stage}")
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


def fresh_weights(path: Path) -> list[tuple[str, torch.Tensor]]:
    from transformers import AutoModelForCausalLM

    return list(AutoModelForCausalLM.from_pretrained(path, dtype="auto").named_parameters())


def check_refusals(engine, checkpoint: Path, directory: Path) -> None:
    """A torn checkpoint, one of another ZeRO stage and one of other adapters are refused with the reason."""
    import pytest

    with pytest.raises(ValueError, match="no complete engine checkpoint"):
        engine.load(directory / "nothing-here")
    stage = engine.learner.zero_stage
    engine.learner = engine.learner.model_copy(update={"zero_stage": 3 - stage})
    with pytest.raises(ValueError, match="learner.zero_stage"):
        engine.load(checkpoint)
    engine.learner = engine.learner.model_copy(update={"zero_stage": stage, "lora": LORA})
    with pytest.raises(ValueError, match="learner.lora"):
        engine.load(checkpoint)


def supervised(rank: int, world_size: int, port: int, directory: Path) -> None:
    """Cross-entropy falls, at temperature 1 whatever the sampling temperature, and equals the plain
    computation.
    """
    from transformers import AutoModelForCausalLM

    path = directory / "untied"
    sequences = make_sequences()
    engine = make_engine(path, rank, world_size, port, settings(warmup_steps=0), temperature=0.5)
    first = engine.sft_step(sequences, 0)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = -torch.cat([reference_logprobs(model, s) for s in sequences]).mean().item()
    assert abs(first - expected) < 1e-4, (first, expected)
    for step in range(1, 5):
        last = engine.sft_step(sequences, step)
    assert last < first - 0.5
    engine.close()


if __name__ == "__main__":
    name, rank_, size_, port_, directory_, arguments_ = sys.argv[1:]
    run_case = pkgutil.resolve_name(name) if ":" in name else globals()[name]
    run_case(int(rank_), int(size_), int(port_), Path(directory_), **json.loads(arguments_))
