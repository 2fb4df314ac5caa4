"""Which node and GPU each actor runs on.

An actor, and so a sampler's engine with all its GPUs, is on one node. Learner ranks are packed by a placement group:
on one node if they fit there, else on few. Verifier workers are spread over the nodes. Where ``cluster.node_types``
limits which actors a node takes, each actor asks for the resource of its role.

With ``cluster.placement: separate`` each actor asks for its own GPUs. With ``colocated`` sampler i and learner rank i
run in bundle i of the learner's placement group. Such a bundle has one GPU, of which each of the two takes a half, so
that Ray gives both the same GPU, also when one is replaced.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from actors.remote_calls import call
from cluster.config import RunConfig
from cluster.config.cluster_settings import Role
from cluster.launch.demand import requirement

_HALF = 0.5  # of a GPU: only counted by Ray; the memory is split by sampler.gpu_memory_utilization


class Placement:
    """Ray options of the actors; call :meth:`reserve` before the first one starts."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._group: Any = None  # of the learner's ranks

    @property
    def shares_cards(self) -> bool:
        """Whether each sampler shares its GPU with a learner rank."""
        return self._config.cluster.placement == "colocated"

    async def reserve(self) -> None:
        """Reserve room for the learner's ranks before other actors take it; wait for it if samplers share it.

        Ray frees it when the driver ends.

        Raises:
            ActorFailure: the cluster has no room for shared GPUs within ``deadlines.start_s``.
        """
        self._reserve_ranks()
        if self.shares_cards:
            await call(
                self._group.ready(),
                owner="Ray",
                to=f"reserve {self._config.learner.ranks} GPUs, each with 2 CPUs (cluster.placement = colocated)",
                **self._config.deadlines.of("start_s"),
            )

    def sampler(self, index: int) -> dict[str, Any]:
        """Options of sampler `index`."""
        if self.shares_cards:
            return self._in_bundle(index, "sampler", _HALF)
        return self._anywhere("sampler", self._config.sampler.gpus)

    def learner(self, rank: int) -> dict[str, Any]:
        """Options of a learner rank."""
        gpus = _HALF if self.shares_cards else self._config.learner.gpus_per_rank
        if not self.shares_cards and self._config.learner.ranks == 1:
            return self._anywhere("learner", gpus)
        self._reserve_ranks()
        return self._in_bundle(rank, "learner", gpus)

    def renew_ranks(self, draining: Collection[str]) -> None:
        """Reserve other nodes for the ranks if they lie on a node that will be lost; call it while no rank exists.

        Ray moves bundles only when their node is gone. Shared GPUs are not moved, because samplers use them too.
        """
        if self._group is None or self.shares_cards:
            return
        from ray.util import placement_group_table, remove_placement_group

        if set(placement_group_table(self._group)["bundles_to_node_id"].values()) & set(draining):
            remove_placement_group(self._group)
            self._group = None
            self._reserve_ranks()

    def verifier(self) -> dict[str, Any]:
        """Options of a verifier worker."""
        return self._anywhere("verifier", self._config.actors.verifier_gpus) | {"scheduling_strategy": "SPREAD"}

    def needs(self, role: Role, gpus: float) -> dict[str, float]:
        """What an actor of a role takes of a node."""
        return {"CPU": 1, "GPU": gpus, **requirement(self._config, role)}

    def _reserve_ranks(self) -> None:
        learner = self._config.learner
        if self._group is not None or (learner.ranks == 1 and not self.shares_cards):
            return
        from ray.util import placement_group

        bundle = self.needs("learner", learner.gpus_per_rank)
        if self.shares_cards:
            bundle |= {"CPU": 2, "GPU": 1, **requirement(self._config, "sampler")}
        bundle = {name: amount for name, amount in bundle.items() if amount}
        self._group = placement_group([bundle] * learner.ranks, strategy="PACK")

    def _anywhere(self, role: Role, gpus: float) -> dict[str, Any]:
        resources = requirement(self._config, role)
        return {"num_gpus": gpus} | ({"resources": resources} if resources else {})

    def _in_bundle(self, index: int, role: Role, gpus: float) -> dict[str, Any]:
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        if self._group is None:
            raise RuntimeError("the GPUs were not reserved before an actor started")
        bundle = PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=index)
        return self._anywhere(role, gpus) | {"scheduling_strategy": bundle}
