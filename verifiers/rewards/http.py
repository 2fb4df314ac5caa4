"""Rewards from an HTTP service: one POST for a batch of answers, with retries, a deadline, and a checked response.

Request:  {"prompts": [...], "responses": [...], "references": [...], "rows": [{...}, ...], "ids": [...],
           "response_tokens": [...], "finish_reasons": [...], "messages": [[{...}, ...], ...]}
Response: {"rewards": [1.0, 0.0, ...]}; instead of a number, true or false, or an object of named parts.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from verifiers.rewards.response import Response
from verifiers.rewards.results import Grading, ResultError, json_row
from verifiers.settings import TaskSettings
from verifiers.task import Prompt
from verifiers.verdict import Verdict

ATTEMPTS = 5
FIRST_PAUSE_S = 0.5  # before the second attempt; doubled after each
MAX_BYTES = 64 << 20
_RETRIED = (408, 425, 429)  # and every 5xx: the service may answer later
_SHOWN = 300  # characters of an unexpected response in a message


class ServiceError(RuntimeError):
    """The service gave no rewards. ``again``: another attempt may succeed."""

    def __init__(self, message: str, *, again: bool = False) -> None:
        super().__init__(message)
        self.again = again


class _Response(BaseModel):
    """What the service must answer."""

    model_config = ConfigDict(extra="ignore", strict=True)

    rewards: list[Any]  # each is checked as what a function returns


class HttpGrades:
    """Grades with the service at ``task.reward``. See `verifiers.rewards.task.Grades`."""

    def __init__(self, settings: TaskSettings) -> None:
        assert settings.reward is not None
        self._url = settings.reward
        self._timeout_s = settings.reward_timeout_s
        self._batch = settings.reward_batch
        self._variable = settings.reward_token_variable
        self._grading = Grading(settings.reward_weights, settings.reward_correct_at)

    def start(self) -> str:
        """Check that the token is set; the service itself is called with the first answers."""
        self._headers()
        return f"task.reward: {self._url}, at most {self._batch} answers per request"

    def close(self) -> None:
        """Nothing is kept open."""

    def grade(self, prompt: Prompt, responses: Sequence[Response]) -> list[Verdict]:
        """See `Grades`; the batches of a group are sent at the same time."""
        started = time.perf_counter()
        parts = [responses[i : i + self._batch] for i in range(0, len(responses), self._batch)]
        # deadline: reward_timeout_s
        results = asyncio.run(self._all(prompt, parts))
        seconds = (time.perf_counter() - started) / len(responses)
        return [self._verdict(value, seconds) for part in results for value in part]

    def _verdict(self, value: Any, seconds: float) -> Verdict:
        where = f"task.reward = {self._url}"
        if isinstance(value, ServiceError):
            return Verdict.failed(f"{where}: {value}", seconds=seconds)
        try:
            return self._grading.verdict(value)
        except ResultError as error:
            return Verdict.failed(f"{where} {error}", seconds=seconds)

    async def _all(self, prompt: Prompt, parts: Sequence[Sequence[Response]]) -> list[list[Any]]:
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=self._timeout_s)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            # deadline: each has its own
            return await asyncio.gather(*(self._one(session, prompt, part) for part in parts))

    async def _one(self, session: Any, prompt: Prompt, responses: Sequence[Response]) -> list[Any]:
        """The results of one batch; if it failed, the reason for each answer."""
        n, row = len(responses), json_row(prompt.columns)
        body = {
            "prompts": [prompt.text] * n,
            "responses": [response.text for response in responses],
            "references": [prompt.reference.get("answer", prompt.reference)] * n,
            "rows": [row] * n,
            "ids": [prompt.id] * n,
            "response_tokens": [response.tokens for response in responses],
            "finish_reasons": [response.finish_reason for response in responses],
            "messages": [prompt.messages] * n,
        }
        last, pause = ServiceError("not asked"), FIRST_PAUSE_S
        deadline = time.monotonic() + self._timeout_s
        for attempt in range(1, ATTEMPTS + 1):
            try:
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    return await self._post(session, body, n)
            except TimeoutError:
                text = f"no response within {self._timeout_s:g} s (task.reward_timeout_s)"
                reason = f"; before that: {last}" if attempt > 1 else ""
                return [ServiceError(text + reason)] * n
            except ServiceError as error:
                last = error
                if not error.again:
                    break
            if attempt < ATTEMPTS:
                await asyncio.sleep(min(pause, max(0.0, deadline - time.monotonic())))
                pause *= 2
        return [last] * n

    async def _post(self, session: Any, body: Any, n: int) -> list[Any]:
        import aiohttp

        try:
            async with session.post(
                self._url, data=json.dumps(body, default=str), headers=self._headers(), allow_redirects=False
            ) as response:
                data = await response.content.read(MAX_BYTES + 1)
                while len(data) <= MAX_BYTES and (more := await response.content.read(MAX_BYTES)):
                    data += more
                status = response.status
        except (aiohttp.ClientError, ValueError) as error:  # ValueError: a name that cannot be looked up
            again = not isinstance(error, ValueError)
            raise ServiceError(f"cannot be reached ({type(error).__name__}: {error})", again=again) from error
        if len(data) > MAX_BYTES:
            raise ServiceError(f"answered with more than {MAX_BYTES >> 20} MiB")
        text = data.decode(errors="replace")
        if token := self._token():  # a service may repeat the request in its response
            text = text.replace(token, "***")
        if status != 200:
            hint = f"; check the token in {self._variable}" if status in (401, 403) and self._variable else ""
            hint = hint or ("; set task.reward_token_variable" if status in (401, 403) else "")
            raise ServiceError(
                f"answered HTTP {status} ({_short(text)}){hint}", again=status in _RETRIED or status >= 500
            )
        try:
            rewards = _Response.model_validate_json(text).rewards
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "the response"
            raise ServiceError(f'must answer {{"rewards": [...]}}; {place}: {first["msg"]} ({_short(text)})') from error
        if len(rewards) != n:
            raise ServiceError(f"answered with {len(rewards)} rewards for {n} responses")
        return list(rewards)

    def _headers(self) -> dict[str, str]:
        """Raises RuntimeError where the variable with the token is not set. The token is in no message."""
        headers = {"Content-Type": "application/json"}
        if self._variable is not None:
            token = self._token()
            if not token:
                raise RuntimeError(
                    f"task.reward_token_variable = {self._variable}: this environment variable is not set; set it "
                    "where the run starts (`bonrl submit --env NAME` takes it along)"
                )
            if not (token.isascii() and token.isprintable()):
                raise RuntimeError(
                    f"task.reward_token_variable = {self._variable}: the token has characters that are not "
                    "allowed in an HTTP header; "
                    "set the variable to the token alone, in one line"
                )
            headers["Authorization"] = f"Bearer {token}"
        return headers

    def _token(self) -> str:
        """Without the line end that a file with a token has."""
        return os.environ.get(self._variable, "").strip() if self._variable is not None else ""


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}..."
