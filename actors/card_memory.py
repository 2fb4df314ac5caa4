"""How much of a GPU's memory one engine may take."""

from __future__ import annotations

from actors.settings import SamplerSettings

OWN_CARD = 0.85  # of a GPU that no learner shares
_MARGIN = 0.03  # of a shared GPU: allocator fragments, CUDA graphs of the engine, a second CUDA context


def utilization(sampler: SamplerSettings, card: float, reserved: float) -> float:
    """The share of a GPU of `card` bytes that vLLM may take, for its argument ``gpu_memory_utilization``.

    Args:
        reserved: bytes that a learner rank on the same GPU needs while the engine samples; 0: none uses it.
    """
    if sampler.gpu_memory_utilization is not None:
        return sampler.gpu_memory_utilization
    if not reserved:
        return OWN_CARD
    return max(0.0, round(1.0 - _MARGIN - reserved / card, 3))
