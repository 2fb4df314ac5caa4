"""Reserved resources for an optional actor, and other nodes for learner ranks: placement groups, without a cluster."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from cluster.config import build_config

pytestmark = pytest.mark.slow  # imports Ray, though it starts nothing


class Groups:
    """Ray's placement groups; the cluster grants none until `granted`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *modules: object) -> None:
        self.made: list[SimpleNamespace] = []
        self.granted = False
        for module in modules:
            monkeypatch.setattr(module, "placement_group", self.make)
            monkeypatch.setattr(module, "remove_placement_group", lambda group: self.made.remove(group))
            monkeypatch.setattr(module, "placement_group_table", self.table)

    def make(self, bundles: list[dict], strategy: str = "PACK") -> SimpleNamespace:
        self.made.append(SimpleNamespace(bundles=bundles, nodes={i: f"node-{i}" for i in range(len(bundles))}))
        return self.made[-1]

    def table(self, group: SimpleNamespace) -> dict:
        return {"state": "CREATED" if self.granted else "PENDING", "bundles_to_node_id": group.nodes}


def test_one_waiting_group_for_each_actor_until_it_is_released(monkeypatch: pytest.MonkeyPatch) -> None:
    from cluster.run import reservation

    groups = Groups(monkeypatch, reservation)
    one = reservation.BundleReservation({"CPU": 1, "GPU": 0, "bonrl-sampler": 0.001})
    assert one.options() == {} and not groups.made, "a required actor asks for nothing"
    assert not one.reserve() and not one.reserve()
    assert [group.bundles for group in groups.made] == [[{"CPU": 1, "bonrl-sampler": 0.001}]]
    groups.granted = True
    assert one.reserve()
    strategy = one.options()["scheduling_strategy"]
    assert (strategy.placement_group, strategy.placement_group_bundle_index) == (groups.made[0], 0)
    one.release()
    one.release()
    assert not groups.made and one.options() == {}


def test_ranks_get_other_nodes_only_if_one_of_theirs_will_be_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray.util

    from cluster.run.placement import Placement

    groups = Groups(monkeypatch, ray.util)
    placement = Placement(build_config({"learner": {"ranks": 2}}))
    placement.learner(0)
    (first,) = groups.made
    placement.renew_ranks(["node-7"])
    assert groups.made == [first]
    placement.renew_ranks(["node-1"])
    (second,) = groups.made
    assert second is not first and second.bundles == first.bundles
    assert placement.learner(1)["scheduling_strategy"].placement_group is second
