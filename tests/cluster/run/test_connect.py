"""Joining a Ray cluster that is not there: the message names the key and the remedy."""

from __future__ import annotations

import pytest

from cluster.config import load_config
from tests.cluster.running import LOCAL

pytestmark = pytest.mark.slow  # imports Ray, though it starts nothing


def test_auto_without_a_cluster_names_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The configuration of a submitted run says `auto`; it may be replayed on a machine without a cluster."""
    import ray

    from cluster.run.processes import connect

    def nothing(**options: object) -> None:
        raise ConnectionError("Could not find any running Ray instance")

    monkeypatch.setattr(ray, "init", nothing)
    with pytest.raises(ConnectionError, match=r"cluster.address = auto: .*cluster.address=local"):
        connect(load_config(LOCAL, ["cluster.address=auto"]))


def test_a_machine_that_is_too_busy_for_ray_gets_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    from cluster.run.processes import connect

    def slow(**options: object) -> None:
        raise Exception("The current node timed out during startup. This could happen because ...")

    monkeypatch.setattr(ray, "init", slow)
    with pytest.raises(ConnectionError, match=r"did not start on this machine .* load average is \d+ on \d+ CPUs"):
        connect(load_config(LOCAL))

    monkeypatch.setattr(ray, "init", lambda **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        connect(load_config(LOCAL))
