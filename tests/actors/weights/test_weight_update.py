"""After a weight update the sampler is the new model: each kind of weight, tied, untied and with biases.

It pins a silent corruption: on CPUs vLLM multiplies with packed copies of weights, and a tied output head
used to keep the copy of the old embedding.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.errors import InputLost
from actors.sampling import Sampling
from actors.settings import BroadcastSettings
from actors.weights import Destination, Published, buckets, make_transfer, nccl
from actors.weights.bucket_files import new_path
from actors.weights.ipc import IpcTransfer
from actors.weights.nccl import NcclPayload, NcclTransfer
from tests.actors.weights.bucket_writing import write_bucket

pytestmark = pytest.mark.slow

KINDS = {
    "embedding": ["embed_tokens"],
    "norm": ["norm"],
    "attention": ["q_proj.weight", "k_proj.weight", "v_proj.weight", "o_proj.weight"],
    "mlp": ["gate_proj", "up_proj", "down_proj"],
    "head": ["lm_head"],
    "bias": ["bias"],
    "all": [""],
}
PROMPT = [0, 7, 21, 33, 5]
TOLERANCE = 3e-4
"""Nats, of a token and of a whole sequence. A stale tensor shows a hundred times as much, as is asserted below."""
INITIAL: dict[int, dict[str, torch.Tensor]] = {}  # by id of the model: its parameters before any perturbation
versions = itertools.count(1)


@pytest.fixture(scope="module", params=["llama-tied", "llama-untied", "qwen2-biased"])
def served(request, start_sampler, run_async) -> Iterator[tuple]:
    sampler, model = start_sampler(request.param)
    torch.manual_seed(0)
    INITIAL[id(model)] = {name: p.detach().clone() for name, p in model.named_parameters()}
    yield sampler, model
    run_async(sampler.shutdown())


def perturb(model: torch.nn.Module, patterns: list[str]) -> int:
    """Give the parameters whose names hold one of `patterns` new values; returns how many there are.

    The others go back to their initial values: perturbations that pile up make a model whose float32 noise alone
    is above the tolerance.
    """
    changed = 0
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(INITIAL[id(model)][name])
            if any(pattern in name for pattern in patterns):
                parameter.add_(0.2 * torch.randn_like(parameter))
                changed += 1
    return changed


def in_buckets(model: torch.nn.Module, count: int, part: str = "") -> list[buckets.Manifest]:
    """The model's weights in `count` shared-memory buckets, fused layers' tensors in different ones."""
    tensors = [(name, p) for name, p in model.named_parameters() if part in name]
    parts = [tensors[i::count] for i in range(count)]
    return [write_bucket(new_path("test"), part) for part in parts]


async def update(sampler, model: torch.nn.Module, count: int = 3) -> dict:
    manifests = in_buckets(model, count)
    try:
        return await sampler.load_weights(next(versions), manifests)
    finally:
        buckets.unlink(manifests)


async def sample(sampler, seed: int, max_tokens: int = 24):
    return await sampler.sample(PROMPT, 8, Sampling(), max_tokens, seed, f"request-{seed}")


async def start_sampling(sampler) -> list[asyncio.Task]:
    """Four requests, of which the engine has computed a token when this returns."""
    sampler._engine.load()
    requests = [asyncio.create_task(sample(sampler, 100 + i, max_tokens=160)) for i in range(4)]
    async with asyncio.timeout(20):
        while not sampler._engine.load().running:
            await asyncio.sleep(0.005)
    return requests


def assert_agrees(completions, model, reference_logprobs, version: int) -> None:
    for completion in completions:
        expected = reference_logprobs(model, PROMPT, completion.tokens)
        assert abs(completion.logprobs.sum(dtype=np.float64) - expected.sum()) < TOLERANCE
        np.testing.assert_allclose(completion.logprobs, expected, atol=TOLERANCE)
        assert set(completion.versions) == {version}


def test_an_update_of_adapted_layers_keeps_the_others(served, run_async, reference_logprobs):
    """As under LoRA a sampler that replaces another gets it: a new engine with the weights of its files.

    The first test of the module, so that it finds a new engine.
    """
    sampler, model = served
    if run_async(sampler.version()):  # the tests were ordered in another way
        perturb(model, [])
        run_async(update(sampler, model))
    for _ in range(2):
        with torch.random.fork_rng():  # the other tests draw the same weights with this one and without it
            perturb(model, KINDS["attention"])
        manifests = [manifest | {"partial": True} for manifest in in_buckets(model, 2, "self_attn")]
        report = run_async(sampler.load_weights(next(versions), manifests))
        buckets.unlink(manifests)
        assert report["nbytes"] < 0.7 * sum(p.numel() * 4 for p in model.parameters())
        assert_agrees(run_async(sample(sampler, 7)), model, reference_logprobs, report["version"])


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_weight_arrives(served, kind, run_async, reference_logprobs):
    sampler, model = served
    before = run_async(sample(sampler, 1))
    if perturb(model, KINDS[kind]) == 0:
        assert kind in ("head", "bias")
        pytest.skip(f"this architecture has no {kind} of its own")
    report = run_async(update(sampler, model))
    after = run_async(sample(sampler, 2))
    assert_agrees(after, model, reference_logprobs, report["version"])
    assert run_async(sampler.version()) == report["version"]
    assert report["nbytes"] >= sum(p.numel() * 4 for p in model.parameters())
    # the perturbation was large enough to distinguish the models
    stale = [abs(c.logprobs.sum() - reference_logprobs(model, PROMPT, c.tokens).sum()) for c in before]
    assert max(stale) > 100 * TOLERANCE


def test_the_engine_keeps_no_view_of_the_files(served, run_async, reference_logprobs):
    """The learner writes the next version to the same files while the engine samples."""
    sampler, model = served
    perturb(model, KINDS["all"])
    transfer, here = make_transfer(BroadcastSettings(), "test"), Destination("node")
    tensors, version = list(model.named_parameters()), next(versions)
    payload = transfer.publish([tensors[0::2], tensors[1::2]], rank=0, here="node", receivers=[here])
    run_async(sampler.load_weights(version, *transfer.address(Published("node", version, payload), here)))
    zeros = [(name, torch.zeros_like(p)) for name, p in tensors]
    again = transfer.publish([zeros[0::2], zeros[1::2]], rank=0, here="node", receivers=[here])
    assert [m["path"] for m in again.manifests] == [m["path"] for m in payload.manifests]
    assert_agrees(run_async(sample(sampler, 3)), model, reference_logprobs, version)


def test_weights_on_a_shared_card_arrive(served, run_async, reference_logprobs, monkeypatch):
    """As `broadcast.backend: ipc` sends them; here the buckets are in shared host memory instead of a card's."""
    sampler, model = served
    monkeypatch.setattr(sampler, "_transfer", IpcTransfer(BroadcastSettings(backend="ipc"), "test"))
    before = torch.multiprocessing.get_sharing_strategy()
    torch.multiprocessing.set_sharing_strategy("file_system")
    perturb(model, KINDS["all"])
    tensors = list(model.named_parameters())
    payload = sampler._transfer.publish(
        [tensors[0::2], tensors[1::2]], rank=0, here="node", receivers=[Destination("node")]
    )
    report = run_async(sampler.load_weights(next(versions), payload.manifests))
    sampler._transfer.release(payload)
    torch.multiprocessing.set_sharing_strategy(before)
    assert_agrees(run_async(sample(sampler, 3)), model, reference_logprobs, report["version"])


