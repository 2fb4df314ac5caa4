"""Warnings about a run that works but does not learn: no training signal, cut answers, a failing verifier, NaN.

Every optimizer step's metrics are read. A rule that holds on average over the last `WINDOW` steps is reported once, and
again after `REPEAT_STEPS` steps if it still holds; what holds at the end is part of the run's last message. Each
warning says which keys to change. docs/metrics.md lists the rules with their thresholds.
"""

from __future__ import annotations

import math
import shlex
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.config import RunConfig

WINDOW = 5  # optimizer steps
REPEAT_STEPS = 100

NO_SIGNAL_SHARE = 0.95  # of groups
EQUAL = 1e-12  # standard deviation of rewards that are all the same
TRUNCATED_SHARE = 0.5  # of samples
FINITE = ("optimizer/gradient_norm", "policy/kl_behaviour", "policy/kl_reference", "policy/ratio_max", "reward/mean")

# The keys that choose the prompts, by task.name.
PROMPT_KEYS = {"jsonl": "task.jsonl.train", "countdown": "task.difficulty.*", "math": "task.math.levels"}

Row = Mapping[str, float]


@dataclass(frozen=True)
class Warning:
    """One thing that is wrong with how the run trains.

    name: name of the rule. step: optimizer steps done. text: the observation and what to change.
    """

    name: str
    step: int
    text: str

    def __str__(self) -> str:
        return f"warning: {self.text}"


@dataclass(frozen=True)
class Rule:
    """When to warn.

    when: the condition, for the documentation.
    check: the text for the metrics' means over a window of steps, or None if nothing is wrong.
    window: steps that `check` needs.
    """

    name: str
    when: str
    check: Callable[[Row, RunConfig], str | None]
    window: int = WINDOW


class Health:
    """Watches the metrics of one run.

    Args:
        report: gets every warning when it is due.
        directory: of the run, for the commands that warnings name.
    """

    def __init__(
        self,
        config: RunConfig,
        report: Callable[[Warning], None] = lambda warning: None,
        directory: Path | str = "RUN_DIR",
    ) -> None:
        self._config = config
        self._report = report
        self._directory = shlex.quote(str(directory))  # RUN_DIR stands in commands
        self._rows: deque[Row] = deque(maxlen=WINDOW)
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._steps = self._step = 0
        self._reported: dict[str, int] = {}  # rule -> step of its last report
        self._lasting: list[Warning] = []  # found before the first step; they last as long as the run

    def start(self, training_prompts: int) -> None:
        """Warn if there are fewer training prompts than one optimizer step takes."""
        per_step = self._config.rollout.prompts_per_step
        if training_prompts < per_step:
            self._warn_now(
                "few_prompts",
                f"the training split holds {training_prompts} prompts and rollout.prompts_per_step is {per_step}: "
                f"every step trains on each prompt {per_step / training_prompts:.1f} times. Give more prompts "
                f"(task.train_size, or the files of the task), or lower rollout.prompts_per_step to at most "
                f"{training_prompts}.",
            )

    def step(self, row: Row) -> None:
        """The metrics of one finished optimizer step."""
        self._rows.append(row)
        self._steps += 1
        self._step = int(row.get("train/step", self._steps))
        for name, value in row.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._counts[name] = self._counts.get(name, 0) + 1
        for rule in RULES:
            last = self._reported.get(rule.name)
            due = last is None or self._step - last >= REPEAT_STEPS
            if due and self._steps >= rule.window:
                text = self._check(rule, list(self._rows)[-rule.window :])
                if text is not None:
                    self._reported[rule.name] = self._step
                    self._report(self._warning(rule.name, text))

    def at_end(self) -> list[Warning]:
        """The warnings that hold over the last steps of the run, or over all of them."""
        found = list(self._lasting)
        for rule in RULES if self._steps else ():
            over_all = {name: total / self._counts[name] for name, total in self._sums.items()}
            text = rule.check(over_all, self._config)
            if text is not None:
                text = f"over all {self._steps} steps: {text}"
            else:
                text = self._check(rule, list(self._rows)[-rule.window :])
            if text is not None:
                found.append(self._warning(rule.name, text))
        return found

    def _warning(self, name: str, text: str) -> Warning:
        return Warning(name, self._step, text.replace("RUN_DIR", self._directory))

    def _warn_now(self, name: str, text: str) -> None:
        warning = self._warning(name, text)
        self._lasting.append(warning)
        self._report(warning)

    def _check(self, rule: Rule, rows: Sequence[Row]) -> str | None:
        names = {name for row in rows for name in row}
        values = {name: [row[name] for row in rows if name in row] for name in names}
        text = rule.check({name: sum(found) / len(found) for name, found in values.items()}, self._config)
        if text is None:
            return None
        return f"step {self._step}: {text}" if len(rows) == 1 else f"the last {len(rows)} steps: {text}"


