"""Verifier worker (Ray actor): adds a reward and a score per sample to a group."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

import numpy as np
import pyarrow as pa

from actors.group import Group
from actors.logs import set_step, start_actor_log
from actors.plugins import load_plugins
from actors.process_stats import Heartbeat, own_heartbeat
from verifiers.learned.classifier import TransformersLogits
from verifiers.learned.scorer import LoadLogits
from verifiers.reasoning import as_written, opened_reasoning
from verifiers.rewards.response import Response
from verifiers.rewards.task import RewardedTask, ScorerError, UserScorer, verdict_of
from verifiers.scorers import make_scorer
from verifiers.settings import TaskSettings
from verifiers.task import Prepared, Prompt
from verifiers.tasks.code_task import CodeVerifier
from verifiers.tasks.registry import make_task
from verifiers.text.stop_tokens import decode_responses, frame_tokens
from verifiers.text.tokenizer_class import AUTO, load_tokenizer_as
from verifiers.verdict import Status, Verdict

logger = logging.getLogger(__name__)

_TAIL_TOKENS = 32  # of a prompt, searched for the tag that opens the reasoning
_REFERENCE_CHARACTERS = 4_000  # that a group records; more is left out
READABLE = (Status.CORRECT, Status.WRONG)  # verdicts of answers in the requested format


@dataclass(frozen=True, slots=True)
class Ready:
    """The answer of a verifier worker that is ready to serve.

    Attributes:
        lines: for the user: the sandbox's isolation level, the loaded network.
        sandbox: the measured isolation (`Isolation.as_dict`); None if the task runs no programs.
    """

    lines: tuple[str, ...] = ()
    sandbox: dict[str, Any] | None = None


class VerifierWorker:
    """Decodes responses and grades them with the task's verifier, on a thread so that the actor stays responsive.

    Args:
        name: the actor's name, used in messages.
        task: the task's settings; the worker creates its verifier from them.
        tokenizer_path: directory of the samplers' model.
        gpus: the worker's share of a GPU, for a learned verifier.
        plugins: of the configuration; they may register the task or the scorer.
        tokenizer: the name of the tokenizer's class in transformers.
    """

    def __init__(
        self,
        name: str,
        task: TaskSettings,
        tokenizer_path: str,
        gpus: float = 0.0,
        plugins: Sequence[str] = (),
        tokenizer: str = AUTO,
    ) -> None:
        start_actor_log()
        load_plugins(plugins)
        self.name = name
        self._task = make_task(task)
        self._scorer = make_scorer(task, _loader(task, gpus))
        self._format_bonus = task.format_bonus
        self._tokenizer = load_tokenizer_as(tokenizer, tokenizer_path)
        self._frame = frame_tokens(self._tokenizer, tokenizer_path)

    async def ready(self) -> Ready:
        """Load verifier and scorer, and start the sandbox if the task runs programs.

        Raises:
            SandboxUnavailable: this machine cannot enforce `task.sandbox.minimum_level`.
        """
        parts = [part for part in (self._task, self._scorer) if isinstance(part, Prepared)]
        # deadline: the caller's start_s
        lines = tuple([await asyncio.to_thread(part.prepare) for part in parts])
        ready = Ready(lines, self._task.executor.start().as_dict() if isinstance(self._task, CodeVerifier) else None)
        logger.info("ready: %s", "; ".join(lines) or type(self._task).__name__)
        return ready

    async def grade(self, batch: pa.RecordBatch, prompt: Prompt) -> tuple[int, pa.RecordBatch]:
        """Grade every sample of the group; identical responses are graded once.

        Returns:
            (number of samples, the graded group): two objects, so that the caller may await the small one.

        If the verifier itself fails twice on a sample, the verdict is ``verifier_error``, the reward NaN, and `detail`
        has the reason; the group is then not usable (docs/promises.md, 6: never a silent 0).
        """
        group = Group.from_record_batch(batch)
        set_step(group.admitted_version)
        begin = time.perf_counter()
        # deadline: the caller's verify_s
        graded = await asyncio.to_thread(self._grade, group, prompt)
        seconds = time.perf_counter() - begin
        logger.debug("graded %r (position %d) in %.2f s", group.prompt_id, group.sequence, seconds)
        return group.n, graded

    async def heartbeat(self) -> Heartbeat:
        """A heartbeat, from the event loop that serves all calls."""
        return own_heartbeat()

    def _grade(self, group: Group, prompt: Prompt) -> pa.RecordBatch:
        responses = self._decode(group.response_tokens)
        opened = opened_reasoning(str(self._tokenizer.decode(group.prompt_tokens[-_TAIL_TOKENS:].tolist())))
        sampled = [
            Response(text, len(tokens), reason)
            for text, tokens, reason in zip(responses, group.response_tokens, group.finish_reason, strict=True)
        ]
        graded = self._verdicts(prompt, opened, sampled)
        verdicts = [verdict for verdict, _ in graded]
        demonstration = None
        if group.demonstration_tokens is not None and prompt.demonstration is not None:
            shown = Response(prompt.demonstration, len(group.demonstration_tokens))
            verdict = self._verdict(prompt, shown)
            # Scored together with the samples: a vote cannot score a single answer.
            with contextlib.suppress(ScorerError):  # then it fails on the samples too, with the reason
                demonstration = self._scores(prompt, [*sampled, shown], [*verdicts, verdict])[-1]
            demonstration = None if _invalid(demonstration) else demonstration
        try:
            scores = self._scores(prompt, sampled, verdicts)
        except ScorerError as error:
            scores, verdicts = [None] * len(responses), [Verdict.failed(str(error))] * len(responses)
        verdicts = [
            Verdict.failed(f"the scorer gave {score}") if _invalid(score) else verdict
            for verdict, score in zip(verdicts, scores, strict=True)
        ]
        return group.with_grades(
            reward=np.array([self._reward(verdict) for verdict in verdicts]),
            score=np.array([np.nan if score is None or _invalid(score) else score for score in scores]),
            verdict=[verdict.status.value for verdict in verdicts],
            answer=[None if verdict.answer is None else _utf8(verdict.answer) for verdict in verdicts],
            verify_seconds=np.array([seconds for _, seconds in graded]),
            detail=[_utf8(verdict.detail) for verdict in verdicts],
            demonstration_score=demonstration,
            parts=[verdict.parts for verdict in verdicts],
            prompt_text=_utf8(prompt.transcript),
            reference=_reference(prompt),
            response_text=[_utf8(response) for response in responses],
        ).to_record_batch()

    def _verdicts(self, prompt: Prompt, opened: str, responses: Sequence[Response]) -> list[tuple[Verdict, float]]:
        """The verdict of each response, and the seconds that it took. Equal ones are graded once; for user code, they
        are equal if they also have the same length and end."""
        written = [replace(response, text=as_written(opened, response.text)) for response in responses]
        if isinstance(self._task, RewardedTask):
            different = list(dict.fromkeys(written))
            graded = dict(zip(different, self._task.verify_all(prompt, different), strict=True))
            return [(graded[response], graded[response].seconds) for response in written]
        known: dict[str, tuple[Verdict, float]] = {}
        for response in written:
            if response.text not in known:
                started = time.perf_counter()
                known[response.text] = (self._verdict(prompt, response), time.perf_counter() - started)
        return [known[response.text] for response in written]

    def _scores(self, prompt: Prompt, responses: Sequence[Response], verdicts: Sequence[Verdict]) -> list[float | None]:
        """The scores of the responses. Raises ScorerError if user code failed."""
        if isinstance(self._scorer, UserScorer):
            return self._scorer.scores_of(prompt, responses)
        return self._scorer.scores(prompt, [response.text for response in responses], verdicts)

    def _reward(self, verdict: Verdict) -> float:
        if verdict.reward is None:
            return float("nan")
        return verdict.reward + (self._format_bonus if verdict.status in READABLE else 0.0)

    def _verdict(self, prompt: Prompt, response: Response) -> Verdict:
        """The task's verdict; retried once if the verifier itself failed, because it may have lost a process."""
        verdict = verdict_of(self._task, prompt, response)
        if verdict.status is not Status.VERIFIER_ERROR:
            return verdict
        logger.warning("the verifier failed on prompt %r and is asked again: %s", prompt.id, verdict.detail)
        return verdict_of(self._task, prompt, response)

    def _decode(self, responses: Sequence[Any]) -> list[str]:
        return decode_responses(self._tokenizer, [tokens.tolist() for tokens in responses], self._frame)


def _reference(prompt: Prompt) -> str | None:
    """The verifier's data for the problem as JSON; None if it is long, as the tests of a program may be."""
    text = json.dumps(prompt.reference, ensure_ascii=False, default=str)
    return _utf8(text) if len(text) <= _REFERENCE_CHARACTERS else None


def _utf8(text: str) -> str:
    """The text without lone surrogates, which Arrow cannot hold."""
    return text.encode(errors="replace").decode()


def _invalid(score: float | None) -> bool:
    """Whether the score cannot be ranked, for example NaN from a network that overflowed."""
    return score is not None and not isfinite(score)


def _loader(task: TaskSettings, gpus: float) -> LoadLogits:
    """Loads the network of a learned verifier for ``task.scorer.engine``."""
    if task.scorer.engine == "transformers":
        return TransformersLogits.load
    from actors.vllm_backend.pooling import VllmLogits  # late: it imports torch

    return lambda directory, batch_tokens: VllmLogits(directory, batch_tokens, gpus)
