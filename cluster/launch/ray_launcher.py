"""YAML for Ray's cluster launcher (`ray up`): Amazon EC2, Compute Engine, and machines with fixed addresses."""

from __future__ import annotations

import re
import shlex
from pathlib import PurePosixPath
from typing import Any

from cluster.errors import UsageError
from cluster.launch.layout import DASHBOARD_PORT, GCS_PORT, Layout, Machines

TOKEN_FILE = "~/.ray/auth_token"
_BOOTSTRAP = "~/ray_bootstrap_config.yaml"  # the name that Ray gives the file on the head node
_FILES = 65536
# Spot machines have no limit of 24 hours, as merely preemptible ones have. Ray starts others for those that end.
_GCP_SPOT = {
    "provisioningModel": "SPOT",
    "preemptible": True,
    "automaticRestart": False,
    "onHostMaintenance": "TERMINATE",
    "instanceTerminationAction": "DELETE",
}


def render_aws(layout: Layout) -> dict[str, Any]:
    """EC2. Ray makes the key pair, the security group (SSH from outside, everything inside) and, without
    ``cluster.aws.instance_profile``, an IAM role for the head."""
    settings = layout.config.cluster.aws
    provider: dict[str, Any] = {"type": "aws", "region": settings.region, "cache_stopped_nodes": False}
    if settings.availability_zone:
        provider["availability_zone"] = settings.availability_zone

    def node(machines: Machines) -> dict[str, Any]:
        disk = {"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": machines.type.disk_gib, "VolumeType": "gp3"}}
        config: dict[str, Any] = {"InstanceType": _instance(machines, "aws"), "BlockDeviceMappings": [disk]}
        config |= {"ImageId": settings.ami} if settings.ami else {}
        config |= {"SubnetIds": [settings.subnet]} if settings.subnet else {}
        config |= {"IamInstanceProfile": {"Name": settings.instance_profile}} if settings.instance_profile else {}
        config |= {"InstanceMarketOptions": {"MarketType": "spot"}} if machines.type.spot else {}
        return config

    return _cloud(layout, provider, settings.ssh_user, node)


def render_gcp(layout: Layout) -> dict[str, Any]:
    """Compute Engine. GPUs belong to the machine type (a2, a3, g2 and later)."""
    settings = layout.config.cluster.gcp
    for key, value in (("project", settings.project), ("source_image", settings.source_image)):
        if value is None:
            raise UsageError(f"cluster.gcp.{key} is not set, and --to ray-gcp needs it; set it")
    provider: dict[str, Any] = {
        "type": "gcp",
        "region": settings.region,
        "availability_zone": settings.zone,
        "project_id": settings.project,
        "cache_stopped_nodes": False,
    }

    def node(machines: Machines) -> dict[str, Any]:
        disk = {"diskSizeGb": machines.type.disk_gib, "sourceImage": settings.source_image}
        config: dict[str, Any] = {
            "machineType": _instance(machines, "gcp"),
            "disks": [{"boot": True, "autoDelete": True, "type": "PERSISTENT", "initializeParams": disk}],
        }
        # An object, as Compute Engine's API has it; the lists in Ray's examples are not documented there.
        scheduling: dict[str, Any] = _GCP_SPOT if machines.type.spot else {}
        if machines.type.gpus:  # they cannot migrate
            scheduling = scheduling | {"onHostMaintenance": "TERMINATE"}
        return config | ({"scheduling": scheduling} if scheduling else {})

    return _cloud(layout, provider, settings.ssh_user, node)


def render_onprem(layout: Layout) -> dict[str, Any]:
    """Machines with fixed addresses; the first `hosts` of each node type are used."""
    settings = layout.config.cluster.onprem
    head = _hosts(layout.head, 1)[0]
    workers: dict[str, Machines] = {}
    for machines in layout.workers:
        own = machines.name == layout.head.name
        workers |= dict.fromkeys(_hosts(machines, machines.most + own)[own:], machines)
    auth: dict[str, str] = {"ssh_user": settings.ssh_user}
    auth |= {"ssh_private_key": settings.ssh_private_key} if settings.ssh_private_key else {}
    tree = {
        "cluster_name": layout.name,
        "provider": {"type": "local", "head_ip": head, "worker_ips": list(workers)},
        "auth": auth,
        "max_workers": len(workers),
        **_commands(layout, {head: layout.head, **workers}),
    }
    if settings.docker:
        images = {layout.image(machines) for machines in (layout.head, *workers.values())}
        if len(images) > 1:
            raise UsageError(
                f"--to ray-onprem runs one image on all hosts, but the node types have {', '.join(sorted(images))}; "
                "set cluster.image only, or cluster.onprem.docker=false"
            )
        shm = max(machines.shm_gib for machines in (layout.head, *workers.values()))
        tree["docker"] = _docker(layout) | {"run_options": [*_run_options(layout), _shm_option(shm)]}
    return tree


