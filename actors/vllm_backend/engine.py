"""An `AsyncLLM` that samples token ids and loads new weights between two tokens.

**Processes.** `AsyncLLM` keeps its front end in the sampler's process and runs scheduler and model in an
*engine core* process. On CPUs vLLM would add a worker process; `engine_arguments` selects the executor that
keeps the worker inside the engine core, which saves one Python process and a message hop per token.

**Weight updates.** The four native phases (init, start, update, finish) run while generation is paused with
`mode="keep"`: running requests stay and continue afterwards. The pause also clears the keys and values of every
request and the prefix cache. A continued request is therefore prefilled again with the new weights, and each later
token has exactly the log-probability that the new weights give it after the whole text so far. Without clearing, old
keys and values would mix with new weights, a distribution that no learner can recompute.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actors.engine_load import EngineLoad
from actors.sampling import Sampling
from actors.settings import RolloutSettings, SamplerSettings
from actors.vllm_backend.adapters import SentAdapter, adapter_request
from actors.vllm_backend.arguments import engine_arguments, keeps_states, memory_arguments
from actors.vllm_backend.environment import EngineError, UpdateInterrupted, environment, summary
from actors.vllm_backend.liveness import DEAD, died, while_alive
from actors.vllm_backend.sleep import Sleep
from actors.vllm_backend.stats import EngineStats
from actors.vllm_backend.weight_transfer import BACKEND, register_host_backend
from actors.weights import Update
from learner.settings import LoraSettings
from verifiers.text.stop_tokens import stop_token_ids


@dataclass(frozen=True, slots=True)
class Completion:
    """One sample of a prompt.

    tokens: int32 [R], including the end-of-sequence token if the model emitted one.
    logprobs: float32 [R], log-probability of each token under the distribution that it was drawn from.
    finish_reason: "stop" (end of sequence) or "length" (cut at max_tokens).
    versions: int32 [R], of the weights that sampled each token.
    """

    tokens: np.ndarray
    logprobs: np.ndarray
    finish_reason: str
    versions: np.ndarray


@dataclass(frozen=True, slots=True)
class UpdateReport:
    """Cost of one weight update: seconds of paused generation, bytes."""

    version: int
    pause_seconds: float
    nbytes: int


class VllmEngine:
    """An `AsyncLLM` with token ids in and out. Use it from one event loop; call :meth:`start` first.

    Args:
        lora: the adapters that updates bring instead of weights; None: weights.
        reserved: bytes of the GPU that a learner rank needs while this engine samples; 0: none shares it.
        card_gib: GiB of the GPU's memory to use; None: all of it, as the GPU reports.
    """

    def __init__(
        self,
        model_path: str,
        dtype: str,
        sampler: SamplerSettings,
        rollout: RolloutSettings,
        seed: int = 0,
        lora: LoraSettings | None = None,
        *,
        reserved: float = 0.0,
        card_gib: float | None = None,
    ) -> None:
        self.model_path = model_path
        self.dtype = dtype
        self.settings = sampler
        self.rollout = rollout
        self.seed = seed
        self._adapter = None if lora is None else SentAdapter(lora)
        self._reserved, self._card_gib = reserved, card_gib
        self._sleep = Sleep(sampler.sleep)
        self._stats = EngineStats()
        self._llm: Any = None
        self._failure: str | None = None
        self._stop_token_ids: list[int] = []
        self._update_lock = asyncio.Lock()
        self._incomplete = False  # an interrupted update left weights of two versions; generation stays paused

    async def start(self) -> None:
        """Build the engine (20-80 s on two cores) and label its weights version 0.

        Blocks the event loop: the engine core dies with the thread that started it, and a pool thread may end before
        the sampler does.

        Raises:
            EngineError: the model is missing or unsupported, or the machine lacks memory for the settings.
        """
        try:  # vLLM does not know them without a tokenizer
            self._stop_token_ids = stop_token_ids(_model_directory(self.model_path))
        except ValueError as error:
            raise EngineError(str(error)) from error
        with environment(gpus=self.settings.gpus, threads=self.settings.threads):
            await self._start()

    async def _start(self) -> None:
        from vllm.config import WeightTransferConfig
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.async_llm import AsyncLLM

        register_host_backend()
        try:
            arguments = AsyncEngineArgs(
                **engine_arguments(self.model_path, self.dtype, self.settings, self.rollout, self.seed),
                **memory_arguments(self.settings, self._reserved, self._card_gib),
                **(self._adapter.engine_arguments(self.model_path) if self._adapter else {}),
                weight_transfer_config=WeightTransferConfig(backend=BACKEND),
            )
            if not self.settings.gpus and keeps_states(arguments.create_model_config()):
                arguments.enable_prefix_caching = False  # vLLM caches states only with chunked prefill
            # As offline inference, for which vLLM takes larger batches of prompt tokens on a GPU.
            self._llm = AsyncLLM.from_engine_args(
                arguments, usage_context=UsageContext.LLM_CLASS, stat_loggers=[self._stats.logger()]
            )
            request = WeightTransferInitRequest(init_info={})
            await while_alive(self._llm, self._llm.init_weight_transfer_engine(request))
            await while_alive(self._llm, self._llm.update_weight_version("0"))
            if self._adapter:
                await while_alive(self._llm, self._adapter.prepare(self._llm))
            # Some models load but fail at their first token, for example because of their head size.
            await self.generate([0], n=1, sampling=Sampling(), max_tokens=1, seed=0, request_id="warm-up")
        except Exception as error:
            self.shutdown()
            remedy = "; learner.lora.send = merged uses no adapters in vLLM" if self._adapter else ""
            raise EngineError(f"vLLM cannot serve the model {self.model_path}: {summary(error)}{remedy}") from error

    async def generate(
        self,
        prompt_tokens: Sequence[int],
        *,
        n: int,
        sampling: Sampling,
        max_tokens: int,
        seed: int,
        request_id: str,
    ) -> list[Completion]:
        """Draw `n` samples for one prompt. The same arguments give the same samples on a CPU.

        Log-probabilities are those of the tempered and restricted distribution; at temperature 0, which vLLM takes for
        n = 1 only, those of the model.

        Raises:
            EngineError: the engine died, or refused the request (a prompt too long for the context).
        """
        llm = self._running()
        from vllm import SamplingParams
        from vllm.inputs import tokens_input
        from vllm.sampling_params import RequestOutputKind

        parameters = SamplingParams(
            n=n,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=max(sampling.top_k, 0),  # 0: off
            min_p=sampling.min_p,
            max_tokens=max_tokens,
            seed=_spread(seed),
            logprobs=0,  # of the sampled token only
            flat_logprobs=True,
            stop_token_ids=self._stop_token_ids,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        prompt = tokens_input([int(token) for token in prompt_tokens])
        try:
            adapter = adapter_request() if self._adapter else None
            drawn = llm.generate(prompt, parameters, request_id, lora_request=adapter)
            # deadline: the caller's sample_s
            results = [result async for result in drawn]
        except Exception as error:
            self.check_health()
            raise EngineError(f"vLLM refused the request {request_id}: {summary(error)}") from error
        outputs = results[-1].outputs if results else []
        if len(outputs) != n:
            raise EngineError(f"vLLM ended the request {request_id} with {len(outputs)} of {n} samples")
        return [_completion(output) for output in outputs]

    async def update_weights(self, version: int, updates: Sequence[Update]) -> UpdateReport:
        """Load all weights, between two tokens of running requests or after they finish (``sampler.in_flight``).

        After a failed update the weights are undefined, so the engine stops and every later call raises. After an
        interrupted update it samples with its former weights; if some have changed, it waits for the next update.

        Raises:
            UpdateInterrupted: the weights stopped arriving.
            EngineError: a bucket is unreadable, a parameter is missing, the reported version differs, or the engine
                core died.
        """
        async with self._update_lock:  # deadline: the caller's broadcast_s
            llm = self._running()
            try:
                return await while_alive(llm, self._update(llm, version, updates))
            except UpdateInterrupted:
                raise
            except Exception as error:
                self._fail(f"the update to weight version {version} failed: {summary(error)}")
                raise EngineError(self._failure) from error

    async def _update(self, llm: Any, version: int, updates: Sequence[Update]) -> UpdateReport:
        begin = time.perf_counter()
        if not self._incomplete:
            mode = "keep" if self.settings.in_flight == "keep" else "wait"
            # Not llm.pause_generation, which sleeps 20 ms so that outputs of running requests arrive before it returns.
            await llm.engine_core.pause_scheduler_async(mode=mode, clear_cache=True)
            self._stats.cache_cleared()
        await self._sleep.allocate_weights(llm)
        if self._adapter is None:
            await self._load_weights(llm, version, updates)
        else:
            await self._check_arrival(llm, await self._adapter.load(llm, updates))
            await llm.update_weight_version(str(version))
        echoed = await llm.get_weight_version()
        if echoed != str(version):
            raise EngineError(f"vLLM reports weight version {echoed} after the update to version {version}")
        await self._sleep.end(llm)
        self._incomplete = False
        await llm.resume_generation()
        nbytes = sum(update.nbytes for update in updates)
        return UpdateReport(version, time.perf_counter() - begin, nbytes)

    async def _load_weights(self, llm: Any, version: int, updates: Sequence[Update]) -> None:
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        await llm.start_weight_update()
        for update in updates:
            await llm.update_weights(WeightTransferUpdateRequest(update_info=update.info))
        if any(update.in_transit for update in updates):
            found = await llm.collective_rpc("interrupted_update")
            if any(reason for reason, _ in found):
                await llm.finish_weight_update()  # without a version: layers that did not arrive keep their weights
            await self._check_arrival(llm, found)
        await llm.finish_weight_update(str(version))

    async def _check_arrival(self, llm: Any, found: Sequence[tuple[str, bool]]) -> None:
        """Give the update up if it stopped arriving at one of the workers; `found`: why, and what has changed."""
        reasons = [reason for reason, _ in found if reason]
        if not reasons:
            return
        self._incomplete |= any(changed for _, changed in found)
        if not self._incomplete:
            await llm.resume_generation()
        raise UpdateInterrupted(reasons[0])

    async def sleep(self) -> None:
        """Free what ``sampler.sleep`` names, until the next :meth:`update_weights`.

        Raises:
            EngineError: the memory could not be freed, or the engine core died; the engine stops.
        """
        async with self._update_lock:  # deadline: the caller's broadcast_s
            llm = self._running()
            try:
                await while_alive(llm, self._sleep.begin(llm))
            except Exception as error:
                self._fail(f"it could not free its memory: {summary(error)}")
                raise EngineError(self._failure) from error

    async def version(self) -> int:
        """The version of the weights that the engine holds, as the engine core reports it."""
        llm = self._running()
        return int(await while_alive(llm, llm.get_weight_version()))

    def load(self) -> EngineLoad:
        """How loaded the engine was since the last call."""
        return self._stats.take()

    def pids(self) -> tuple[int, ...]:
        """The engine core's processes."""
        manager = None if self._llm is None else self._llm.engine_core.resources.engine_manager
        return tuple(process.pid for process in manager.processes) if manager is not None else ()

    @property
    def updating(self) -> bool:
        """Whether generation is paused for a weight update, or stops or is stopped by :meth:`sleep`."""
        return self._update_lock.locked() or self._incomplete or self._sleep.asleep

    def check_health(self) -> None:
        """Raise :class:`EngineError` when the engine core has died or an update left it unusable."""
        self._running()

    def shutdown(self) -> None:
        """Stop the engine core and release its memory; may be called twice."""
        llm, self._llm = self._llm, None
        if llm is not None:
            llm.shutdown(timeout=10)

    def _running(self) -> Any:
        if self._failure is not None:
            raise EngineError(self._failure)
        if self._llm is None:
            raise EngineError("the vLLM engine is not running: call start() first")
        if died(self._llm):
            self._failure = DEAD
            raise EngineError(DEAD)
        return self._llm

    def _fail(self, reason: str) -> None:
        """Make the engine unusable: waiting requests get the error, and the processes are stopped."""
        self._failure = self._failure or reason
        if self._llm is not None:
            self._llm.output_processor.propagate_error(EngineError(self._failure))
            self.shutdown()


def _completion(output: Any) -> Completion:
    tokens = np.asarray(output.token_ids, dtype=np.int32)
    logprobs = np.asarray(output.logprobs.logprobs, dtype=np.float32)
    spans = output.weight_versions or []
    versions = np.repeat([int(s.version) for s in spans], [s.end - s.start for s in spans]).astype(np.int32)
    if not logprobs.shape == tokens.shape == versions.shape:
        raise EngineError(
            f"vLLM returned {logprobs.size} log-probabilities and {versions.size} weight versions for {tokens.size} "
            "tokens"
        )
    return Completion(tokens, logprobs, output.finish_reason, versions)


def _spread(seed: int) -> int:
    """A 62-bit seed. vLLM gives sample i the seed `seed + i`: consecutive seeds would share samples."""
    return int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> 2)


def _model_directory(model_path: str) -> Path:
    directory = Path(model_path)
    if not directory.is_dir():
        raise EngineError(
            f"the model directory {model_path} does not exist on this node: every node must see model.path"
        )
    if not (directory / "config.json").is_file():
        raise EngineError(f"{model_path} has no config.json: set model.path to a Hugging Face model directory")
    return directory
