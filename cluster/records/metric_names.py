"""The one table of metrics: every key that a run may log, its unit, its axis and what to look for.

Names are those that practitioners know from other RL systems. The console, metrics.jsonl, wandb and the
documentation all read this table; a row with a name that is not here is refused, so a renamed metric cannot
silently leave a dashboard empty.

Four clocks run in a job and each metric is drawn over exactly one of them (its *axis*). wandb drops or
misplaces rows when several clocks share its implicit step, so rows are split by axis before they are logged.

`python -m cluster.telemetry.metrics_page > docs/metrics.md` writes the reference page.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from learner.strategies import STRATEGIES

TRAIN_STEP = "train/step"
ROLLOUT_STEP = "rollout/step"
EVALUATION_STEP = "evaluation/step"
TIME = "time/s"

AXES: dict[str, str] = {
    TRAIN_STEP: "optimiser steps done; the first step logs 1",
    ROLLOUT_STEP: "batches of groups sampled and verified; runs ahead of `train/step` when staleness > 0",
    EVALUATION_STEP: "optimiser steps done by the weights that were evaluated; 0 is the base model",
    TIME: "seconds of wall clock since the run began, summed over resumes",
}


class MetricError(ValueError):
    """A row cannot be logged: an unknown name, a missing axis or a value that is not a number."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One line of the table. `key` may hold a placeholder: `<k>` (an integer) or `<status>` (a word)."""

    key: str
    unit: str
    axis: str
    meaning: str
    watch: str

    @property
    def is_pattern(self) -> bool:
        return "<" in self.key

    @property
    def regex(self) -> re.Pattern[str]:
        escaped = re.escape(self.key)
        return re.compile(escaped.replace("<k>", "[1-9][0-9]*").replace("<status>", "[a-z][a-z_]*"))


def _on(axis: str, *rows: tuple[str, str, str, str]) -> tuple[Metric, ...]:
    return tuple(Metric(key, unit, axis, meaning, watch) for key, unit, meaning, watch in rows)


