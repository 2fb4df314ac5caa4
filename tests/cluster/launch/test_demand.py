"""The number of nodes and their shared memory follow from samplers, ranks, verifiers, N and the model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cluster.checks.placement import placement_report, placement_warnings, sizes_of
from cluster.config import ConfigError, load_config
from cluster.errors import UsageError
from cluster.launch.demand import Sizes, bundles, plan_run, requirement, resources_of, restricted
from tests.cluster.launch.clusters import SIZES, configuration


def rows(*overrides: str) -> dict[str, str]:
    return {
        name.strip() or f"row {i}": text
        for i, (name, text) in enumerate(placement_report(configuration(*overrides), None))
    }


def test_nodes_follow_from_the_actors() -> None:
    assert plan_run(configuration(), SIZES).counts == {"head": 1, "gpu": 2, "cpu": 2}
    assert plan_run(configuration("actors.samplers=3"), SIZES).counts == {"head": 1, "gpu": 4, "cpu": 2}
    assert plan_run(configuration("learner.ranks=16"), SIZES).counts == {"head": 1, "gpu": 3, "cpu": 2}
    assert plan_run(configuration("actors.verifiers=65"), SIZES).counts == {"head": 1, "gpu": 2, "cpu": 3}
    assert plan_run(configuration("rollout.n=64"), SIZES).counts == {"head": 1, "gpu": 2, "cpu": 2}


def test_elastic_actors_are_planned_for_their_least_and_most() -> None:
    config = configuration("actors.samplers={min: 1, max: 3}", "actors.verifiers={min: 1, max: 40}")
    assert plan_run(config, SIZES).counts == {"head": 1, "gpu": 2, "cpu": 1}
    assert plan_run(config, SIZES, most=True).counts == {"head": 1, "gpu": 4, "cpu": 2}
    assert len(bundles(config, SIZES)) == 8 + 1 + 1 and len(bundles(config, SIZES, most=True)) == 8 + 3 + 40


def test_pairs_on_one_card_are_planned_together() -> None:
    config = configuration(
        "cluster.placement=colocated", "sampler={gpus: 1}", "actors={samplers: 8, verifiers: 40}", "learner.ranks=8"
    )
    assert plan_run(config, SIZES).counts == {"head": 1, "gpu": 1, "cpu": 2}
    assert bundles(config, SIZES)[0].memory_gib == SIZES.learner + SIZES.sampler


def test_shared_memory_follows_from_groups_and_weights() -> None:
    types = configuration().cluster.node_types
    assert SIZES.object_store(types["gpu"]) == 76.0  # 1.5 x (0.33 + 50.3), in steps of 0.5
    assert SIZES.shared_memory(types["gpu"]) == 128 and SIZES.reserved(types["gpu"]) == 130
    assert SIZES.shared_memory(types["cpu"]) == 1  # verifiers hold no weights
    assert replace(SIZES, groups=4 * 20.0).shared_memory(types["cpu"]) == 120
    assert Sizes().object_store(types["gpu"]) == 0.5


def test_groups_in_flight_grow_with_n() -> None:
    before, after = (sizes_of(configuration(f"rollout.n={n}"), None) for n in (16, 64))
    assert after.groups == pytest.approx(4 * before.groups) == pytest.approx(4 * 128 * 16 * 3584 * 16 / 2**30)
    assert (after.sampler, after.learner, after.shared_weights) == (
        before.sampler,
        before.learner,
        before.shared_weights,
    )
    assert before.learner == pytest.approx(54e9 / 2**30 / 8 + 0.9)  # one of a node's 8 ranks reads the model


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            "cluster.node_types.gpu.shm_gib=100",
            ("cluster.node_types.gpu.shm_gib = 100", "128 GiB", "1 for NCCL", "weights in transit"),
        ),
        ("cluster.node_types.gpu.memory_gib=120", ("memory_gib = 120", "130 GiB before any actor", "rollout.n")),
        ("cluster.node_types.gpu.memory_gib=135", ("learner rank", "lacks memory")),
        ("cluster.node_types.gpu.gpus=4", ("sampler.gpus = 8", "stays on one node")),
        ("cluster.node_types.gpu.max=1", ("2 nodes", "cluster.node_types.gpu.max = 1")),
        ("cluster.node_types.cpu.roles=[]", ("no node type takes a verifier worker",)),
        ("actors.samplers={min: 1, max: 40}", ("41 nodes", "cluster.node_types.gpu.max = 16")),
    ],
)
def test_node_types_that_cannot_hold_the_run_are_refused(override: str, words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError) as error:
        placement_report(configuration(override), None)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_dry_run_says_where_actors_go_what_it_takes_and_what_more_would() -> None:
    found = rows()
    assert found["placement"] == "1 x head: head (driver, replay queue)"
    assert found["row 1"] == "1 x gpu: 8 learner ranks" and found["row 2"] == "1 x gpu: 1 sampler (8 GPUs each)"
    assert found["row 3"] == "2 x cpu: 20 verifier workers"
    assert found["nodes of the cluster"] == "1 x head, 2 x gpu, 2 x cpu"
    assert found["cluster, in all"] == (
        "16 GPUs, 464 CPUs, 3,900 GiB of memory on 5 nodes; of them spot: 2 nodes with 0 GPUs"
    )
    assert found["taken by actors"] == "16 of 16 GPUs, 49 of 464 CPUs"
    assert found["with actors.samplers = 2"] == "+1 x gpu (24 GPUs, 656 CPUs in all)"
    assert found["with rollout.n = 32"].startswith("4,096 samples per step; the same nodes; groups in flight 0.109 ->")
    assert "refused" in rows("cluster.node_types.gpu.max=2")["with actors.samplers = 2"]


def test_paths_that_other_nodes_do_not_see_and_a_head_that_may_be_taken_away_are_warned_about() -> None:
    assert placement_warnings(configuration(), None) == []
    (path,) = placement_warnings(configuration("run.directory=runs"), None)
    assert "run.directory = runs is not below cluster.storage.path = /shared, and 5 nodes must see it" in path
    without = placement_warnings(configuration("cluster.storage={}"), None)
    assert len(without) == 2 and "cluster.storage.path = null" in without[1]
    assert (
        placement_warnings(configuration("cluster.storage={bucket: 's3://models'}", "model.path=/bucket/m"), None)
        == without[:1]
    )
    (cache,) = placement_warnings(configuration("model.path=OWNER/NAME"), None)
    assert "model.path = OWNER/NAME is fetched from the hub" in cache and "cluster.environment.HF_HOME" in cache
    shared = configuration("model.path=OWNER/NAME", "cluster.environment.HF_HOME=/shared/huggingface")
    assert placement_warnings(shared, None) == []
    (idle,) = placement_warnings(configuration("sampler={gpus: 0}", "learner.gpus_per_rank=0"), None)
    assert "cluster.node_types.gpu has GPUs, and no actor uses one: sampler.gpus = 0" in idle
    (head,) = placement_warnings(configuration("cluster.node_types.head.spot=true"), None)
    assert "cluster.node_types.head.spot" in head and "cluster.head" in head


def test_dry_run_without_node_types_says_nothing_of_nodes() -> None:
    assert placement_report(configuration(cluster={"address": "auto"}), None) == []


def test_preset_for_several_nodes_describes_them(repository: Path) -> None:
    config = load_config(repository / "cluster" / "presets" / "multinode.yaml")
    assert plan_run(config, sizes_of(config, None)).counts == {"head": 1, "gpu": 4}


def test_roles_become_resources_only_where_a_node_type_excludes_one() -> None:
    config = configuration()
    types = config.cluster.node_types
    assert restricted(config) == {"learner", "sampler", "verifier"}
    assert resources_of(config, types["gpu"]) == {"bonrl-learner": 1, "bonrl-sampler": 1}
    assert resources_of(config, types["cpu"]) == {"bonrl-verifier": 1} and resources_of(config, types["head"]) == {}
    assert requirement(config, "sampler") == {"bonrl-sampler": 0.001}
    everywhere = configuration(
        "cluster.node_types.gpu.roles=[learner, sampler, verifier]", "cluster.node_types.cpu.roles=[]"
    )
    assert restricted(everywhere) == set() and requirement(everywhere, "verifier") == {}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("cluster.node_types.gpu.gpu=8", ("cluster.node_types.gpu.gpu: unknown key", "cluster.node_types.gpu.gpus")),
        ("cluster.node_types.big={cpus: 4}", ("cluster.node_types.big.memory_gib: is required", "in GiB")),
        ("cluster.node_types.gpu.cpus=0", ("cluster.node_types.gpu.cpus = 0", "CPUs of one node")),
        ("cluster.node_types.gpu.roles=[sampl]", ("cluster.node_types.gpu.roles.0", "'sampler'")),
        ("cluster.node_types.gpu.max=0", ("cluster.node_types.gpu.max = 0",)),
        ("cluster.node_types.gpu.min=17", ("max = 16 is below min = 17",)),
        ("cluster.node_types.gpu.shm_gib=1800", ("shm_gib = 1800", "memory_gib = 1800")),
        ("cluster.node_types.Big={cpus: 4, memory_gib: 8}", ("cluster.node_types", "Big")),
        ("cluster.head=main", ("cluster.head = main", "head, gpu, cpu")),
        ("cluster.environment.HF_TOKEN=sesame", ("cluster.environment.HF_TOKEN", "bonrl submit --env")),
        ("cluster.storage={nfs: 'fs:/export'}", ("nfs needs path",)),
        ("cluster.slurm.time=1h", ("cluster.slurm.time = '1h'",)),
    ],
)
def test_wrong_descriptions_of_machines_are_refused(override: str, words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as error:
        configuration(override)
    assert all(word in str(error.value) for word in words), str(error.value)
    assert "sesame" not in str(error.value)
