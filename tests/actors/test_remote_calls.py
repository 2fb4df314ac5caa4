"""Messages of failed calls, from the errors that Ray raises."""

from __future__ import annotations

import asyncio

import pytest

pytestmark = pytest.mark.slow  # imports Ray, though it starts nothing


def message_of(error) -> str:
    """The message of :func:`actors.remote_calls.call` when Ray raises `error`."""
    from actors.remote_calls import ActorFailure, call

    async def raising():
        raise error

    with pytest.raises(ActorFailure) as failure:
        asyncio.run(call(raising(), owner="verifier-0", to="start", deadline_s=5))
    return str(failure.value)


def task_error(function):
    from ray.exceptions import RayTaskError

    try:
        function()
    except Exception as error:  # noqa: BLE001 - whatever the task raised, as in Ray's worker
        import traceback

        return RayTaskError("VerifierWorker.__init__", traceback.format_exc(), error, "ray::Verifier", 1, "10.0.0.1")


def test_the_error_of_a_constructor_is_in_the_message():
    from ray.exceptions import ActorDiedError

    def construct():
        raise ValueError(
            "task.sandbox.minimum_level: this machine cannot enforce it\n    see docs/sandbox.md: lower the level"
        )

    assert message_of(ActorDiedError(task_error(construct))) == (
        "verifier-0 died before it could start: ValueError: task.sandbox.minimum_level: this machine cannot enforce it "
        "see docs/sandbox.md: lower the level"
    )


def test_the_last_error_of_a_chain_is_in_the_message():
    from ray.exceptions import ActorDiedError

    def construct():
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise ValueError("queue.staleness differs from the snapshot's") from error

    message = message_of(ActorDiedError(task_error(construct)))
    assert message.endswith("died before it could start: ValueError: queue.staleness differs from the snapshot's")


def test_a_killed_process_is_reported_with_rays_reason():
    from ray.core.generated.common_pb2 import ActorDiedErrorContext
    from ray.exceptions import ActorDiedError

    context = ActorDiedErrorContext(
        error_message="The actor is dead because its worker process has died. Worker exit type: NODE_OUT_OF_MEMORY "
        "Worker exit detail: Task was killed due to the node running low on memory.\nMemory on the node was 7.9 GB.",
        class_name="VerifierWorker",
        actor_id=b"\x01" * 16,
        pid=77,
        node_ip_address="10.0.0.1",
    )
    assert message_of(ActorDiedError(context)) == (
        "verifier-0 died before it could start: The actor is dead because its worker process has died. Worker exit "
        "type: NODE_OUT_OF_MEMORY Worker exit detail: Task was killed due to the node running low on memory. Memory on "
        "the node was 7.9 GB."
    )
    assert message_of(ActorDiedError()) == "verifier-0 died before it could start: its process ended"


def test_a_broken_connection_is_not_reported_as_a_death():
    """Ray reports it a second after the connection broke, if nothing says that the actor died."""
    from ray.exceptions import ActorUnavailableError

    from actors.remote_calls import ActorLost, ActorUnreachable

    assert issubclass(ActorUnreachable, ActorLost)  # of which the callers of what must not run twice take it
    error = ActorUnavailableError("The actor is temporarily unavailable: RpcError: Socket closed", b"\x01" * 16)
    assert message_of(error) == (
        "verifier-0 could not be reached while it was to start: the connection to it broke, and Ray does not report "
        f"its death, so it may still have done it (The actor {'01' * 16} is unavailable: The actor is temporarily "
        "unavailable: RpcError: Socket closed. The task may or may not have been executed on the actor.)"
    )


def test_the_error_of_an_argument_is_reported_without_its_traceback():
    def fails():
        raise ValueError("the group is of another schema")

    inner = task_error(fails).as_instanceof_cause()

    def outer():
        raise inner

    assert message_of(task_error(outer)) == "verifier-0 failed to start: ValueError: the group is of another schema"


def test_a_late_answer_names_owner_deadline_and_setting():
    from actors.remote_calls import ActorLost, call

    late = {"owner": "verifier-0", "to": "grade position 7", "deadline_s": 0.05}
    with pytest.raises(ActorLost, match=r"verifier-0 did not grade position 7 within 0 s$"):
        asyncio.run(call(asyncio.sleep(5), **late))
    with pytest.raises(ActorLost, match=r"did not grade position 7 within 0 s \(deadlines.verify_s\)$"):
        asyncio.run(call(asyncio.sleep(5), **late, key="deadlines.verify_s"))


def test_a_long_report_is_cut():
    from ray.exceptions import WorkerCrashedError

    assert len(message_of(WorkerCrashedError("x" * 5000))) < 1000


def test_a_lost_argument_is_not_a_lost_actor():
    """Ray reports it either as such, or as what the task raised when it was given the argument."""
    from ray.exceptions import ObjectLostError, OwnerDiedError

    from actors.errors import InputLost
    from actors.remote_calls import ObjectLost, call

    def given():
        raise ObjectLostError("ab", None, "here")

    async def asked(error):
        async def raising():
            raise error

        return await call(raising(), owner="replay queue", to="take a group", deadline_s=5)

    def not_begun():
        raise InputLost("a bucket is gone")

    owner = OwnerDiedError("ab", None, "here")
    for error in (ObjectLostError("ab", None, "here"), owner, task_error(given), task_error(not_begun)):
        with pytest.raises(ObjectLost, match="replay queue .* take a group"):
            asyncio.run(asked(error))


@pytest.mark.parametrize("derived", [False, True])
def test_an_error_that_an_actor_raised_is_named_and_logged(derived: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Ray raises it as a class derived from the cause, which hides attributes of RayTaskError."""
    from ray.exceptions import RayTaskError

    from actors.remote_calls import ActorFailure, call

    printed = 'Traceback (most recent call last):\n  File "rank.py", line 3, in learn\nRuntimeError: no'
    raised = RayTaskError("LearnerRank.accumulate", printed, RuntimeError("the verifier failed"))

    async def failing() -> None:
        raise raised.as_instanceof_cause() if derived else raised

    with caplog.at_level("WARNING"), pytest.raises(ActorFailure, match="rank 0 failed to learn: RuntimeError: the ver"):
        asyncio.run(call(failing(), owner="rank 0", to="learn", deadline_s=5))
    assert "rank 0 failed to learn" in caplog.text and 'rank.py", line 3' in caplog.text
