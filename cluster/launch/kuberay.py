"""Kubernetes objects for the KubeRay operator: a RayCluster, and a RayJob that makes its own cluster and runs the job.

Checked against the CRDs of KubeRay (`v1`). Pods ask for all of a node type's CPUs, GPUs and memory as limits.
"""

from __future__ import annotations

import json
from importlib import metadata
from typing import Any

from cluster.config.cluster_settings import NodeType
from cluster.errors import UsageError
from cluster.launch.layout import DASHBOARD_PORT, GCS_PORT, STOP_SECONDS, Layout, Machines, run_file

API = "ray.io/v1"
_NOTICE_S = 90  # of STOP_SECONDS; Ray itself ends within the rest
_DRAIN_COMMAND = (  # before a worker pod ends: actors move off it, and the raylet ends when the pod has none
    "ray drain-node --reason DRAIN_NODE_REASON_PREEMPTION --reason-message 'its pod is being deleted' "
    f"--deadline-remaining-seconds {_NOTICE_S} && timeout {_NOTICE_S} sh -c 'while pgrep raylet; do sleep 1; done'"
)
_CONFIG_DIRECTORY = "/etc/bonrl"
_KEEP_SECONDS = 3600  # how long the cluster outlives the run, for its logs; render.py and the docs name it


def render_cluster(layout: Layout) -> list[dict[str, Any]]:
    """A RayCluster that stays until it is deleted; send jobs to it with `bonrl submit`."""
    return [{"apiVersion": API, "kind": "RayCluster", "metadata": _metadata(layout), "spec": _cluster(layout)}]


def render_job(layout: Layout) -> list[dict[str, Any]]:
    """A RayJob that runs `bonrl train` on a cluster of its own, and the ConfigMap with the configuration."""
    config_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(layout, "-run"),
        "data": {"run.yaml": run_file(layout.config)},
    }
    spec = {
        "entrypoint": f"bonrl train --config {_CONFIG_DIRECTORY}/run.yaml",
        "submissionMode": "K8sJobMode",
        "backoffLimit": 0,  # a second cluster would begin the run again; resume it instead
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": _KEEP_SECONDS,
        "rayClusterSpec": _cluster(layout, with_run=True),
    }
    if pulls := _pull_secrets(layout):
        spec["submitterPodTemplate"] = _submitter(layout, pulls)
    return [config_map, {"apiVersion": API, "kind": "RayJob", "metadata": _metadata(layout), "spec": spec}]


def _submitter(layout: Layout, pulls: dict[str, Any]) -> dict[str, Any]:
    """The pod that submits the job: as the operator makes it, and with the secret for pulling the head's image."""
    box = {
        "name": "ray-job-submitter",
        "image": layout.image(layout.head),
        "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m", "memory": "200Mi"}},
    }
    return {"spec": {"containers": [box], "restartPolicy": "Never", **pulls}}


def _pull_secrets(layout: Layout) -> dict[str, Any]:
    secret = layout.config.cluster.kubernetes.image_pull_secret
    return {"imagePullSecrets": [{"name": secret}]} if secret else {}


def _metadata(layout: Layout, suffix: str = "") -> dict[str, Any]:
    namespace = layout.config.cluster.kubernetes.namespace
    return {"name": layout.name + suffix, "namespace": namespace, "labels": {"app.kubernetes.io/name": "bonrl"}}


def _cluster(layout: Layout, *, with_run: bool = False) -> dict[str, Any]:
    elastic = any(machines.most > machines.least for machines in layout.workers)
    return {
        "rayVersion": metadata.version("ray"),
        "authOptions": {"mode": "token"},  # the operator makes the token and gives it to the pods
        "enableInTreeAutoscaling": elastic,
        "headGroupSpec": {
            "rayStartParams": _start(layout.head) | {"dashboard-host": "0.0.0.0"},
            "template": _pod(layout, layout.head, "ray-head", with_run=with_run),
        },
        "workerGroupSpecs": [
            {
                "groupName": machines.name,
                "replicas": machines.least,
                "minReplicas": machines.least,
                "maxReplicas": machines.most,
                "rayStartParams": _start(machines),
                "template": _pod(layout, machines, "ray-worker"),
            }
            for machines in layout.workers
        ],
    }


