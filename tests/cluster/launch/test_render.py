"""The rendered files follow Ray's schema, KubeRay's CRDs and bash, and they change with N and the number of actors."""

from __future__ import annotations

import functools
import importlib.util
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from cluster.config import RunConfig, build_config
from cluster.errors import UsageError
from cluster.launch.demand import Sizes
from cluster.launch.layout import make_layout
from cluster.launch.render import Platform, render
from tests.cluster.launch.clusters import SIZES, configuration

CRDS = Path("/work/shared/data/kuberay")
SHARED = "cluster.storage={path: /shared, nfs: 'files:/export'}"


def files(platform: str, *overrides: str, sizes: Sizes = SIZES) -> dict[str, str]:
    return render(make_layout(configuration(SHARED, *overrides), sizes), Platform(platform))


def tree(platform: str, *overrides: str, sizes: Sizes = SIZES) -> Any:
    (text,) = files(platform, *overrides, sizes=sizes).values()
    return yaml.safe_load(text)


def objects(name: str, *overrides: str, sizes: Sizes = SIZES) -> list[Any]:
    return list(yaml.safe_load_all(files("kuberay", *overrides, sizes=sizes)[name]))


ELASTIC = "actors.samplers={min: 1, max: 3}"
VARIANTS = [
    (),
    (ELASTIC,),
    ("cluster.head=gpu", "cluster.node_types.gpu.image=registry.example.com/other"),
    ("cluster.storage={path: /shared, nfs: 'files:/export', bucket: 's3://models'}", "cluster.setup=[nvidia-smi]"),
    (
        "cluster.aws={ami: ami-1, subnet: subnet-1, availability_zone: us-east-1a}",
        "cluster.onprem={docker: true, ssh_private_key: ~/.ssh/key}",
    ),
]


