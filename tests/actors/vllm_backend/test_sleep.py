"""The order of calls by which an engine frees memory for the learner and gets it back; vLLM is a fake here."""

from __future__ import annotations

import asyncio
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from actors.settings import RolloutSettings, SamplerSettings
from actors.vllm_backend import EngineError, UpdateInterrupted, VllmEngine
from actors.vllm_backend.sleep import Sleep
from actors.weights import Update
from learner.settings import LoraSettings

IN_TRANSIT = Update({}, 8, in_transit=True)


class FakeEngine:
    """As vLLM's `AsyncLLM`, it keeps what is allocated and refuses what the real one refuses."""

    errored = False

    def __init__(self, *, wakes: bool = True) -> None:
        self.calls: list[str] = []
        self.freed: set[str] = set()
        self.paused = False
        self.version = "0"
        self.wakes = wakes
        self.interruptions: list[list[Any]] = [["", True]]  # of each worker
        self.ended: dict[str, int] = {}  # processes of the core
        manager = SimpleNamespace(processes=[], finished_procs=lambda: self.ended)
        self.engine_core = SimpleNamespace(
            resources=SimpleNamespace(engine_manager=manager),
            pause_scheduler_async=lambda **options: self.pause_generation(**options),
        )
        self.output_processor = SimpleNamespace(propagate_error=lambda error: None)

    def shutdown(self, timeout: float) -> None:
        self.calls.append("shutdown")

    async def sleep(self, level: int, mode: str) -> None:
        self.calls.append(f"sleep {level} {mode}")
        self.paused, self.freed = True, {"weights", "kv_cache"}

    async def pause_generation(self, mode: str, clear_cache: bool) -> None:
        self.calls.append(f"pause {mode}")
        self.paused = True

    async def release_kv_cache_memory(self) -> None:
        assert self.paused and not self.freed
        self.calls.append("release cache")
        self.freed = {"kv_cache"}

    async def wake_up(self, tags: list[str]) -> bool:
        self.calls.append(f"wake {' '.join(tags)}")
        if self.wakes:
            self.freed -= set(tags)
        self.paused = bool(self.freed)
        return not self.freed

    async def start_weight_update(self) -> None:
        assert "weights" not in self.freed
        self.calls.append("start")

    async def update_weights(self, request: Any) -> None:
        self.calls.append("update")

    async def collective_rpc(self, method: str, args: tuple[Any, ...] = ()) -> list[list[Any]]:
        self.calls.append({"interrupted_update": "ask workers", "load_adapter": "load adapter"}[method])
        return self.interruptions

    async def update_weight_version(self, version: str) -> None:
        self.version = version

    async def finish_weight_update(self, version: str | None = None) -> None:
        self.version = version or self.version

    async def get_weight_version(self) -> str:
        return self.version

    async def resume_generation(self) -> None:
        assert not self.freed
        self.calls.append("resume")
        self.paused = False


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    base = ModuleType("vllm.distributed.weight_transfer.base")
    base.WeightTransferUpdateRequest = lambda update_info: update_info  # type: ignore[attr-defined]
    for name in ("vllm", "vllm.distributed", "vllm.distributed.weight_transfer"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "vllm.distributed.weight_transfer.base", base)

    def make(sleep: str, lora: LoraSettings | None = None, **options: Any) -> tuple[VllmEngine, FakeEngine]:
        settings = SamplerSettings(gpus=1, sleep=sleep)  # type: ignore[arg-type]
        made, fake = VllmEngine("model", "bfloat16", settings, RolloutSettings(), lora=lora), FakeEngine(**options)
        made._llm = fake
        return made, fake

    return make


@pytest.mark.parametrize(
    ("kind", "freed", "down", "up"),
    [
        ("none", set(), [], ["pause keep", "start", "update", "resume"]),
        (
            "cache",
            {"kv_cache"},
            ["pause wait", "release cache"],
            ["pause keep", "start", "update", "wake kv_cache", "resume"],
        ),
        (
            "weights",
            {"weights", "kv_cache"},
            ["sleep 2 wait"],
            ["pause keep", "wake weights", "start", "update", "wake kv_cache", "resume"],
        ),
    ],
)
def test_an_update_wakes_what_was_freed(engine, kind: str, freed: set[str], down: list[str], up: list[str]) -> None:  # type: ignore[no-untyped-def]
    made, fake = engine(kind)

    async def turns() -> None:
        for version in (1, 2):
            await made.sleep()
            assert fake.freed == freed and fake.calls == down
            assert made.updating is (kind != "none"), "nothing is generated, so that no progress is expected"
            fake.calls.clear()
            report = await made.update_weights(version, [Update({}, 8)])
            assert (report.version, report.nbytes) == (version, 8)
            assert fake.calls == up and not fake.paused and not made.updating
            fake.calls.clear()

    asyncio.run(turns())


def test_an_update_without_sleep_before_it_wakes_nothing(engine) -> None:  # type: ignore[no-untyped-def]
    made, fake = engine("weights")
    asyncio.run(made.update_weights(1, [Update({}, 8)]))
    assert fake.calls == ["pause keep", "start", "update", "resume"]