def _cloud(layout: Layout, provider: dict[str, Any], user: str, node_config: Any) -> dict[str, Any]:
    head = layout.head
    types: dict[str, Any] = {}
    for machines in (head, *layout.workers):
        if machines.name == head.name and machines is not head:  # the head node is started from the same type
            types[head.name] |= {"min_workers": machines.least, "max_workers": machines.most}
            continue
        image, shm = layout.image(machines), _shm_option(machines.shm_gib)
        types[machines.name] = {
            "min_workers": machines.least,
            "max_workers": machines.most,
            "resources": {
                "CPU": machines.cpus,
                "GPU": machines.gpus,
                "object_store_memory": machines.store_bytes,
                **machines.resources,
            },
            "docker": {"worker_image": image, "worker_run_options": [shm]},
            "node_config": node_config(machines),
        }
    docker = _docker(layout) | {"run_options": _run_options(layout), "head_run_options": [_shm_option(head.shm_gib)]}
    return {
        "cluster_name": layout.name,
        "provider": provider,
        "auth": {"ssh_user": user},
        "max_workers": layout.most_workers,
        "idle_timeout_minutes": 15,
        "docker": docker,
        "available_node_types": types,
        "head_node_type": head.name,
        **_commands(layout, {}),
    }


def _instance(machines: Machines, provider: str) -> str:
    instance = getattr(machines.type.instance, provider)
    if instance is None:
        raise UsageError(f"cluster.node_types.{machines.name}.instance.{provider} is not set; name the machine to rent")
    return str(instance)


def _hosts(machines: Machines, count: int) -> tuple[str, ...]:
    hosts = machines.type.hosts
    if len(hosts) < count:
        raise UsageError(
            f"the run needs {count} hosts of type {machines.name} but cluster.node_types.{machines.name}.hosts has "
            f"{len(hosts)}; add hosts, or lower the actors"
        )
    return hosts[:count]


def _docker(layout: Layout) -> dict[str, Any]:
    return {"image": layout.image(layout.head), "container_name": layout.name, "pull_before_run": True}


def _run_options(layout: Layout) -> list[str]:
    """Options of `docker run`. Ray itself adds the host's network and, where there are GPUs, NVIDIA's runtime."""
    storage = layout.config.cluster.storage
    options = [f"--ulimit nofile={_FILES}:{_FILES}"]
    options += [f"-v {storage.path}:{storage.path}"] if storage.path else []
    options += [f"-v {storage.bucket_path}:{storage.bucket_path}:ro"] if storage.bucket else []
    return options


def _shm_option(gib: float) -> str:
    return f"--shm-size={gib:g}g"


def _commands(layout: Layout, by_host: dict[str, Machines]) -> dict[str, Any]:
    """What runs on the hosts before Ray, how Ray starts, and the token that it asks for.

    Args:
        by_host: for hosts of which Ray does not know the node type, what each has.
    """
    settings = layout.config.cluster.onprem
    enter = f"{settings.activate}; " if by_host and settings.activate else ""
    begin = f"ulimit -n {_FILES} || true; {layout.exports()}; {enter}"
    options = ""
    if by_host:
        options = "".join(f" {option}" for option in _host_options(next(iter(by_host)), layout.head))
    head = (
        f"{begin}ray start --head --port={GCS_PORT} --dashboard-host=0.0.0.0 --dashboard-port={DASHBOARD_PORT} "
        f"--autoscaling-config={_BOOTSTRAP} --disable-usage-stats{options}"
    )
    worker = f"{begin}{_options_by_host(by_host)}ray start --address=$RAY_HEAD_IP:{GCS_PORT} --disable-usage-stats"
    worker += ' "${options[@]}"' if by_host else ""
    return {
        "file_mounts": {TOKEN_FILE: TOKEN_FILE},
        "initialization_commands": [*_mounts(layout), *layout.config.cluster.setup],
        "head_start_ray_commands": [f"{enter}ray stop", head],
        "worker_start_ray_commands": [f"{enter}ray stop", worker],
    }


def _host_options(host: str, machines: Machines) -> list[str]:
    """Options of `ray start` on a host. Without internet access Ray would take 127.0.0.1 for the host's address."""
    address = [f"--node-ip-address={host}"] if re.fullmatch(r"[0-9.]+|[0-9a-fA-F:]+:[0-9a-fA-F:]*", host) else []
    return [*address, *machines.start_options()]


def _options_by_host(by_host: dict[str, Machines]) -> str:
    """Shell text that sets `options` for the host that runs it; Ray's local provider knows one node type only."""
    if not by_host:
        return ""
    arms = " ".join(
        f'*" {host} "*) options=({" ".join(_host_options(host, machines))});;'
        for host, machines in list(by_host.items())[1:]
    )
    return f'options=(); case " $(hostname -I) $(hostname) $(hostname -f) " in {arms} esac; '


def _mounts(layout: Layout) -> list[str]:
    """Commands that mount shared storage on the host, outside of containers; a mounted directory is left alone."""
    storage, commands = layout.config.cluster.storage, []
    if storage.path:
        path = shlex.quote(storage.path)
        commands.append(f"test -d {path} || sudo mkdir -p {path}")
        if storage.nfs:
            commands.append(f"mountpoint -q {path} || sudo mount -t nfs {shlex.quote(storage.nfs)} {path}")
    if storage.bucket:
        kind, _, name = storage.bucket.partition("://")
        path = shlex.quote(str(PurePosixPath(storage.bucket_path)))
        tool, mount = {
            "s3": ("mount-s3", f"sudo mount-s3 --read-only --allow-other {name} {path}"),
            "gs": ("gcsfuse", f"sudo gcsfuse --implicit-dirs -o ro,allow_other {name} {path}"),
        }[kind]
        missing = f"bonrl: {tool} is not installed here (cluster.storage.bucket)"
        commands.append(f"command -v {tool} >/dev/null || {{ echo {shlex.quote(missing)} >&2; exit 1; }}")
        commands.append(f"test -d {path} || sudo mkdir -p {path}")
        commands.append(f"mountpoint -q {path} || {mount}")
    return commands
