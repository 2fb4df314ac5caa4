"""Parts of a job: its result, how to continue from it, and the report of evaluation prompts that it trains on."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import shlex
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from actors.fleet.queue_client import QueueClient
from actors.queue.state import Ticket
from actors.remote_calls import ActorFailure, ActorLost
from cluster.config import build_config
from cluster.errors import UsageError
from cluster.exit_status import INTERRUPTED
from cluster.records.checkpoints import Checkpoints
from cluster.records.config_changes import Change
from cluster.records.disk import RunDirectoryError, clear_errors
from cluster.records.next_command import JOB_DESCRIPTION
from cluster.records.run_directory import RunDirectory
from cluster.run import conclusion, job
from cluster.run import result as result_module
from cluster.run.conclusion import advice, conclude
from cluster.run.live_groups import LiveGroups
from cluster.run.result import FAILED, JobResult, run_to_result, starting
from cluster.run.shutdown import Shutdown, ShutdownRequested

pytestmark = pytest.mark.slow  # imports Ray, though it starts nothing


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Replaces Ray, records the order of events, and restores the signal handlers of the test process."""
    events: list[str] = []
    monkeypatch.setattr(result_module, "connect", lambda config: events.append("connect"))
    monkeypatch.setattr(result_module, "disconnect", lambda: events.append("disconnect"))
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield events
    signal.set_wakeup_fd(-1)
    for number, handler in before.items():
        signal.signal(number, handler)


def unchanged(outcome: Any) -> Any:
    return outcome


def ends_with(*errors: BaseException) -> Any:
    """The result of a job whose tasks raise `errors`."""

    async def fail(error: BaseException) -> None:
        raise error

    async def work(shutdown: Shutdown) -> None:
        async with asyncio.TaskGroup() as tasks:
            for error in errors:
                tasks.create_task(fail(error))

    return run_to_result(cast(Any, None), work, unchanged)


def secondary(text: str) -> ActorFailure:
    return ActorFailure(text)


def primary(text: str) -> ActorFailure:
    failure = ActorLost(text)
    failure.__cause__ = OSError("what Ray says")
    return failure


def test_a_started_run_fails_with_its_cause():
    full = OSError(errno.ENOSPC, "No space left on device")
    for error in (primary("sampler-0 died"), RunDirectoryError("the disk is full"), full, TimeoutError("too late")):
        assert ends_with(error) == JobResult(FAILED, str(error))
    with pytest.raises(ZeroDivisionError):  # a bug of ours keeps its traceback
        ends_with(ZeroDivisionError())
    with pytest.raises(PermissionError):
        ends_with(PermissionError("where from?"))


def test_the_root_cause_of_several_errors_is_reported():
    assert ends_with(secondary("was not there"), primary("died"), secondary("was not there")).message == "died"
    assert ends_with(secondary("was not there"), RunDirectoryError("full")).message == "full"
    with pytest.raises(ZeroDivisionError):
        ends_with(primary("died"), ZeroDivisionError())


def test_an_actor_that_dies_while_it_starts_is_a_failure(no_ray: list[str]):
    async def start(error: ActorFailure) -> None:
        raise error

    async def work(shutdown: Shutdown) -> None:
        await shutdown.unless_requested(starting(start(primary("sampler-0 died before it could start"))))

    result = run_to_result(cast(Any, None), work, unchanged)
    assert result.status == FAILED
    assert result.message == "the run could not start, nothing was trained: sampler-0 died before it could start"
    assert no_ray == ["connect", "disconnect"]


def test_a_full_object_store_is_no_bug_and_the_user_learns_how_to_continue(no_ray: list[str]):
    from ray.exceptions import OutOfDiskError

    async def work(shutdown: Shutdown) -> None:
        raise OutOfDiskError("the disk of Ray's session directory is full")

    result = run_to_result(cast(Any, None), work, unchanged)
    assert result.status == FAILED and "is full" in result.message


