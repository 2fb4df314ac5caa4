"""Labeled answers for `bonrl train-verifier`: from JSON Lines, or from recorded groups of any task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from cluster.config import RunConfig
from verifiers.learned.samples import Sample, read_jsonl
from verifiers.verdict import Status

COLUMNS = ("prompt_id", "response_tokens", "verdict")
TEXTS = ("prompt_text", "response_text")  # absent or null in groups of release 0.1.0


def read_all(
    sources: Sequence[Path], config: RunConfig, split: str | None, report: Callable[[str], None]
) -> list[Sample]:
    """Labeled answers of all sources, only those to prompts of a split if one is named.

    Raises:
        ValueError: as `read_samples`; or no answer is to a prompt of the split.
    """
    samples = [sample for source in sources for sample in read_samples(source, config)]
    if split is None:
        return samples
    texts = Problems(config).of_split(split)
    kept = [sample for sample in samples if sample.prompt_id in texts]
    other = next((one for one in kept if one.prompt != texts[one.prompt_id]), None)
    if not kept or other is not None:
        found = (
            "no answer is to a prompt"
            if other is None
            else f"the prompt {other.prompt_id!r} has another text than that"
        )
        raise ValueError(
            f"--split {split}: {found} of the split {split!r} of task.name = {config.task.name}; give the "
            "configuration of the run that wrote the samples (--config RUN_DIR/config.yaml), or another split"
        )
    report(f"{len(kept):,} of {len(samples):,} answers are to prompts of the split {split!r}")
    return kept


def read_samples(source: Path, config: RunConfig) -> list[Sample]:
    """Labeled answers of a JSON Lines file, a Parquet file of groups, or a directory that holds such files.

    Raises:
        ValueError: There are none, or they do not belong to the configured task and model.
    """
    check_exists(source)
    files = sorted(source.rglob("*.parquet")) if source.is_dir() else [source]
    if not files:
        raise ValueError(f"--samples {source}: no Parquet files there; give what `bonrl eval --output` wrote")
    if files[0].suffix != ".parquet":
        try:
            return read_jsonl(source)
        except ValueError as error:
            raise ValueError(f"--samples {error}") from error
    problems = Problems(config)
    samples = [sample for file in files for sample in _group_samples(file, problems)]
    if not samples:
        raise ValueError(f"--samples {source}: no graded answers there; give what `bonrl eval --output` wrote")
    return samples


def check_exists(source: Path) -> None:
    """Raises ValueError if there is nothing at a path of --samples."""
    if not source.exists():
        raise ValueError(
            f"--samples {source}: there is no such file or directory; give a run, or what `bonrl eval -o` wrote"
        )


class Problems:
    """The prompts of the configured task, read when a group does not hold its texts."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config

    @cached_property
    def texts(self) -> Mapping[str, str]:
        """Prompts of every split that the task has, by id."""
        from verifiers.task import SPLITS

        texts: dict[str, str] = {}
        errors = []
        for split in SPLITS:
            try:
                texts |= self._read(split)
            except ValueError as error:  # some tasks lack a split
                errors.append(str(error))
        if not texts:
            raise ValueError("\n".join(errors))
        return texts

    def of_split(self, split: str) -> Mapping[str, str]:
        """Prompts of one split by id. Raises ValueError if the task has none."""
        return self._read(split)

    def _read(self, split: str) -> dict[str, str]:
        from verifiers.tasks.registry import make_task

        return {prompt.id: prompt.transcript for prompt in make_task(self.config.task).prompts(split)}

    @cached_property
    def decode(self) -> Callable[[list[list[int]]], list[str]]:
        """Turns recorded tokens into texts with the tokenizer of ``model.path``."""
        from cluster.checks.prompts import load_tokenizer
        from verifiers.text.stop_tokens import decode_responses, frame_tokens

        model = self.config.model.path
        tokenizer = load_tokenizer(model)
        frame = frame_tokens(tokenizer, model)
        return lambda tokens: decode_responses(tokenizer, tokens, frame)


def _group_samples(file: Path, problems: Problems) -> Iterator[Sample]:
    for row in _rows(file):
        prompt, responses = row.get("prompt_text"), row.get("response_text")
        if prompt is None:
            prompt = problems.texts.get(row["prompt_id"])
        if prompt is None:
            raise ValueError(
                f"--samples {file}: the prompt {row['prompt_id']!r} is not one of the configured task; give "
                "the configuration of the run that wrote the file (--config RUN_DIR/config.yaml)"
            )
        if not row["verdict"]:
            continue
        if responses is None or None in responses:
            responses = problems.decode(row["response_tokens"])
        for response, verdict in zip(responses, row["verdict"], strict=True):
            if verdict != Status.VERIFIER_ERROR:
                yield Sample(row["prompt_id"], prompt, response, verdict == "correct")


def _rows(file: Path) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        names = set(parquet.read_schema(file).names)
        if missing := set(COLUMNS) - names:
            raise ValueError(
                f"--samples {file}: no groups of a run (it has no column {min(missing)!r}); give what `bonrl eval "
                "--output` or a run wrote, or JSON Lines with prompt, response and correct"
            )
        return parquet.read_table(file, columns=[*COLUMNS, *(name for name in TEXTS if name in names)]).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"--samples {file}: cannot be read as groups: {error}") from error


def recorded_config(sources: Sequence[Path], overrides: Sequence[str]) -> RunConfig | None:
    """The configuration of the run or evaluation that wrote the first source, with overrides; None if there is none.

    Raises:
        UsageError: it is not valid.
    """
    from cluster.config import apply_override, build_config
    from cluster.records.kept_files import kept_overrides
    from cluster.records.model_source import config_of_run, recorded_tree

    tree = recorded_tree(sources[0]) if sources else None
    if tree is None:
        return None
    run = config_of_run(sources[0])
    for override in [*(kept_overrides(run.parent) if run else []), *overrides]:
        apply_override(tree, override)
    return build_config(tree)
