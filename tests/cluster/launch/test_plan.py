"""Placement of bundles on nodes: nothing is lost, no node is overfull, and too few nodes are refused with the key."""

from __future__ import annotations

import time
from collections import Counter
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.config.cluster_settings import ROLES, NodeType
from cluster.launch.plan import Bundle, NodeTypes, PlacementError, Plan, describe, make_plan

GPU = NodeType(gpus=8, cpus=96, memory_gib=1000)
CPU = NodeType(cpus=16, memory_gib=64, roles=("verifier",))
HEAD = NodeType(cpus=4, memory_gib=16, roles=())
TYPES = NodeTypes({"head": HEAD, "gpu": GPU, "cpu": CPU})


def actors(ranks: int = 0, samplers: int = 0, verifiers: int = 0, gpus: int = 4) -> list[Bundle]:
    sampler = Bundle("sampler", gpus=gpus)
    return [Bundle("learner", gpus=1)] * ranks + [sampler] * samplers + [Bundle("verifier")] * verifiers


def contents(plan: Plan) -> list[tuple[str, dict[str, int]]]:
    return [(node.type_name, dict(Counter(bundle.role for bundle in node.bundles))) for node in plan.nodes]


def test_ranks_are_packed_and_engines_stay_whole() -> None:
    plan = make_plan(TYPES, "head", actors(ranks=12, samplers=3))
    assert contents(plan) == [
        ("head", {}),
        ("gpu", {"learner": 8}),
        ("gpu", {"learner": 4, "sampler": 1}),
        ("gpu", {"sampler": 2}),
    ]


def test_verifiers_are_spread_over_open_nodes_before_a_node_is_added() -> None:
    types = NodeTypes({"gpu": GPU.model_copy(update={"roles": ("sampler",)}), "cpu": CPU})
    assert contents(make_plan(types, "gpu", actors(samplers=2, verifiers=20))) == [
        ("gpu", {"sampler": 2}),
        ("cpu", {"verifier": 10}),
        ("cpu", {"verifier": 10}),
    ]
    assert contents(make_plan(types, "gpu", actors(samplers=2, verifiers=16)))[1:] == [("cpu", {"verifier": 16})]


def test_one_node_can_be_head_and_hold_everything() -> None:
    types = NodeTypes({"node": NodeType(gpus=8, cpus=32, memory_gib=500)})
    plan = make_plan(types, "node", actors(ranks=4, samplers=4, verifiers=16, gpus=1))
    assert contents(plan) == [("node", {"learner": 4, "sampler": 4, "verifier": 16})]


def test_memory_limits_what_a_node_takes() -> None:
    rank = Bundle("learner", gpus=1, memory_gib=200)
    types = NodeTypes({"gpu": GPU}, {"gpu": 300.0})
    assert [len(node.bundles) for node in make_plan(types, "gpu", [rank] * 8).nodes] == [3, 3, 2]


def test_a_second_node_type_is_used_when_the_first_is_exhausted() -> None:
    spot = GPU.model_copy(update={"spot": True, "max": 1})
    types = NodeTypes({"spot": spot, "gpu": GPU})
    assert make_plan(types, "spot", actors(samplers=5)).counts == {"spot": 1, "gpu": 2}


def test_a_pair_on_one_card_needs_a_node_that_takes_both() -> None:
    pair = Bundle("learner", cpus=2, gpus=1, shared_with="sampler")
    kinds = {"learn": GPU.model_copy(update={"roles": ("learner",)}), "gpu": GPU}
    plan = make_plan(NodeTypes(kinds), "learn", [pair] * 9)
    assert plan.counts == {"learn": 1, "gpu": 2} and not plan.nodes[0].bundles
    assert describe(plan.nodes[1].bundles) == "8 learner ranks and samplers"
    with pytest.raises(PlacementError, match="takes a learner rank and sampler; add learner, sampler to the roles"):
        make_plan(NodeTypes({"learn": kinds["learn"]}), "learn", [pair])


