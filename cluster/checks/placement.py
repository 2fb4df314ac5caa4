"""The plan of nodes with the memory that the estimates give each actor."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from cluster.checks.memory.estimates import VERIFIER_RUNTIME, derive, loading_memory
from cluster.checks.memory.rank import moved_host_memory
from cluster.checks.memory.sampler import sampler_host_memory
from cluster.checks.memory.shape import GIB, has_learner, has_samplers
from cluster.checks.model_facts import ModelFacts
from cluster.config import RunConfig
from cluster.config.gpu_rules import gpus_wanted
from cluster.config.hub_ids import hub_id
from cluster.launch.demand import Sizes, plan_run
from cluster.launch.report import placement_rows


def sizes_of(config: RunConfig, model: ModelFacts | None) -> Sizes:
    """Host memory of each actor on a cluster of several nodes."""
    config = _on_cluster(config)
    found = derive(config, model)
    groups = found.group_memory / GIB
    shape, transit = found.shape, found.transit
    if shape is None:
        return Sizes(groups=groups)
    learner = 0.0
    if has_learner(config):
        on_host = 0.0 if config.learner.gpus_per_rank else found.learner_memory or 0.0
        moved = moved_host_memory(config, shape)
        learner = max(loading_memory(config, shape) / found.ranks_per_node, on_host, moved)
    return Sizes(
        sampler=sampler_host_memory(config, shape) / GIB,
        learner=learner / GIB,
        verifier=VERIFIER_RUNTIME / GIB,
        groups=groups,
        stored_weights=transit.object_store / GIB if transit else 0.0,
        shared_weights=transit.shared_memory / GIB if transit else 0.0,
    )


def _on_cluster(config: RunConfig) -> RunConfig:
    return config.model_copy(update={"cluster": config.cluster.model_copy(update={"address": "auto"})})


def placement_report(config: RunConfig, model: ModelFacts | None) -> list[tuple[str, str]]:
    """Rows of `--dry-run` about the nodes; empty where cluster.node_types is.

    Raises:
        UsageError: the node types cannot hold the run.
    """
    return list(placement_rows(config, partial(sizes_of, model=model)))


def placement_warnings(config: RunConfig, model: ModelFacts | None) -> list[str]:
    """Nodes and paths that will probably fail the run; call it where :func:`placement_report` refuses nothing."""
    cluster = config.cluster
    if not cluster.node_types:
        return []
    found = []
    nodes = plan_run(config, sizes_of(config, model)).nodes
    if nodes[0].type.spot:
        found.append(
            f"cluster.node_types.{nodes[0].type_name}.spot = true for the head node: when the provider takes it away, "
            "the run ends and must be resumed; name another node type in cluster.head"
        )
    if with_gpus := [name for name, kind in cluster.node_types.items() if kind.gpus and not gpus_wanted(config)]:
        idle = "learner.gpus_per_rank = 0; set it to 1"
        if not has_learner(config):
            idle = "sampler.gpus = 0; set it to 1"
        elif has_samplers(config):
            idle = "sampler.gpus = 0 and learner.gpus_per_rank = 0; set both to 1"
        found.append(
            f"cluster.node_types.{with_gpus[0]} has GPUs, and no actor uses one: {idle}, or begin with a preset for "
            "GPUs (-c cluster/presets/8xh100.yaml)"
        )
    if len(nodes) == 1:
        return found
    path, bucket = cluster.storage.path, cluster.storage.bucket and cluster.storage.bucket_path
    seen = {"run.directory": [path], "model.path": [path, bucket]}
    hub_home = cluster.environment.get("HF_HOME")
    if hub_id(config.model.path) and not (hub_home and path and Path(hub_home).is_relative_to(path)):
        found.append(
            f"model.path = {config.model.path} is fetched from the hub, and {len(nodes)} nodes must see the files: set "
            f"cluster.environment.HF_HOME to a directory below cluster.storage.path = {path or 'null'}"
        )
    for key, value in (("run.directory", config.run.directory), ("model.path", config.model.path)):
        if key == "model.path" and not Path(value).is_absolute():  # `bonrl submit` packs it
            continue
        if not any(place and Path(value).is_relative_to(place) for place in seen[key]):
            found.append(
                f"{key} = {value} is not below cluster.storage.path = {path or 'null'}, and {len(nodes)} nodes must "
                "see it; put it on storage that they share"
            )
    return found
