"""Runs the command line of a platform to start, stop or show a cluster from its rendered files."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from cluster.errors import UsageError
from cluster.launch.layout import Layout
from cluster.launch.ray_launcher import TOKEN_FILE
from cluster.launch.render import Platform

_PROGRAMS = {
    "ray": "it comes with bonrl's packages: activate the environment",
    "kubectl": "install kubectl and give it the cluster's context",
    "sbatch": "run this on a login node of the SLURM cluster",
    "squeue": "run this on a login node of the SLURM cluster",
    "scancel": "run this on a login node of the SLURM cluster",
}


def up(platform: Platform, files: Sequence[Path], *, job: bool) -> list[str]:
    """The command that starts the cluster, or (Kubernetes, `job`) a run on a cluster of its own.

    Raises:
        UsageError: Ray's token is missing here.
    """
    if platform == Platform.SLURM:
        return ["sbatch", *map(str, files)]
    if platform == Platform.KUBERAY:
        if job:  # if a RayJob of that name has ended, `apply` starts nothing and reports success
            return ["kubectl", "create", "-f", str(files[1])]
        return ["kubectl", "apply", "-f", str(files[0])]
    if not Path(TOKEN_FILE).expanduser().is_file():
        raise UsageError(
            f"{TOKEN_FILE} is missing: the nodes get Ray's token from this machine; create it once with "
            "`ray get-auth-token --generate`"
        )
    return ["ray", "up", "--yes", str(files[0])]


def down(layout: Layout, platform: Platform, files: Sequence[Path]) -> list[str]:
    """The command that ends the cluster and everything on it."""
    if platform == Platform.SLURM:
        return ["scancel", "--me", f"--name={layout.name}"]
    if platform == Platform.KUBERAY:
        return ["kubectl", "delete", "--ignore-not-found", *(part for file in files for part in ("-f", str(file)))]
    return ["ray", "down", "--yes", str(files[0])]


def status(layout: Layout, platform: Platform, files: Sequence[Path]) -> list[str]:
    """The command that shows the nodes."""
    if platform == Platform.SLURM:
        return ["squeue", "--me", f"--name={layout.name}"]
    if platform == Platform.KUBERAY:
        namespace = layout.config.cluster.kubernetes.namespace
        return ["kubectl", "get", "rayclusters,rayjobs,pods", "-n", namespace, "-l", "app.kubernetes.io/name=bonrl"]
    enter = layout.config.cluster.onprem.activate if platform == Platform.RAY_ONPREM else None
    return ["ray", "exec", str(files[0]), "; ".join([*([enter] if enter else []), layout.exports(), "ray status"])]


def run(command: Sequence[str]) -> int:
    """Run a platform's command in this terminal; its exit status.

    Raises:
        UsageError: the program is not installed.
    """
    if shutil.which(command[0]) is None:
        raise UsageError(f"{command[0]} is not installed here: {_PROGRAMS[command[0]]}")
    # deadline: the platform's own; it starts machines, shows what it does, and Ctrl-C ends it
    return subprocess.run(command).returncode
