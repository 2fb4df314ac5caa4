"""Rewards over HTTP, against a reference server: batches, retries, deadline, token, and responses that are wrong."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from aiohttp import web

from verifiers.rewards import http
from verifiers.rewards.response import Response
from verifiers.rewards.task import RewardedTask
from verifiers.settings import TaskSettings
from verifiers.task import Prompt
from verifiers.tasks.registry import make_task
from verifiers.verdict import Status, Verdict

PROMPT = Prompt("p1", "2 + 2 = ", {"answer": "4"}, row={"answer": "4", "source": "book"})
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Service:
    """The reference server: scores 1 where the response is the reference; `answers` replaces its next responses."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[Any] = []
        self.answers: list[web.Response | float] = []  # a number: seconds of silence

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        self.headers.append(request.headers)
        if self.answers:
            answer = self.answers.pop(0)
            if isinstance(answer, web.Response):
                return answer
            await asyncio.sleep(answer)
        pairs = zip(body["responses"], body["references"], strict=True)
        return web.json_response({"rewards": [float(response == reference) for response, reference in pairs]})


@pytest.fixture()
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Service, str]]:
    monkeypatch.setattr(http, "FIRST_PAUSE_S", 0.01)
    service, started, loop = Service(), threading.Event(), asyncio.new_event_loop()
    address: list[str] = []

    async def start() -> web.AppRunner:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/score", service.handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        address.append(f"http://127.0.0.1:{runner.addresses[0][1]}/score")
        started.set()
        return runner

    def serve() -> None:
        asyncio.set_event_loop(loop)
        runner = loop.run_until_complete(start())
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    assert started.wait(timeout=30)
    yield service, address[0]
    loop.call_soon_threadsafe(loop.stop)
    thread.join(timeout=30)


def grade(url: str, *responses: str, **keys: Any) -> list[Verdict]:
    task = make_task(TaskSettings.model_validate({"reward": url, "reward_timeout_s": 20.0, **keys}))
    assert isinstance(task, RewardedTask)
    return task.verify_all(
        PROMPT, [Response(text, len(text), "length" if text == "cut" else "stop") for text in responses]
    )


def test_answers_go_in_batches_with_their_rows(service: tuple[Service, str]) -> None:
    server, url = service
    assert [v.reward for v in grade(url, "4", "5", "4 ", reward_batch=2)] == [1.0, 0.0, 0.0]
    assert sorted(len(request["responses"]) for request in server.requests) == [1, 2]
    assert server.requests[0]["rows"][0] == PROMPT.row and server.requests[0]["prompts"][0] == PROMPT.text


def test_a_service_gets_length_and_end_of_each_answer(service: tuple[Service, str]) -> None:
    server, url = service
    grade(url, "4", "cut")
    assert server.requests[0]["response_tokens"] == [1, 3]
    assert server.requests[0]["finish_reasons"] == ["stop", "length"]
    assert server.requests[0]["messages"] == [[{"role": "user", "content": PROMPT.text}]] * 2


def test_a_service_that_is_busy_is_asked_again(service: tuple[Service, str]) -> None:
    server, url = service
    server.answers = [web.Response(status=503, text="busy"), web.Response(status=429), web.Response(status=500)]
    assert grade(url, "4")[0].reward == 1.0 and len(server.requests) == 4
    server.answers = [web.Response(status=503, text="always busy") for _ in range(http.ATTEMPTS)]
    (verdict,) = grade(url, "4")
    assert verdict.status is Status.VERIFIER_ERROR and "HTTP 503 (always busy)" in verdict.detail


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (web.Response(status=404, text="nothing here"), "HTTP 404 (nothing here)"),
        (web.Response(status=302, headers={"Location": "http://elsewhere"}), "HTTP 302"),
        (web.Response(text="<html>"), 'must answer {"rewards": [...]}'),
        (web.json_response({"scores": [1.0]}), "rewards: Field required"),
        (web.json_response({"rewards": ["good"]}), "str 'good'; return a number"),
            (web.json_response({"rewards": [None]}), "returned None"),
            (web.json_response({"rewards": [10**400]}), "not a finite number"),
        (web.json_response({"rewards": [1.0, 0.0]}), "2 rewards for 1 responses"),
        (web.Response(text='{"rewards": [NaN]}', content_type="application/json"), "nan"),
        (web.json_response({"rewards": [{"correct": 1, "format": 0}]}), "task.reward_weights is not set"),
    ],
)  # fmt: skip
def test_wrong_responses_are_verifier_errors(service: tuple[Service, str], answer: web.Response, words: str) -> None:
    server, url = service
    server.answers = [answer]
    (verdict,) = grade(url, "4")
    assert verdict.status is Status.VERIFIER_ERROR and words.lower() in verdict.detail.lower() and url in verdict.detail
    assert len(server.requests) == 1, "asked once: another try would give the same"


def test_parts_and_truth_values(service: tuple[Service, str]) -> None:
    server, url = service
    server.answers = [web.json_response({"rewards": [True, {"correct": 1, "format": 0.5}]})]
    first, second = grade(url, "4", "5", reward_weights={"correct": 1.0, "format": 0.1})
    assert first.reward == 1.0 and second.reward == pytest.approx(1.05) and second.parts["format"] == 0.5


def test_the_deadline_covers_all_attempts(service: tuple[Service, str]) -> None:
    server, url = service
    server.answers = [web.Response(status=503), 30.0]
    (verdict,) = grade(url, "4", reward_timeout_s=0.3)
    assert "task.reward_timeout_s" in verdict.detail and "before that: answered HTTP 503" in verdict.detail


def test_a_service_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "FIRST_PAUSE_S", 0.01)
    (verdict,) = grade("http://127.0.0.1:9/score", "4", reward_timeout_s=5.0)
    assert verdict.status is Status.VERIFIER_ERROR and "http://127.0.0.1:9/score" in verdict.detail
    (verdict,) = grade(f"http://{'a' * 80}.com/", "4")
    assert verdict.status is Status.VERIFIER_ERROR and "label empty or too long" in verdict.detail


def test_the_token_comes_from_a_variable_and_is_never_shown(
    service: tuple[Service, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, url = service
    monkeypatch.setenv("MY_TOKEN", "s3cret")
    grade(url, "4", reward_token_variable="MY_TOKEN")
    assert server.headers[0]["Authorization"] == "Bearer s3cret"
    server.answers = [web.Response(status=401, text="who are you")]
    (verdict,) = grade(url, "4", reward_token_variable="MY_TOKEN")
    assert "MY_TOKEN" in verdict.detail and "s3cret" not in verdict.detail
    server.answers = [web.Response(status=404, text="you sent Bearer s3cret")]
    monkeypatch.setenv("MY_TOKEN", "s3cret\n")  # as read from a file
    (verdict,) = grade(url, "4", reward_token_variable="MY_TOKEN")
    assert verdict.detail.endswith("HTTP 404 (you sent Bearer ***)")
    monkeypatch.setenv("MY_TOKEN", "s3\ncret")
    with pytest.raises(RuntimeError, match="MY_TOKEN: the token has characters that are not allowed"):
        grade(url, "4", reward_token_variable="MY_TOKEN")
    monkeypatch.delenv("MY_TOKEN")
    task = make_task(TaskSettings(reward=url, reward_token_variable="MY_TOKEN"))
    with pytest.raises(RuntimeError, match="MY_TOKEN: this environment variable is not set"):
        task.prepare()  # type: ignore[attr-defined]
