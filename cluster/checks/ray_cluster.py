"""Whether the configured Ray cluster answers, and holds the layout: found out in seconds, before the first actor."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from cluster.launch.demand import restricted, role_resource

if TYPE_CHECKING:
    from cluster.config import RunConfig

PROBE_S = 5.0  # a machine that is there answers within milliseconds
_DEFAULT_PORT = {"": 6379, "ray": 10001}


def check_address(address: str, key: str) -> None:
    """Open and close a TCP connection to a cluster's HOST:PORT or ray://HOST:PORT; `auto` and `local` pass.

    Raises:
        ConnectionError: it has another form, or nothing answers there.
    """
    if address in ("auto", "local"):
        return
    scheme, _, rest = address.rpartition("://")
    host, colon, port = rest.strip("/").rpartition(":")
    if not colon:
        host, port = rest, str(_DEFAULT_PORT.get(scheme, ""))
    if scheme not in _DEFAULT_PORT or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConnectionError(f"{key} = {address!r} is not an address of a Ray cluster; write HOST:PORT, or auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_S).close()
    except OSError as error:
        raise ConnectionError(
            f"{key} = {address}: nothing answers at {host} port {port} ({error.strerror or error}); start the cluster "
            f"(`ray start --head`) or correct {key}"
        ) from error


def address_of(config: RunConfig) -> tuple[str, str]:
    """The cluster's address, and the key or variable that gives it; `local` where none does."""
    if config.cluster.address:
        return config.cluster.address, "cluster.address"
    return os.environ.get("RAY_ADDRESS") or "local", "RAY_ADDRESS"


def stated_problems(config: RunConfig) -> Iterator[str]:
    """What ``cluster.num_cpus`` and ``cluster.num_gpus`` lack for the actors that a job with `config` starts.

    This is no rule of the configuration, because some jobs start the learner only, or no learner.
    """
    from cluster.config.gpu_rules import fewer_gpus, gpus_text, gpus_wanted

    cluster, wanted = config.cluster, gpus_wanted(config)
    if cluster.num_gpus is not None and wanted > cluster.num_gpus:
        yield (
            f"the layout takes {counted(wanted, 'GPU')} ({gpus_text(config)}) but cluster.num_gpus = "
            f"{cluster.num_gpus}; {fewer_gpus(config)}, or raise cluster.num_gpus"
        )
    actors, keys = _cpus_wanted(config)
    if cluster.num_cpus is not None and actors > cluster.num_cpus:
        yield (
            f"the layout takes {counted(actors, 'CPU')} ({keys}) but cluster.num_cpus = {cluster.num_cpus}; lower one "
            "of them, or raise cluster.num_cpus"
        )


def counted(count: float, what: str) -> str:
    """`1 GPU`, `2 GPUs`."""
    return f"{count:g} {what}{'' if count == 1 else 's'}"


def _cpus_wanted(config: RunConfig) -> tuple[int, str]:
    """CPUs of the actors that must start, one for each, and the keys from which the number follows."""
    actors = config.actors
    counts = {
        "actors.samplers": actors.sampler_range.min,
        "actors.verifiers": actors.verifier_range.min,
        "learner.ranks": config.learner.ranks,
    }
    return sum(counts.values()), " + ".join(key for key, count in counts.items() if count)


def layout_problems(config: RunConfig, nodes: list[Mapping[str, float]]) -> Iterator[str]:
    """What the running cluster lacks for the layout, judged by what each of its nodes has in all.

    Args:
        nodes: resources of each node that is alive, such as {"CPU": 8, "GPU": 1}.
    """
    from cluster.config.gpu_rules import gpus_text, gpus_wanted

    one_sampler = config.sampler.gpus if config.actors.sampler_range.min else 0
    layout = {
        "CPU": (*_cpus_wanted(config), 1),
        "GPU": (gpus_wanted(config), gpus_text(config), one_sampler),
    }
    for name, (wanted, keys, one) in layout.items():
        found, known = sum(node.get(name, 0) for node in nodes), getattr(config.cluster, f"num_{name.lower()}s")
        known_key = {"CPU": "cluster.num_cpus", "GPU": "cluster.num_gpus"}[name]
        if max(known or 0, _most(config, name)) >= wanted:  # an autoscaler adds them
            continue
        if wanted > found:
            yield (
                f"the layout takes {counted(wanted, name)} ({keys}), but the Ray cluster has {found:g}; lower them, "
                f"add nodes to the cluster, or set {known_key} to what an autoscaler may add up to"
            )
        elif one > max((node.get(name, 0) for node in nodes), default=0):
            yield (
                f"sampler.gpus = {one:g}: no node of the Ray cluster has that many GPUs, and a sampler runs on one "
                "node; lower sampler.gpus and sampler.tensor_parallel, or add such a node"
            )


def _most(config: RunConfig, name: str) -> int:
    """CPUs or GPUs of all nodes that `cluster.node_types` allows."""
    kinds = [kind for kind in config.cluster.node_types.values() if kind.roles]
    return sum(kind.max * (kind.cpus if name == "CPU" else kind.gpus) for kind in kinds)


def role_problems(config: RunConfig, nodes: list[Mapping[str, float]]) -> Iterator[str]:
    """Roles of node types that no node of a running cluster has; judged once the cluster is complete."""
    if sum(node.get("CPU", 0) for node in nodes) < _cpus_wanted(config)[0]:  # more nodes are on their way
        return
    for role in sorted(restricted(config)):
        name = role_resource(role)
        if not any(node.get(name) for node in nodes):
            yield (
                f"roles in cluster.node_types say which nodes take a {role}, but no node of the Ray cluster has the "
                f"resource {name}; start the nodes with the files of `bonrl cluster render`, or with `ray start "
                f"--resources='{{\"{name}\": 1}}'`"
            )


def socket_problem(variable: Mapping[str, str] = os.environ) -> str | None:
    """Ray's sockets lie under TMPDIR, and Linux allows 107 bytes for a socket's path."""
    name = "RAY_TMPDIR" if "RAY_TMPDIR" in variable else "TMPDIR"
    directory = variable.get(name, "/tmp")
    longest = f"{directory}/ray/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"
    over = len(longest.encode()) - 107
    if over > 0:
        return (
            f"{name} = {directory} is {over} bytes too long for Ray's sockets (107 bytes with what Ray adds); set "
            f"{name} to a short directory, such as /tmp"
        )
    if not os.access(directory, os.W_OK | os.X_OK):
        return f"{name} = {directory} is not a directory that can be written; set {name} to one, such as /tmp"
    return None