@pytest.mark.parametrize(
    ("bundles", "types", "words"),
    [
        (actors(samplers=1, gpus=16), TYPES,
         ("sampler.gpus = 16", "stays on one node", "cluster.node_types.gpu", "8 GPUs")),
        (actors(ranks=200), TYPES, ("25 nodes", "cluster.node_types.gpu.max = 16", "learner.ranks")),
        (actors(ranks=1), NodeTypes({"cpu": CPU}), ("no node type takes a learner rank", "roles")),
        ([Bundle("verifier", gpus=0.5)], NodeTypes({"cpu": CPU}), ("verifier worker (0.5 GPU", "actors.verifier_gpus")),
        ([Bundle("learner", gpus=1, memory_gib=900)], NodeTypes({"gpu": GPU}, {"gpu": 200.0}),
         ("about 900 GiB", "200 for Ray", "lacks memory", "cluster.node_types.gpu.memory_gib", "model.path")),
        ([Bundle("learner", cpus=200, gpus=1)], TYPES, ("lacks CPUs", "cluster.node_types.gpu.cpus")),
        (actors(verifiers=33), NodeTypes({"cpu": CPU.model_copy(update={"max": 2})}), ("3 nodes", "actors.verifiers")),
    ],
)  # fmt: skip
def test_what_cannot_be_placed_is_refused(bundles: list[Bundle], types: NodeTypes, words: tuple[str, ...]) -> None:
    with pytest.raises(PlacementError) as error:
        make_plan(types, next(iter(types.types)), bundles)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_every_kind_of_actor_that_fits_nowhere_is_named() -> None:
    with pytest.raises(PlacementError) as error:
        make_plan(NodeTypes({"cpu": CPU}), "cpu", actors(ranks=2, samplers=2, verifiers=1))
    assert len(str(error.value).splitlines()) == 2


NODE_TYPES = st.builds(
    NodeType,
    gpus=st.integers(0, 8),
    cpus=st.integers(1, 32),
    memory_gib=st.integers(8, 64),
    roles=st.sets(st.sampled_from(ROLES)).map(lambda roles: tuple(sorted(roles))),
    min=st.integers(0, 2),
    max=st.integers(2, 6),
)
BUNDLES = st.builds(
    Bundle,
    role=st.sampled_from(ROLES),
    cpus=st.sampled_from([1.0, 2.0]),
    gpus=st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0, 4.0]),
    memory_gib=st.sampled_from([0.0, 1.0, 7.5]),
)


@given(st.lists(NODE_TYPES, min_size=1, max_size=4), st.lists(BUNDLES, max_size=24), st.data())
def test_a_plan_holds_every_actor_and_overfills_no_node(
    kinds: list[NodeType], bundles: list[Bundle], data: st.DataObject
) -> None:
    types = {f"t{i}": kind for i, kind in enumerate(kinds)}
    head = data.draw(st.sampled_from(sorted(types)))
    try:
        plan = make_plan(NodeTypes(types, dict.fromkeys(types, 4.0)), head, bundles)
    except PlacementError as error:
        assert str(error)
        assert bundles  # nothing to place is never refused
        return
    assert Counter(bundle for node in plan.nodes for bundle in node.bundles) == Counter(bundles)
    assert plan.nodes[0].head and plan.nodes[0].type_name == head and sum(node.head for node in plan.nodes) == 1
    for node in plan.nodes:
        assert sum(bundle.gpus for bundle in node.bundles) <= node.type.gpus
        assert sum(bundle.cpus for bundle in node.bundles) <= node.type.cpus
        assert sum(bundle.memory_gib for bundle in node.bundles) <= max(0, node.type.memory_gib - 4)
        assert {bundle.role for bundle in node.bundles} <= set(node.type.roles)
        assert describe(node.bundles)
    for name, kind in types.items():
        assert max(kind.min, name == head) <= plan.counts[name] <= kind.max
        empty = [node for node in plan.nodes if node.type_name == name and not node.bundles]
        assert len(empty) <= max(kind.min, name == head)  # no node is added for nothing


@given(st.integers(0, 40), st.integers(0, 12), st.sampled_from([1, 2, 4, 8]))
def test_gpu_nodes_are_as_few_as_possible_where_engines_divide_a_node(ranks: int, samplers: int, gpus: int) -> None:
    kind = GPU.model_copy(update={"max": 64})
    plan = make_plan(NodeTypes({"gpu": kind}), "gpu", actors(ranks, samplers, gpus=gpus))
    whole = ceil(ranks / gpus) * gpus + samplers * gpus
    assert len(plan.nodes) == max(1, ceil(whole / 8))


@given(st.integers(0, 30), st.integers(1, 12), st.sampled_from([1, 2, 3, 4, 8]))
def test_one_more_sampler_never_needs_fewer_nodes(ranks: int, samplers: int, gpus: int) -> None:
    types = NodeTypes({"gpu": GPU.model_copy(update={"max": 64})})
    before, after = (len(make_plan(types, "gpu", actors(ranks, n, gpus=gpus)).nodes) for n in (samplers, samplers + 1))
    assert before <= after <= before + 1


def test_a_large_layout_is_planned_in_a_moment() -> None:
    types = NodeTypes({name: kind.model_copy(update={"max": 1000}) for name, kind in TYPES.types.items()})
    start = time.process_time()
    plan = make_plan(types, "head", actors(ranks=64, samplers=256, verifiers=1024, gpus=1))
    assert plan.counts["gpu"] == 40 and time.process_time() - start < 2