_TRAIN = _on(
    TRAIN_STEP,
    (
        "reward/mean",
        "reward",
        "mean reward of the samples of the step's groups",
        "rises for k = 1; with pass@k objectives it may rise late or not at all",
    ),
    (
        "reward/std",
        "reward",
        "standard deviation of the reward over all samples of the step",
        "near 0: every sample gets the same reward and nothing is learnt",
    ),
    (
        "objective/value",
        "reward",
        "the configured objective: unbiased estimate U_k, averaged over groups",
        "this is what training raises; noisy, so read it smoothed",
    ),
    (
        "pass_at_k/<k>",
        "share",
        "unbiased pass@k of the training groups",
        "compare with eval/pass@<k>: a growing gap is overfitting to the training prompts",
    ),
    (
        "policy/entropy",
        "nat/token",
        "entropy of the sampling policy: mean -log-prob of all sampled tokens",
        "a fast fall to 0 means the samples of a group become equal: pass@k will stop rising",
    ),
    (
        "policy/kl_behaviour",
        "nat/token",
        "estimate of KL(behaviour || learner) on the sampled tokens",
        "about 0 with staleness 0; a rise means the data grow too old for the learning rate",
    ),
    (
        "policy/kl_reference",
        "nat/token",
        "k3 estimate of KL(policy || reference) on the trained tokens; 0 without a KL term",
        "rises slowly; a jump means the policy left what it could do before",
    ),
    (
        "policy/clip_fraction",
        "share",
        "share of response tokens whose importance ratio was clipped",
        "above about 0.2: lower learner.learning_rate or queue.staleness; always 0 under loss.ratio: decoupled and "
        "on stale groups under objective.off_policy: exact, which clip nothing",
    ),
    (
        "policy/ratio_mean",
        "ratio",
        "mean importance ratio learner / behaviour over response tokens",
        "stays near 1; elsewhere the sampler and the learner disagree",
    ),
    (
        "policy/ratio_max",
        "ratio",
        "largest importance ratio of the step",
        "single spikes are harmless (clipped); a steady rise is not",
    ),
    (
        "policy/lag_mean",
        "optimiser steps",
        "mean age of the weights that sampled the step's tokens",
        "0 with staleness 0, else at most the bound",
    ),
    (
        "policy/lag_max",
        "optimiser steps",
        "largest age of the weights in the step",
        "never above queue.staleness + queue.overtake (asserted)",
    ),
    (
        "policy/version_span_mean",
        "optimiser steps",
        "newest minus oldest weights among the tokens of a group, mean over the step's groups",
        "0 with staleness 0 or sampler.in_flight=finish and little above it; a group of several versions estimates no "
        "single policy's value",
    ),
    (
        "policy/version_span_max",
        "optimiser steps",
        "the same, largest of the step",
        "as above",
    ),
    (
        "queue/staleness_max",
        "optimiser steps",
        "largest staleness of any group trained so far",
        "never above queue/staleness_bound (asserted in the queue)",
    ),
    (
        "queue/staleness_bound",
        "optimiser steps",
        "the bound that follows from queue.staleness and overtake",
        "constant; derived in actors/queue/state.py",
    ),
    (
        "logprob_gap/mean",
        "nat/token",
        "mean |log-prob of sampler - log-prob of learner| at equal weights; with staleness > 0 on a few "
        "tokens too that every sampler draws for this alone",
        "about 1e-6 in float32, 1e-2 in bfloat16; beyond agreement.max_gap the run stops",
    ),
    ("logprob_gap/max", "nat/token", "largest such gap of the step", "a jump after a weight sync points at the sync"),
    (
        "optimizer/gradient_norm",
        "norm",
        "global gradient norm before clipping",
        "always above learner.gradient_clip: the clip sets the step size, not the learning rate",
    ),
    ("optimizer/learning_rate", "1", "learning rate of the step", "follows warm-up, then constant"),
    (
        "optimizer/skipped",
        "0 or 1",
        "1 when no group of the step had an advantage: no optimiser step made",
        "often 1: prompts too hard or too easy for the objective",
    ),
    (
        "groups/all_fail_share",
        "share",
        "groups without one correct sample",
        "near 1: prompts too hard, or rollout.n too small",
    ),
    ("groups/all_pass_share", "share", "groups with only correct samples", "near 1: prompts too easy"),
    ("groups/mixed_share", "share", "groups with correct and wrong samples", "the groups that can teach"),
    (
        "groups/set_aside",
        "groups",
        "groups of the step on which the verifier itself failed twice, or whose prompt is quarantined: logged with the "
        "reason, not trained on",
        "above 0: look at `detail` in the step's Parquet file, and at quarantine/; the run ends if it is all of a step",
    ),
    (
        "groups/unique_answer_share",
        "share",
        "different answers of a group / its samples, unparsable ones counted as one answer",
        "a fall towards 1 / n means a group repeats itself: pass@k for large k will fall",
    ),
    (
        "groups/no_signal_share",
        "share",
        "groups whose advantages are all zero under the objective",
        "their samples are skipped; high: most sampling buys nothing",
    ),
    (
        "batch/tokens",
        "tokens",
        "tokens (prompt and response) that went through the learner in the step",
        "the size of a step's work",
    ),
    (
        "batch/padding_share",
        "share",
        "share of positions in the micro-batches that are padding",
        "above 0.1: raise learner.tokens_per_micro_batch",
    ),
    (
        "batch/sequences",
        "sequences",
        "samples that went through the learner; without zero advantages",
        "far below prompts_per_step * n: most samples carry no signal",
    ),
    (
        "batch/micro_batches",
        "passes",
        "forward passes of each rank in the step",
        "1 or 2 with much memory free: raise learner.tokens_per_micro_batch only if padding is low",
    ),
    (
        "throughput/trained_tokens_per_s",
        "tokens/s",
        "batch/tokens per second of learning",
        "falls when samplers share the cores",
    ),
    (
        "sync/seconds",
        "s",
        "time to hand the new weights to all samplers, pause included",
        "a growing share of time/step_s: check broadcast.transport",
    ),
    ("sync/bytes", "bytes", "bytes of weights sent to each sampler", "constant during a run"),
    (
        "sync/pause_seconds",
        "s",
        "longest time that a sampler stopped generating to take the new weights",
        "the price of a sync that running requests see; grows with the model, not with the batch",
    ),
    ("time/step_s", "s", "wall clock of one optimiser step, everything included", "the figure to lower"),
    (
        "time/sampling_share",
        "share",
        "share of the step spent sampling and verifying",
        "with staleness > 0 the shares overlap and may sum to more than 1",
    ),
    ("time/learning_share", "share", "share of the step spent in the learner", "see time/sampling_share"),
    ("time/sync_share", "share", "share of the step spent on weight sync", "see sync/seconds"),
    (
        "time/other_share",
        "share",
        "share of the step outside sampling, learning and sync",
        "at most 0.1; beyond: the control loop or the object store is in the way",
    ),
    (
        "time/overlap_efficiency",
        "ratio",
        "max(sampling, learning) / step: 1 when the faster side is hidden",
        "near 0.5 with staleness 0 and equal sides; should approach 1 with staleness > 0",
    ),
)

