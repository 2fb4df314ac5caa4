"""The sampler: one vLLM engine that draws N samples per prompt and loads new weights.

A plain class with async methods, so that it can be tested without Ray. Ray interleaves the calls of an async actor on
one event loop: hundreds of `sample` calls may wait for the engine while `check` and `load_weights` are served.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from actors.errors import InputLost
from actors.logs import set_step, start_actor_log
from actors.sampling import Sampling
from actors.settings import BroadcastSettings, RolloutSettings, SamplerSettings
from actors.vllm_backend import Completion, EngineError, UpdateInterrupted, VllmEngine
from actors.weights import TransferError, make_transfer
from learner.settings import LoraSettings

logger = logging.getLogger(__name__)


class SamplerError(RuntimeError):
    """A sampler cannot start, died, or refused work; the message names the sampler and the remedy."""


class Sampler:
    """Samples groups with one engine.

    Args:
        name: used in messages, for example "sampler 0".
        model_path: local Hugging Face model directory.
        dtype: "float32" or "bfloat16"; the same as the learner's, so that log-probabilities agree.
        seed: of the engine; each request has its own seed.
        broadcast: how new weights arrive.
        lora: the adapters that arrive instead of weights; None: weights.
        reserved, card_gib: see :class:`actors.vllm_backend.VllmEngine`.
    """

    def __init__(
        self,
        name: str,
        model_path: str,
        dtype: str,
        settings: SamplerSettings,
        rollout: RolloutSettings,
        seed: int = 0,
        broadcast: BroadcastSettings | None = None,
        lora: LoraSettings | None = None,
        reserved: float = 0.0,
        card_gib: float | None = None,
    ) -> None:
        start_actor_log()
        self.name = name
        self._transfer = make_transfer(broadcast or BroadcastSettings(), name)
        self._engine = VllmEngine(
            model_path, dtype, settings, rollout, seed, lora, reserved=reserved, card_gib=card_gib
        )
        self._in_flight = 0  # requests

    async def start(self) -> float:
        """Build the engine and label its weights version 0; returns the seconds it took.

        Raises:
            SamplerError: the model is missing or unsupported, or the machine lacks memory for the settings.
        """
        begin = time.perf_counter()
        self._transfer.remove_leftovers(restarted=False)
        with self._errors_named("cannot start"):
            await self._engine.start()
        seconds = time.perf_counter() - begin
        logger.info("the engine serves weights 0 after %.1f s", seconds)
        return seconds

    async def sample(
        self,
        prompt_tokens: Sequence[int],
        n: int,
        sampling: Sampling,
        max_tokens: int,
        seed: int,
        request_id: str,
    ) -> list[Completion]:
        """Draw `n` samples for one prompt; equal arguments give equal samples on a CPU.

        Args:
            max_tokens: longest response in tokens.
            request_id: unique among the requests in flight.

        Raises:
            SamplerError: the engine died, or the prompt does not fit into the context.
        """
        self._in_flight += 1
        try:
            with self._errors_named(f"cannot sample {request_id}"):
                completions = await self._engine.generate(
                    prompt_tokens,
                    n=n,
                    sampling=sampling,
                    max_tokens=max_tokens,
                    seed=seed,
                    request_id=request_id,
                )
        finally:
            self._in_flight -= 1
        logger.debug("sampled %s: %d tokens", request_id, sum(completion.tokens.size for completion in completions))
        return completions

    async def load_weights(self, version: int, *addressed: Any) -> dict[str, Any]:
        """Load the weights `version`; running requests continue with them (``sampler.in_flight``).

        Args:
            addressed: from :meth:`actors.weights.base.WeightTransfer.address` for this sampler.

        Returns:
            version (as the engine reports it), pause_seconds, nbytes.

        Raises:
            InputLost: the weights cannot be read, or stopped arriving; the engine takes them when they are sent again.
            SamplerError: loading began and failed; the weights are undefined and the sampler must be replaced.
        """
        begin = time.perf_counter()
        async with contextlib.AsyncExitStack() as stack:
            try:
                updates = await stack.enter_async_context(self._transfer.receive(*addressed))
            except TransferError as error:
                raise InputLost(
                    f"{self.name} did not begin to load the weights of version {version}: {error}"
                ) from None
            try:
                with self._errors_named(f"cannot load the weights of version {version}"):
                    report = asdict(await self._engine.update_weights(version, updates))
            except UpdateInterrupted as error:
                logger.warning("the weights %d stopped arriving: %s", version, error)
                raise InputLost(f"{self.name} did not get all weights of version {version}: {error}") from None
        set_step(version)
        logger.info(
            "weights %d received: %.1f MiB in %.2f s, paused for %.2f s",
            version,
            report["nbytes"] / 2**20,
            time.perf_counter() - begin,
            report["pause_seconds"],
        )
        return report

    async def sleep(self) -> float:
        """Free what ``sampler.sleep`` names until the next :meth:`load_weights`; returns the seconds it took.

        Raises:
            SamplerError: the engine could not free it.
        """
        begin = time.perf_counter()
        with self._errors_named("cannot free its memory (sampler.sleep)"):
            await self._engine.sleep()
        seconds = time.perf_counter() - begin
        logger.info("asleep after %.2f s", seconds)
        return seconds

    async def version(self) -> int:
        """The version of the weights, as the engine reports it."""
        with self._errors_named("cannot report its weight version"):
            return await self._engine.version()

    async def check(self) -> None:
        """Check the engine.

        Raises:
            SamplerError: the engine core died.
        """
        with self._errors_named("died"):
            self._engine.check_health()

    async def shutdown(self) -> None:
        """Stop the engine; may be called twice."""
        logger.info("shutdown")
        self._engine.shutdown()

    @contextlib.contextmanager
    def _errors_named(self, what: str) -> Iterator[None]:
        """Names the sampler in errors of the engine and the weight transfer."""
        try:
            yield
        except UpdateInterrupted:
            raise
        except (EngineError, TransferError) as error:
            logger.exception("%s", what)
            raise SamplerError(f"{self.name} {what}: {error}") from None