def test_sleeping_twice_frees_once() -> None:
    fake, sleep = FakeEngine(), Sleep("weights")

    async def twice() -> None:
        await sleep.begin(fake)
        await sleep.begin(fake)

    asyncio.run(twice())
    assert fake.calls == ["sleep 2 wait"]


def test_an_engine_that_stays_asleep_is_stopped(engine) -> None:  # type: ignore[no-untyped-def]
    made, fake = engine("cache", wakes=False)

    async def turn() -> None:
        await made.sleep()
        with pytest.raises(EngineError, match="not fully awake"):
            await made.update_weights(1, [Update({}, 8)])
        with pytest.raises(EngineError, match="not fully awake"):
            await made.version()

    asyncio.run(turn())
    assert fake.calls[-1] == "shutdown"


def test_after_an_interrupted_update_the_engine_keeps_its_former_weights(engine) -> None:  # type: ignore[no-untyped-def]
    """The weights stopped arriving at one of two workers, before either changed its model."""
    made, fake = engine("none")
    fake.interruptions = [["", False], ["the learner ended", False]]
    with pytest.raises(UpdateInterrupted, match="the learner ended"):
        asyncio.run(made.update_weights(1, [IN_TRANSIT]))
    assert fake.calls == ["pause keep", "start", "update", "ask workers", "resume"] and fake.version == "0"
    assert not made.updating


def test_an_engine_with_weights_of_two_versions_waits_for_the_next_update(engine) -> None:  # type: ignore[no-untyped-def]
    made, fake = engine("none")

    async def turn() -> None:
        for changed in (True, False):  # the second attempt stops earlier
            fake.interruptions = [["", changed], ["the learner ended", False]]
            with pytest.raises(UpdateInterrupted, match="the learner ended"):
                await made.update_weights(1, [IN_TRANSIT])
            assert made.updating and fake.paused and fake.version == "0"
        made.check_health()
        fake.interruptions = [["", True], ["", True]]
        assert (await made.update_weights(1, [IN_TRANSIT])).version == 1
        assert not made.updating and not fake.paused

    asyncio.run(turn())
    assert fake.calls == ["pause keep", *["start", "update", "ask workers"] * 3, "resume"], "paused once, resumed once"


def test_an_adapter_that_one_of_two_workers_has_is_sent_again(engine) -> None:  # type: ignore[no-untyped-def]
    made, fake = engine("none", LoraSettings())
    update = Update.of([{"nbytes": 8}], in_transit=True)

    async def turn() -> None:
        fake.interruptions = [["", True], ["the learner ended", False]]
        with pytest.raises(UpdateInterrupted, match="the learner ended"):
            await made.update_weights(1, [update])
        assert made.updating and fake.paused and fake.version == "0"
        fake.interruptions = [["", True], ["", True]]
        await made.update_weights(1, [update])
        assert not made.updating and not fake.paused and fake.version == "1"

    asyncio.run(turn())
    assert fake.calls == ["pause keep", "load adapter", "load adapter", "resume"]


@pytest.mark.parametrize(
    ("hangs", "call", "message"),
    [
        ("pause_generation", "update_weights", "the update to weight version 3 failed: its vLLM engine core died"),
        ("update_weights", "update_weights", "the update to weight version 3 failed: its vLLM engine core died"),
        ("wake_up", "update_weights", "the update to weight version 3 failed: its vLLM engine core died"),
        ("release_kv_cache_memory", "sleep", "it could not free its memory: its vLLM engine core died"),
        ("get_weight_version", "version", "its vLLM engine core died"),
    ],
)
def test_a_core_that_dies_in_the_middle_of_a_call_ends_it(engine, hangs: str, call: str, message: str) -> None:  # type: ignore[no-untyped-def]
    """vLLM never answers such a call."""
    made, fake = engine("cache")

    async def dies(*arguments: Any, **options: Any) -> None:
        fake.ended["EngineCore"] = -9
        await asyncio.Event().wait()

    async def turn() -> None:
        if hangs == "wake_up":
            await made.sleep()
        setattr(fake, hangs, dies)
        arguments = (3, [Update({}, 8)]) if call == "update_weights" else ()
        async with asyncio.timeout(5):
            with pytest.raises(EngineError, match=message):
                await getattr(made, call)(*arguments)
            with pytest.raises(EngineError, match="its vLLM engine core died"):
                made.check_health()

    asyncio.run(turn())


def test_memory_that_cannot_be_freed_stops_the_engine(engine) -> None:  # type: ignore[no-untyped-def]
    made, fake = engine("weights")

    async def refuse(level: int, mode: str) -> None:
        raise RuntimeError("Memory usage increased after sleeping.")

    fake.sleep = refuse
    with pytest.raises(EngineError, match="could not free its memory: Memory usage increased"):
        asyncio.run(made.sleep())
    with pytest.raises(EngineError, match="could not free"):
        asyncio.run(made.version())
