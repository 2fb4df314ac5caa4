"""Samplers that get adapters compute what the learner does, W x + (alpha / rank) B A x, and merge nothing."""

from __future__ import annotations

import asyncio
import copy
import itertools
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from actors.errors import InputLost
from actors.settings import BroadcastSettings
from actors.vllm_backend import adapters as vllm_adapters
from actors.weights import Destination, Published, buckets, nccl
from actors.weights.bucket_files import new_path
from actors.weights.ipc import IpcTransfer
from actors.weights.nccl import NcclTransfer
from actors.workers.sampler import SamplerError
from learner.backends.checkpoint_layout import CheckpointLayout
from learner.backends.lora import Adapters
from learner.settings import LoraSettings
from tests.actors.weights.bucket_writing import write_bucket
from tests.actors.weights.test_weight_update import PROMPT, TOLERANCE, assert_agrees, sample, start_sampling

pytestmark = pytest.mark.slow

# Parts of the layers that vLLM fuses, and a scale that is no power of two.
LORA = LoraSettings(rank=4, alpha=6, targets=("q_proj", "v_proj", "gate_proj", "down_proj"))
versions = itertools.count(1)


class Served(NamedTuple):
    """A sampler, the learner's model with adapters that nothing merges, and A and B by the names that are sent.

    initial: samples of the new engine.
    """

    sampler: Any
    model: torch.nn.Module
    factors: list[tuple[str, torch.Tensor]]
    initial: list[Any]


@pytest.fixture(scope="module", params=["llama-tied", "qwen2-biased"])
def served(request, start_sampler, run_async) -> Iterator[Served]:
    sampler, model = start_sampler(request.param, lora=LORA)
    layout = CheckpointLayout(model)
    factors = Adapters(model, LORA).factors(layout)
    yield Served(sampler, model, factors, run_async(sample(sampler, 1)))
    run_async(sampler.shutdown())


def perturb(served: Served) -> None:
    """As if the learner had trained for long: A and B get new values."""
    with torch.no_grad():
        for _, factor in served.factors:
            factor.copy_(0.1 * torch.randn_like(factor))


def halves(served: Served) -> list[list[tuple[str, torch.Tensor]]]:
    """Two buckets, with A and B of a layer in different ones."""
    return [served.factors[0::2], served.factors[1::2]]


async def update(served: Served) -> dict[str, Any]:
    manifests = [write_bucket(new_path("test"), half) for half in halves(served)]
    try:
        return await served.sampler.load_weights(next(versions), manifests)
    finally:
        buckets.unlink(manifests)


def test_before_the_first_update_the_sampler_is_the_model(served, run_async, reference_logprobs):
    base = copy.deepcopy(served.model)
    with torch.no_grad():
        for name, parameter in base.named_parameters():
            if "lora_B" in name:
                parameter.zero_()
    assert_agrees(served.initial, base, reference_logprobs, 0)


def test_an_update_replaces_the_adapter(served, run_async, reference_logprobs):
    stale = served.initial
    for _ in range(2):
        perturb(served)
        report = run_async(update(served))
        assert run_async(served.sampler.version()) == report["version"]
        size = sum(p.nbytes for _, p in served.factors)
        assert size <= report["nbytes"] < size + buckets.ALIGNMENT * len(served.factors)
        gaps = [abs(c.logprobs.sum() - reference_logprobs(served.model, PROMPT, c.tokens).sum()) for c in stale]
        assert max(gaps) > 100 * TOLERANCE, "the adapters are too alike"
        stale = run_async(sample(served.sampler, 2))
        assert_agrees(stale, served.model, reference_logprobs, report["version"])


