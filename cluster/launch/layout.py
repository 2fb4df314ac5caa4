"""The machines of a cluster as every platform's renderer needs them: how many of each type, with which resources."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from cluster.config.cluster_settings import NodeType
from cluster.errors import UsageError
from cluster.launch.demand import Sizes, object_store_of, plan_run, resources_of, shm_of

if TYPE_CHECKING:
    from cluster.config import RunConfig

GCS_PORT = 6379
DASHBOARD_PORT = 8265
STOP_SECONDS = 120  # between a platform's warning and the end: a run saves a checkpoint within 30 s of SIGTERM


@dataclass(frozen=True)
class Machines:
    """The nodes of one type.

    Attributes:
        least, most: their number, without the head node.
        shm_gib: of /dev/shm.
        store_bytes: of Ray's object store.
        resources: Ray's custom resources.
    """

    name: str
    type: NodeType
    least: int
    most: int
    shm_gib: float
    store_bytes: int
    resources: dict[str, int]

    @property
    def cpus(self) -> int:
        """CPUs that Ray may give to actors; a node type without roles has none for them."""
        return self.type.cpus if self.type.roles else 0

    @property
    def gpus(self) -> int:
        return self.type.gpus if self.type.roles else 0

    def start_parameters(self) -> dict[str, str]:
        """Parameters of `ray start` on a node of this type, by name."""
        parameters = {
            "num-cpus": str(self.cpus),
            "num-gpus": str(self.gpus),
            "object-store-memory": str(self.store_bytes),
        }
        return parameters | ({"resources": json.dumps(self.resources)} if self.resources else {})

    def start_options(self) -> list[str]:
        """The same as options, quoted for the shell."""
        return [f"--{name}={shlex.quote(value)}" for name, value in self.start_parameters().items()]


@dataclass(frozen=True)
class Layout:
    """The cluster of a run: its head node, and the node types with workers."""

    config: RunConfig
    head: Machines
    workers: tuple[Machines, ...]

    @property
    def name(self) -> str:
        return self.config.cluster.name

    @property
    def nodes(self) -> int:
        """Nodes at the start, the head node included."""
        return 1 + sum(machines.least for machines in self.workers)

    @property
    def most_workers(self) -> int:
        return sum(machines.most for machines in self.workers)

    def image(self, machines: Machines) -> str:
        """The container image of a node.

        Raises:
            UsageError: none is given.
        """
        image = machines.type.image or self.config.cluster.image
        if image is None:
            raise UsageError(
                f"cluster.image is not set, and neither is cluster.node_types.{machines.name}.image; give the "
                "container image of the nodes (Dockerfile.cpu, Dockerfile.gpu)"
            )
        return image

    def exports(self) -> str:
        """A shell command that sets the variables of a node: `export A=1 B='x y'`."""
        variables = {"RAY_AUTH_MODE": "token", **self.config.cluster.environment}
        return "export " + " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())


def make_layout(config: RunConfig, sizes: Sizes) -> Layout:
    """The machines that the run needs.

    Raises:
        UsageError: the configuration has no node types, or they cannot hold the run.
    """
    cluster = config.cluster
    if not cluster.node_types:
        raise UsageError(
            "cluster.node_types is empty, so there are no machines to start; describe them as "
            "cluster/presets/multinode.yaml does"
        )
    least, most = plan_run(config, sizes).counts, plan_run(config, sizes, most=True).counts

    def machines(name: str, head: bool) -> Machines:
        kind = cluster.node_types[name]
        without = name == cluster.head_type  # the head node is one of its type
        return Machines(
            name,
            kind,
            0 if head else least[name] - without,
            0 if head else max(least[name], most[name]) - without,
            shm_of(kind, sizes),
            int(object_store_of(kind, sizes) * 2**30),
            resources_of(config, kind),
        )

    workers = (machines(name, head=False) for name in cluster.node_types)
    return Layout(config, machines(cluster.head_type, head=True), tuple(one for one in workers if one.most))


def run_file(config: RunConfig) -> str:
    """The resolved configuration for the job, which joins the cluster that runs it."""
    tree = config.to_mapping()
    tree["cluster"]["address"] = "auto"
    return as_yaml(tree)


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks, and no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def as_yaml(tree: Any) -> str:
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
