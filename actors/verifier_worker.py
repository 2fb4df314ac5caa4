"""Verifier worker (Ray actor): a group in, the same group with a reward and a score per sample out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from actors.group import Group
from verifiers.settings import TaskSettings
from verifiers.task import Prompt, make_task
from verifiers.verdict import Status, Verdict


class VerifierWorker:
    """Decodes responses and grades them with the task's verifier, on a thread so that the actor stays responsive.

    Args:
        name: the actor's name, used in every message.
        task: the task's settings; the worker makes its own verifier from them.
        tokenizer_path: directory of the model whose tokens the samplers emit.
    """

    def __init__(self, name: str, task: TaskSettings, tokenizer_path: str) -> None:
        from transformers import AutoTokenizer

        self.name = name
        self._task = make_task(task)
        self._tokenizer = AutoTokenizer.from_pretrained(tokenizer_path)

    async def ready(self) -> None:
        """Return once the verifier is loaded."""

    async def grade(self, batch: pa.RecordBatch, prompt: Prompt) -> tuple[int, pa.RecordBatch]:
        """Grade every sample of the group; identical responses are graded once.

        Returns:
            (number of samples, the graded group): two objects, so that the caller may await the small one.

        A sample on which the verifier itself fails twice has the verdict ``verifier_error``, a reward of NaN and the
        reason in `detail`; its group is then not usable (DESIGN.md, promise 6: never a silent 0).
        """
        group = Group.from_record_batch(batch)
        return group.n, await asyncio.to_thread(self._grade, group, prompt)

    async def lifeline(self, seconds: float) -> None:
        """Return after `seconds`; the caller learns of this actor's death at once."""
        await asyncio.sleep(seconds)

    def _grade(self, group: Group, prompt: Prompt) -> pa.RecordBatch:
        responses = self._decode(group.response_tokens)
        known: dict[str, tuple[Verdict, float]] = {}
        for response in responses:
            if response not in known:
                started = time.perf_counter()
                known[response] = (self._verdict(prompt, response), time.perf_counter() - started)
        demonstration = None
        if group.demonstration_tokens is not None and prompt.demonstration is not None:
            demonstration = _score(self._verdict(prompt, prompt.demonstration))
        graded = [known[response] for response in responses]
        return group.with_grades(
            reward=np.array([np.nan if v.reward is None else v.reward for v, _ in graded]),
            score=np.array([np.nan if _score(v) is None else _score(v) for v, _ in graded], np.float64),
            verdict=[v.status.value for v, _ in graded],
            answer=[v.answer for v, _ in graded],
            verify_seconds=np.array([seconds for _, seconds in graded]),
            detail=[v.detail for v, _ in graded],
            demonstration_score=demonstration,
        ).to_record_batch()

    def _verdict(self, prompt: Prompt, response: str) -> Verdict:
        """The task's verdict; one more try where the verifier itself failed, for it may have lost a process."""
        verdict = self._task.verify(prompt, response)
        return self._task.verify(prompt, response) if verdict.status is Status.VERIFIER_ERROR else verdict

    def _decode(self, responses: Sequence[Any]) -> list[str]:
        return self._tokenizer.batch_decode([tokens.tolist() for tokens in responses], skip_special_tokens=True)


def _score(verdict: Verdict) -> float | None:
    """What the deployed verifier ranks by: the reward, where it has no number of its own."""
    return verdict.reward if verdict.score is None else verdict.score
