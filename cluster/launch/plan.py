"""Places the actors of a run on nodes: which bundle of resources on which node type, and how many nodes of each.

Pure arithmetic over node types and bundles. Ray does the placement of a run; the plan says how many nodes it needs.
Actors are placed in the order learner, samplers, verifiers: each on a node that is open already, or on a new one of the
first node type that takes it. Learner ranks fill one node before the next, verifiers go where most CPUs are free.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from cluster.config.cluster_settings import NodeType, Role
from cluster.errors import UsageError

_ROUNDING = 1e-9


class PlacementError(UsageError):
    """The actors fit on no allowed number of nodes; the message has one line per problem."""


@dataclass(frozen=True)
class Bundle:
    """What one actor takes on one node; an actor cannot span two nodes.

    Args:
        memory_gib: estimate; 0 where the size of the model is not known.
        shared_with: role of a second actor in the same bundle (`cluster.placement: colocated`).
    """

    role: Role
    cpus: float = 1.0
    gpus: float = 0.0
    memory_gib: float = 0.0
    shared_with: Role | None = None

    @property
    def roles(self) -> set[Role]:
        return {self.role} | ({self.shared_with} if self.shared_with else set())

    @property
    def name(self) -> str:
        return " and ".join(_NAMES[role] for role in (self.role, self.shared_with) if role)


class Node:
    """A node of the plan, and what is free on it.

    Args:
        reserved_gib: memory that no actor gets: Ray's processes, /dev/shm.
    """

    def __init__(self, type_name: str, node_type: NodeType, reserved_gib: float = 0.0, head: bool = False) -> None:
        self.type_name, self.type, self.head = type_name, node_type, head
        self.bundles: list[Bundle] = []
        self.free_cpus = float(node_type.cpus)
        self.free_gpus = float(node_type.gpus)
        self.free_gib = node_type.memory_gib - reserved_gib

    def lacks(self, bundle: Bundle) -> list[str]:
        """What the node does not have for the bundle."""
        found = {
            "GPUs": bundle.gpus > self.free_gpus + _ROUNDING,
            "CPUs": bundle.cpus > self.free_cpus + _ROUNDING,
            "memory": bundle.memory_gib > max(self.free_gib, 0.0) + _ROUNDING,  # unknown memory is 0
        }
        return [name for name, lacking in found.items() if lacking]

    def takes(self, bundle: Bundle) -> bool:
        return bundle.roles <= set(self.type.roles) and not self.lacks(bundle)

    def add(self, bundle: Bundle) -> None:
        self.bundles.append(bundle)
        self._use(bundle, 1)

    def remove(self, bundle: Bundle) -> None:
        self.bundles.remove(bundle)
        self._use(bundle, -1)

    def _use(self, bundle: Bundle, count: int) -> None:
        self.free_cpus -= count * bundle.cpus
        self.free_gpus -= count * bundle.gpus
        self.free_gib -= count * bundle.memory_gib


@dataclass(frozen=True)
class Plan:
    """The nodes of a run, the head node first, and what is on each."""

    nodes: tuple[Node, ...]

    @property
    def counts(self) -> Counter[str]:
        """Nodes of each type, the head node included."""
        return Counter(node.type_name for node in self.nodes)

    @property
    def gpus(self) -> int:
        return sum(node.type.gpus for node in self.nodes)

    @property
    def cpus(self) -> int:
        return sum(node.type.cpus for node in self.nodes)

    @property
    def memory_gib(self) -> float:
        return sum(node.type.memory_gib for node in self.nodes)


@dataclass(frozen=True)
class NodeTypes:
    """The node types to choose from, in order of preference; CPU bundles prefer those without GPUs.

    Args:
        reserved_gib: by name, memory of each node that no actor gets: Ray's processes, /dev/shm.
    """

    types: Mapping[str, NodeType]
    reserved_gib: Mapping[str, float] = field(default_factory=dict)

    def node(self, name: str, head: bool = False) -> Node:
        """An empty node."""
        return Node(name, self.types[name], self.reserved_gib.get(name, 0.0), head)

    def taking(self, bundle: Bundle) -> list[str]:
        """Node types that take the bundle on an empty node, by preference."""
        names = [name for name in self.types if self.node(name).takes(bundle)]
        return names if bundle.gpus else sorted(names, key=lambda name: self.types[name].gpus > 0)

    def unlimited(self, more: int) -> NodeTypes:
        """The same types with `more` added to each `max`."""
        types = {name: kind.model_copy(update={"max": kind.max + more}) for name, kind in self.types.items()}
        return replace(self, types=types)


def make_plan(types: NodeTypes, head: str, bundles: Sequence[Bundle]) -> Plan:
    """Place every bundle, on as few further nodes as the order allows.

    Args:
        head: node type of the head node.
        bundles: in the order in which they are placed.

    Raises:
        PlacementError: a bundle fits on no node of any type, or a type would need more than its `max` nodes.
    """
    problems = [_misfit(types, bundle) for bundle in dict.fromkeys(bundles) if not types.taking(bundle)]
    if problems:
        raise PlacementError("\n".join(problems))
    nodes = [types.node(head, head=True)]
    for name, kind in types.types.items():
        nodes += [types.node(name) for _ in range(kind.min - (name == head))]
    for bundle in bundles:
        node = _open_node(nodes, bundle)
        if node is None:
            node = types.node(_type_of_new_node(types, nodes, bundle, bundles))
            nodes.append(node)
        node.add(bundle)
    _spread_verifiers(nodes)
    order = {name: i for i, name in enumerate(types.types)}
    return Plan(tuple(sorted(nodes, key=lambda node: (not node.head, order[node.type_name]))))


def _open_node(nodes: Sequence[Node], bundle: Bundle) -> Node | None:
    """The node for a bundle: verifiers go where most CPUs are free, the others to the first node with room."""
    able = (node for node in nodes if node.takes(bundle))
    if _spreads(bundle):
        return max(able, key=lambda node: (not node.type.gpus, node.free_cpus), default=None)
    return next(able, None)


def _spread_verifiers(nodes: Sequence[Node]) -> None:
    """Move CPU verifiers that filled one node onto the nodes that were added after it, as Ray will spread them."""
    verifiers = [bundle for node in nodes for bundle in node.bundles if _spreads(bundle)]
    if len(set(verifiers)) != 1:  # different ones might not fit in another order
        return
    for node in nodes:
        for bundle in [bundle for bundle in node.bundles if _spreads(bundle)]:
            node.remove(bundle)
    for bundle in verifiers:
        place = _open_node(nodes, bundle)
        assert place is not None  # equal bundles have as many places as before
        place.add(bundle)


def _spreads(bundle: Bundle) -> bool:
    return bundle.role == "verifier" and not bundle.gpus


def _type_of_new_node(types: NodeTypes, nodes: Sequence[Node], bundle: Bundle, bundles: Sequence[Bundle]) -> str:
    counts = Counter(node.type_name for node in nodes)
    names = types.taking(bundle)
    for name in names:
        if counts[name] < types.types[name].max:
            return name
    needed = make_plan(types.unlimited(len(bundles)), nodes[0].type_name, bundles).counts[names[0]]
    raise PlacementError(
        f"the run needs {needed} nodes of type {names[0]} but cluster.node_types.{names[0]}.max = "
        f"{types.types[names[0]].max}; raise it, or lower {_COUNT_KEYS[bundle.role]}"
    )


_COUNT_KEYS = {
    "learner": "learner.ranks",
    "sampler": "actors.samplers or sampler.gpus",
    "verifier": "actors.verifiers",
}
_NAMES = {"learner": "learner rank", "sampler": "sampler", "verifier": "verifier worker"}


def _misfit(types: NodeTypes, bundle: Bundle) -> str:
    """Why no node type takes the bundle, by the type that comes nearest."""
    role = bundle.role
    candidates = [name for name, kind in types.types.items() if bundle.roles <= set(kind.roles)]
    if not candidates:
        names = ", ".join(sorted(bundle.roles))
        return f"no node type takes a {bundle.name}; add {names} to the roles of one of cluster.node_types"
    nearest = max(map(types.node, candidates), key=lambda node: (-len(node.lacks(bundle)), node.free_gpus))
    name, kind, lacking = nearest.type_name, nearest.type, nearest.lacks(bundle)
    if "GPUs" in lacking and kind.gpus and role == "sampler":
        return (
            f"sampler.gpus = {bundle.gpus:g}: a tensor-parallel engine stays on one node, but the largest node type "
            f"for samplers, cluster.node_types.{name}, has {kind.gpus} GPUs; lower sampler.gpus and "
            "sampler.tensor_parallel, or add a larger node type"
        )
    has = f"{kind.gpus} GPUs, {kind.cpus} CPUs, {kind.memory_gib:g} GiB"
    if name in types.reserved_gib:
        has += f" of which {types.reserved_gib[name]:.3g} for Ray and /dev/shm"
    return (
        f"no node type has room for one {bundle.name} ({_needs(bundle)}): cluster.node_types.{name} ({has}) lacks "
        f"{', '.join(lacking)}; {_remedy(role, lacking, name)}"
    )


def _needs(bundle: Bundle) -> str:
    parts = [f"{bundle.gpus:g} GPU{'s' * (bundle.gpus > 1)}"] if bundle.gpus else []
    parts += [f"{bundle.cpus:g} CPU{'s' * (bundle.cpus > 1)}"]
    parts += [f"about {bundle.memory_gib:.3g} GiB of memory"] if bundle.memory_gib else []
    return ", ".join(parts)


def _remedy(role: Role, lacking: Sequence[str], name: str) -> str:
    if "GPUs" in lacking:
        key = {"learner": "learner.gpus_per_rank", "sampler": "sampler.gpus", "verifier": "actors.verifier_gpus"}[role]
        return f"add a node type with GPUs, or lower {key}"
    if "memory" in lacking:
        return f"raise cluster.node_types.{name}.memory_gib, or take a smaller model.path"
    return f"add a larger node type, or raise cluster.node_types.{name}.cpus"


def describe(bundles: Sequence[Bundle]) -> str:
    """`8 learner ranks, 2 samplers (4 GPUs each)`; `nothing` for an empty node."""
    texts = []
    for bundle, count in Counter(replace(bundle, memory_gib=0.0) for bundle in bundles).items():
        each = f" ({bundle.gpus:g} GPUs each)" if bundle.gpus not in (0, 1) else ""
        name = bundle.name if count == 1 else bundle.name.replace(" and ", "s and ") + "s"
        texts.append(f"{count} {name}{each}")
    return ", ".join(texts) or "no actor"


def groups_of_nodes(plan: Plan) -> Iterator[tuple[Node, int]]:
    """Nodes with equal contents, and how many there are, in the order of the plan."""
    counted: dict[tuple[str, bool, str], list[Node]] = {}
    for node in plan.nodes:
        counted.setdefault((node.type_name, node.head, describe(node.bundles)), []).append(node)
    yield from ((nodes[0], len(nodes)) for nodes in counted.values())
