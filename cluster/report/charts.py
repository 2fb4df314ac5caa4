"""The charts of a page as data: which lines over which axis, with units; the page draws them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from cluster.records.metric_names import EVALUATION_STEP, TIME, TRAIN_STEP
from cluster.report.evaluations import OBJECTIVE, deployed_metric, trained_for
from cluster.report.series import column, number, plain, smoothed, thin, window_of
from cluster.report.source import Row, Source
from learner.schedule import ScheduleSettings, scheduled_integer

Chart = dict[str, Any]
Metrics = Sequence[tuple[str, str]]  # (metric, name of its line)


class Spec(NamedTuple):
    """What a chart shows.

    Attributes:
        hint: what to look for.
        logarithmic, from_zero: how its values are drawn.
        share: whether they are shares, from 0 to 1.
    """

    id: str
    title: str
    unit: str
    metrics: Metrics
    hint: str
    logarithmic: bool = False
    from_zero: bool = False
    share: bool = False


_LEARNING: tuple[Spec, ...] = (
    Spec("reward", "Training reward", "reward", (("reward/mean", "mean reward"),), "Mean over the samples of a step."),
    Spec(
        "groups",
        "What groups hold",
        "share of groups",
        (
            ("groups/mixed_share", "right and wrong"),
            ("groups/all_fail_share", "only wrong"),
            ("groups/all_pass_share", "only right"),
        ),
        "Only groups with right and wrong samples can teach.",
        from_zero=True,
        share=True,
    ),
    Spec(
        "entropy",
        "Entropy",
        "nat/token",
        (("policy/entropy", "entropy"),),
        "A fast fall to 0 means that all samples of a group become equal.",
    ),
    Spec(
        "kl",
        "KL divergence",
        "nat/token",
        (("policy/kl_behaviour", "from the behavior policy"), ("policy/kl_reference", "from the reference")),
        "From the behavior policy: 0 where the data are fresh.",
    ),
    Spec(
        "gradient",
        "Gradient norm",
        "norm",
        (("optimizer/gradient_norm", "before clipping"),),
        "Always above the clip: the clip sets the step size.",
    ),
    Spec(
        "gap",
        "Log-probability gap",
        "nat/token",
        (("logprob_gap/mean", "mean"), ("logprob_gap/max", "largest")),
        "Sampler against learner at equal weights.",
        logarithmic=True,
    ),
    Spec(
        "length",
        "Response length",
        "tokens",
        (("response/length_mean", "mean length"),),
        "A drift to 0 or to the limit is the classic length bias.",
        from_zero=True,
    ),
    Spec(
        "truncated",
        "Truncated responses",
        "share of responses",
        (("response/truncated_share", "truncated"),),
        "Above 0.1: raise rollout.max_response_tokens.",
        from_zero=True,
        share=True,
    ),
    Spec(
        "answers",
        "Different answers",
        "share of samples",
        (("groups/unique_answer_share", "different answers"),),
        "A fall towards 1 / n means that a group repeats itself.",
        share=True,
    ),
)
_RUNNING: tuple[Spec, ...] = (
    Spec(
        "busy",
        "Who is busy",
        "share of the step",
        (("time/sampling_share", "samplers and verifiers"), ("time/learning_share", "learner")),
        "Where steps overlap, both can be near 1. The rest is idle time.",
        from_zero=True,
        share=True,
    ),
    Spec(
        "staleness",
        "Staleness",
        "optimizer steps",
        (("policy/lag_mean", "mean age of the weights"), ("policy/lag_max", "largest")),
        "Age of the weights that sampled what a step trains on.",
        from_zero=True,
    ),
    Spec(
        "throughput",
        "Throughput",
        "tokens/s",
        (("throughput/sampled_tokens_per_s", "sampled"), ("throughput/trained_tokens_per_s", "trained")),
        "Per second of sampling, and per second of learning.",
        from_zero=True,
    ),
    Spec(
        "memory",
        "Memory of all processes",
        "GiB",
        (("memory/pss_gib", "memory"),),
        "Shared pages count once. A steady rise is a leak.",
        from_zero=True,
    ),
    Spec(
        "cache",
        "Samplers' key-value cache",
        "share",
        (("sampler/kv_cache_use_max", "largest use"), ("sampler/prefix_cache_hit_rate", "prompt tokens found in it")),
        "Near 1, requests wait or are preempted.",
        from_zero=True,
        share=True,
    ),
    Spec(
        "requests",
        "Requests in an engine",
        "requests",
        (
            ("sampler/running_max", "decoded together, at most"),
            ("sampler/waiting_max", "waiting, at most"),
            ("sampler/preemptions", "preempted in all"),
        ),
        "Preemptions: the key-value cache is too small for sampler.max_num_seqs.",
        from_zero=True,
    ),
    Spec(
        "sync",
        "Weight sync",
        "s",
        (("sync/seconds", "whole sync"), ("sync/pause_seconds", "longest pause of a sampler")),
        "From the optimizer step until all samplers hold the new weights.",
        from_zero=True,
    ),
    Spec(
        "depth",
        "Replay queue",
        "groups",
        (("queue/depth", "waiting for the learner"), ("queue/slots_in_use", "slots in use")),
        "Nothing waiting: sampling is the bottleneck.",
        from_zero=True,
    ),
)


def axes(source: Source) -> dict[str, dict[str, list[Any]]]:
    """Step, minutes and samples of each drawn point: of training steps, and of evaluations."""
    steps, seconds = column(source.rows, TRAIN_STEP), column(source.rows, TIME)
    samples = np.cumsum(_samples_per_step(source, steps))
    evaluated = column(source.evaluations, EVALUATION_STEP)
    at = np.searchsorted(steps, evaluated, side="right")  # training steps that precede it
    return {
        "train": {"step": plain(thin(steps)), "time": plain(thin(seconds / 60)), "samples": plain(thin(samples))},
        "evaluation": {
            "step": plain(evaluated),
            "time": plain(np.concatenate([[0.0], seconds])[at] / 60),
            "samples": plain(np.concatenate([[0.0], samples])[at]),
        },
    }


def _samples_per_step(source: Source, steps: np.ndarray) -> np.ndarray:
    base, prompts = int(source.value("rollout.n", 1)), int(source.value("rollout.prompts_per_step", 1))
    schedule = source.config.schedule if source.config is not None else ScheduleSettings()
    return np.array([prompts * scheduled_integer(schedule.n, int(step) - 1, base) for step in steps], dtype=np.float64)


def learning_charts(source: Source) -> list[Chart]:
    """The objective and the deployed metric first, then what explains them."""
    key, name = deployed_metric(source)
    training = (("objective/value", "training groups"),)
    charts = [
        _headline_chart(source, "objective", f"The objective: {trained_for(source) or 'value'}", training, OBJECTIVE)
    ]
    if key != OBJECTIVE:
        charts.append(_headline_chart(source, "deployed", f"Evaluations are ranked by {name}", (), key))
    return [chart for chart in charts if chart is not None] + _diagnostic_charts(source, _LEARNING)


def _headline_chart(source: Source, key: str, title: str, metrics: Metrics, held_out: str) -> Chart | None:
    """A wide chart of training metrics and of one of the evaluations; None where there is neither."""
    spec = Spec(key, title, "value", metrics, "")
    chart = _chart(source, spec)
    line = _evaluated(source.evaluations, held_out, "held-out prompts")
    if line is not None:
        chart = chart or _empty_chart(spec)
        chart["lines"].append(line)
    return None if chart is None else chart | {"wide": True}


def running_charts(source: Source) -> list[Chart]:
    """Time, staleness, throughput and memory."""
    return _diagnostic_charts(source, _RUNNING)


def flat(source: Source) -> dict[str, list[str]]:
    """Titles of the charts of each section that are not drawn, because they are 0 at every step."""
    return {
        section: [_uncapitalized(spec.title) for spec in specs if _is_flat(source, spec.metrics)]
        for section, specs in (("learning", _LEARNING), ("running", _RUNNING))
    }


def _uncapitalized(title: str) -> str:
    """A title in the middle of a sentence."""
    return title if title[1].isupper() else title[0].lower() + title[1:]


def _diagnostic_charts(source: Source, specs: Sequence[Spec]) -> list[Chart]:
    charts = [_chart(source, spec) for spec in specs if not _is_flat(source, spec.metrics)]
    found = [chart for chart in charts if chart is not None]
    for chart in found:
        _add_limits(source, chart)
    return found


def _is_flat(source: Source, metrics: Metrics) -> bool:
    values = np.concatenate([column(source.rows, metric) for metric, _ in metrics])
    return bool(np.isfinite(values).any()) and not np.nansum(np.abs(values))


def _chart(source: Source, spec: Spec) -> Chart | None:
    """None if no step has one of its metrics. Lines that are always 0 are left out if another is not."""
    columns = {name: column(source.rows, metric) for metric, name in spec.metrics}
    known = {name: values for name, values in columns.items() if np.isfinite(values).any()}
    moving = {name: values for name, values in known.items() if np.nanmax(np.abs(values)) > 0}
    if not known:
        return None
    window = window_of(len(source.rows))
    drawn = moving or dict(list(known.items())[:1])
    lines = [{"name": name, "axis": "train"} | smoothed(values, window) for name, values in drawn.items()]
    return _empty_chart(spec) | {"logarithmic": spec.logarithmic and bool(moving), "lines": lines}


def _empty_chart(spec: Spec) -> Chart:
    """A chart without lines."""
    return {
        "id": spec.id,
        "title": spec.title,
        "unit": spec.unit,
        "hint": spec.hint,
        "logarithmic": False,
        "from_zero": spec.from_zero,
        "share": spec.share,
        "lines": [],
        "limits": [],
    }


def _evaluated(rows: Sequence[Row], key: str, name: str) -> dict[str, Any] | None:
    values = column(rows, key)
    if not np.isfinite(values).any():
        return None
    return {
        "name": name,
        "axis": "evaluation",
        "y": plain(values),
        "low": plain(column(rows, f"{key}_low")),
        "high": plain(column(rows, f"{key}_high")),
    }


def _add_limits(source: Source, chart: Chart) -> None:
    """The configured limit that a chart is read against."""
    limits = {
        "gradient": ("learner.gradient_clip", "clip"),
        "gap": ("agreement.max_gap", "stops the run"),
        "length": ("rollout.max_response_tokens", "limit"),
    }
    if chart["id"] in limits:
        key, name = limits[chart["id"]]
        value = source.value(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            chart["limits"].append({"name": f"{name} ({key})", "value": number(float(value))})
    if chart["id"] == "staleness":
        bounds = column(source.rows, "queue/staleness_bound")
        if np.isfinite(bounds).any():
            chart["limits"].append({"name": "bound", "value": number(float(np.nanmax(bounds)))})
