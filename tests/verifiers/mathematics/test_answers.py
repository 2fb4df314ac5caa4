"""The tables of `answers/`, by kind: right, wrong, and without a reward for any reason."""

import pkgutil
from importlib import import_module

import pytest

from tests.verifiers.mathematics import answers
from verifiers import Status, grade_math

TABLES = [import_module(f"{answers.__name__}.{module.name}") for module in pkgutil.iter_modules(answers.__path__)]


@pytest.mark.parametrize(("prediction", "reference"), [pair for table in TABLES for pair in table.RIGHT])
def test_accepted(prediction: str, reference: str) -> None:
    assert grade_math(prediction, reference).status is Status.CORRECT


@pytest.mark.parametrize(("prediction", "reference"), [pair for table in TABLES for pair in table.WRONG])
def test_rejected(prediction: str, reference: str) -> None:
    assert grade_math(prediction, reference).status is Status.WRONG


@pytest.mark.parametrize(("prediction", "reference"), [pair for table in TABLES for pair in table.REFUSED])
def test_earns_nothing(prediction: str, reference: str) -> None:
    assert grade_math(prediction, reference).reward == 0.0
