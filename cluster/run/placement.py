"""Which GPU each sampler and learner rank runs on.

With ``cluster.placement: separate`` Ray chooses: each actor asks for its own GPUs. With ``colocated`` sampler i and
learner rank i run in bundle i of a placement group. A bundle has one GPU, of which each of the two takes a half, so
that Ray gives both the same card, also when one is replaced.
"""

from __future__ import annotations

from typing import Any

from actors.remote_calls import call
from cluster.config import RunConfig

_HALF = 0.5  # of a GPU: only counted by Ray; the memory is split by sampler.gpu_memory_utilization


class Placement:
    """Ray options of the actors; call :meth:`reserve` before the first one starts."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._group: Any = None

    @property
    def shares_cards(self) -> bool:
        """Whether each sampler shares its card with a learner rank."""
        return self._config.cluster.placement == "colocated"

    async def reserve(self) -> None:
        """Reserve the shared cards; Ray frees them when the driver ends.

        Raises:
            ActorFailure: the cluster has no room for them within ``deadlines.start_s``.
        """
        if not self.shares_cards:
            return
        from ray.util import placement_group

        self._group = placement_group([{"CPU": 2, "GPU": 1}] * self._config.learner.ranks, strategy="PACK")
        await call(
            self._group.ready(),
            owner="Ray",
            to=f"reserve {self._config.learner.ranks} GPUs, each with 2 CPUs (cluster.placement = colocated)",
            **self._config.deadlines.of("start_s"),
        )

    def sampler(self, index: int) -> dict[str, Any]:
        """Options of sampler `index`."""
        return self._options(index, self._config.sampler.gpus)

    def learner(self, rank: int) -> dict[str, Any]:
        """Options of a learner rank."""
        return self._options(rank, self._config.learner.gpus_per_rank)

    def _options(self, index: int, gpus: float) -> dict[str, Any]:
        if not self.shares_cards:
            return {"num_gpus": gpus}
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        if self._group is None:
            raise RuntimeError("the GPUs were not reserved before an actor started")
        bundle = PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=index)
        return {"num_gpus": _HALF, "scheduling_strategy": bundle}
