"""The results of all stages in one file, and their logs in another: what comes back from a machine."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

_LOG_BYTES = 1 << 20  # the end of each log
_RUN_FILES = ("metrics.jsonl", "incidents.jsonl", "config.yaml", "logs/*")


class Results:
    """Results by stage. Stages that already ran on this machine are found in `scratch`.

    Args:
        output: directory of results.json and logs.tar.gz.
        scratch: has `stages`, with a result and a log for each, and `runs`.
    """

    def __init__(self, output: Path, scratch: Path) -> None:
        self.file, self._logs, self._scratch = output / "results.json", output / "logs.tar.gz", scratch
        self._stages: dict[str, dict[str, Any]] = {}

    def add_earlier(self, file: Path | None) -> None:
        """Take over what `file`, the output and the scratch directory have; later ones replace earlier ones."""
        if file is not None:
            self._stages |= json.loads(file.read_text())["stages"]
        if self.file.is_file():
            self._stages |= json.loads(self.file.read_text())["stages"]
        for path in sorted((self._scratch / "stages").glob("*.json")):
            result = json.loads(path.read_text())
            self._stages[result["stage"]] = result

    def is_done(self, name: str) -> bool:
        """Whether the stage has figures."""
        return self._stages.get(name, {}).get("status") == "ok"

    def done(self) -> list[str]:
        """The stages with figures."""
        return [name for name in self._stages if self.is_done(name)]

    def add(self, name: str, result: dict[str, Any]) -> None:
        """Keep the result of a stage and write both files."""
        self._stages[name] = result
        write_json(self.file, {"stages": self._stages, "ratios": ratios(self._stages)})
        partial = self._logs.with_suffix(".partial")
        with tarfile.open(partial, "w:gz") as archive:
            for path in self._log_files():
                _add_end(archive, path, str(path.relative_to(self._scratch)))
        partial.replace(self._logs)

    def _log_files(self) -> list[Path]:
        found = list((self._scratch / "stages").glob("*.log"))
        for run in (self._scratch / "runs").glob("*"):
            found += [path for pattern in _RUN_FILES for path in run.glob(pattern) if path.is_file()]
        return sorted(found)


def ratios(stages: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Figures that compare two stages."""

    def step_s(name: str) -> float | None:
        result = stages.get(name, {})
        return result["figures"].get("time/step_s") if result.get("status") == "ok" else None

    ours, theirs = step_s("one-card"), step_s("trl-colocate")
    return {"trl_step_over_ours": theirs / ours} if ours and theirs else {}


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Replace the file at once, so that a killed process leaves no half of it."""
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n")
    partial.replace(file)


def _add_end(archive: tarfile.TarFile, path: Path, name: str) -> None:
    with path.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(max(0, size - _LOG_BYTES))
        content = file.read(_LOG_BYTES)
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))
