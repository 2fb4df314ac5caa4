"""The command line; see the package's docstring."""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import json
import logging
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import benchmarks.scale
from benchmarks.scale.fakes import Shape
from benchmarks.scale.simulation import Measured, message_bytes, simulate

TINY = {
    "samplers": 4,
    "ranks": 2,
    "verifiers": 2,
    "prompts": 8,
    "staleness": 1,
    "steps": 3,
    "latency": 0.05,
    "idle": 0.2,
    "heartbeat": 0.05,
    "scaling": [1, 2],
    "scaling_prompts": 16,
    "scaling_latency": 0.02,
}


def main(arguments: list[str] | None = None) -> None:
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.tiny:
        parser.set_defaults(**TINY)
        options = parser.parse_args(arguments)
    names = ("samplers", "ranks", "verifiers", "prompts", "staleness", "steps", "latency", "idle", "heartbeat")
    if options.samplers < 2 or options.steps < 2:
        parser.error("two samplers and two steps are the least: one sampler is killed in the second step")
    shape = Shape(**{name: getattr(options, name) for name in names}, deaths=True)
    few = [
        Shape(count, 1, 2, options.scaling_prompts, 0, 2, options.scaling_latency, lanes=8, heartbeat=options.heartbeat)
        for count in options.scaling
    ]
    with _quiet():
        with _profiled(options.profile):
            large = simulate(shape)
        scaling = [simulate(one) for one in few]
    message = message_bytes()
    print(table(large, message, scaling))
    if options.json:
        found = {"large": asdict(large), "bytes": message, "scaling": [asdict(one) for one in scaling]}
        options.json.write_text(json.dumps(found, indent=1))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale",
        description=benchmarks.scale.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--samplers", type=int, default=256)
    parser.add_argument("--ranks", type=int, default=64)
    parser.add_argument("--verifiers", type=int, default=64)
    parser.add_argument("--prompts", type=int, default=2500, help="per step; (staleness + 1) times as many in flight")
    parser.add_argument("--staleness", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6, help="at least 2")
    parser.add_argument("--latency", type=float, default=5.0, help="seconds for one group")
    parser.add_argument("--idle", type=float, default=10.0, help="seconds to measure supervision alone")
    parser.add_argument("--heartbeat", type=float, default=1.0, help="supervision.heartbeat_s")
    parser.add_argument("--scaling", type=int, nargs="*", default=[1, 2, 3], help="numbers of samplers to compare")
    parser.add_argument("--scaling-prompts", type=int, default=240, help="per step of that comparison")
    parser.add_argument("--scaling-latency", type=float, default=0.2, help="seconds for one group in that comparison")
    parser.add_argument("--tiny", action="store_true", help="other defaults, for a run of two seconds")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--profile", type=Path, help="where to write a cProfile of the large run")
    return parser


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings about killed actors."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def _profiled(path: Path | None) -> Iterator[None]:
    if path is None:
        yield
        return
    profile = cProfile.Profile()
    with profile:
        yield
    profile.dump_stats(path)


def table(large: Measured, message: dict[str, int], scaling: list[Measured]) -> str:
    """The figures as a Markdown table."""
    shape = large.shape
    cluster = f"{shape.samplers} samplers, {shape.ranks} ranks, {shape.verifiers} verifiers"
    per_actor = 1e3 * large.idle_cpu_share / shape.actors
    rows = {
        "start": f"{large.start_s:.2f} s, {large.start_cpu_s:.2f} s of CPU",
        "driver": f"{large.driver_cpu_ms_per_group:.3f} ms of CPU per group",
        "in flight": f"{large.peak_in_flight} groups at most, {large.mean_in_flight:.0f} on average",
        "calls": f"{large.calls_per_group:.2f} per group",
        "queue": f"{large.queue_operations_per_cpu_s:.0f} operations per second of CPU",
        "death": f"{large.death_noticed_s:.3f} s with groups in flight, {large.idle_death_noticed_s:.3f} s without",
        "supervision": f"{large.idle_cpu_share:.3f} s of CPU per second, {per_actor:.3f} ms per actor",
        "bytes": f"{message['driver']} by the driver, {message['object_store']} in the object store",
    }
    for one in scaling:
        speed = scaling[0].step_s / one.step_s
        rows[f"step, samplers: {one.shape.samplers}"] = f"{one.step_s:.2f} s, {speed:.2f} times as fast as the first"
    title = f"{cluster}; {shape.steps} steps of {shape.prompts} groups, staleness {shape.staleness}"
    return "\n".join([title, "| what | figure |", "| --- | --- |", *(f"| {k} | {v} |" for k, v in rows.items())])


if __name__ == "__main__":
    main()
