"""What the tests of the evidence share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def evidence(repository: Path) -> Path:
    return repository / "docs" / "evidence"
