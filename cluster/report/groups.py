"""A bounded, seeded choice of recorded groups, for the page's browser of groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from actors.group import Group
from actors.queue.group_log import read_groups
from cluster.report.series import number, spread
from cluster.report.source import Source
from cluster.results.group_records import GroupRecord, SampleRecord, advantages, group_records

TRAINING_STEPS = 8  # from which groups are shown, the first and the last among them
EVALUATIONS = 3
MAX_SAMPLES = 32  # of a group
MAX_RESPONSE, MAX_PROMPT, MAX_DETAIL = 3000, 4000, 600  # characters
MAX_CHARACTERS = 6_000_000  # of all groups together


def browse(source: Source, most: int, seed: int = 0) -> dict[str, Any]:
    """The chosen groups as plain data.

    Half of them are held-out prompts, the same ones for each evaluation, so that their answers can be compared; the
    other half are spread over training steps.

    Args:
        most: groups to show.
        seed: of the choice; the same run and seed give the same groups.
    """
    run = source.run
    training, evaluations = spread(run.group_steps, TRAINING_STEPS), spread(run.evaluation_steps, EVALUATIONS)
    held_out = most // 2 if training and evaluations else most if evaluations else 0
    found: dict[str, Any] = {"seed": seed, "recorded": 0, "unreadable": 0, "groups": []}
    found["files"] = len(run.group_steps) + len(run.evaluation_steps)
    for kind, steps, share in (("evaluation", evaluations, held_out), ("training", training, most - held_out)):
        chosen = []
        for step, count in zip(steps, _parts(share, len(steps)), strict=True):
            if not count:
                continue
            try:
                batches = read_groups(source.group_file(kind, step))
                rng = np.random.default_rng([seed, 0 if kind == "evaluation" else step])
                rows = sorted(rng.permutation(len(batches))[:count])
                groups = [Group.from_record_batch(batches[i]) for i in rows]
            except (OSError, ValueError):  # also Arrow's errors and GroupError
                found["unreadable"] += 1
                continue
            found["recorded"] += len(batches)
            chosen += group_records(groups, step, _advantages(source, kind, groups, step))
        if kind == "evaluation":
            chosen.sort(key=lambda group: (group.position, group.step))  # the answers to one prompt follow each other
        found["groups"] += [_plain(group, kind) for group in chosen]
    found["groups"] = _bounded(found["groups"])
    found["text"] = any(sample["text"] is not None for group in found["groups"] for sample in group["samples"])
    return found


def _advantages(source: Source, kind: str, groups: Sequence[Group], step: int) -> Sequence[np.ndarray | None]:
    """None for each group of an evaluation, and where this release cannot compute the run's objective."""
    if kind == "evaluation" or source.config is None:
        return [None] * len(groups)
    return advantages(source.config, groups, step, source.run.trained_k(step))


def _parts(total: int, files: int) -> list[int]:
    """How many groups each file gives; the first files give the remainder."""
    return [total // files + (i < total % files) for i in range(files)] if files else []


def _bounded(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every second group is left out until the text fits."""
    while len(groups) > 1 and sum(_size(group) for group in groups) > MAX_CHARACTERS:
        groups = groups[::2]
    return groups


def _size(group: dict[str, Any]) -> int:
    texts = [group["prompt"], *(s[key] for s in group["samples"] for key in ("text", "answer", "detail"))]
    return sum(len(text or "") for text in texts)


def _plain(group: GroupRecord, kind: str) -> dict[str, Any]:
    return {
        "key": f"{kind}-{group.step}-{group.position}",
        "kind": kind,
        "step": group.step,
        "prompt_id": group.prompt_id,
        "level": group.level or "",
        "prompt": _cut(group.prompt, MAX_PROMPT) or group.prompt_id,
        "fault": _cut(group.fault, MAX_DETAIL),
        "n": len(group.samples),
        "right": sum(sample.verdict == "correct" for sample in group.samples),
        "samples": [_sample(sample) for sample in group.samples[:MAX_SAMPLES]],
    }


def _sample(sample: SampleRecord) -> dict[str, Any]:
    return {
        "text": _cut(sample.response, MAX_RESPONSE),
        "verdict": sample.verdict,
        "reward": number(sample.reward),
        "parts": {name: number(value) for name, value in sample.parts.items()},
        "score": number(sample.score),
        "answer": _cut(sample.answer, MAX_DETAIL),
        "detail": _cut(sample.detail, MAX_DETAIL),
        "advantage": number(sample.advantage),
        "tokens": sample.tokens,
        "truncated": sample.truncated,
    }


def _cut(text: str | None, most: int) -> str | None:
    """Begin and end of a long text, with the number of characters left out between them."""
    if text is None or len(text) <= most:
        return text
    head, tail = most * 2 // 3, most // 3
    return f"{text[:head]}\n[… {len(text) - head - tail:,} characters left out …]\n{text[-tail:]}"
