"""Nodes and actors are lost at any moment of a broadcast: no weights are lost, and only failed actors are replaced."""

from __future__ import annotations

import random

import pytest

from tests.actors.fleet.simulated_cluster import STEPS, Fault, World, run

pytestmark = pytest.mark.slow  # imports Ray, though it starts nothing

MOMENTS = ("publish", "load", "receive", "release", "ack", "join", "accumulate", "update")
SAMPLERS = 3


def random_faults(seed: int) -> list[Fault]:
    order = random.Random(seed)
    names = ["learner", *(f"sampler-{i}" for i in range(SAMPLERS))]
    victims = [*names, *(f"node of {name}" for name in names), "node of learner", "monitor", "load of sampler-1"]
    return [
        Fault(
            order.choice(MOMENTS), order.randint(1, 6), order.choice([0.0, order.uniform(0, 1)]), order.choice(victims)
        )
        for _ in range(order.randint(1, 4))
    ]


@pytest.mark.parametrize("part", range(10))
def test_four_hundred_random_interleavings(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = 0
    for seed in range(40 * part, 40 * (part + 1)):
        world = World(seed, random_faults(seed))
        try:
            job = run(monkeypatch, world, random.Random(seed).choice(["auto", "object_store", "nccl"]))
        except BaseException as error:
            raise AssertionError(f"seed {seed}, {world.log}: {error!r}") from error
        lost += sum(map(len, job.incidents.values()))
    assert lost > 40, "too few faults were injected"


def test_the_learners_node_is_lost_while_samplers_fetch_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """The learner's successor sends the weights to samplers on other nodes again; none of them is replaced."""
    healthy = 0
    for seed in range(20):
        world = World(seed, [Fault("publish", 2, 0.25, "node of learner")])
        job = run(monkeypatch, world, "object_store")
        if not world.actual_losses["learner"]:  # it ran on the driver's node
            continue
        healthy += sum(not world.actual_losses[member.name] for member in job.samplers)
        assert job.learner.version == STEPS
    assert healthy > 10


def test_a_load_that_began_and_failed_replaces_the_sampler(monkeypatch: pytest.MonkeyPatch) -> None:
    job = run(monkeypatch, World(0, [Fault("accumulate", 2, 0.0, "load of sampler-1")]))
    assert ["sampler-1"] == [unit for unit, reasons in job.incidents.items() if reasons]
    assert "loading began and failed" in job.incidents["sampler-1"][0]


@pytest.mark.parametrize("moment", ["load", "receive"])
@pytest.mark.parametrize("victim", ["sampler-1", "load of sampler-1", "learner", "node of learner"])
def test_the_death_of_a_member_of_a_group_replaces_no_other(
    moment: str, victim: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others get the weights again, long before their wait reaches a deadline."""
    for seed in range(6):
        for after in (0.0, 0.3):
            world = World(seed, [Fault(moment, 4, after, victim)])
            job = run(monkeypatch, world, "nccl")  # checks that no other unit was replaced
            assert not any("within" in reason for reasons in job.incidents.values() for reason in reasons)
            assert job.learner.version == STEPS
