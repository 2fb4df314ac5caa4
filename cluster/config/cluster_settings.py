"""Settings of the Ray cluster and of its machines: node types, storage, and what each platform needs."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from learner.section import Section

Role = Literal["learner", "sampler", "verifier"]
ROLES: tuple[Role, ...] = ("learner", "sampler", "verifier")

# Names become parts of Kubernetes objects, which take lower-case letters, digits and hyphens.
NAME = r"^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$"
# cluster/config/wording.py has the words for each pattern.
TEXT, HOST, ABSOLUTE_PATH = r"^[^\n]+$", r"^[A-Za-z0-9][A-Za-z0-9.:-]*$", r"^/[^\s'\"]+$"
NFS, BUCKET = r"^[^\s:/]+:/\S*$", r"^(s3|gs)://[a-z0-9][a-z0-9._-]+$"
TIME = r"^(\d+-)?\d{1,2}:\d{2}:\d{2}$"
Name = Annotated[str, StringConstraints(pattern=NAME)]
Text = Annotated[str, StringConstraints(min_length=1, pattern=TEXT)]
Host = Annotated[str, StringConstraints(pattern=HOST)]
AbsolutePath = Annotated[str, StringConstraints(pattern=ABSOLUTE_PATH)]
Variable = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]

_SECRET = re.compile(r"(^|_)(TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_KEY|CREDENTIALS)($|_)", re.IGNORECASE)


class InstanceTypes(Section):
    """The machine that a cloud provider rents for a node type."""

    aws: Text | None = Field(None, description="EC2 instance type, such as p5.48xlarge.")
    gcp: Text | None = Field(None, description="Compute Engine machine type, such as a3-highgpu-8g.")


class Toleration(Section):
    """A taint of Kubernetes nodes on which pods may run all the same."""

    key: Text = Field(description="Key of the taint, such as kubernetes.azure.com/scalesetpriority.")
    value: Text | None = Field(None, description="Value of the taint, such as spot; null: any.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        None, description="Effect of the taint; null: any."
    )


class NodeType(Section):
    """A kind of machine. How many are needed follows from the actors."""

    gpus: int = Field(0, ge=0, le=1024, description="GPUs of one node.")
    cpus: int = Field(ge=1, le=4096, description="CPUs of one node. Each actor takes one.")
    memory_gib: float = Field(gt=0, description="Memory of one node in GiB. It includes /dev/shm.")
    shm_gib: float | None = Field(
        None,
        gt=0,
        description="GiB of /dev/shm on one node, for Ray's object store and weights in transit. null: as much as the "
        "run needs, from rollout.n and the size of the model.",
    )
    roles: tuple[Role, ...] = Field(
        ROLES,
        description="Actors that may run on these nodes. `[]` for a head node that runs only the driver and the queue.",
    )
    min: int = Field(0, ge=0, le=4096, description="Fewest nodes, also if the run needs fewer.")
    max: int = Field(16, ge=1, le=4096, description="Most nodes. A run that needs more is refused.")
    spot: bool = Field(False, description="Spot (preemptible) capacity. Keep the head and the learner off it.")
    image: Text | None = Field(None, description="Container image of these nodes; null: cluster.image.")
    instance: InstanceTypes = Field(default_factory=InstanceTypes, description="Instance type for each cloud.")
    disk_gib: int = Field(200, ge=10, le=65536, description="GiB of the boot disk (clouds).")
    hosts: tuple[Host, ...] = Field((), description="Addresses of the machines of this type (on premises).")
    partition: Text | None = Field(None, description="SLURM partition; null: the default partition.")
    node_selector: dict[str, str] = Field(
        default_factory=dict,
        description="Kubernetes labels of the nodes that pods of this type may use, such as the GPU model or spot.",
    )
    tolerations: tuple[Toleration, ...] = Field(
        (),
        description="Taints of Kubernetes nodes that pods of this type tolerate, such as that of spot nodes. Pods with "
        "GPUs tolerate nvidia.com/gpu in addition.",
    )

    @model_validator(mode="after")
    def _possible(self) -> NodeType:
        if self.max < self.min:
            raise ValueError(f"max = {self.max} is below min = {self.min}: raise max")
        if self.shm_gib is not None and self.shm_gib >= self.memory_gib:
            raise ValueError(
                f"shm_gib = {self.shm_gib:g} is not below memory_gib = {self.memory_gib:g}, which includes it: lower it"
            )
        if len(set(self.roles)) < len(self.roles):
            raise ValueError("roles names a role twice: give each role once")
        return self


class StorageSettings(Section):
    """What every node mounts (section `cluster.storage`)."""

    path: AbsolutePath | None = Field(
        None,
        description="Directory that every node shares, for run.directory, model.path and task.path, such as /shared. "
        "null: none, which is enough for a cluster of one node.",
    )
    nfs: Annotated[str, StringConstraints(pattern=NFS)] | None = Field(
        None,
        description="NFS export HOST:/EXPORT that is mounted at cluster.storage.path (EFS, Filestore, your own). null: "
        "the nodes have the directory already.",
    )
    claim: Text | None = Field(None, description="Kubernetes PersistentVolumeClaim (ReadWriteMany) for the directory.")
    bucket: Annotated[str, StringConstraints(pattern=BUCKET)] | None = Field(
        None,
        description="Bucket s3://NAME or gs://NAME with models and data, mounted read-only by mount-s3 or gcsfuse, "
        "which the VM image must have. A bucket cannot hold run.directory.",
    )
    bucket_path: AbsolutePath = Field("/bucket", description="Directory at which the bucket is mounted.")

    @model_validator(mode="after")
    def _mount_point(self) -> StorageSettings:
        if (self.nfs or self.claim) and not self.path:
            raise ValueError(f"{'nfs' if self.nfs else 'claim'} needs path, the directory at which it is mounted")
        if self.bucket and self.path == self.bucket_path:
            raise ValueError(f"path and bucket_path are both {self.path}: give two different directories")
        return self


class AwsSettings(Section):
    """Amazon EC2 (section `cluster.aws`)."""

    region: Text = Field("us-east-1", description="Region of the nodes and the network.")
    availability_zone: Text | None = Field(
        None, description="Zone, such as us-east-1a. One zone for all nodes keeps weights off paid links."
    )
    ami: Text | None = Field(None, description="Machine image with Docker and NVIDIA drivers; null: Ray's default.")
    subnet: Text | None = Field(None, description="Subnet id; null: Ray chooses one.")
    instance_profile: Text | None = Field(
        None,
        description="Name of an IAM instance profile for all nodes, such as one that may read the bucket. Its role "
        "must let the head start instances with it (EC2 and iam:PassRole). Null: Ray makes one for the head only.",
    )
    ssh_user: Name = Field("ubuntu", description="User of the machine image.")


class GcpSettings(Section):
    """Google Compute Engine (section `cluster.gcp`)."""

    project: Text | None = Field(None, description="Id of the project that is charged.")
    region: Text = Field("us-central1", description="Region of the nodes and the network.")
    zone: Text = Field("us-central1-a", description="Zone of all nodes.")
    source_image: Text | None = Field(
        None,
        description="Boot image with Docker and, for GPUs, NVIDIA drivers, as "
        "projects/PROJECT/global/images/family/FAMILY. `--to ray-gcp` needs it.",
    )
    ssh_user: Name = Field("ubuntu", description="User that Ray logs in as.")


class OnPremisesSettings(Section):
    """Machines with fixed addresses and SSH (section `cluster.onprem`)."""

    ssh_user: Text = Field("ubuntu", description="User that Ray logs in as, on every host.")
    ssh_private_key: Text | None = Field(None, description="Key for that user, such as ~/.ssh/id_ed25519.")
    docker: bool = Field(False, description="Run in cluster.image. false: the hosts have bonrl installed.")
    activate: Text | None = Field(
        None, description="Shell command before Ray starts, such as `source /shared/venv/bin/activate`."
    )


class KubernetesSettings(Section):
    """KubeRay (section `cluster.kubernetes`)."""

    namespace: Name = Field("default", description="Namespace of the objects.")
    secret: Name | None = Field(
        None, description="Secret whose entries become variables of every pod, such as WANDB_API_KEY and HF_TOKEN."
    )
    image_pull_secret: Name | None = Field(
        None, description="Secret with which images are pulled from a private registry; null: none."
    )
    service_account: Name | None = Field(None, description="Service account of the pods; null: the default one.")


class SlurmSettings(Section):
    """SLURM (section `cluster.slurm`)."""

    time: Annotated[str, StringConstraints(pattern=TIME)] = Field(
        "24:00:00", description="Time limit, [DAYS-]HH:MM:SS. Put quotes around a time without days."
    )
    account: Text | None = Field(None, description="Account that is charged.")
    qos: Text | None = Field(None, description="Quality of service.")
    gpu_option: Literal["gpus-per-node", "gres"] = Field(
        "gpus-per-node", description="Option that asks for GPUs: --gpus-per-node=8 or --gres=gpu:8."
    )
    activate: Text | None = Field(
        None, description="Shell command before Ray starts on each node, such as `source /shared/venv/bin/activate`."
    )
    directives: tuple[Text, ...] = Field((), description="Further #SBATCH options, such as `--exclusive`.")


class ClusterSettings(Section):
    """Where the actors run: a running Ray cluster, or the machines of one to be started (section `cluster`)."""

    address: str | None = Field(
        None,
        description="null: start a local Ray for this run; auto: the Ray this process belongs to (what "
        "submitted jobs use); or HOST:PORT of a running cluster.",
    )
    num_cpus: int | None = Field(
        None,
        ge=1,
        description="CPUs of the local Ray, or of the cluster that cluster.address names; null: as detected.",
    )
    num_gpus: int | None = Field(
        None,
        ge=0,
        description="GPUs of the local Ray, or of the cluster that cluster.address names, against which the layout is "
        "checked before anything starts; null: as detected.",
    )
    placement: Literal["separate", "colocated"] = Field(
        "separate",
        description="separate: each sampler and each learner rank has its own GPUs. colocated: sampler i and learner "
        "rank i share one GPU, in one bundle of a Ray placement group; for one GPU, or as many pairs as GPUs.",
    )
    gpu_memory_gib: float | None = Field(
        None,
        gt=0,
        description="Memory of one GPU in GiB, for the memory estimate and the split of a shared GPU. null: read "
        "from the GPU if this machine has one; otherwise the estimate assumes 80.",
    )
    object_store_mib: int = Field(
        512,
        ge=76,
        description="MiB of Ray's object store on a local Ray. It must hold the groups in flight.",
    )
    name: Name = Field("bonrl", description="Name of the cluster on its platform.")
    image: Text | None = Field(None, description="Container image with bonrl and its dependencies.")
    node_types: dict[Name, NodeType] = Field(
        default_factory=dict,
        description="Kinds of machines by name, in order of preference. Their numbers are derived from the actors. "
        "Empty: the cluster is not described here.",
    )
    head: Name | None = Field(
        None, description="Node type of the head node, which runs the driver; null: the first of cluster.node_types."
    )
    storage: StorageSettings = Field(default_factory=StorageSettings, description="What every node mounts.")
    environment: dict[Variable, str] = Field(
        default_factory=dict,
        description="Variables of every node, such as NCCL_SOCKET_IFNAME. They are written into the rendered files, "
        "so do not put secrets here.",
    )
    setup: tuple[Text, ...] = Field(
        (), description="Shell commands that every virtual machine or host runs before Ray starts (ray-* platforms)."
    )
    aws: AwsSettings = Field(default_factory=AwsSettings, description="Amazon EC2, for `--to ray-aws`.")
    gcp: GcpSettings = Field(default_factory=GcpSettings, description="Compute Engine, for `--to ray-gcp`.")
    onprem: OnPremisesSettings = Field(
        default_factory=OnPremisesSettings, description="Machines with fixed addresses, for `--to ray-onprem`."
    )
    kubernetes: KubernetesSettings = Field(
        default_factory=KubernetesSettings, description="KubeRay, for `--to kuberay`."
    )
    slurm: SlurmSettings = Field(default_factory=SlurmSettings, description="SLURM, for `--to slurm`.")

    @model_validator(mode="after")
    def _consistent(self) -> ClusterSettings:
        if self.head is not None and self.head not in self.node_types:
            known = ", ".join(self.node_types) or "none"
            raise ValueError(
                f"cluster.head = {self.head} is not one of cluster.node_types ({known}); choose one of them"
            )
        for name, value in self.environment.items():  # no message holds a value
            if _SECRET.search(name):
                raise ValueError(
                    f"cluster.environment.{name} looks like a secret, and these variables are written into files; send "
                    "it with `bonrl submit --env`, or put it into cluster.kubernetes.secret"
                )
            if "\n" in value:
                raise ValueError(f"cluster.environment.{name} has several lines; give one")
        return self

    @property
    def head_type(self) -> str:
        """The node type of the head node; only where there are node types."""
        return self.head or next(iter(self.node_types))
