"""What Ray knows about nodes that will be lost or have been lost."""

from __future__ import annotations

import math
from collections.abc import Collection
from functools import cached_property

import ray
from ray._private.state import state  # no public call names nodes with a notice
from ray.core.generated.common_pb2 import NodeDeathInfo  # type: ignore[attr-defined]  # generated

_GRACEFUL = (
    NodeDeathInfo.EXPECTED_TERMINATION,  # SIGTERM to the raylet, as by `ray stop`
    NodeDeathInfo.AUTOSCALER_DRAIN_PREEMPTED,
    NodeDeathInfo.AUTOSCALER_DRAIN_IDLE,
)


class RayNodes:
    """An :class:`actors.fleet.notices.Nodes` of the connected cluster."""

    @cached_property
    def driver(self) -> str:
        return str(ray.get_runtime_context().get_node_id())

    def draining(self) -> dict[str, float]:
        # deadline: the caller's
        found = state.get_draining_nodes()
        return {node: ends_ms / 1000 if ends_ms else math.inf for node, ends_ms in found.items()}

    def any_stopped_gracefully(self, nodes: Collection[str]) -> bool:
        # deadline: the caller's
        ended = (one for one in ray.nodes() if one["NodeID"] in nodes and not one["Alive"])
        return any(one["DeathReason"] in _GRACEFUL for one in ended)
