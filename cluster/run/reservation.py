"""Reserved resources for an optional actor: a placement group of one bundle.

Ray's autoscaler starts nodes for placement groups that wait; without an autoscaler a group waits until a node has room.
Ray removes the placement groups of a job when the job ends in any way. ``ray.autoscaler.sdk.request_resources`` is not
used, because its request would outlive the job and replace the requests of other jobs.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from ray.util import placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy


class BundleReservation:
    """A :class:`actors.fleet.units.Reservation` on any one node that has `needs`."""

    def __init__(self, needs: Mapping[str, float]) -> None:
        self._bundle = {name: amount for name, amount in needs.items() if amount}
        self._group: Any = None
        self._lock = threading.Lock()  # a call may still run in its thread when the next one begins

    def reserve(self) -> bool:
        with self._lock:
            if self._group is None:
                self._group = placement_group([self._bundle])
            return bool(placement_group_table(self._group)["state"] == "CREATED")

    def release(self) -> None:
        with self._lock:
            if self._group is not None:
                remove_placement_group(self._group)
                self._group = None

    def options(self) -> dict[str, Any]:
        """Ray options of an actor that starts in the reserved bundle; none if it is not reserved."""
        if self._group is None:
            return {}
        return {"scheduling_strategy": PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=0)}