def _share_rule(
    name: str,
    metric: str,
    threshold: float,
    text: str,
    *,
    share_of: Callable[[RunConfig], int] = lambda config: 1,
    unit: str = "",
) -> Rule:
    """Warn with `text` while a metric, divided by `share_of` (called `unit`), is at `threshold` or above.

    `text` may hold {share}, {length} (mean of the responses, in tokens) and {config}.
    """

    def check(mean: Row, config: RunConfig) -> str | None:
        share = mean.get(metric, 0.0) / share_of(config)
        length = mean.get("response/length_mean", math.nan)
        return text.format(share=share, length=length, config=config) if share >= threshold else None

    return Rule(name, f"{metric}{unit} >= {threshold:g}", check)


def _no_signal(mean: Row, config: RunConfig) -> str | None:
    if config.objective.imitation != "none":
        return None
    share, equal = mean.get("groups/no_signal_share", 0.0), mean.get("reward/std", 1.0) <= EQUAL
    if share < NO_SIGNAL_SHARE and not equal:
        return None
    n, term = config.rollout.n, config.objective.terms()[0]
    failed, passed = mean.get("groups/all_fail_share", 0.0), mean.get("groups/all_pass_share", 0.0)
    seen = f"{share:.0%} of the groups gave no training signal (all advantages 0)"
    if share < NO_SIGNAL_SHARE:  # a KL term in the reward, or a biased estimator, makes advantages all the same
        seen = "all samples got the same reward, so the reward gave no training signal"
    measure = f"bonrl eval --config RUN_DIR/config.yaml --checkpoint {shlex.quote(config.model.path)}"
    if failed >= NO_SIGNAL_SHARE:
        cut = mean.get("response/truncated_share", 0.0)
        first = f"rollout.max_response_tokens first ({cut:.0%} of the samples are cut), then " * (
            cut >= TRUNCATED_SHARE
        )
        reward = "task.reward, " if config.task.reward else ""
        return (
            f"{seen}: {failed:.0%} of them hold no correct sample. Raise {first}rollout.n (now {n}) or "
            f"rollout.temperature (now {config.rollout.temperature:g}); check {reward}task.template and "
            f"task.instruction against what the model answered (bonrl samples RUN_DIR); take easier prompts "
            f"({_prompt_keys(config)}). Measure the base model first: {measure} --n {max(64, n)}. Where its pass@k is "
            "about 0, there is nothing to reinforce."
        )
    if passed >= NO_SIGNAL_SHARE:
        return (
            f"{seen}: in {passed:.0%} of them every sample is correct, so the prompts are too easy. Take harder "
            f"prompts ({_prompt_keys(config)}); measure the base model first: {measure}."
        )
    unique = mean.get("groups/unique_answer_share", 1.0)
    if n > 2 and unique <= 1.5 / n:
        return (
            f"{seen}: the samples of a group all give the same answer. Raise rollout.temperature (now "
            f"{config.rollout.temperature:g}); if the run began with different answers, lower learner.learning_rate."
        )
    return (
        f"{seen}, with a mean reward of {mean.get('reward/mean', 0.0):.3f}: at objective.k = {term.k} and rollout.n = "
        f"{n} no single sample changes the value of the objective for its group. Lower objective.k, or raise rollout.n."
    )


def _prompt_keys(config: RunConfig) -> str:
    """The keys that choose the prompts."""
    own = PROMPT_KEYS.get(config.task.name)
    return f"{own} or task.name" if own else "task.name"


def _too_easy(mean: Row, config: RunConfig) -> str | None:
    passed = mean.get("groups/all_pass_share", 0.0)
    if passed < NO_SIGNAL_SHARE or config.objective.imitation != "none" or _no_signal(mean, config):
        return None
    return (
        f"in {passed:.0%} of the groups every sample is correct: the prompts are too easy to learn from. Take harder "
        f"ones ({_prompt_keys(config)})."
    )


def _not_finite(mean: Row, config: RunConfig) -> str | None:
    wrong = [f"{name} is {mean[name]}" for name in FINITE if name in mean and not math.isfinite(mean[name])]
    if not wrong:
        return None
    return (
        f"{', '.join(wrong)}: the weights or the rewards are no longer numbers, or far too large. A step whose "
        "gradient is not finite leaves the weights unchanged; if it was not the only one, or another metric is not "
        "finite, go back to a checkpoint from before it; lower learner.learning_rate, set learner.gradient_clip, or "
        "use model.dtype=float32."
    )


