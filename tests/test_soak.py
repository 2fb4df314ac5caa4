"""The soak benchmark's arithmetic: it must see a leak, and not be fooled by a warm-up or a single spike."""

from __future__ import annotations

import numpy as np

from benchmarks.soak import Sample, growth, problems, slope_per_100, table, unreaped


def readings(memory, descriptors=20.0, shared=0.0):
    return [
        Sample(
            10 * i,
            {
                "sampler (1)": {
                    "private_mb": float(mb),
                    "resident_mb": float(mb) + shared * i,
                    "descriptors": descriptors,
                    "threads": 8.0,
                }
            },
        )
        for i, mb in enumerate(memory)
    ]


def test_a_leak_is_named_and_measured():
    memory = 500 + 0.3 * np.arange(200)  # 0.3 MB in 10 steps
    slopes = growth(readings(memory))
    assert abs(slopes["sampler (1)"]["private_mb"] - 3.0) < 1e-9
    (found,) = problems(slopes)
    assert found.startswith("sampler (1): private_mb grows by 3.00 per 100 steps")


def test_a_warm_up_and_a_spike_are_no_leak():
    memory = np.concatenate([np.linspace(100, 500, 40), np.full(160, 500.0)])
    memory[120] = 900
    assert problems(growth(readings(memory))) == []


def test_readings_that_crowd_at_the_end_weigh_no_more_than_others():
    """The run slows down at its end, where something grows by the second: per step that is little."""
    quick = readings(np.full(200, 500.0))
    slow = [Sample(2000 + i // 50, {"sampler (1)": {"private_mb": 500 + 0.01 * i}}) for i in range(1000)]
    assert problems(growth([*quick, *slow])) == []


def test_readings_within_one_step_have_no_slope():
    assert slope_per_100([5, 5, 5], [1, 2, 3]) == 0.0


def test_shared_pages_are_reported_and_not_judged():
    samples = readings(np.full(200, 500.0), shared=1.0)
    slopes = growth(samples)
    assert problems(slopes) == []
    assert "| sampler (1) | +0.000 | +10.000 | 699 |" in table(samples, slopes)


def test_a_zombie_is_a_fault_when_it_stays():
    def seen(*zombies):
        return [Sample(step, {}, dict.fromkeys(pids, "child")) for step, pids in enumerate(zombies)]

    assert unreaped(seen({1}, {2}, set(), {1})) == [], "each was reaped by the next reading"
    assert unreaped(seen({1}, {1, 2}, {1}, set())) == ["child (1) is a zombie at two readings in a row, after step 2"]
