"""The executor that most tests of the code sandbox share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from verifiers.sandbox.executor import Executor
from verifiers.sandbox.settings import SandboxSettings


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    with Executor(SandboxSettings(preload=())) as made:
        yield made
