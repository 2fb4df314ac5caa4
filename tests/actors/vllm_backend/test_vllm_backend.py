"""The engine behind the sampler: reproducible samples, finish reasons, and a clear end when it dies."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time

import numpy as np
import pytest

from actors.sampling import Sampling
from actors.settings import RolloutSettings, SamplerSettings
from actors.weights import buckets
from actors.weights.bucket_files import new_path
from actors.workers.sampler import Sampler, SamplerError
from tests.actors.weights.bucket_writing import write_bucket

pytestmark = pytest.mark.slow

END = 1
PROMPTS = [[0, 7, 21], [0, 9, 11, 33, 5, 8], [0, 3]]


@pytest.fixture(scope="module")
def served(start_sampler):
    return start_sampler("llama-tied")


@pytest.fixture(scope="module")
def sampler(served):
    return served[0]


@pytest.fixture(scope="module")
def crowded(start_sampler):
    """A sampler whose cache holds eight blocks of 128 tokens."""
    return start_sampler("llama-tied", kv_cache_gib=2**20 / 2**30)


async def sample_all(sampler: Sampler, tag: str, order: list[int], max_tokens: int = 32):
    """All prompts at once, submitted in `order`; returns the groups in the prompts' own order."""
    groups = await asyncio.gather(
        *(sampler.sample(PROMPTS[i], 16, Sampling(), max_tokens, 1000 + i, f"{tag}-{i}") for i in order)
    )
    return [groups[order.index(i)] for i in range(len(PROMPTS))]


def test_the_same_seed_gives_the_same_bits(sampler, run_async):
    """Also when the requests arrive in another order, and when the prompt's prefill is cached already."""
    first = run_async(sample_all(sampler, "a", [0, 1, 2]))
    second = run_async(sample_all(sampler, "b", [2, 0, 1]))
    alone = [run_async(sampler.sample(p, 16, Sampling(), 32, 1000 + i, f"c-{i}")) for i, p in enumerate(PROMPTS)]
    for again in (second, alone):
        for group, repeated in zip(first, again, strict=True):
            for a, b in zip(group, repeated, strict=True):
                assert np.array_equal(a.tokens, b.tokens)
                assert np.array_equal(a.logprobs, b.logprobs)


def test_samples_of_a_group_differ_and_have_finish_reasons(sampler, run_async):
    groups = run_async(sample_all(sampler, "d", [0, 1, 2], max_tokens=64))
    ended = set()
    for group in groups:
        assert len({c.tokens.tobytes() for c in group}) > 8
        for c in group:
            assert c.tokens.dtype == np.int32 and c.logprobs.dtype == np.float32
            assert c.tokens.shape == c.logprobs.shape and (c.logprobs <= 0).all()
            assert (c.tokens[:-1] != END).all()
            if c.finish_reason == "stop":
                assert c.tokens[-1] == END
            else:
                assert c.finish_reason == "length" and len(c.tokens) == 64
            ended.add(c.finish_reason)
    assert ended == {"stop", "length"}


def test_logprobs_are_those_of_the_tempered_distribution(served, run_async, reference_logprobs):
    sampler, model = served
    for completion in run_async(sampler.sample(PROMPTS[0], 8, Sampling(0.7), 16, 5, "tempered")):
        expected = reference_logprobs(model, PROMPTS[0], completion.tokens, temperature=0.7)
        np.testing.assert_allclose(completion.logprobs, expected, atol=1e-5)


def test_greedy_and_restricted_samples(served, run_async, reference_logprobs):
    """Greedy takes the most likely token; top_k and min_p keep one token here, top_p some, renormalized."""
    sampler, model = served
    [greedy] = run_async(sampler.sample(PROMPTS[0], 1, Sampling(0.0), 16, 5, "greedy"))
    expected = reference_logprobs(model, PROMPTS[0], greedy.tokens, temperature=1.0)
    np.testing.assert_allclose(greedy.logprobs, expected, atol=1e-5)
    for name, options in (("top-k", {"top_k": 1}), ("min-p", {"min_p": 1.0})):
        for completion in run_async(sampler.sample(PROMPTS[0], 4, Sampling(**options), 16, 5, name)):
            assert np.array_equal(completion.tokens, greedy.tokens)
            np.testing.assert_allclose(completion.logprobs, 0.0, atol=1e-6)
    for completion in run_async(sampler.sample(PROMPTS[0], 4, Sampling(top_p=0.5), 16, 5, "top-p")):
        whole = reference_logprobs(model, PROMPTS[0], completion.tokens, temperature=1.0)
        gain = completion.logprobs - whole
        assert (gain >= -1e-5).all() and gain.max() <= np.log(2) + 1e-4 and gain.max() > 0.1