_ROLLOUT = _on(
    ROLLOUT_STEP,
    (
        "response/length_mean",
        "tokens",
        "mean length of the sampled responses",
        "a slow drift to 0 or to the limit is the classic length bias",
    ),
    (
        "response/truncated_share",
        "share",
        "responses cut at rollout.max_response_tokens",
        "above 0.1: raise the limit, or the model learns to be cut",
    ),
    (
        "verifier/<status>_share",
        "share",
        "responses with this verdict (see verifiers/verdict.py)",
        "timeout, crash and verifier_error should be 0; they are never a silent reward of 0",
    ),
    (
        "throughput/sampled_tokens_per_s",
        "tokens/s",
        "response tokens per second of sampling, all samplers",
        "falls at the end of each batch when few long responses are left",
    ),
)

_CURVES = {"pass": "share", "bo": "reward", "max": "reward", "maj": "share", "vote": "share"}  # unit of each
_ADDED = sorted({strategy.metric for strategy in STRATEGIES.values() if strategy.only_k is None} - _CURVES.keys())

_EVALUATION = _on(
    EVALUATION_STEP,
    (
        "eval/pass@<k>",
        "share",
        "unbiased pass@k on held-out prompts, from evaluation.n samples each",
        "the curve this system is for",
    ),
    (
        "eval/bo@<k>",
        "reward",
        "unbiased Best-of-k: reward of the answer that the verifier scores highest",
        "far below eval/pass@<k>: the verifier picks wrong answers although right ones are there",
    ),
    (
        "eval/max@<k>",
        "reward",
        "unbiased expected largest reward of k answers",
        "as eval/pass@<k>",
    ),
    (
        "eval/maj@<k>",
        "share",
        "unbiased majority vote of k answers",
        "falls with k where the most frequent answer is wrong",
    ),
    ("eval/vote@<k>", "share", "vote of k answers weighted by their scores", "as eval/maj@<k>"),
    *(
        (f"eval/{name}@<k>", "reward", "unbiased value of a strategy of your own", "as eval/pass@<k>")
        for name in _ADDED
    ),
    *(
        (f"eval/{name}@<k>_{end}", unit, f"{side} end of its 95% interval over prompts", "compare runs by intervals")
        for name, unit in (_CURVES | dict.fromkeys(_ADDED, "reward")).items()
        for end, side in (("low", "lower"), ("high", "upper"))
    ),
    (
        "eval/objective",
        "reward",
        "the configured objective on held-out prompts, with the k that the run ends with",
        "what training raises, on prompts that it does not see; a falling curve is overfitting",
    ),
    ("eval/objective_low", "reward", "lower end of its 95% interval over prompts", "compare runs by intervals"),
    ("eval/objective_high", "reward", "upper end of its 95% interval over prompts", "compare runs by intervals"),
    ("eval/reward_mean", "reward", "mean reward on the held-out prompts", "equals eval/pass@1 for 0/1 rewards"),
    ("eval/response_length_mean", "tokens", "mean length of the held-out responses", "see response/length_mean"),
    ("eval/truncated_share", "share", "held-out responses cut at the limit", "see response/truncated_share"),
    (
        "eval/set_aside",
        "prompts",
        "held-out prompts on which the verifier itself failed: left out of every curve",
        "above 0: the curves are over fewer prompts; see `detail` in the evaluation's Parquet file",
    ),
    ("eval/seconds", "s", "wall clock of the evaluation", "lower evaluation.prompts or evaluation.n if it dominates"),
)

