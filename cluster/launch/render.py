"""The files of a cluster for a platform: file name -> text."""

from __future__ import annotations

from enum import StrEnum

from cluster.launch.kuberay import render_cluster, render_job
from cluster.launch.layout import Layout, as_yaml
from cluster.launch.ray_launcher import render_aws, render_gcp, render_onprem
from cluster.launch.slurm import render_script


class Platform(StrEnum):
    """Where a cluster can be started."""

    RAY_AWS = "ray-aws"
    RAY_GCP = "ray-gcp"
    RAY_ONPREM = "ray-onprem"
    KUBERAY = "kuberay"
    SLURM = "slurm"


_LAUNCHER = {
    Platform.RAY_AWS: render_aws,
    Platform.RAY_GCP: render_gcp,
    Platform.RAY_ONPREM: render_onprem,
}


def render(layout: Layout, platform: Platform) -> dict[str, str]:
    """The files that start the cluster, by name.

    Raises:
        UsageError: the configuration lacks what the platform needs.
    """
    if platform == Platform.SLURM:
        return {"job.sbatch": render_script(layout)}
    if platform == Platform.KUBERAY:
        return {
            "raycluster.yaml": _yaml("a cluster that stays until it is deleted", *render_cluster(layout)),
            "rayjob.yaml": _yaml(
                "one run, on its own cluster, which is deleted one hour after the run ends", *render_job(layout)
            ),
        }
    name = f"{platform}.yaml"
    return {name: _yaml(f"a cluster for `ray up {name}`", _LAUNCHER[platform](layout))}


def _yaml(title: str, *documents: object) -> str:
    comment = f"# {title[0].upper()}{title[1:]}. Written by `bonrl cluster render` from the run's YAML: change that.\n"
    return comment + "---\n".join(map(as_yaml, documents))
