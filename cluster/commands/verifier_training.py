"""Train a classifier on labelled answers and measure what it is worth for selection.

The answers come from JSON Lines, or from the groups that `bonrl eval --output` and every run write as Parquet. What is
reported is measured on prompts that neither training nor calibration has seen, Best-of-k with this verifier included.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cluster.checks.preflight import check_output
from cluster.checks.weight_files import read_tensors
from cluster.config import RunConfig
from cluster.errors import UsageError
from verifiers.learned.samples import Sample, read_jsonl, split_by_prompt
from verifiers.learned.training import Trained, TrainingSettings

COLUMNS = ("prompt_id", "response_tokens", "verdict")


@dataclass(frozen=True, slots=True)
class Selection:
    """What a verifier is worth on the test prompts: one answer, Best-of-k by it, and a perfect verifier (pass@k)."""

    k: int
    best_of_k: float
    pass_at_k: float
    prompts: int


def train(
    config: RunConfig,
    sources: Sequence[Path],
    backbone: Path,
    settings: TrainingSettings,
    output: Path,
    *,
    report: Callable[[str], None],
) -> tuple[Trained, list[Selection]]:
    """Read samples, train on them, write the verifier to `output`, and measure it.

    Raises:
        UsageError: sources, backbone or output cannot be used (message names which, and the remedy).
    """
    check_output("--output", output)
    _check_backbone(backbone)
    try:
        samples = [sample for source in sources for sample in read_samples(source, config)]
        parts = split_by_prompt(samples)
        counts = f"{len(parts.train):,} to learn from, {len(parts.calibration):,} to calibrate by, {len(parts.test):,}"
        report(f"{len(samples):,} labelled answers; different ones: {counts} to report on")
        from verifiers.learned.training import train_verifier

        trained = train_verifier(backbone, parts, settings, output, report=report)
    except ValueError as error:
        raise UsageError(str(error)) from error
    return trained, selection(trained, samples)


def _check_backbone(backbone: Path) -> None:
    """Refuse a directory whose weights are missing or damaged; of another fault training says so itself."""
    if (backbone / "config.json").is_file():
        try:
            read_tensors(backbone)
        except UsageError as error:
            raise UsageError(str(error).replace("model.path", "--backbone (or model.path)")) from error


def read_samples(source: Path, config: RunConfig) -> list[Sample]:
    """Labelled answers of a JSON Lines file, a Parquet file of groups, or a directory that holds such files.

    Raises:
        ValueError: There are none, or they do not belong to the configured task and model.
    """
    files = sorted(source.rglob("*.parquet")) if source.is_dir() else [source]
    if not files:
        raise ValueError(f"--samples {source}: no Parquet files there; give what `bonrl eval --output` wrote")
    if files[0].suffix != ".parquet":
        try:
            return read_jsonl(source)
        except ValueError as error:
            raise ValueError(f"--samples {error}") from error
    texts = _prompt_texts(config)
    samples = [sample for file in files for sample in _group_samples(file, texts, config.model.path)]
    if not samples:
        raise ValueError(f"--samples {source}: no graded answers there; give what `bonrl eval --output` wrote")
    return samples


def _prompt_texts(config: RunConfig) -> dict[str, str]:
    """Prompts of every split of the task by id."""
    from verifiers.task import SPLITS
    from verifiers.tasks.registry import make_task

    task = make_task(config.task)
    texts: dict[str, str] = {}
    for split in SPLITS:
        try:
            texts |= {prompt.id: prompt.text for prompt in task.prompts(split)}
        except ValueError:
            if split == "test":  # some tasks have no other split; every one has this
                raise
    return texts


def _group_samples(file: Path, texts: dict[str, str], model: str) -> Iterator[Sample]:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    from cluster.checks.prompts import load_tokenizer
    from verifiers.text.stop_tokens import decode_responses, frame_tokens

    tokenizer = load_tokenizer(str(model))
    frame = frame_tokens(tokenizer, model)
    try:
        rows = parquet.read_table(file, columns=list(COLUMNS)).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"--samples {file}: cannot be read as groups: {error}") from error
    for row in rows:
        if row["prompt_id"] not in texts:
            raise ValueError(
                f"--samples {file}: the prompt {row['prompt_id']!r} is none of task.name = the configured task; give "
                "the configuration of the run that wrote the file (--config RUN_DIR/config.yaml)"
            )
        responses = decode_responses(tokenizer, row["response_tokens"], frame)
        for response, verdict in zip(responses, row["verdict"] or [], strict=bool(row["verdict"])):
            if verdict != "verifier_error":
                yield Sample(row["prompt_id"], texts[row["prompt_id"]], response, verdict == "correct")


def selection(trained: Trained, samples: Sequence[Sample]) -> list[Selection]:
    """Best-of-k by the verifier on the test prompts, for k = 1, 2, 4 ... the smallest group's size.

    Repeated answers count here, as they do when a deployed verifier selects.
    """
    from learner import strategy_value
    from learner.metrics import default_ks

    score = {(s.prompt_id, s.response): p for s, p in zip(trained.test, trained.probability, strict=True)}
    groups: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        if (sample.prompt_id, sample.response) in score:
            groups[sample.prompt_id].append(sample)
    n = min(map(len, groups.values()))
    rewards = np.array([[float(s.correct) for s in group[:n]] for group in groups.values()])
    scores = np.array([[score[s.prompt_id, s.response] for s in group[:n]] for group in groups.values()])

    def value(strategy: str, k: int) -> float:
        return float(np.mean(strategy_value(rewards, scores=scores, strategy=strategy, k=k)))

    return [Selection(k, value("best_of_k", k), value("pass_at_k", k), len(groups)) for k in default_ks(n)]
