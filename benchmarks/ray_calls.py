"""What Ray costs the driver for each remote call, which `python -m benchmarks.scale` leaves out.

    python -m benchmarks.ray_calls [--actors 4] [--calls 20000] [--in-flight 1000]

Starts Ray and asynchronous actors that answer at once, and awaits calls through `actors.remote_calls.call` with a
small argument and a small answer, as the driver does for samples, grades and commits. Prints the processor time of this
process per call (all its threads, Ray's included), and calls per second of wall time. The actors and Ray's own
processes share the machine, which changes the wall time but hardly the processor time.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Iterator
from typing import Any

ARGUMENT = {"position": 17, "prompt": list(range(128)), "seed": 2**40}
DEADLINE_S = 600.0


async def measure(actors: list[Any], calls: int, in_flight: int) -> tuple[float, float]:
    """(milliseconds of processor time per call, calls per second)."""
    await _all(actors, 200, in_flight)  # connections
    began, cpu = time.monotonic(), time.process_time()
    await _all(actors, calls, in_flight)
    return 1e3 * (time.process_time() - cpu) / calls, calls / (time.monotonic() - began)


async def _all(actors: list[Any], calls: int, in_flight: int) -> None:
    left: Iterator[int] = iter(range(calls))

    async def caller() -> None:
        from actors.remote_calls import call

        for i in left:
            actor = actors[i % len(actors)]
            await call(actor.answer.remote(ARGUMENT), owner="actor", to="answer", deadline_s=DEADLINE_S)

    await asyncio.gather(*(caller() for _ in range(in_flight)))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ray_calls",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--actors", type=int, default=4)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--in-flight", type=int, default=1000)
    options = parser.parse_args()
    import ray

    ray.init(num_cpus=options.actors, include_dashboard=False, logging_level="warning")

    class Answering:
        async def answer(self, argument: dict[str, Any]) -> tuple[int, bytes]:
            return argument["position"], b"0" * 64

    actor = ray.remote(num_cpus=0, max_concurrency=options.in_flight)(Answering)
    try:
        actors = [actor.remote() for _ in range(options.actors)]
        cpu_ms, rate = asyncio.run(measure(actors, options.calls, options.in_flight))
    finally:
        ray.shutdown()
    print(
        f"{options.actors} actors, {options.in_flight} calls in flight: {cpu_ms:.3f} ms of CPU per call, {rate:.0f}/s"
    )


if __name__ == "__main__":
    main()
