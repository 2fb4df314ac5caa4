"""The speed of moving weights from a learner into an engine, against plain copies in the same run."""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import time
from collections.abc import Iterator
from typing import Any

from actors.settings import BroadcastSettings
from actors.weights import Destination, Published, make_transfer
from actors.workers.sampler import Sampler
from benchmarks.gpu_stages.sampling import Work
from benchmarks.gpu_stages.setting import GIB, Setting, Skip, synchronize
from benchmarks.weight_sync import in_buckets
from cluster.checks.model_facts import read_model

ENGINE_SHARE = 0.5  # of the card; the learner's weights and their copies need the rest
_WARM_UPS = 2  # updates: the engine repeats from the third on what it did in the second
_ANCHORS = {"ipc": "device_to_device", "nccl": "device_to_device", "host": "pinned_host_to_device"}


def weight_sync(setting: Setting, shape: str, backend: str) -> dict[str, Any]:
    """Updates from weights on the learner's device to a resumed engine, in GB/s (1e9 bytes).

    Both are on the same card, and with nccl on two. ratio: to a copy within the card (ipc, nccl), or from pinned host
    memory to the card (host), measured in the same process.
    """
    import torch

    if backend == "nccl" and setting.device == "cuda" and torch.cuda.device_count() < 2:
        raise Skip(f"broadcast.backend = nccl needs two cards, and {torch.cuda.device_count()} is visible")
    work = Work(setting, shape, graphs=False, share=ENGINE_SHARE)
    _check_room(setting, work)
    found = asyncio.run(_weight_sync(setting, work, BroadcastSettings(backend=backend)))  # type: ignore[arg-type]
    anchor = bandwidth(setting)[f"{_ANCHORS[backend]}_gb_per_second"]
    return found | {
        "anchor": _ANCHORS[backend],
        "anchor_gb_per_second": anchor,
        "ratio": found["gb_per_second"] / anchor,
    }


def _check_room(setting: Setting, work: Work) -> None:
    if setting.device == "cpu":
        return
    import torch

    nbytes, (_, total) = read_model(work.model).parameters * 2, torch.cuda.mem_get_info()
    if nbytes > 0.8 * ENGINE_SHARE * total or 2.2 * nbytes > (1 - ENGINE_SHARE) * total:
        raise Skip(f"needs four times the {nbytes / GIB:.0f} GiB of the weights; the card has {total / GIB:.0f} GiB")


class Learner:
    """The weights of a learner in this process, which publishes them as its rank 0 does."""

    def __init__(self, work: Work, broadcast: BroadcastSettings) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        setting = work.setting
        if setting.device == "cpu":  # the handles of ipc must mean something in other processes
            torch.multiprocessing.set_sharing_strategy("file_system")
        model = AutoModelForCausalLM.from_pretrained(work.model, dtype=getattr(torch, setting.dtype))
        self._model = model.to(setting.device)
        self._transfer = make_transfer(broadcast, "benchmark")

    async def update(self, sampler: Sampler, version: int, factor: float = 1.0) -> dict[str, Any]:
        """Publish and load a version, the weights times `factor`; the sampler's report."""
        transfer, here = self._transfer, Destination("node", "sampler 0")
        weights = list(self._model.named_parameters())
        if factor != 1.0:
            weights = [(name, tensor.detach() * factor) for name, tensor in weights]
        parts = in_buckets(weights, transfer.bucket_bytes)
        payload = transfer.publish(parts, rank=0, here="node", receivers=[here])
        try:
            return await sampler.load_weights(version, *transfer.address(Published("node", version, payload), here))
        finally:
            transfer.release(payload)


async def _weight_sync(setting: Setting, work: Work, broadcast: BroadcastSettings) -> dict[str, Any]:
    sampler = work.make(broadcast)
    with _on_second_card(setting, broadcast):
        await sampler.start()
    learner = Learner(work, broadcast)
    seconds, reports = [], []
    for version in range(1, _WARM_UPS + 5):
        synchronize(setting.device)
        begin = time.perf_counter()
        reports.append(await learner.update(sampler, version))
        seconds.append(time.perf_counter() - begin)
    await sampler.shutdown()
    took, nbytes = statistics.median(seconds[_WARM_UPS:]), reports[-1]["nbytes"]
    return {
        "backend": broadcast.backend,
        "bytes": nbytes,
        "seconds": took,
        "pause_seconds": statistics.median(report["pause_seconds"] for report in reports[_WARM_UPS:]),
        "first_seconds": seconds[0],
        "gb_per_second": nbytes / took / 1e9,
    }


@contextlib.contextmanager
def _on_second_card(setting: Setting, broadcast: BroadcastSettings) -> Iterator[None]:
    """With nccl, an engine that starts inside the block gets the second card; this process keeps the first."""
    import torch

    if setting.device == "cpu" or broadcast.chosen_backend != "nccl":
        yield
        return
    torch.cuda.init()  # with all cards; later changes of the variable do not reach this process
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = before.split(",")[1] if before else "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["CUDA_VISIBLE_DEVICES"]
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = before


def bandwidth(setting: Setting) -> dict[str, Any]:
    """GB/s of copies within the card, and to and from host memory; each byte is counted once."""
    import torch

    nbytes = setting.size(1 << 30, 1 << 22)
    here = torch.empty(nbytes, dtype=torch.uint8, device=setting.device)
    host = torch.empty(nbytes, dtype=torch.uint8)
    pinned = host.pin_memory() if setting.device == "cuda" else host.clone()
    pairs = {
        "device_to_device": (here, torch.empty_like(here)),
        "device_to_host": (here, host),
        "device_to_pinned_host": (here, pinned),
        "pinned_host_to_device": (pinned, here),
    }
    found: dict[str, Any] = {"bytes": nbytes}
    for name, (source, target) in pairs.items():
        rates = []
        for _ in range(5):
            synchronize(setting.device)
            begin = time.perf_counter()
            target.copy_(source)
            synchronize(setting.device)
            rates.append(nbytes / (time.perf_counter() - begin) / 1e9)
        found[f"{name}_gb_per_second"] = statistics.median(rates)
    return found