def _start(machines: Machines) -> dict[str, str]:
    parameters = machines.start_parameters() | {"disable-usage-stats": "true"}
    if "resources" in parameters:  # the operator puts the value into a shell command, without quotes of its own
        parameters["resources"] = json.dumps(parameters["resources"])
    return parameters


def _pod(layout: Layout, machines: Machines, container: str, *, with_run: bool = False) -> dict[str, Any]:
    cluster, kind = layout.config.cluster, machines.type
    amounts = {"cpu": str(kind.cpus), "memory": f"{kind.memory_gib:g}Gi"}
    amounts |= {"nvidia.com/gpu": str(kind.gpus)} if kind.gpus else {}
    volumes = [_shared_memory(machines), *_storage(layout)]
    if with_run:
        volumes.append(({"name": "run", "configMap": {"name": f"{layout.name}-run"}}, _CONFIG_DIRECTORY))
    box: dict[str, Any] = {
        "name": container,
        "image": layout.image(machines),
        "env": [{"name": name, "value": value} for name, value in cluster.environment.items()],
        "resources": {"limits": amounts, "requests": dict(amounts)},
        "volumeMounts": [{"name": volume["name"], "mountPath": path} for volume, path in volumes],
    }
    if cluster.kubernetes.secret:
        box["envFrom"] = [{"secretRef": {"name": cluster.kubernetes.secret}}]
    if container == "ray-worker":
        box["lifecycle"] = {"preStop": {"exec": {"command": ["/bin/sh", "-c", _DRAIN_COMMAND]}}}
    if container == "ray-head":
        ports = {"gcs-server": GCS_PORT, "dashboard": DASHBOARD_PORT, "client": 10001}
        box["ports"] = [{"containerPort": port, "name": name} for name, port in ports.items()]
    pod: dict[str, Any] = {
        "containers": [box],
        "volumes": [volume for volume, _ in volumes],
        "terminationGracePeriodSeconds": STOP_SECONDS,
        **_pull_secrets(layout),
    }
    if kind.node_selector:
        pod["nodeSelector"] = dict(kind.node_selector)
    if tolerations := _tolerations(kind):
        pod["tolerations"] = tolerations
    if cluster.kubernetes.service_account:
        pod["serviceAccountName"] = cluster.kubernetes.service_account
    return {"metadata": {"labels": {"app.kubernetes.io/name": "bonrl"}}, "spec": pod}


def _tolerations(kind: NodeType) -> list[dict[str, str]]:
    gpus = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}] if kind.gpus else []
    own = []
    for taint in kind.tolerations:
        matches = {"operator": "Exists"} if taint.value is None else {"operator": "Equal", "value": taint.value}
        own.append({"key": taint.key, **matches} | ({"effect": taint.effect} if taint.effect else {}))
    return gpus + own


def _shared_memory(machines: Machines) -> tuple[dict[str, Any], str]:
    """/dev/shm: 64 MiB without this. It counts as memory of the container."""
    volume = {"medium": "Memory", "sizeLimit": f"{machines.shm_gib:g}Gi"}
    return {"name": "shm", "emptyDir": volume}, "/dev/shm"


def _storage(layout: Layout) -> list[tuple[dict[str, Any], str]]:
    storage = layout.config.cluster.storage
    if storage.bucket:
        raise UsageError(
            "cluster.storage.bucket: on Kubernetes a storage driver mounts buckets; give its claim in "
            "cluster.storage.claim, or copy the data to the shared directory"
        )
    if storage.path is None:
        return []
    if storage.claim:
        return [({"name": "shared", "persistentVolumeClaim": {"claimName": storage.claim}}, storage.path)]
    if storage.nfs:
        server, _, export = storage.nfs.partition(":")
        return [({"name": "shared", "nfs": {"server": server, "path": export}}, storage.path)]
    raise UsageError(
        f"cluster.storage.path = {storage.path} has no volume to mount: give cluster.storage.claim (a "
        "PersistentVolumeClaim) or cluster.storage.nfs for --to kuberay"
    )