def _no_update(mean: Row, config: RunConfig) -> str | None:
    norm = mean.get("optimizer/gradient_norm")
    if norm == 0.0 and mean.get("optimizer/skipped", 1.0) == 0.0:
        return (
            "the gradient is exactly 0 although the groups have advantages, so the weights do not change. Check "
            "loss.* (a clip or cap of 0 stops every gradient) and raise learner.learning_rate."
        )
    with_kl = config.loss.kl_coefficient > 0 and not config.loss.kl_refresh_every
    if with_kl and mean.get("policy/kl_reference") == 0.0 and norm:
        return (
            "the KL divergence from the reference is exactly 0, so the updates do not change the weights. Raise "
            "learner.learning_rate, or use model.dtype=float32."
        )
    return None


RULES: tuple[Rule, ...] = (
    _share_rule(
        "truncated",
        "response/truncated_share",
        TRUNCATED_SHARE,
        "{share:.0%} of the samples were cut at rollout.max_response_tokens = {config.rollout.max_response_tokens}, "
        "before the model ended its answer. Raise rollout.max_response_tokens; if the model does not stop by itself, "
        "check its end-of-sequence token and task.template (a chat model needs task.template=chat).",
    ),
    Rule(
        "no_signal",
        f"groups/no_signal_share >= {NO_SIGNAL_SHARE:g}, or reward/std = 0 (not in runs that imitate)",
        _no_signal,
    ),
    Rule("too_easy", f"groups/all_pass_share >= {NO_SIGNAL_SHARE:g}", _too_easy),
    _share_rule(
        "unparsable",
        "verifier/unparsable_share",
        0.5,
        "the verifier found no answer in {share:.0%} of the samples (mean length {length:.0f} tokens). Ask for the "
        "form that the verifier reads in task.instruction, set task.template to what the model was trained with, and "
        "raise rollout.max_response_tokens if answers are cut; the samples are in groups/ of the run directory.",
    ),
    _share_rule(
        "verifier_errors",
        "verifier/verifier_error_share",
        0.05,
        "the verifier itself failed on {share:.0%} of the samples, so their groups are not trained on. The "
        "column `detail` of the files in groups/ says why; for programs check task.sandbox.*, for other answers the "
        "references of the task's files.",
    ),
    _share_rule(
        "timeouts",
        "verifier/timeout_share",
        0.25,
        "{share:.0%} of the samples ran into the verifier's time limit and earn nothing. Raise "
        "task.sandbox.wall_seconds (programs) or task.math.timeout_s, or lower actors.verifiers if the machine is "
        "overloaded.",
    ),
    _share_rule(
        "set_aside",
        "groups/set_aside",
        0.25,
        "{share:.0%} of the groups were left out of training, because the verifier failed on them or their prompt is "
        "quarantined. Look at `detail` in the files of groups/ and at quarantine/ in the run directory.",
        share_of=lambda config: config.rollout.prompts_per_step,
        unit=" / rollout.prompts_per_step",
    ),
    _share_rule(
        "preemptions",
        "sampler/preemptions",
        0.01,
        "requests were preempted because the samplers' key-value cache was full, {share:.2g} times per sample; their "
        "prompts and answers so far are computed again. Raise sampler.kv_cache_gib (CPU) or "
        "sampler.gpu_memory_utilization (GPU), or lower sampler.max_num_seqs (now {config.sampler.max_num_seqs}).",
        share_of=lambda config: config.rollout.prompts_per_step * config.rollout.n,
        unit=" / (rollout.prompts_per_step * rollout.n)",
    ),
    Rule("not_finite", f"NaN or infinity in {', '.join(FINITE)}", _not_finite, window=1),
    Rule(
        "no_update",
        "optimizer/gradient_norm = 0 in steps that were not skipped, or policy/kl_reference = 0 although "
        "loss.kl_coefficient > 0",
        _no_update,
    ),
)
FEW_PROMPTS = "fewer training prompts than rollout.prompts_per_step"


def reference_section() -> str:
    """The part of docs/metrics.md about warnings."""
    lines = [
        "## Warnings",
        "",
        f"A run warns when the mean of a metric over its last {WINDOW} optimizer steps crosses a threshold. It repeats",
        f"the warning after {REPEAT_STEPS} steps if the condition still holds, and at the end of the run. Each warning",
        "names the keys to change. It is printed, and recorded in `incidents.jsonl` (`kind: warning`) and in",
        "`summary.json`; the exit status does not change.",
        "",
        "| warning | condition |",
        "| --- | --- |",
        f"| `few_prompts` | {FEW_PROMPTS}; found before the first step |",
    ]
    lines += [
        f"| `{rule.name}` | {rule.when}{'; at once, in a single step' if rule.window == 1 else ''} |" for rule in RULES
    ]
    return "\n".join(lines)
