"""An sbatch script: a Ray cluster on the nodes of one SLURM job, and the run on its first node.

Node types become components of a heterogeneous job, the head node's type first. The script carries the configuration.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from cluster.launch.layout import GCS_PORT, STOP_SECONDS, Layout, Machines, run_file

_END = "BONRL_RUN_YAML"


def render_script(layout: Layout) -> str:
    """The whole script."""
    components = _components(layout)
    lines = ["#!/bin/bash", f"# {layout.name}: a Ray cluster and a run of bonrl, written by `bonrl cluster render`."]
    for index, (machines, count) in enumerate(components):
        if index:
            lines.append("#SBATCH hetjob")
        lines += [f"#SBATCH {option}" for option in _options(layout, machines, count, first=not index)]
    heterogeneous = len(components) > 1
    start = layout.config.deadlines.start_s
    return "\n".join(
        [
            *lines,
            "set -euo pipefail",
            "ulimit -n 65536 || true",
            layout.exports(),
            # Every process of the job gets the token from its environment; it ends with the job.
            "export RAY_AUTH_TOKEN=\"${RAY_AUTH_TOKEN:-$(head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \\n')}\"",
            *([layout.config.cluster.slurm.activate] if layout.config.cluster.slurm.activate else []),
            "",
            'scratch=$(mktemp -d "${TMPDIR:-/tmp}/bonrl-${SLURM_JOB_ID}-XXXXXX")',
            f"cat > \"$scratch/run.yaml\" <<'{_END}'",
            run_file(layout.config).rstrip("\n"),
            _END,
            "",
            "# The batch script runs on the first node, which becomes Ray's head.",
            "head_host=${SLURMD_NODENAME:-$(hostname)}",
            f"port=$(({GCS_PORT} + SLURM_JOB_ID % 1000))  # two jobs may share a node",
            'head_ip=$(hostname -I | cut -d" " -f1)',
            'if [ -n "${GLOO_SOCKET_IFNAME:-}" ]; then',
            '  head_ip=$(ip -4 -o addr show dev "$GLOO_SOCKET_IFNAME" | awk \'{sub("/.*", "", $4); print $4; exit}\')',
            "fi",
            "steps=()",
            "stop() {",
            '  kill "${steps[@]}" 2>/dev/null || true',
            '  rm -rf "$scratch"',
            "}",
            "trap stop EXIT",
            "",
            *_steps(components, heterogeneous),
            "",
            *_wait(layout.nodes, start),
            "",
            *_RUN,
            "",
        ]
    )


def _components(layout: Layout) -> list[tuple[Machines, int]]:
    """Node types with their numbers of nodes; the head node belongs to its type, which comes first."""
    own = sum(machines.least for machines in layout.workers if machines.name == layout.head.name)
    others = [one for one in layout.workers if one.name != layout.head.name and one.least]
    return [(layout.head, 1 + own), *((machines, machines.least) for machines in others)]


def _options(layout: Layout, machines: Machines, count: int, *, first: bool) -> Iterator[str]:
    settings, kind = layout.config.cluster.slurm, machines.type
    if first:
        yield f"--job-name={layout.name}"
        yield f"--time={settings.time}"
        yield "--output=%x-%j.log"
        yield f"--signal=B:TERM@{STOP_SECONDS}"  # before the time limit: the run saves a checkpoint
        for option, value in (("account", settings.account), ("qos", settings.qos)):
            if value:
                yield f"--{option}={value}"
        yield from settings.directives
    if kind.partition:
        yield f"--partition={kind.partition}"
    yield f"--nodes={count}"
    yield "--ntasks-per-node=1"
    yield f"--cpus-per-task={kind.cpus}"
    yield f"--mem={int(kind.memory_gib * 1024)}M"
    if kind.gpus:
        yield f"--gpus-per-node={kind.gpus}" if settings.gpu_option == "gpus-per-node" else f"--gres=gpu:{kind.gpus}"


def _steps(components: list[tuple[Machines, int]], heterogeneous: bool) -> Iterator[str]:
    """A step with Ray's head, and one with the workers of each component."""
    head, count = components[0]
    group = " --het-group=0" if heterogeneous else ""
    tasks = "--ntasks-per-node=1 --overlap --kill-on-bad-exit=0"
    yield (
        f'srun{group} --nodes=1 --ntasks=1 -w "$head_host" --cpus-per-task={head.type.cpus} {tasks} ray start --head '
        f'--block --node-ip-address="$head_ip" --port="$port" --dashboard-host=127.0.0.1 --disable-usage-stats '
        f"{' '.join(head.start_options())} &"
    )
    yield 'steps+=("$!")'
    yield 'for _ in $(seq 60); do (exec 3<>"/dev/tcp/$head_ip/$port") 2>/dev/null && break; sleep 1; done'
    workers = [(0, head, count - 1, ' --exclude="$head_host"')]
    workers += [(index, machines, number, "") for index, (machines, number) in enumerate(components) if index]
    for index, machines, number, where in workers:
        if number:
            group = f" --het-group={index}" if heterogeneous else ""
            yield (
                f"srun{group} --nodes={number} --ntasks={number}{where} --cpus-per-task={machines.type.cpus} {tasks} "
                f'ray start --block --address="$head_ip:$port" --disable-usage-stats '
                f"{' '.join(machines.start_options())} &"
            )
            yield 'steps+=("$!")'


def _wait(nodes: int, seconds: float) -> list[str]:
    program = "\n".join(
        [
            "import sys, time, ray",
            "address, wanted, deadline = sys.argv[1], int(sys.argv[2]), time.monotonic() + float(sys.argv[3])",
            "ray.init(address, logging_level='warning', log_to_driver=False)",
            "while (found := sum(node['Alive'] for node in ray.nodes())) < wanted:",
            "    if time.monotonic() > deadline:",
            "        sys.exit(f'bonrl: {found} of {wanted} nodes joined within {sys.argv[3]} s (deadlines.start_s)')",
            "    time.sleep(1)",
        ]
    )
    return [f'python -c {shlex.quote(program)} "$head_ip:$port" {nodes} {seconds:g}']


_RUN = [
    "# `sbatch job.sbatch --resume RUN_DIR` continues a run: it has its own configuration.",
    'case " $* " in',
    '*" --resume "* | *" --resume="* | *" --replay"*) ;;',
    '*) set -- --config "$scratch/run.yaml" "$@" ;;',
    "esac",
    'bonrl train "$@" cluster.address="$head_ip:$port" &',
    "run=$!",
    "trap 'kill -TERM \"$run\" 2>/dev/null' TERM INT  # the run saves a checkpoint and ends",
    "status=0",
    'wait "$run" || status=$?',
    'while kill -0 "$run" 2>/dev/null; do status=0; wait "$run" || status=$?; done',
    'exit "$status"',
]
