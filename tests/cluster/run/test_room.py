"""Whether there is room for an actor: on one node, not on all of them together."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.slow  # imports Ray, though it starts nothing


def test_what_is_free_on_two_nodes_is_no_room_for_one_actor(monkeypatch):
    from cluster.run import processes

    free = {"a": {"CPU": 8.0, "GPU": 4.0}, "b": {"CPU": 8.0, "GPU": 4.0}, "c": {"CPU": 8.0}}
    monkeypatch.setattr(processes, "free_resources", lambda: free)
    assert processes._room_for({"CPU": 1, "GPU": 4})
    assert not processes._room_for({"CPU": 1, "GPU": 8})
    assert processes._room_for({"CPU": 8, "GPU": 0})
    assert not processes._room_for({"CPU": 9, "GPU": 0})