@pytest.mark.parametrize("overrides", VARIANTS, ids=str)
@pytest.mark.parametrize("platform", ["ray-aws", "ray-gcp", "ray-onprem"])
def test_launcher_files_follow_rays_schema(platform: str, overrides: tuple[str, ...]) -> None:
    if platform == "ray-onprem":
        overrides = tuple(one for one in overrides if ".image=" not in one)
    ray = importlib.util.find_spec("ray")
    assert ray is not None and ray.origin is not None
    schema = json.loads((Path(ray.origin).parent / "autoscaler" / "ray-schema.json").read_text())
    found = tree(platform, *overrides)
    jsonschema.validate(found, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(found | {"available_node_type": {}}, schema)


def strict(schema: Any) -> Any:
    """The schema with unknown keys refused, which Kubernetes would drop silently."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    return schema


@functools.cache
def crd(kind: str) -> jsonschema.Draft202012Validator:
    file = CRDS / f"ray.io_{kind.lower()}s.yaml"
    if not file.is_file():
        pytest.skip(f"{file} is not on this machine; it comes with KubeRay")
    (version,) = [v for v in yaml.load(file.read_text(), yaml.CSafeLoader)["spec"]["versions"] if v["name"] == "v1"]
    schema = strict(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    return jsonschema.Draft202012Validator(schema)


KUBERNETES = (
    "cluster.storage={path: /shared, claim: files}",
    "cluster.kubernetes={namespace: ml, secret: keys, service_account: trainer, image_pull_secret: registry}",
    "cluster.node_types.gpu.node_selector={gpu: h100}",
    "cluster.node_types.cpu.tolerations=[{key: spot}]",
)


@pytest.mark.parametrize("overrides", [*VARIANTS[:3], KUBERNETES], ids=str)
def test_kubernetes_objects_follow_the_crds(overrides: tuple[str, ...]) -> None:
    (cluster,) = objects("raycluster.yaml", *overrides)
    config_map, job = objects("rayjob.yaml", *overrides)
    assert (cluster["kind"], config_map["kind"], job["kind"]) == ("RayCluster", "ConfigMap", "RayJob")
    crd("RayCluster").validate(cluster)
    crd("RayJob").validate(job)
    with pytest.raises(jsonschema.ValidationError):
        crd("RayCluster").validate(cluster | {"spec": cluster["spec"] | {"rayversion": "2"}})


def test_a_worker_pod_that_is_deleted_gives_ray_a_notice_within_its_grace_period() -> None:
    (cluster,) = objects("raycluster.yaml")
    spec = cluster["spec"]
    assert "lifecycle" not in spec["headGroupSpec"]["template"]["spec"]["containers"][0]
    for group in spec["workerGroupSpecs"]:
        pod = group["template"]["spec"]
        command = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1]
        assert "ray drain-node --reason DRAIN_NODE_REASON_PREEMPTION" in command
        notice_s = int(re.search(r"--deadline-remaining-seconds (\d+)", command)[1])
        assert 30 < notice_s < pod["terminationGracePeriodSeconds"]


def test_private_images_and_tainted_nodes_are_reached() -> None:
    """Also by the pod that submits the job, which the operator would start without the secret."""
    taints = "cluster.node_types.gpu.tolerations=[{key: spot, value: 'true', effect: NoSchedule}, {key: team}]"
    _, job = objects("rayjob.yaml", "cluster.kubernetes.image_pull_secret=registry", taints)
    cluster = job["spec"]["rayClusterSpec"]
    pods = {group["groupName"]: group["template"]["spec"] for group in cluster["workerGroupSpecs"]}
    head, submitter = cluster["headGroupSpec"]["template"]["spec"], job["spec"]["submitterPodTemplate"]["spec"]
    for pod in (*pods.values(), head, submitter):
        assert pod["imagePullSecrets"] == [{"name": "registry"}]
    assert submitter["containers"][0]["image"] == head["containers"][0]["image"]
    assert pods["gpu"]["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
        {"key": "spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"},
        {"key": "team", "operator": "Exists"},
    ]
    assert "tolerations" not in pods["cpu"]
    _, plain = objects("rayjob.yaml")
    assert "submitterPodTemplate" not in plain["spec"], "the operator's own"


def test_kubernetes_job_carries_the_configuration_and_joins_its_own_cluster() -> None:
    config_map, job = objects("rayjob.yaml")
    sent = build_config(yaml.safe_load(config_map["data"]["run.yaml"]))
    assert isinstance(sent, RunConfig) and sent.cluster.address == "auto" and sent.rollout.n == 16
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    (mount,) = [m for m in head["containers"][0]["volumeMounts"] if m["name"] == "run"]
    assert job["spec"]["entrypoint"] == f"bonrl train --config {mount['mountPath']}/run.yaml"
    (volume,) = [v for v in head["volumes"] if v["name"] == "run"]
    assert volume["configMap"]["name"] == config_map["metadata"]["name"]
    assert job["spec"]["backoffLimit"] == 0, "a second attempt would begin the run again"


def test_the_header_of_a_job_says_when_its_cluster_is_deleted() -> None:
    _, job = objects("rayjob.yaml")
    assert job["spec"]["shutdownAfterJobFinishes"] is True and job["spec"]["ttlSecondsAfterFinished"] == 3600
    header = files("kuberay")["rayjob.yaml"].splitlines()[0]
    assert header.startswith("# One run, on its own cluster, which is deleted one hour after the run ends. ")


def differences(left: Any, right: Any, path: str = "") -> dict[str, tuple[Any, Any]]:
    """Dotted path -> (left, right) wherever two trees differ."""
    if isinstance(left, dict) and isinstance(right, dict):
        keys = dict.fromkeys([*left, *right])
        pairs = [(left.get(key), right.get(key), f"{path}.{key}") for key in keys]
    elif isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        pairs = [(a, b, f"{path}[{i}]") for i, (a, b) in enumerate(zip(left, right, strict=True))]
    else:
        return {} if left == right else {path.lstrip("."): (left, right)}
    return {where: change for a, b, place in pairs for where, change in differences(a, b, place).items()}


def test_clusters_follow_n_and_samplers_and_nothing_else_in_the_file_changes() -> None:
    """rollout.n 16 -> 64 and actors.samplers 1 -> 3: two numbers of the run change the files of every platform."""
    from cluster.checks.placement import sizes_of

    few, many = configuration(SHARED), configuration(SHARED, "rollout.n=64", "actors.samplers=3")
    changed = differences(few.to_mapping(), many.to_mapping())
    assert changed == {"rollout.n": (16, 64), "actors.samplers": (1, 3)}
    before, after = (make_layout(config, sizes_of(config, None)) for config in (few, many))

    def difference(platform: Platform, name: str, document: int = 0) -> dict[str, tuple[Any, Any]]:
        pair = [list(yaml.safe_load_all(render(layout, platform)[name]))[document] for layout in (before, after)]
        return differences(*pair)

    stores = [
        tuple(int(gib * 2**30) for gib in pair) for pair in ((0.5, 1.0), (76.0, 76.5))
    ]  # 1.5 x groups and weights
    for platform in (Platform.RAY_AWS, Platform.RAY_GCP):
        types = "available_node_types"
        assert difference(platform, f"{platform}.yaml") == {
            "max_workers": (4, 6),
            f"{types}.head.resources.object_store_memory": stores[0],
            f"{types}.cpu.resources.object_store_memory": stores[0],
            f"{types}.gpu.resources.object_store_memory": stores[1],
            f"{types}.gpu.min_workers": (2, 4),
            f"{types}.gpu.max_workers": (2, 4),
        }
    workers = "spec.workerGroupSpecs"
    assert difference(Platform.KUBERAY, "raycluster.yaml") == {
        "spec.headGroupSpec.rayStartParams.object-store-memory": tuple(map(str, stores[0])),
        f"{workers}[0].replicas": (2, 4),
        f"{workers}[0].minReplicas": (2, 4),
        f"{workers}[0].maxReplicas": (2, 4),
        f"{workers}[0].rayStartParams.object-store-memory": tuple(map(str, stores[1])),
        f"{workers}[1].rayStartParams.object-store-memory": tuple(map(str, stores[0])),
    }
    scripts = [render(layout, Platform.SLURM)["job.sbatch"].splitlines() for layout in (before, after)]
    pairs = [(a, b) for a, b in zip(*scripts, strict=True) if a != b]
    assert [a for a, _ in pairs if a.startswith("#SBATCH")] == ["#SBATCH --nodes=2"]
    assert [b for _, b in pairs if b.startswith("#SBATCH")] == ["#SBATCH --nodes=4"]
    assert [pair for pair in pairs if pair[0].startswith("  n:")] == [("  n: 16", "  n: 64")]
    onprem = difference(Platform.RAY_ONPREM, "ray-onprem.yaml")
    assert onprem["provider.worker_ips"] == (
        ["10.0.0.2", "10.0.0.3", "10.0.0.6", "10.0.0.7"],
        ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.7"],
    )


def test_shared_memory_is_sized_on_every_platform() -> None:
    gpu = tree("ray-aws")["available_node_types"]["gpu"]
    assert gpu["docker"]["worker_run_options"] == ["--shm-size=128g"]
    assert gpu["resources"]["object_store_memory"] == 76 * 2**30
    (cluster,) = objects("raycluster.yaml")
    group = cluster["spec"]["workerGroupSpecs"][0]
    assert {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "128Gi"}} in group["template"]["spec"][
        "volumes"
    ]
    assert group["rayStartParams"]["object-store-memory"] == str(76 * 2**30)
    assert f"--object-store-memory={76 * 2**30}" in files("slurm")["job.sbatch"]
    given = tree("ray-aws", "cluster.node_types.gpu.shm_gib=200")["available_node_types"]["gpu"]
    assert given["docker"]["worker_run_options"] == ["--shm-size=200g"]
    assert (
        given["resources"]["object_store_memory"] == (200 - 52) * 2**30
    )  # what 50.3 GiB of weights and 1 for NCCL leave, in whole GiB


def test_a_head_without_roles_offers_no_cpus_and_workers_offer_their_roles() -> None:
    types = tree("ray-gcp")["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0, "GPU": 0, "object_store_memory": 2**29}
    assert {"bonrl-sampler", "bonrl-learner"} <= types["gpu"]["resources"].keys() and types["gpu"]["resources"][
        "GPU"
    ] == 8
    (cluster,) = objects("raycluster.yaml")
    assert cluster["spec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    resources = cluster["spec"]["workerGroupSpecs"][1]["rayStartParams"]["resources"]
    assert json.loads(json.loads(resources)) == {"bonrl-verifier": 1}
    assert "--num-cpus=32 --num-gpus=0" in files("slurm")["job.sbatch"]


def test_the_head_can_be_one_of_the_workers_type() -> None:
    types = tree("ray-aws", "cluster.head=gpu", "actors.verifiers=1")["available_node_types"]
    assert types["gpu"]["min_workers"] == 1 and types["gpu"]["resources"]["CPU"] == 192  # two, one of them the head
    script = files("slurm", "cluster.head=gpu")["job.sbatch"]
    assert "#SBATCH --nodes=2\n" in script and '--nodes=1 --ntasks=1 --exclude="$head_host"' in script
    assert tree("ray-onprem", "cluster.head=gpu")["provider"]["head_ip"] == "10.0.0.2"


def test_elastic_actors_give_room_to_grow() -> None:
    gpu = tree("ray-aws", ELASTIC)["available_node_types"]["gpu"]
    assert (gpu["min_workers"], gpu["max_workers"]) == (2, 4)
    (cluster,) = objects("raycluster.yaml", ELASTIC)
    assert cluster["spec"]["enableInTreeAutoscaling"] is True
    assert cluster["spec"]["workerGroupSpecs"][0]["maxReplicas"] == 4
    assert objects("raycluster.yaml")[0]["spec"]["enableInTreeAutoscaling"] is False


def test_an_instance_profile_is_that_of_every_node() -> None:
    def profiles(*overrides: str) -> list[object]:
        types = tree("ray-aws", *overrides)["available_node_types"].values()
        return [kind["node_config"].get("IamInstanceProfile") for kind in types]

    assert profiles("cluster.aws.instance_profile=tuner") == [{"Name": "tuner"}] * 3
    assert profiles() == [None] * 3, "Ray makes one for the head"


def test_spot_variables_storage_and_the_token_reach_the_nodes() -> None:
    aws, gcp = tree("ray-aws"), tree("ray-gcp")
    assert aws["available_node_types"]["cpu"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in aws["available_node_types"]["gpu"]["node_config"]
    spot = gcp["available_node_types"]["cpu"]["node_config"]["scheduling"]
    assert (spot["provisioningModel"], spot["preemptible"], spot["automaticRestart"]) == ("SPOT", True, False)
    assert gcp["available_node_types"]["gpu"]["node_config"]["scheduling"] == {"onHostMaintenance": "TERMINATE"}
    for found in (aws, gcp, tree("ray-onprem")):
        assert found["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}
        for command in (found["head_start_ray_commands"][-1], found["worker_start_ray_commands"][-1]):
            assert "export RAY_AUTH_MODE=token NCCL_SOCKET_IFNAME=eth0" in command
        assert "mountpoint -q /shared || sudo mount -t nfs files:/export /shared" in found["initialization_commands"]
    assert "-v /shared:/shared" in aws["docker"]["run_options"]
    (cluster,) = objects("raycluster.yaml")
    assert cluster["spec"]["authOptions"] == {"mode": "token"}
    pod = cluster["spec"]["workerGroupSpecs"][0]["template"]["spec"]
    assert {"name": "NCCL_SOCKET_IFNAME", "value": "eth0"} in pod["containers"][0]["env"]
    assert {"name": "shared", "nfs": {"server": "files", "path": "/export"}} in pod["volumes"]


@pytest.mark.parametrize(
    ("platform", "override", "words"),
    [
        ("ray-aws", "cluster.node_types.gpu.instance={}", ("cluster.node_types.gpu.instance.aws",)),
        ("ray-gcp", "cluster.gcp={}", ("cluster.gcp.project",)),
        ("ray-gcp", "cluster.gcp={project: p}", ("cluster.gcp.source_image",)),
        ("ray-aws", "cluster.image=null", ("cluster.image", "Dockerfile.cpu")),
        ("kuberay", "cluster.image=null", ("cluster.image",)),
        ("kuberay", "cluster.storage={path: /shared}", ("cluster.storage.claim",)),
        ("kuberay", "cluster.storage={bucket: 's3://models'}", ("cluster.storage.bucket", "cluster.storage.claim")),
        ("ray-onprem", "actors.samplers=9", ("10 hosts of type gpu", "cluster.node_types.gpu.hosts has 4")),
        ("slurm", "cluster.node_types={}", ("cluster.node_types is empty", "cluster/presets/multinode.yaml")),
    ],
)
def test_what_a_platform_needs_is_asked_for(platform: str, override: str, words: tuple[str, ...]) -> None:
    overrides = [override, "cluster.head=null"] if "node_types={}" in override else [override]
    with pytest.raises(UsageError) as error:
        files(platform, *overrides)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_hosts_start_ray_with_what_their_node_type_has() -> None:
    """Ray's local provider knows one node type, so each host looks up its own."""
    command = tree("ray-onprem", "cluster.onprem.activate=source /opt/venv/bin/activate")["worker_start_ray_commands"][
        -1
    ]
    fakes = 'hostname() { [ "$1" = -I ] && echo "127.0.0.1 $HOST" || echo here; }; source() { :; }; '
    fakes += 'ray() { printf "%s\\n" "$@"; }; '
    for host, expected in (("10.0.0.3", "--num-gpus=8"), ("10.0.0.6", '--resources={"bonrl-verifier": 1}')):
        done = subprocess.run(
            ["bash", "-c", fakes + command], env={"HOST": host, "RAY_HEAD_IP": "10.0.0.1", "PATH": "/usr/bin:/bin"},
            capture_output=True, text=True, timeout=20, check=True,
        )  # fmt: skip
        assert f"--node-ip-address={host}" in done.stdout.splitlines(), "Ray may not find it without internet access"
        assert expected in done.stdout.splitlines() and "--address=10.0.0.1:6379" in done.stdout, done


@pytest.mark.slow
def test_ray_itself_accepts_the_files(tmp_path: Path) -> None:
    from ray.autoscaler._private.kuberay.autoscaling_config import _get_custom_resources
    from ray.autoscaler._private.util import prepare_config, validate_config

    for platform in ("ray-aws", "ray-gcp", "ray-onprem"):
        prepared = prepare_config(tree(platform))
        validate_config(prepared)
        assert prepared["max_workers"] == 4
    (cluster,) = objects("raycluster.yaml")
    group = cluster["spec"]["workerGroupSpecs"][0]
    assert _get_custom_resources({}, group["rayStartParams"], group["groupName"]) == {
        "bonrl-learner": 1,
        "bonrl-sampler": 1,
    }
