"""Peak host memory of the learner's ranks while they start: every rank reads the model, or rank 0 reads it for all.

    python -m benchmarks.loading [--ranks 2] [--width 1024] [--layers 24] [--output FILE]

Ranks on CPUs build the engine for a random model whose files are float32. Memory is read from /proc every 20 ms until
all engines are built, and summed over the ranks: PSS, where a page of the files that k ranks map counts 1/k in each,
and of it the anonymous memory, which no file backs. What the processes held before they loaded is left out. Both are
given in MiB and in models: multiples of the weights in `model.dtype`. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.learner import free_port
from benchmarks.learner_memory import save_model

LIMIT_SECONDS = 540.0
COLUMNS = (
    "ZeRO stage",
    "model.dtype",
    "trained",
    "who reads",
    "PSS MiB",
    "models",
    "anonymous MiB",
    "models",
    "PSS ÷ every rank",
    "seconds",
)
VOCABULARY = 32_000
MIB = 2**20
IMPORTED, BUILT = "modules are imported", "engine is built"


@dataclass(frozen=True)
class Case:
    """stage: ZeRO stage. what is trained: all weights, the same with a reference model (kl), or adapters (lora)."""

    stage: int
    dtype: str
    what: str = "all"


CASES = (
    Case(0, "float32"),
    Case(3, "float32"),
    Case(3, "float32", "lora"),
    Case(3, "bfloat16", "lora"),
    Case(3, "float32", "kl"),
)


def build(arguments: argparse.Namespace) -> None:
    """One rank: import everything, wait for a line on stdin, build the engine, wait for the end of stdin."""
    os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed  # noqa: F401
    import torch  # noqa: F401
    from transformers import LlamaForCausalLM  # noqa: F401

    from benchmarks.learner import make_sequences
    from learner.engine import Engine
    from learner.settings import LearnerSettings, LoraSettings, LossSettings

    if arguments.every_rank_reads:
        _let_every_rank_read()
    print(IMPORTED, flush=True)
    sys.stdin.readline()
    started = time.perf_counter()
    lora = LoraSettings() if arguments.what == "lora" else None
    engine = Engine(
        arguments.model,
        dtype=arguments.dtype,
        learner=LearnerSettings(zero_stage=arguments.stage, threads=1, lora=lora),
        loss=LossSettings(),
        rank=arguments.rank,
        world_size=arguments.ranks,
        master_port=arguments.port,
        reference=arguments.what == "kl",
    )
    if arguments.what == "kl":  # weights that are mapped from the files take memory when they are used
        engine.score_reference(make_sequences(arguments.ranks, 4, 8, VOCABULARY))
    print(BUILT, time.perf_counter() - started, flush=True)
    sys.stdin.read()


def _let_every_rank_read() -> None:
    """The plain way: each rank loads the whole model, DeepSpeed partitions it, and the reference is whole."""
    from learner.backends import deepspeed_backend
    from learner.backends.model_directory import load_causal_lm

    backend: Any = deepspeed_backend.DeepSpeedBackend
    load_frozen = backend.load_frozen

    def load_whole(self: Any) -> Any:
        partitions, self._partitions = self._partitions, False
        try:
            return load_frozen(self)
        finally:
            self._partitions = partitions

    deepspeed_backend.load_on_rank_0 = lambda path, dtype, *_: load_causal_lm(path, dtype)
    backend._place = lambda *_: None
    backend.load_frozen = load_whole


class Peaks(threading.Thread):
    """Largest sums over the processes since the first look."""

    def __init__(self, processes: list[int]) -> None:
        super().__init__(daemon=True)
        self._processes, self._over = processes, threading.Event()
        self._before = self._sums()
        self.pss = self.anonymous = 0

    def run(self) -> None:
        while not self._over.wait(0.02):
            pss, anonymous = (now - before for now, before in zip(self._sums(), self._before, strict=True))
            self.pss, self.anonymous = max(self.pss, pss), max(self.anonymous, anonymous)

    def stop(self) -> None:
        self._over.set()
        self.join(timeout=5.0)

    def _sums(self) -> tuple[int, int]:
        both = [_memory(process) for process in self._processes]
        return sum(pss for pss, _ in both), sum(anonymous for _, anonymous in both)


def _memory(process: int) -> tuple[int, int]:
    """PSS and anonymous memory in bytes."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
    fields = {line.split()[0]: int(line.split()[1]) * 1024 for line in lines}
    return fields["Pss:"], fields["Anonymous:"]


def measure(model: Path, case: Case, ranks: int, *, every_rank_reads: bool) -> dict[str, float]:
    """Start the ranks once; peaks in bytes above what they held before, and the seconds of the slowest."""
    port, processes = free_port(), []
    try:
        for rank in range(ranks):
            command = [sys.executable, "-m", "benchmarks.loading", "--rank", f"{rank}", "--ranks", f"{ranks}"]
            command += ["--port", f"{port}", "--model", f"{model}", "--stage", f"{case.stage}", "--dtype", case.dtype]
            command += ["--what", case.what, *["--every-rank-reads"] * every_rank_reads]
            processes.append(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
            )
        limit = threading.Timer(LIMIT_SECONDS, lambda: [process.kill() for process in processes])
        limit.start()
        for process in processes:
            _wait_for(process, IMPORTED)
        peaks = Peaks([process.pid for process in processes])
        peaks.start()
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
        seconds = max(float(_wait_for(process, BUILT)) for process in processes)
        peaks.stop()
        limit.cancel()
        return {"pss": peaks.pss, "anonymous": peaks.anonymous, "seconds": seconds}
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _wait_for(process: subprocess.Popen[str], mark: str) -> str:
    """The rest of the line that begins with `mark`. The timer of `measure` bounds the wait."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(mark):
            return line.removeprefix(mark)
    raise SystemExit(f"a rank ended before its {mark}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--width", type=int, default=1024, help="hidden size of the random model")
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--output", type=Path, help="file for the rows as JSON")
    for name, kind in (("rank", int), ("port", int), ("stage", int), ("dtype", str), ("what", str), ("model", Path)):
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    parser.add_argument("--every-rank-reads", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rank is not None:
        build(arguments)
        return
    rows = []
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    with tempfile.TemporaryDirectory(prefix="bonrl-loading-") as directory:
        save_model(Path(directory), VOCABULARY, arguments.width, arguments.layers)
        stored = sum(file.stat().st_size for file in Path(directory).glob("*.safetensors"))
        for case in CASES:
            model = stored / (2 if case.dtype == "bfloat16" else 1)
            first: dict[str, float] = {}
            for every_rank_reads in (True, False):
                row = measure(Path(directory), case, arguments.ranks, every_rank_reads=every_rank_reads)
                first = first or row
                reader = "every rank" if every_rank_reads else "rank 0"
                rows.append({**vars(case), "reader": reader, "model_bytes": model, **row})
                pss, anonymous = (f"{row[key] / MIB:,.0f} | {row[key] / model:.2f}" for key in ("pss", "anonymous"))
                cells = [f"{case.stage}", case.dtype, case.what, reader, pss, anonymous]
                cells += [f"{row['pss'] / first['pss']:.2f}", f"{row['seconds']:.1f}"]
                print(f"| {' | '.join(cells)} |", flush=True)
    if arguments.output:
        arguments.output.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
