"""The resources of a node that each actor of a run takes, and the shared memory that every node needs."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from cluster.config.cluster_settings import ROLES, NodeType, Role
from cluster.launch.plan import Bundle, NodeTypes, PlacementError, Plan, make_plan

if TYPE_CHECKING:
    from cluster.config import RunConfig

_NCCL_GIB = 1.0  # files of NCCL and vLLM in /dev/shm of a node with GPUs; NCCL's manual gives containers 1 GiB
RAY_GIB = 2.0  # Ray's own processes, the driver and the queue on one node
_STORE_SLACK = 1.5  # groups are copied while they are being read
_MIN_STORE_GIB = 0.5
_RESOURCE = "bonrl-"


@dataclass(frozen=True)
class Sizes:
    """Estimated host memory in GiB; 0 where the size of the model is not known.

    Attributes:
        sampler, learner, verifier: of one actor.
        groups: groups in flight, in the object store of a node.
        stored_weights, shared_weights: weights on their way on a node with samplers or ranks, in the object store and
            in files in /dev/shm.
    """

    sampler: float = 0.0
    learner: float = 0.0
    verifier: float = 0.0
    groups: float = 0.0
    stored_weights: float = 0.0
    shared_weights: float = 0.0

    def object_store(self, kind: NodeType) -> float:
        """GiB of Ray's object store that a node needs, in steps of 0.5."""
        stored = self.groups + (self.stored_weights if _has_weights(kind) else 0.0)
        return max(_MIN_STORE_GIB, ceil(2 * _STORE_SLACK * stored) / 2)

    def shared_memory_parts(self, kind: NodeType) -> dict[str, float]:
        """GiB of /dev/shm that a node needs, by use."""
        parts = {"Ray's object store": self.object_store(kind)}
        if self.shared_weights and _has_weights(kind):
            parts["weights in transit"] = self.shared_weights
        if kind.gpus:
            parts["NCCL"] = _NCCL_GIB
        return parts

    def shared_memory(self, kind: NodeType) -> int:
        """GiB of /dev/shm that a node needs."""
        return ceil(sum(self.shared_memory_parts(kind).values()))

    def reserved(self, kind: NodeType) -> float:
        """GiB of a node that no actor gets."""
        return RAY_GIB + self.shared_memory(kind)


def _has_weights(kind: NodeType) -> bool:
    return bool({"learner", "sampler"} & set(kind.roles))


def bundles(config: RunConfig, sizes: Sizes, *, most: bool = False) -> list[Bundle]:
    """The bundles of all actors, in the order in which they are placed: the largest first.

    Args:
        most: with the actors above the `min` of an elastic number.
    """
    actors = config.actors
    samplers, verifiers = (count.max if most else count.min for count in (actors.sampler_range, actors.verifier_range))
    ranks = config.learner.ranks
    verifier = Bundle("verifier", gpus=actors.verifier_gpus, memory_gib=sizes.verifier)
    if config.cluster.placement == "colocated":  # as many samplers as ranks
        memory = sizes.learner + sizes.sampler
        pair = Bundle("learner", cpus=2, gpus=1, memory_gib=memory, shared_with="sampler")
        return [pair] * ranks + [verifier] * verifiers
    rank = Bundle("learner", gpus=config.learner.gpus_per_rank, memory_gib=sizes.learner)
    sampler = Bundle("sampler", gpus=config.sampler.gpus, memory_gib=sizes.sampler)
    return [rank] * ranks + [sampler] * samplers + [verifier] * verifiers


def plan_run(config: RunConfig, sizes: Sizes, *, most: bool = False) -> Plan:
    """The nodes of a run.

    Raises:
        PlacementError: the node types cannot hold it.
    """
    types = config.cluster.node_types
    problems = [line for name, kind in types.items() for line in _too_small(name, kind, sizes)]
    if problems:
        raise PlacementError("\n".join(problems))
    reserved = {name: sizes.reserved(kind) for name, kind in types.items()}
    return make_plan(NodeTypes(types, reserved), config.cluster.head_type, bundles(config, sizes, most=most))


def _too_small(name: str, kind: NodeType, sizes: Sizes) -> list[str]:
    """Problems of a node type that lacks /dev/shm, or memory for it, before any actor is placed."""
    key, needed = f"cluster.node_types.{name}", sizes.shared_memory(kind)
    parts = ", ".join(f"{gib:.3g} for {use}" for use, gib in sizes.shared_memory_parts(kind).items())
    if kind.shm_gib is not None and kind.shm_gib < needed:
        return [
            f"{key}.shm_gib = {kind.shm_gib:g}, but a node needs {needed} GiB of /dev/shm: {parts}; raise it or leave "
            "it out, or lower rollout.n, rollout.prompts_per_step or queue.staleness"
        ]
    if sizes.reserved(kind) >= kind.memory_gib:
        return [
            f"{key}.memory_gib = {kind.memory_gib:g}, but a node needs {sizes.reserved(kind):g} GiB before any actor: "
            f"{RAY_GIB:g} for Ray and {needed} of /dev/shm ({parts}); raise it, or lower rollout.n, "
            "rollout.prompts_per_step or queue.staleness"
        ]
    return []


def shm_of(kind: NodeType, sizes: Sizes) -> float:
    """GiB of /dev/shm of a node."""
    return kind.shm_gib if kind.shm_gib is not None else float(sizes.shared_memory(kind))


def object_store_of(kind: NodeType, sizes: Sizes) -> float:
    """GiB of Ray's object store on a node: what the run needs, and the rest of /dev/shm where its size is given."""
    rest = 0.0 if kind.shm_gib is None else kind.shm_gib - sizes.shared_memory(kind)
    return sizes.object_store(kind) + rest


def restricted(config: RunConfig) -> set[Role]:
    """Roles that some node type with actors does not take; Ray needs a resource to keep them off its nodes."""
    kinds = [kind for kind in config.cluster.node_types.values() if kind.roles]
    return {role for role in ROLES if any(role not in kind.roles for kind in kinds)}


def role_resource(role: Role) -> str:
    """Ray's custom resource of nodes that take a role."""
    return f"{_RESOURCE}{role}"


def resources_of(config: RunConfig, kind: NodeType) -> dict[str, int]:
    """Ray's custom resources of a node type."""
    return {role_resource(role): 1 for role in ROLES if role in kind.roles and role in restricted(config)}


def requirement(config: RunConfig, role: Role) -> dict[str, float]:
    """The custom resource that an actor asks for, so that Ray starts it on a node type that takes its role."""
    return {role_resource(role): 0.001} if role in restricted(config) else {}
