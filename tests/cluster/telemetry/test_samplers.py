"""The samplers' loads in the row of a step and in Prometheus."""

from __future__ import annotations

from actors.engine_load import EngineLoad
from actors.process_stats import Heartbeat
from cluster.records.metric_names import check_row
from cluster.telemetry.ray_gauges import exported
from cluster.telemetry.samplers import EXPORT_SECONDS, SamplerLoads


def beat(load: EngineLoad | None) -> Heartbeat:
    return Heartbeat("node", (), load=load)


def test_a_step_has_the_largest_load_and_all_preemptions_of_all_samplers() -> None:
    loads = SamplerLoads()
    loads.on_heartbeat("sampler-0", beat(EngineLoad(0.5, 64, 0, 2, 100, 50)))
    loads.on_heartbeat("sampler-1", beat(EngineLoad(0.9, 32, 7, 0, 300, 30)))
    loads.on_heartbeat("sampler-0", beat(EngineLoad(0.1, 1, 0, 1)))
    loads.on_heartbeat("verifier-0", beat(None))
    row = loads.row()
    assert row == {
        "sampler/kv_cache_use_max": 0.9,
        "sampler/running_max": 64,
        "sampler/waiting_max": 7,
        "sampler/preemptions": 3,
        "sampler/prefix_cache_hit_rate": 0.2,
    }
    check_row(row | {"time/s": 1.0})


def test_a_step_without_a_heartbeat_has_no_load() -> None:
    loads = SamplerLoads()
    assert loads.row() == {}
    loads.on_heartbeat("sampler-0", beat(EngineLoad(0.5, 1)))
    assert "sampler/prefix_cache_hit_rate" not in loads.row()
    assert loads.row() == {}


def test_each_sampler_has_its_gauges_at_most_every_few_seconds() -> None:
    rows: list[dict[str, float]] = []
    now = 100.0
    loads = SamplerLoads(rows.append, clock=lambda: now)
    for second, use in enumerate((0.5, 0.9, 0.7, 0.2, 0.1, 0.3, 0.1)):
        now = 100.0 + second * EXPORT_SECONDS / 5
        loads.on_heartbeat("sampler-0", beat(EngineLoad(use, 4, 0, 1, 10, 5)))
    loads.on_heartbeat("sampler-1", beat(EngineLoad(0.6)))
    assert [row.get("sampler/kv_cache_use_of/sampler-0") for row in rows] == [0.5, 0.9, None]
    assert [row.get("sampler/preemptions_of/sampler-0") for row in rows] == [1, 6, None]  # all so far
    assert rows[2]["sampler/kv_cache_use_of/sampler-1"] == 0.6
    check_row(rows[1] | {"time/s": 1.0})
    gauges = {name: exported(name) for name in rows[1]}
    assert gauges["sampler/prefix_cache_hit_rate_of/sampler-0"] == (
        "bonrl_sampler_prefix_cache_hit_rate_of",
        {"actor": "sampler-0"},
    )
