"""Actors get the nodes of their roles: ranks packed, verifiers spread, engines whole; pairs share a card."""

from __future__ import annotations

import asyncio

import pytest

from cluster.config import RunConfig, build_config

pytestmark = pytest.mark.slow  # starts Ray, with GPUs that it only counts


def pairs(ranks: int) -> RunConfig:
    return build_config(
        {
            "sampler": {"gpus": 1},
            "learner": {"gpus_per_rank": 1, "ranks": ranks},
            "actors": {"samplers": ranks},
            "cluster": {"placement": "colocated"},
            "deadlines": {"start_s": 5},
        }
    )


def test_pairs_share_a_card() -> None:
    import ray

    from actors.remote_calls import ActorLost
    from cluster.run.placement import Placement

    @ray.remote
    class Card:
        def ids(self) -> list[int]:
            return ray.get_gpu_ids()

    ray.init(address="local", num_cpus=8, num_gpus=3, include_dashboard=False, log_to_driver=False)
    try:
        placement = Placement(pairs(3))
        assert placement.shares_cards
        asyncio.run(placement.reserve())
        learners = {rank: Card.options(**placement.learner(rank)).remote() for rank in (2, 0, 1)}
        samplers = {index: Card.options(**placement.sampler(index)).remote() for index in (1, 2, 0)}

        def cards(actors: dict) -> list[list[int]]:
            return [ray.get(actors[i].ids.remote(), timeout=60) for i in range(3)]

        found = cards(learners)
        assert cards(samplers) == found and sorted(found) == [[0], [1], [2]]
        ray.kill(samplers[1])
        samplers[1] = Card.options(**placement.sampler(1)).remote()
        assert cards(samplers) == found, "a replacement gets the card of the lost one"

        with pytest.raises(ActorLost, match=r"Ray did not reserve 3 GPUs, each with 2 CPUs .*deadlines.start_s"):
            asyncio.run(Placement(pairs(3)).reserve())  # the first one holds them
    finally:
        ray.shutdown()


def test_separate_actors_ask_for_their_own_cards() -> None:
    from cluster.run.placement import Placement

    placement = Placement(build_config({"sampler": {"gpus": 2, "tensor_parallel": 2}, "learner": {"gpus_per_rank": 1}}))
    asyncio.run(placement.reserve())
    assert (placement.sampler(0), placement.learner(0)) == ({"num_gpus": 2}, {"num_gpus": 1})


def test_ranks_are_packed_verifiers_spread_and_roles_kept_apart() -> None:
    """Two nodes for learner and samplers, with two GPUs each that are only counted, and two for verifiers."""
    import ray
    from ray.cluster_utils import Cluster

    from cluster.checks.ray_cluster import layout_problems, role_problems
    from cluster.launch.demand import resources_of
    from cluster.run.placement import Placement

    work = {"cpus": 4, "gpus": 2, "memory_gib": 64, "roles": ["learner", "sampler"]}
    config = build_config(
        {
            "learner": {"ranks": 3},
            "sampler": {"gpus": 2, "tensor_parallel": 2},
            "actors": {"samplers": 2, "verifiers": 4},
            "cluster": {
                "node_types": {
                    "head": {"cpus": 1, "memory_gib": 16, "roles": []},
                    "work": work,
                    "grade": {"cpus": 4, "memory_gib": 16, "roles": ["verifier"]},
                }
            },
        }
    )

    @ray.remote
    class Where:
        def node(self) -> str:
            return ray.get_runtime_context().get_node_id()

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 100 * 2**20})
    try:
        for name in ("work", "work", "grade", "grade"):
            kind = config.cluster.node_types[name]
            cluster.add_node(
                num_cpus=kind.cpus, num_gpus=kind.gpus, resources=resources_of(config, kind),
                object_store_memory=100 * 2**20,
            )  # fmt: skip
        ray.init(address=cluster.address, log_to_driver=False)
        nodes = {node["NodeID"]: node["Resources"] for node in ray.nodes()}
        assert not [*layout_problems(config, list(nodes.values())), *role_problems(config, list(nodes.values()))]
        placement = Placement(config)
        asyncio.run(placement.reserve())
        options = {
            "verifier": [placement.verifier() for _ in range(4)],
            "sampler": [placement.sampler(i) for i in range(2)],
            "learner": [placement.learner(rank) for rank in range(3)],
        }
        actors = {role: [Where.options(num_cpus=1, **one).remote() for one in them] for role, them in options.items()}
        found = {role: ray.get([one.node.remote() for one in them], timeout=120) for role, them in actors.items()}
        for role, places in found.items():
            assert all(f"bonrl-{role}" in nodes[place] for place in places), (role, found)
        assert len(set(found["learner"])) == 1 and len(set(found["verifier"])) == 2
        assert len(set(found["sampler"])) == 2, "an engine has both GPUs of a node"
    finally:
        ray.shutdown()
        cluster.shutdown()