def test_a_prompt_beyond_the_context_is_refused_and_the_sampler_lives(sampler, run_async):
    with pytest.raises(SamplerError, match="sampler 0 cannot sample long: vLLM refused the request"):
        run_async(sampler.sample([3] * 300, 2, Sampling(), 8, 0, "long"))
    run_async(sampler.check())


def test_a_full_cache_preempts_requests_and_changes_no_sample(sampler, crowded, run_async):
    """The load says so; a preempted request is prefilled again, with the tokens that it had.

    Seven requests fill the crowded cache until one of them outgrows its block of 128 tokens, while others wait.
    """
    prompt = [2 + i % 60 for i in range(100)]
    for each in (sampler, crowded[0]):
        each._engine.load()
    alone = run_async(sampler.sample(prompt, 32, Sampling(), 96, 3, "roomy"))
    preempted = run_async(crowded[0].sample(prompt, 32, Sampling(), 96, 3, "crowded"))
    for a, b in zip(alone, preempted, strict=True):
        assert np.array_equal(a.tokens, b.tokens)
        np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-5)
    roomy, full = sampler._engine.load(), crowded[0]._engine.load()
    assert roomy.preemptions == 0 and roomy.running > 7 >= full.running
    assert 0 < roomy.kv_cache_use < 0.5 and roomy.prompt_tokens == full.prompt_tokens == 32 * len(prompt)
    assert full.preemptions > 0 and full.waiting > 0 and full.kv_cache_use > 0.8
    assert crowded[0]._engine.load().running == 0


def test_an_incomplete_update_ends_the_sampler_and_its_requests(crowded, run_async):
    sampler, model = crowded
    tensors = [(name, p) for name, p in model.named_parameters() if "layers.1.self_attn.k_proj" not in name]
    manifest = write_bucket(new_path("test"), tensors)

    async def update():
        running = asyncio.create_task(sampler.sample(PROMPTS[0], 16, Sampling(), 160, 0, "running"))
        await asyncio.sleep(0.05)
        with pytest.raises(SamplerError, match=r"lacks tensors for 1 layers: model\.layers\.1\.self_attn\.qkv_proj"):
            await sampler.load_weights(1, [manifest])
        with pytest.raises(SamplerError, match="the update to weight version 1 failed"):
            await asyncio.wait_for(running, 10)

    run_async(update())
    buckets.unlink([manifest])
    with pytest.raises(SamplerError, match="sampler 0 died: the update to weight version 1 failed"):
        run_async(sampler.check())


def test_a_killed_engine_core_is_noticed_within_seconds(served, run_async):
    """Also by an update that has begun. Last of this module: it ends the shared engine."""
    sampler, model = served
    (core,) = sampler._engine.pids()  # engines of other tests may not have ended yet
    manifest = write_bucket(new_path("test"), list(model.named_parameters()))

    async def check_again_and_again():
        while True:
            await sampler.check()
            await asyncio.sleep(0.1)

    async def kill():
        running = asyncio.create_task(sampler.sample(PROMPTS[0], 64, Sampling(), 160, 0, "running"))
        checks = asyncio.create_task(check_again_and_again())
        await asyncio.sleep(0.05)
        os.kill(core, signal.SIGSTOP)  # the update cannot end before the kill
        updating = asyncio.create_task(sampler.load_weights(7, [manifest]))
        await asyncio.sleep(0.3)
        assert not updating.done() and sampler._engine.updating
        os.kill(core, signal.SIGKILL)
        begin = time.monotonic()
        for task in (updating, running, checks):
            with pytest.raises(SamplerError, match="sampler 0 .*its vLLM engine core died"):
                await asyncio.wait_for(task, 20)
        assert time.monotonic() - begin < 10

    run_async(kill())
    buckets.unlink([manifest])
    with pytest.raises(SamplerError, match="engine core died"):
        run_async(sampler.sample(PROMPTS[0], 1, Sampling(), 4, 0, "late"))


@pytest.mark.parametrize(
    "config", [{"architectures": ["NoSuchModel"], "model_type": "llama"}, {"model_type": "no_such_type"}]
)
def test_an_unsupported_architecture_is_refused(config, tmp_path, run_async):
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 50, "hidden_size": 128, **config}))
    sampler = Sampler("sampler 0", str(tmp_path), "float32", SamplerSettings(), RolloutSettings())
    begin = time.monotonic()
    with pytest.raises(SamplerError, match="sampler 0 cannot start: vLLM cannot serve the model") as caught:
        run_async(sampler.start())
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
    assert time.monotonic() - begin < 60