def test_the_message_is_printed_before_ray_ends_and_ray_has_a_deadline(
    no_ray: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    release = threading.Event()
    monkeypatch.setattr(result_module, "DISCONNECT_SECONDS", 0.1)
    monkeypatch.setattr(result_module, "disconnect", lambda: (no_ray.append("disconnect"), release.wait(60)))
    monkeypatch.setattr(result_module.atexit, "unregister", lambda function: no_ray.append("forget"))

    async def work(shutdown: Shutdown) -> str:
        return "done"

    started = time.monotonic()
    run_to_result(None, work, no_ray.append)  # type: ignore[arg-type]
    release.set()
    assert no_ray == ["connect", "done", "disconnect", "forget"] and time.monotonic() - started < 10
    assert "Ray did not shut down within 0.1 s" in capsys.readouterr().err


def test_a_signal_to_rays_handler_is_an_interruption(monkeypatch: pytest.MonkeyPatch):
    def connect(config: Any) -> None:
        raise SystemExit(1)

    monkeypatch.setattr(result_module, "connect", connect)
    assert ends_with().status == INTERRUPTED


def write_checkpoint(directory: RunDirectory, step: int, *files: str) -> None:
    checkpoints = Checkpoints(directory.checkpoints)
    path = checkpoints.begin(step)
    for name in files:
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text("x")
    checkpoints.finalise(step)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[RunDirectory]:
    with RunDirectory.create(tmp_path, "run", {}) as made:
        yield made


def context_of(directory: RunDirectory, **kind: Any) -> Any:
    found = SimpleNamespace(
        directory=directory,
        checkpoints=Checkpoints(directory.checkpoints),
        health=SimpleNamespace(at_end=list),
        dashboards=SimpleNamespace(final_message=lambda text, status: None),
    )
    return SimpleNamespace(**vars(found), **{"rollout_only": False, "replay": None, "changes": ()} | kind)


def test_the_advice_does_not_read_file_contents(directory: RunDirectory, monkeypatch: pytest.MonkeyPatch):
    assert advice(context_of(directory)) == "no checkpoint was saved yet"
    replay = context_of(directory, replay=Path("source"))
    assert advice(replay).splitlines() == [
        "no checkpoint was saved yet",
        "start over with: bonrl train --replay source",
    ]
    write_checkpoint(directory, 5, "queue.arrow")
    monkeypatch.setattr("cluster.records.checkpoints._sha256", lambda path: pytest.fail("this takes minutes"))
    expected = f"kept: the checkpoint of step 5\ncontinue with: bonrl train --resume {directory.path}"
    assert advice(context_of(directory)) == expected
    assert advice(context_of(directory, rollout_only=True)) == f"{expected} --rollout-only"
    changed = (Change("run.steps", 160, 400), Change("task.instruction", "", "it's"))
    command = advice(context_of(directory, changes=changed)).removeprefix(expected)
    assert shlex.split(command) == ["run.steps=400", 'task.instruction="it\'s"']
    assert advice(replay).startswith("kept: the model of step 5 in ")


def test_a_job_of_a_cluster_is_continued_with_submit(directory: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(JOB_DESCRIPTION, "{}")
    write_checkpoint(directory, 5, "queue.arrow")
    submit = "bonrl submit --address http://HEAD:8265"
    changed = (Change("run.steps", 160, 400),)
    advised = advice(context_of(directory, changes=changed))
    assert advised.endswith(f"continue with: {submit} --resume {directory.path} run.steps=400")
    assert advice(context_of(directory, replay=Path("/r"))).endswith(f"start over with: {submit} --replay /r")
    sent = f"{submit} --replay runs/r run.directory={directory.path.parent}"
    assert advice(context_of(directory, replay=Path("runs/r"))).endswith(f"start over with: {sent}")


def test_a_full_disk_message_names_the_checkpoint_and_how_to_continue(directory: RunDirectory):
    write_checkpoint(directory, 5, "queue.arrow")
    with pytest.raises(RunDirectoryError) as full, clear_errors(directory.path):
        raise OSError(errno.ENOSPC, "No space left on device")
    ended = conclude(context_of(directory), ends_with(full.value))
    assert ended.status == FAILED
    for part in ("full", "checkpoint.keep", "kept: the checkpoint of step 5", f"--resume {directory.path}"):
        assert part in ended.message


def test_a_run_that_saved_no_checkpoint_begins_again_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    messages = SimpleNamespace(message=print, export=None, warning=print)
    monkeypatch.setattr(job, "_run", lambda context: context)
    monkeypatch.setattr(job, "Dashboards", lambda *_, **__: contextlib.nullcontext(messages))
    monkeypatch.chdir(repository)
    place = {"directory": str(tmp_path), "name": "mine"}
    config = build_config({"run": place, "task": {"train_size": 64}, "evaluation": {"prompts": 8}})
    RunDirectory.create(tmp_path, "mine", {"run": {"steps": 7}}).close()
    context: Any = job.train(config, replaces=tmp_path / "mine")
    assert context.directory.path == tmp_path / "mine" and context.start is None
    assert "steps: 7" in (tmp_path / "mine-no-checkpoint-1" / "config.yaml").read_text()
    assert f"mine is moved to {tmp_path}/mine-no-checkpoint-1, and the run begins again" in capsys.readouterr().out


def test_a_replay_cannot_be_resumed(directory: RunDirectory):
    checkpoints = Checkpoints(directory.checkpoints)
    write_checkpoint(directory, 5, "huggingface/config.json")
    with pytest.raises(UsageError, match=r"made with --replay.*model\.path="):
        job._resume_point(directory, checkpoints, False)
    write_checkpoint(directory, 6, "huggingface/config.json", "queue.arrow")
    directory.write_summary({"steps": 6})
    assert job._resume_point(directory, checkpoints, False).step == 6
    assert not (directory.path / "summary.json").exists(), "a resumed run is not finished"


def test_a_damaged_evaluation_does_not_cost_the_summary(directory: RunDirectory):
    said: list[str] = []
    context = context_of(directory, config=build_config({}))
    context.dashboards.message = said.append
    assert conclusion._earlier(context, 0) is None and not said
    (directory.groups / "evaluation-000000.parquet").write_bytes(b"torn")
    assert conclusion._earlier(context, 0) is None and "evaluation-000000.parquet cannot be read" in said[0]


def test_a_queue_that_is_replaced_while_the_run_stops_starts_no_rollout(monkeypatch: pytest.MonkeyPatch):
    """The task group that rollouts belong to does not accept any after the shutdown request."""
    client = QueueClient(cast(Any, None), cast(Any, None), cast(Any, None))
    source = LiveGroups(build_config({}), [cast(Any, None)], cast(Any, None), client)
    replaced: list[str] = []

    async def loop(run: Any) -> None:
        async with asyncio.TaskGroup() as tasks, source.rollouts_in(tasks):
            raise ShutdownRequested

    async def save() -> None:
        client._issue_all([Ticket(sequence=0, admitted_version=0)])  # what QueueClient.prepare does
        replaced.append("queue")

    monkeypatch.setattr(job, "training_loop", loop)
    asyncio.run(job._train_until_asked(cast(Any, SimpleNamespace(checkpoint_if_new=save))))
    assert replaced == ["queue"]


def test_evaluation_prompts_among_the_training_prompts_are_reported() -> None:
    from cluster.checks.prompts import contamination_lines
    from verifiers.task import Prompt

    def prompts(*texts: str) -> list[Prompt]:
        return [Prompt(f"{text}-id", text, {}, "all") for text in texts]

    config = build_config({})
    (line,), (warning,) = contamination_lines(config, prompts("2 + 2?", "3 + 3?"), prompts("3 + 3?", "5 + 5?"))
    assert line.startswith("contamination: 1 of 2 evaluation prompts are also training prompts")
    assert line.endswith("3 + 3?-id and 3 + 3?-id")
    assert warning.startswith("1 of 2 evaluation prompts") and "leave them out of the training problems" in warning
    many = prompts("3 + 3?", *(f"{n} + 1?" for n in range(99)))
    assert contamination_lines(config, prompts("2 + 2?", "3 + 3?"), many)[1] == [], "one of a hundred"
    on_purpose = build_config({"evaluation": {"split": "train"}})
    assert contamination_lines(on_purpose, prompts("2 + 2?"), prompts("2 + 2?")) == ([], [])
