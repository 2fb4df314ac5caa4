"""Models named by their hub id: fetched once into a local directory, or a message that says how to download them."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.checks.dry_run import load_model_facts
from cluster.checks.model_facts import read_model
from cluster.config import RunConfig, build_config
from cluster.config.hub_ids import HubId, hub_id
from cluster.config.input_paths import input_paths
from cluster.errors import UsageError
from cluster.records.hub_models import local_directory, with_local_model
from cluster.records.model_source import resolve_model


def config(path: str, **cluster: object) -> RunConfig:
    return build_config({"model": {"path": path}, "cluster": cluster})


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, str | None]]:
    """A hub that has every model."""
    found = []

    def snapshot(name: str, *, revision: str | None, **_: object) -> str:
        found.append((name, revision))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    return found


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("Qwen/Qwen2.5-0.5B", HubId("Qwen/Qwen2.5-0.5B", None)),
        ("Qwen/Qwen2.5-0.5B@v1.0", HubId("Qwen/Qwen2.5-0.5B", "v1.0")),
        ("hf://models/mine@refs/pr/1", HubId("models/mine", "refs/pr/1")),
        *((path, None) for path in ("models/mine", "runs/a", "tests/none", "./a/b", "/a/b", "a/b/c", "a", "../a/b")),
    ],
)
def test_hub_ids_and_paths_are_distinguished(path: str, expected: HubId | None) -> None:
    assert hub_id(path) == expected


def test_a_directory_wins_over_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert hub_id("owner/name") is not None
    (tmp_path / "owner").mkdir()
    assert hub_id("owner/name") is None


def test_the_model_is_resolved_once_to_a_local_directory(asked: list, tmp_path: Path) -> None:
    lines: list[str] = []
    found = with_local_model(config("owner/name@v2"), say=lines.append)
    assert found.model.path == str(tmp_path) and asked == [("owner/name", "v2")]
    assert lines == [f"model.path = owner/name@v2: {tmp_path}"]
    assert with_local_model(found, say=lines.append) is found and len(asked) == 1
    assert resolve_model(Path("owner/name")) == tmp_path


def test_a_cluster_run_says_what_its_nodes_must_have(asked: list, tmp_path: Path) -> None:
    lines: list[str] = []
    with_local_model(config("owner/name", address="auto"), say=lines.append)
    assert len(lines) == 2 and "every node of the cluster must have" in lines[1]
    assert f"hf download owner/name --revision {tmp_path.name}" in lines[1]


def test_a_hub_id_is_not_packed_with_a_job() -> None:
    assert "model.path" not in input_paths(config("owner/name"))
    assert input_paths(config("models/countdown-base"))["model.path"] == "models/countdown-base"


def test_a_dry_run_fetches_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match="HF_HUB_OFFLINE is set"):  # as a start
        with_local_model(config("owner/name"), fetch=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    found = with_local_model(config("owner/name"), fetch=False)
    assert found.model.path == "owner/name"
    facts, warning = load_model_facts(found, must_exist=True)
    assert facts is None and "a start fetches it from the hub" in (warning or "")


def test_without_the_hub_the_message_says_how_to_download(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError) as refusal:
        with_local_model(config("owner/name@v2"))
    for part in (
        "model.path = owner/name@v2",
        "HF_HUB_OFFLINE is set",
        "hf download owner/name --revision v2 --local-dir models/name",
        "every node sees",
    ):
        assert part in str(refusal.value)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)

    def unreachable(*_: object, **__: object) -> str:
        raise OSError("Network is unreachable")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    with pytest.raises(UsageError, match=r"--backbone = owner/name: .*Network is unreachable.*hf download owner/name"):
        local_directory(HubId("owner/name", None), "--backbone")


def test_a_refusal_of_the_hub_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    for kind, words in (
        (GatedRepoError, "accept them at .*owner/name and set HF_TOKEN"),
        (RepositoryNotFoundError, "no such directory here, and no such model on the hub"),
        (RevisionNotFoundError, "no such revision"),
    ):

        def refuse(*_: object, kind: type = kind, **__: object) -> str:
            raise kind("no", response=httpx.Response(403, request=httpx.Request("GET", "https://hub")))

        monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
        with pytest.raises(UsageError, match=words):
            local_directory(HubId("owner/name", None), "model.path")


def test_a_snapshot_that_was_deleted_is_named() -> None:
    with pytest.raises(UsageError, match="hf download owner/a-model --revision abc12"):
        read_model("/nowhere/models--owner--a-model/snapshots/abc12")
