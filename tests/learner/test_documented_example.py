"""The strategy that docs/objectives.md adds works unchanged, and is unbiased under every exact estimator."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cluster.config.settings import EvaluationSettings
from learner import strategy_curve
from learner.strategies import STRATEGIES
from tests.learner import tabular, test_unbiased


def test_the_documented_strategy_is_unbiased(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (repository / "docs" / "objectives.md").read_text()
    (code,) = re.findall(r"```python\n(# learner/strategies/second_best.py\n.*?)```", page, re.DOTALL)
    (case,) = re.findall(r"`\"second best\":\s+(\(dict.*\))`\)", page)
    assert len(code.splitlines()) < 30
    try:
        exec(compile(code, "second_best.py", "exec"), {})
        monkeypatch.setitem(tabular.CASES, "second best", eval(case, vars(tabular)))
        for n in (3, 4):
            test_unbiased.check_every_unbiased_estimator("second best", n)
        strategy_curve([[0.0, 1.0, 0.0, 0.5]] * 2, strategy="second_best")
        assert EvaluationSettings(strategies=["second_best"]).strategies == ("second_best",)
    finally:
        STRATEGIES.pop("second_best", None)
