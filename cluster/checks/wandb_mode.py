"""Whether a run uses wandb online, offline or not at all, and under which id. No network request, no wandb."""

from __future__ import annotations

import netrc
import os
import secrets
from pathlib import Path
from urllib.parse import urlsplit

from actors.atomic_file import write_atomically
from cluster.records.disk import clear_errors

_DEFAULT_URL = "https://api.wandb.ai"


def choose_mode(mode: str) -> tuple[str, str]:
    """(online, offline or disabled; why) for a configured mode. Makes no network request."""
    if mode != "auto":
        return mode, f"wandb.mode is {mode}"
    wanted = os.environ.get("WANDB_MODE", "").lower()
    if wanted in ("offline", "dryrun"):
        return "offline", f"WANDB_MODE is {wanted}"
    if wanted == "disabled":
        return "disabled", "WANDB_MODE is disabled"
    source = api_key_source()
    if source is None:
        return "offline", "no API key is set: `wandb login` sets one"
    return "online", f"API key from {source}"


def api_key_source() -> str | None:
    """Where wandb would find an API key for its server: a variable's name or a netrc file; None: nowhere."""
    for variable in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        if os.environ.get(variable):
            return variable
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or _DEFAULT_URL).hostname or ""
    named = os.environ.get("NETRC")
    for file in [Path(named)] if named else [Path.home() / ".netrc", Path.home() / "_netrc"]:
        try:
            if host in netrc.netrc(str(file)).hosts:
                return str(file)
        except (OSError, netrc.NetrcParseError):  # a file that wandb could not use either
            continue
    return None


def run_id_of(root: Path, given: str | None) -> tuple[str, bool]:
    """The run's wandb id, kept in its directory; and whether an earlier process of the run had it."""
    file = root / "wandb" / "run_id.txt"
    with clear_errors(root):
        earlier = file.read_text(encoding="utf-8").strip() if file.exists() else ""
        run_id = given or earlier or secrets.token_hex(4)
        if run_id != earlier:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, f"{run_id}\n".encode())
    return run_id, run_id == earlier or given is not None
