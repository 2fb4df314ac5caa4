"""How loaded a sampler's engine is: its heartbeats carry it to the driver."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """What happened in an engine, or in several, in a period.

    kv_cache_use: largest share of an engine's key-value cache in use, from 0 to 1.
    running, waiting: largest number of requests that an engine decoded together, and that waited for their turn.
    preemptions: how often a request lost its keys and values to others, because the cache was full; they are computed
        again.
    prompt_tokens, cached_tokens: prompt tokens of the requests that began, and those of them in the prefix cache.
    """

    kv_cache_use: float = 0.0
    running: int = 0
    waiting: int = 0
    preemptions: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0

    def __or__(self, other: EngineLoad) -> EngineLoad:
        """Both periods, or both engines."""
        return EngineLoad(
            max(self.kv_cache_use, other.kv_cache_use),
            max(self.running, other.running),
            max(self.waiting, other.waiting),
            self.preemptions + other.preemptions,
            self.prompt_tokens + other.prompt_tokens,
            self.cached_tokens + other.cached_tokens,
        )

    @property
    def prefix_cache_hit_rate(self) -> float | None:
        """Share of the prompt tokens that the prefix cache had; None if no request began."""
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else None