def test_running_requests_continue_with_the_new_adapter(served, run_async, reference_logprobs):
    """Each token has the old policy's log-probability before the update and the new one's after it."""
    perturb(served)
    run_async(update(served))
    old = copy.deepcopy(served.model)
    perturb(served)

    async def update_while_sampling():
        first = await served.sampler.version()
        running = await start_sampling(served.sampler)
        report = await update(served)
        return first, report["version"], [c for group in await asyncio.gather(*running) for c in group]

    first, version, completions = run_async(update_while_sampling())
    crossed = [c for c in completions if list(dict.fromkeys(c.versions.tolist())) == [first, version]]
    assert crossed, "no request was running during the update: make the responses longer"
    gaps: list[float] = []
    for completion in crossed:
        by_old, by_new = (
            np.abs(reference_logprobs(m, PROMPT, completion.tokens) - completion.logprobs) for m in (old, served.model)
        )
        assert np.where(completion.versions == version, by_new, by_old).max() < TOLERANCE
        gaps.extend(np.abs(by_old - by_new))
    assert np.median(gaps) > 100 * TOLERANCE, "the two adapters are too alike to tell them apart"


def test_adapters_arrive_by_every_transfer(served, run_async, reference_logprobs, monkeypatch):
    """From another node; and as ipc and nccl send them, here through shared host memory and gloo."""
    sampler, here = served.sampler, Destination("node", "sampler 0")

    def check(version: int, *addressed: Any) -> None:
        run_async(sampler.load_weights(version, *addressed))
        assert_agrees(run_async(sample(sampler, 3)), served.model, reference_logprobs, version)

    perturb(served)
    manifest, data = buckets.pack(served.factors)
    check(next(versions), [manifest], data)

    before = torch.multiprocessing.get_sharing_strategy()
    torch.multiprocessing.set_sharing_strategy("file_system")
    perturb(served)
    by_ipc = IpcTransfer(BroadcastSettings(backend="ipc"), "test")
    payload = by_ipc.publish(halves(served), rank=0, here="node", receivers=[here])
    with monkeypatch.context() as patch:
        patch.setattr(sampler, "_transfer", by_ipc)
        check(next(versions), payload.manifests)
    by_ipc.release(payload)
    torch.multiprocessing.set_sharing_strategy(before)

    monkeypatch.setattr(nccl, "node_address", lambda: "127.0.0.1")
    by_nccl = NcclTransfer(BroadcastSettings(backend="nccl"), "test")
    monkeypatch.setattr(sampler, "_transfer", by_nccl)
    perturb(served)
    sent = by_nccl.publish(halves(served), rank=0, here="node", receivers=[here])
    version = next(versions)
    check(version, by_nccl.address(Published("node", version, sent), here)[0])

    kept = run_async(sample(sampler, 4))
    perturb(served)
    sent = by_nccl.publish(halves(served), rank=0, here="node", receivers=[here])
    manifests = by_nccl.address(Published("node", version + 1, sent), here)[0]
    manifests[1] |= {"checksum": 1 + manifests[1]["checksum"]}
    with pytest.raises(InputLost, match="damaged on the way"):
        run_async(sampler.load_weights(next(versions), manifests))
    by_nccl._end_thread("the test ends")
    assert not sampler._engine.updating, "half of an adapter changes nothing"
    for old, new in zip(kept, run_async(sample(sampler, 4)), strict=True):
        assert np.array_equal(old.tokens, new.tokens) and np.array_equal(old.logprobs, new.logprobs)
        assert set(new.versions) == {version}


def test_an_adapter_without_a_layer_is_refused(served, run_async):
    """The last test of the module, because it ends the engine."""
    bucket = write_bucket(new_path("test"), served.factors[1:])
    with pytest.raises(SamplerError, match=r"the update lacks model\.layers\.0\.self_attn\.q_proj\.lora_A\.weight"):
        run_async(served.sampler.load_weights(next(versions), [bucket]))
    buckets.unlink([bucket])


def test_layers_that_vllm_does_not_have_are_named_at_the_start() -> None:
    fused = {"layers.0.qkv": ["layers.0.q"]}
    models = SimpleNamespace(modules=dict.fromkeys(fused), packed_modules=fused, model=None)
    manager = SimpleNamespace(_adapter_manager=models)
    with pytest.raises(ValueError, match=r"vLLM cannot adapt layers\.0\.k, layers\.0\.o of this model"):
        vllm_adapters.prepare(manager, ["layers.0.q", "layers.0.k", "layers.0.o"], rank=4)
