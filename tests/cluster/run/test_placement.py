"""Sampler i and learner rank i get the same card, whatever the order in which they start or are replaced."""

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
