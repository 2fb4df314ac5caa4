"""Checks of recorded prompts: a resumed run must render the same prompts in the same order, with the same date."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actors.queue.prompt_stream import PromptStream
from cluster.checks.prompts import fitting_prompts, load_tokenizer, read_problems, task_of
from cluster.config import RunConfig
from cluster.errors import UsageError
from cluster.records.config_changes import changes, recorded_config
from verifiers.text.rendering import PromptRenderer, TokenizedPrompt

# Keys that decide which prompts are trained, and in which order.
_ORDER = (
    "run.seed",
    "model.",
    "task.",
    "rollout.max_prompt_tokens",
    "rollout.max_response_tokens",
    "objective.imitation",
)


def with_fixed_date(config: RunConfig, tokenizer: Any = None, *, resumed: bool = False) -> RunConfig:
    """The configuration with the date of today in ``task.date``, where the model's chat template asks for it.

    Args:
        tokenizer: that of ``model.path``; None loads it where the template matters.
        resumed: whether an earlier run is resumed.

    Raises:
        UsageError: the resumed run did not record its date.
    """
    if config.task.template != "chat" or config.task.date is not None:
        return config
    try:
        renderer = PromptRenderer(tokenizer or load_tokenizer(config.model.path), config.task)
        renderer.chat_text("1 + 1 = ")
    except ValueError:
        return config  # refused where its prompts are read, with the name of the prompt
    if not renderer.reads_clock:
        return config
    if resumed:
        raise UsageError(
            "the model's chat template writes today's date into every prompt, and the run did not record its date; set "
            "task.date=YYYY-MM-DD to the day on which it began"
        )
    return config.model_copy(update={"task": config.task.model_copy(update={"date": dt.date.today()})})


def check_recorded(run: Path, config: RunConfig, prompts: Sequence[TokenizedPrompt], *, ordered: bool = True) -> None:
    """Refuse to resume a run if its prompts have other token ids now, or come in another order.

    In another order prompts of the current epoch would be trained twice or never.

    Args:
        prompts: to train on, with this configuration.
        ordered: whether they are all prompts of the run, in its order.

    Raises:
        UsageError: a prompt of the newest recorded step differs, or that step cannot be read.
    """
    files = sorted((run / "groups").glob("step-*.parquet"))
    if not files:
        return
    rows = _recorded_rows(run, files[-1])
    now = {source.prompt.id: source.tokens.tolist() for source in prompts}
    for row in rows:
        before, tokens = row["prompt_tokens"], now.get(row["prompt_id"])
        if tokens is not None and tokens != before:
            raise UsageError(
                f"--resume {run}: prompt {row['prompt_id']!r} was {_ids(before)} in the run and is {_ids(tokens)} now: "
                "the files of the task, model.path, its tokenizer, task.template or task.instruction has changed, or "
                "the run is from an earlier release, which put BOS before every plain prompt; start a new run from its "
                "last checkpoint"
            )
    allocation = config.rollout.allocation
    if ordered and (allocation is None or allocation.candidates == 1):  # else prompts are chosen
        _check_order(run, config, rows, [source.prompt.id for source in prompts])


def _recorded_rows(run: Path, file: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    try:
        return list(pq.read_table(file, columns=["sequence", "prompt_id", "prompt_tokens"]).to_pylist())
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--resume {run}: {file.name}, with which the prompts are compared, cannot be read ({error}); move it out "
            "of groups/, and an earlier step is read"
        ) from error


def _check_order(run: Path, config: RunConfig, rows: Sequence[dict[str, Any]], ids: Sequence[str]) -> None:
    stream = PromptStream(len(ids), config.run.seed)
    for row in rows:
        expected = ids[stream.locate(row["sequence"])[1]]
        if row["prompt_id"] != expected:
            changed = [str(one) for one in changes(recorded_config(run), config) if one.key.startswith(_ORDER)]
            raise UsageError(
                f"--resume {run}: prompt {row['sequence']:,} was {row['prompt_id']!r} in the run and is {expected!r} "
                f"now, because {'; '.join(changed) or 'the files of the task have changed'}. In another order, prompts "
                "of this epoch would be trained twice or never: restore what the run had, or start a new run from its "
                "last checkpoint"
            )


def check_recorded_prompts(config: RunConfig, run: Path) -> None:
    """As `check_recorded`, with the prompts read here; those of an imitation only as far as their token ids."""
    problems = read_problems(config, task_of(config), "train")
    fitting = fitting_prompts(config, problems, load_tokenizer(config.model.path))
    prompts = [TokenizedPrompt(prompt, np.array(tokens, np.int32), None) for prompt, tokens in fitting]
    check_recorded(run, config, prompts, ordered=config.objective.imitation == "none")


def _ids(tokens: list[int]) -> str:
    return f"{len(tokens)} tokens [{', '.join(map(str, tokens[:4]))}, ...]"
