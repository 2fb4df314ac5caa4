"""Checks of recorded prompts: a resumed run must render the same prompts, with the same date."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cluster.checks.prompts import fitting_prompts, load_tokenizer, read_problems, task_of
from cluster.config import RunConfig
from cluster.errors import UsageError
from verifiers.text.rendering import PromptRenderer, TokenizedPrompt


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


def check_recorded(run: Path, prompts: Sequence[TokenizedPrompt]) -> None:
    """Refuse to resume a run if its prompts have other token ids now.

    Raises:
        UsageError: a prompt of the newest recorded step differs.
    """
    import pyarrow.parquet as pq

    files = sorted((run / "groups").glob("step-*.parquet"))
    if not files:
        return
    now = {source.prompt.id: source.tokens.tolist() for source in prompts}
    for row in pq.read_table(files[-1], columns=["prompt_id", "prompt_tokens"]).to_pylist():
        before, tokens = row["prompt_tokens"], now.get(row["prompt_id"])
        if tokens is not None and tokens != before:
            raise UsageError(
                f"--resume {run}: prompt {row['prompt_id']!r} was {_ids(before)} in the run and is {_ids(tokens)} now: "
                "model.path, its tokenizer, task.template or task.instruction has changed, or the run is from an "
                "earlier release, which put BOS before every plain prompt; start a new run from its last checkpoint"
            )


def check_recorded_prompts(config: RunConfig, run: Path) -> None:
    """As `check_recorded`, with the prompts read here."""
    problems = read_problems(config, task_of(config), "train")
    fitting = fitting_prompts(config, problems, load_tokenizer(config.model.path))
    check_recorded(run, [TokenizedPrompt(prompt, np.array(tokens, np.int32), None) for prompt, tokens in fitting])


def _ids(tokens: list[int]) -> str:
    return f"{len(tokens)} tokens [{', '.join(map(str, tokens[:4]))}, ...]"