_TIME = _on(
    TIME,
    (
        "queue/depth",
        "groups",
        "groups that are verified and wait for the learner",
        "always 0: sampling is the bottleneck; always full: learning is",
    ),
    (
        "queue/slots_in_use",
        "slots",
        "slots taken, of (staleness + 1) * prompts_per_step",
        "below the number of slots for long: prompts are not admitted fast enough",
    ),
    (
        "memory/pss_gib",
        "GiB",
        "memory of the job's processes on all its nodes: driver, actors and what they started; shared pages count "
        "once (PSS); read every 5 s; a node that does not answer in time is left out of a reading",
        "a steady rise is a leak",
    ),
    (
        "supervision/restarts",
        "restarts",
        "actors that were lost and replaced so far",
        "0; every one is in incidents.jsonl with its reason; spare actors, and losses that a prompt was to "
        "blame for, do not count against supervision.max_restarts",
    ),
    (
        "supervision/quarantined",
        "prompts",
        "prompts given up so far, because an actor failed again and again while it processed them",
        "0; look into quarantine/ in the run directory",
    ),
    ("supervision/samplers", "actors", "samplers that serve", "below actors.samplers while one is replaced"),
    ("supervision/verifiers", "actors", "verifier workers that serve", "below actors.verifiers while one is replaced"),
)

METRICS: tuple[Metric, ...] = _TRAIN + _ROLLOUT + _EVALUATION + _TIME

_EXACT = {metric.key: metric for metric in METRICS if not metric.is_pattern}
_PATTERNS = [(metric.regex, metric) for metric in METRICS if metric.is_pattern]


def find_metric(name: str) -> Metric:
    """The table's line for a logged name (`eval/pass@8` finds `eval/pass@<k>`), or raises MetricError."""
    if name in _EXACT:
        return _EXACT[name]
    for regex, metric in _PATTERNS:
        if regex.fullmatch(name):
            return metric
    known = [*AXES, *(metric.key for metric in METRICS)]
    near = difflib.get_close_matches(re.sub(r"\d+", "<k>", name), known, n=1, cutoff=0.4)
    hint = f"; the nearest known name is {near[0]!r}" if near else ""
    raise MetricError(f"unknown metric {name!r}{hint}. cluster/records/metric_names.py lists the known metrics.")


def split_by_axis(row: Mapping[str, Any]) -> list[dict[str, int | float]]:
    """Splits one flat row into one row per axis, its axis value first; axes without metrics are left out.

    Values become plain Python numbers (NumPy and torch scalars too). Raises MetricError on an unknown name,
    on a metric whose axis value is not in the row, and on a value that is not a number.
    """
    parts: dict[str, dict[str, int | float]] = {}
    for name, value in row.items():
        if name in AXES:
            continue
        axis = find_metric(name).axis
        if axis not in row:
            raise MetricError(f"metric {name!r} is drawn over {axis!r}, which the row does not hold: add it")
        part = parts.setdefault(axis, {axis: to_number(axis, row[axis])})
        part[name] = to_number(name, value)
    return [parts[axis] for axis in AXES if axis in parts]


def check_row(row: Mapping[str, Any]) -> None:
    """Raises MetricError unless all names are known, needed axes are there and values are numbers."""
    split_by_axis(row)
    for axis in AXES:
        if axis in row:
            to_number(axis, row[axis])


def to_number(name: str, value: Any) -> int | float:
    """A plain int or float from a Python, NumPy or 0-d torch number; bool becomes 0 or 1."""
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, (int, float)):
        return value
    raise MetricError(f"metric {name!r} must be one number, not {type(value).__name__} ({value!r:.60})")
