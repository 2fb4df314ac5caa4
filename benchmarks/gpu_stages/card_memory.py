"""Peaks of the first visible card's memory: of the card, and of the processes of sampler and learner."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

_INTERVAL_S = 0.25
_CARD = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
_PROCESSES = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits", "--id=0"]
_ROLES = {"ray::SamplerActor": "sampler", "ray::LearnerRank": "learner"}


class NoAnswer(Exception):
    """nvidia-smi is missing, failed, or printed something else; the message says which."""


class CardMemory:
    """The largest memory in use, asked four times a second until nvidia-smi fails."""

    def __init__(self) -> None:
        self._peaks: dict[str, float] = {}  # MiB
        self._failure = ""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._read_memory, daemon=True)
        self._thread.start()

    def stop(self) -> dict[str, float]:
        """GiB of "card", "sampler" and "learner". What is not measured is missing, with a warning: where nvidia-smi
        failed, a peak after that would be missed, and virtual machines may not show the processes."""
        self._over.set()
        self._thread.join(timeout=30.0)
        if self._failure:
            print(f"warning: the card's memory is not measured: {self._failure}", file=sys.stderr, flush=True)
            return {}
        if missing := {"sampler", "learner"} - self._peaks.keys():
            names = " and ".join(sorted(missing))
            print(f"warning: nvidia-smi does not show the memory of {names}", file=sys.stderr, flush=True)
        return {name: mib / 1024 for name, mib in self._peaks.items()}

    def _read_memory(self) -> None:
        while not self._over.wait(_INTERVAL_S):
            try:
                used = {"card": used_mib()}
                for row in _ask(_PROCESSES):
                    role = _role(row[0])
                    if role and len(row) == 2 and row[1].isdigit():
                        used[role] = used.get(role, 0.0) + float(row[1])
            except NoAnswer as error:
                self._failure = str(error)
                return
            for name, mib in used.items():
                self._peaks[name] = max(self._peaks.get(name, 0.0), mib)


def used_mib() -> float:
    """MiB of the card that are in use. Raises NoAnswer."""
    rows = _ask(_CARD)
    try:
        return float(rows[0][0])
    except (ValueError, IndexError) as error:
        raise NoAnswer(f"nvidia-smi does not tell the memory in use: {rows}") from error


def wait_until_free(mib: float, seconds: float) -> None:
    """Wait until at most `mib` are in use: processes that were killed hold their memory for a while."""
    end = time.monotonic() + seconds
    try:
        while (used := used_mib()) > mib:
            if time.monotonic() > end:
                print(f"warning: {used:.0f} MiB of the card are in use {seconds:.0f} s after the stage", flush=True)
                return
            time.sleep(1.0)
    except NoAnswer as error:
        print(f"warning: whether the card is free is not known: {error}", flush=True)


def _ask(command: list[str]) -> list[list[str]]:
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise NoAnswer(f"nvidia-smi failed ({error})") from error
    return [[cell.strip() for cell in line.split(",")] for line in answer.splitlines() if line.strip()]


def _role(pid: str) -> str | None:
    """The role of the actor that the process is or descends from, by the titles that Ray sets."""
    process = int(pid)
    while process > 1:
        folder = Path(f"/proc/{process}")
        try:
            title = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            status = (folder / "status").read_text()
        except OSError:  # it ended, or it is of another PID namespace
            return None
        if role := next((role for part, role in _ROLES.items() if part in title), None):
            return role
        process = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("PPid:"))
    return None