@pytest.fixture
def transfer(served, monkeypatch) -> Iterator[NcclTransfer]:
    """The transfer of a learner with the same weights; gloo connects its process with the engine's."""
    monkeypatch.setattr(nccl, "node_address", lambda: "127.0.0.1")
    made = NcclTransfer(BroadcastSettings(backend="nccl"), "test")
    monkeypatch.setattr(served[0], "_transfer", made)
    yield made
    made._end_thread("the test ends")


def broadcast(transfer: NcclTransfer, model: torch.nn.Module, *others: Destination) -> tuple[NcclPayload, list[dict]]:
    """Publish `model`; returns what is published and the manifests for the sampler."""
    tensors, sampler = list(model.named_parameters()), Destination("node", "sampler 0")
    parts = [tensors[0::2], tensors[1::2]]
    payload = transfer.publish(parts, rank=0, here="node", receivers=[sampler, *others])
    return payload, transfer.address(Published("node", 1, payload), sampler)[0]


def test_broadcast_weights_arrive(served, transfer, run_async, reference_logprobs):
    sampler, model = served
    places = set()
    for _ in range(2):
        perturb(model, KINDS["all"])
        payload, manifests = broadcast(transfer, model)
        report = run_async(sampler.load_weights(next(versions), manifests))
        transfer.release(payload)
        places.add(payload.place)
        assert_agrees(run_async(sample(sampler, 3)), model, reference_logprobs, report["version"])
    assert len(places) == 1, "the group is kept"


