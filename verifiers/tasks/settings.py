"""Settings that only some tasks read: sections within the section `task`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from verifiers.mathematics.policy import MathPolicy
from verifiers.section import Section


class DifficultyMix(Section):
    """Shares of Countdown's difficulty levels; normalized by their sum."""

    easy: float = Field(0.3, ge=0.0, description="Weight of level easy: three numbers, each 1 to 12.")
    medium: float = Field(
        0.45, ge=0.0, description="Weight of level medium: three numbers of 1 to 30, at least one above 12."
    )
    hard: float = Field(0.25, ge=0.0, description="Weight of level hard: four numbers, each 1 to 12.")

    @model_validator(mode="after")
    def _some_weight(self) -> Self:
        if self.easy + self.medium + self.hard <= 0.0:
            raise ValueError("task.difficulty: every weight is 0; give at least one level a positive weight")
        return self


class MathSettings(Section):
    """Problems and grading of the tasks with mathematical answers."""

    split: Literal["hendrycks", "prm800k"] = Field(
        "hendrycks",
        description="Splits of task math: hendrycks (7,500 to train on, 5,000 test) or prm800k (12,000 and 500; the "
        "test split is MATH-500). Validation problems are held out of the training problems; see task.validation_size.",
    )
    levels: list[int] | None = Field(None, min_length=1, description="Levels to keep, 1 to 5; null: all.")
    subjects: list[str] | None = Field(
        None, min_length=1, description="Subjects to keep, such as Algebra or Number Theory; null: all."
    )
    timeout_s: float = Field(
        5.0,
        gt=0.0,
        le=60.0,
        description="Deadline of grading one answer in seconds. Nearly every answer takes a millisecond; the start of "
        "the grader's processes does not count.",
    )
    refuse_copies: bool = Field(
        True,
        description="Whether an answer that only repeats an expression of the problem is wrong, unless it is the "
        "reference.",
    )
    policy: MathPolicy = Field(
        default_factory=lambda: MathPolicy(), description="Options on which graders legitimately disagree."
    )


Files = Annotated[str, Field(min_length=1)] | Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]


class JsonlSettings(Section):
    """A user's own problems: JSON Lines (one object per line) or Parquet, with the fields named here. A dot reads a
    nested object (`reward_model.ground_truth`), JSON in a text, or an element of a list (`generations.0`); numbers and
    lists with one element are read as text. See docs/data.md."""

    train: Files | None = Field(
        None,
        description="Files of the training problems: a path (.jsonl, .jsonl.gz, .parquet), a directory of such files, "
        "a pattern (data/train-*.parquet), or a list of these. With a network also hf://datasets/OWNER/NAME/FILE "
        "(NAME@REVISION pins a version), fetched once into the Hugging Face cache. Several files are read as one, "
        "those of a directory or a pattern in the order of their names.",
    )
    validation: Files | None = Field(
        None, description="Files of the validation problems; null: held out of the training file by a hash of the id."
    )
    test: Files | None = Field(None, description="Files of the test problems.")
    validation_share: float | None = Field(
        None,
        gt=0.0,
        le=0.5,
        description="Share of the rows of the training file that is held out for validation, by a hash of the id. "
        "Null: task.validation_size says how many.",
    )
    test_share: float | None = Field(
        None,
        gt=0.0,
        le=0.5,
        description="Share of the rows of the training file that is held out for the test split, by a hash of the id, "
        "if there is no test file. Both shares together are at most 0.5.",
    )
    skip_bad: bool = Field(
        False,
        description="Whether lines that cannot be read are left out; their number and the first of them are printed. "
        "false: they are an error that lists them.",
    )
    drop_duplicates: bool = Field(
        False,
        description="Whether only the first of several problems with the same text is kept; the number of the others "
        "is printed. false: they are kept, with a warning.",
    )
    id: str | None = Field(
        "id",
        min_length=1,
        description="Field with the problem's unique id; null, or if no row has the default field: split and row "
        "number are the id.",
    )
    problem: str | list[str] = Field(
        "problem",
        min_length=1,
        description="Field with the problem's text, or with a list of messages that ends with the user; a last "
        "assistant message is left out. With task.template=chat, the messages are the turns of the chat template; with "
        "plain, there can be one user message only, and the text of system messages is put before it. A list of "
        "fields, such as [instruction, input], is joined with blank lines; all but the first may be missing in a row.",
    )
    answer: str | None = Field(
        "answer",
        min_length=1,
        description="Field with the right answer, such as `answer` or `reward_model.ground_truth`; also a worked "
        "solution that ends with the answer in \\boxed{} or after ####. Null: rows have none, which is "
        "enough for `bonrl sft`. With task.reward rows need none.",
    )
    answers: Literal["single", "any"] = Field(
        "single",
        description="single: several answers to a problem are an error. any: the field may hold a list, also as JSON "
        "text, and a response is right if it matches one of its elements.",
    )
    solution: str | None = Field(
        None,
        min_length=1,
        description="Field with a worked solution, or with a list of messages whose last one is the assistant's: the "
        "demonstration for `bonrl sft` and objective.imitation. Null: none. Rows without one are left out of "
        "imitation, and counted.",
    )
    level: str | None = Field(None, min_length=1, description="Field by which evaluations are broken down; null: none.")
    verifier: Literal["math", "exact"] = Field(
        "math",
        description="math: the math grader, under task.math. exact: the final answer must equal the reference "
        "character by character.",
    )

    @model_validator(mode="after")
    def _one_source_per_split(self) -> Self:
        for split in ("validation", "test"):
            share = getattr(self, f"{split}_share")
            if share is not None and getattr(self, split) is not None:
                raise ValueError(
                    f"task.jsonl.{split}_share = {share:g}, but task.jsonl.{split} names a file; leave one of them out"
                )
            if share is not None and self.train is None:
                raise ValueError(f"task.jsonl.{split}_share = {share:g} needs task.jsonl.train; set it to a file")
        if (self.validation_share or 0) + (self.test_share or 0) > 0.5:
            raise ValueError("task.jsonl.validation_share and task.jsonl.test_share are together above 0.5; lower them")
        return self
