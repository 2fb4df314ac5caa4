"""Models of the Hugging Face Hub: their directory in the local cache, fetched when a run starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cluster.config import RunConfig
from cluster.config.hub_ids import HubId, hub_id
from cluster.errors import UsageError

# Weights in other formats than the safetensors that are read, often as large again.
_OTHER_FORMATS = (
    "*.bin",
    "*.pth",
    "*.pt",
    "*.gguf",
    "*.h5",
    "*.msgpack",
    "*.onnx",
    "onnx/*",
    "original/*",
    "consolidated*",
)


def with_local_model(config: RunConfig, *, fetch: bool = True, say: Callable[[str], None] = print) -> RunConfig:
    """The configuration with the local directory of the model where ``model.path`` names one of the hub.

    Args:
        config: resolved.
        fetch: whether it is downloaded if it is not in the cache; else the configuration then stays as it is, unless
            downloads are switched off here (HF_HUB_OFFLINE).
        say: gets a line that says which directory it is, and what other nodes need.

    Raises:
        UsageError: it cannot be fetched (the message says how to download it elsewhere).
    """
    model = hub_id(config.model.path)
    if model is None:
        return config
    cached = None if fetch else _cached(model)
    if not fetch and cached is None and not _refused_here(config):
        return config
    directory = cached or local_directory(model, "model.path")
    say(f"model.path = {config.model.path}: {directory}")
    if config.cluster.address not in (None, "local"):
        say(
            f"every node of the cluster must have {directory}: let HF_HOME be on storage that all nodes see, or run "
            f"`hf download {model.name} --revision {directory.name}` on every node with the same HF_HOME"
        )
    return config.model_copy(update={"model": config.model.model_copy(update={"path": str(directory)})})


def local_directory(model: HubId, key: str) -> Path:
    """The model's directory in the Hugging Face cache; fetched if it is not there.

    Args:
        model: of the hub.
        key: the option or key that names it, for messages.

    Raises:
        UsageError: it cannot be fetched (the message says how to download it elsewhere).
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model.name, revision=model.revision, ignore_patterns=list(_OTHER_FORMATS)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        place = f"{key} = {model.name}" + (f"@{model.revision}" if model.revision else "")
        raise UsageError(f"{place}: {_why_not_fetched(error, model, key)}") from error


def _why_not_fetched(error: Exception, model: HubId, key: str) -> str:
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, GatedRepoError):  # also a RepositoryNotFoundError
        return (
            "the hub gives this model only to users who accepted its terms; accept them at "
            f"{constants.ENDPOINT}/{model.name} and set HF_TOKEN"
        )
    if isinstance(error, RevisionNotFoundError):
        return "the hub has no such revision of the model; name a branch, a tag or a commit"
    if isinstance(error, RepositoryNotFoundError):
        return (
            "there is no such directory here, and no such model on the hub that you may read; correct the path or the "
            "name, or set HF_TOKEN for a private model"
        )
    elsewhere = (
        f"where there is a network, run `{model.download}`, copy that directory to a place that every node sees, and "
        f"set {key} to it"
    )
    if constants.HF_HUB_OFFLINE:
        return (
            f"there is no such directory here, it is not in the Hugging Face cache ({constants.HF_HUB_CACHE}), and "
            f"HF_HUB_OFFLINE is set, so it is not downloaded; {elsewhere}, or unset HF_HUB_OFFLINE"
        )
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return (
        f"there is no such directory here, and the model cannot be fetched from the hub at {constants.ENDPOINT} "
        f"({reason}); {elsewhere}"
    )


def _refused_here(config: RunConfig) -> bool:
    """Whether a start on this machine could not fetch a model, and this is the machine that would."""
    from huggingface_hub import constants

    here = config.cluster.address in (None, "local") and config.model.parameters_billions is None
    return here and bool(constants.HF_HUB_OFFLINE)


def _cached(model: HubId) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model.name, revision=model.revision, local_files_only=True))
    except (LocalEntryNotFoundError, OSError, ValueError):
        return None