def test_weights_that_stop_arriving_before_the_first_change_nothing(served, transfer, run_async):
    """Another sampler of the update dies; this one keeps its weights and continues."""
    sampler, model = served
    version, before = run_async(sampler.version()), run_async(sample(sampler, 5))
    perturb(model, KINDS["all"])
    payload, manifests = broadcast(transfer, model, Destination("node", "dead"))

    async def update():
        loading = asyncio.create_task(sampler.load_weights(next(versions), manifests))
        await asyncio.sleep(0.5)
        assert sampler._engine.updating
        await asyncio.to_thread(transfer.release, payload)
        with pytest.raises(InputLost, match=r"sampler 0 did not get all weights .* learner rank 0 gave the update up"):
            await asyncio.wait_for(loading, 20)

    run_async(update())
    assert not sampler._engine.updating and run_async(sampler.version()) == version
    for old, new in zip(before, run_async(sample(sampler, 5)), strict=True):
        assert np.array_equal(old.tokens, new.tokens) and np.array_equal(old.logprobs, new.logprobs)


def test_weights_that_stop_arriving_in_the_middle_are_sent_again(served, transfer, run_async, reference_logprobs):
    """No token is sampled from weights of two versions, and nothing of the first attempt is left in the engine."""
    sampler, model = served
    perturb(model, KINDS["all"])
    _, manifests = broadcast(transfer, model)
    manifests[1] |= {"checksum": 1 + manifests[1]["checksum"]}
    perturb(model, KINDS["all"])
    version = next(versions)

    async def update():
        with pytest.raises(InputLost, match="damaged on the way"):
            await sampler.load_weights(version, manifests)
        await sampler.check()
        assert sampler._engine.updating
        waiting = asyncio.create_task(sample(sampler, 6))
        await asyncio.sleep(0.5)
        assert not waiting.done()
        await sampler.load_weights(version, broadcast(transfer, model)[1])
        return await waiting

    assert_agrees(run_async(update()), model, reference_logprobs, version)


def test_running_requests_continue_with_the_new_weights(served, run_async, reference_logprobs):
    """Each token has the old model's log-probability before the update and the new one's after it."""
    sampler, model = served
    old = type(model)(model.config)
    old.load_state_dict(model.state_dict())
    old.eval()

    perturb(model, KINDS["all"])
    manifests = in_buckets(model, 3)  # now, because the requests take only a few tenths of a second

    async def update_while_sampling():
        first_version = await sampler.version()
        running = await start_sampling(sampler)
        report = await sampler.load_weights(next(versions), manifests)
        return first_version, report, [c for group in await asyncio.gather(*running) for c in group]

    first, report, completions = run_async(update_while_sampling())
    buckets.unlink(manifests)
    assert report["pause_seconds"] < 10
    crossed = [c for c in completions if list(dict.fromkeys(c.versions.tolist())) == [first, report["version"]]]
    assert crossed, "no request was running during the update: make the responses longer"
    assert sampler._engine.load().preemptions == 0, "those that the update put back are none"
    gaps: list[float] = []
    for completion in crossed:
        by_old, by_new = (
            np.abs(reference_logprobs(m, PROMPT, completion.tokens) - completion.logprobs) for m in (old, model)
        )
        is_new = completion.versions == report["version"]
        error = np.where(is_new, by_new, by_old)
        worst = int(error.argmax())
        assert error[worst] < TOLERANCE, (
            f"token {worst} is {by_old[worst]:.2e} nats from the old model, {by_new[worst]:.2e} from the new one; "
            f"its version is {completion.versions[worst]}, the new one begins at token {is_new.argmax()}"
        )
        gaps.extend(np.abs(by_old - by_new))
    assert np.median(gaps) > 100 * TOLERANCE, "the two models are too alike to tell a token with the other's version"


def test_packed_bytes_from_another_node(served, run_async, reference_logprobs):
    sampler, model = served
    perturb(model, KINDS["all"])
    version = next(versions)
    manifest, data = buckets.pack(list(model.named_parameters()))
    report = run_async(sampler.load_weights(version, [manifest], data))
    assert_agrees(run_async(sample(sampler, 3)), model, reference_logprobs, report["version"])
    assert not list(Path("/dev/shm").glob(f"bonrl-sampler_0-{os.getpid()}-*"))


def test_with_finish_a_sample_is_of_one_version(start_sampler, run_async):
    """The update waits for running requests, and requests that come meanwhile wait for the update."""
    sampler, model = start_sampler("llama-tied", in_flight="finish")

    async def update_while_sampling():
        running = await start_sampling(sampler)
        updating = asyncio.create_task(update(sampler, model))
        await asyncio.sleep(0.05)
        late = await sample(sampler, 200)
        return [c for group in await asyncio.gather(*running) for c in group], await updating, late

    completions, report, late = run_async(update_while_sampling())
    assert {v for c in completions for v in c.versions} == {0}
    assert {v for c in late for v in c.versions} == {report["version"]}
