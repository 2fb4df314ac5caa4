"""What a user's reward may return, and how it becomes a `Verdict`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

from verifiers.verdict import Status, Verdict

FORMS = "a number, True or False, a dict of named parts, or a Verdict"
_MAX_ANSWER = 2000  # characters of an extracted answer that are kept


class ResultError(ValueError):
    """A reward returned an unsupported value. The message follows the reward's name."""


@dataclass(frozen=True, slots=True)
class Grading:
    """How results become verdicts.

    Attributes:
        weights: ``task.reward_weights``.
        correct_at: ``task.reward_correct_at``.
        takes_parts: Whether a result may consist of weighted parts; that of a scorer may not.
    """

    weights: Mapping[str, float]
    correct_at: float = 1.0
    takes_parts: bool = True

    def verdict(self, value: Any) -> Verdict:
        """The verdict of one result.

        Raises:
            ResultError: It is not a reward.
        """
        value = _plain(value)
        if isinstance(value, Verdict):
            return _plain_verdict(value)
        if isinstance(value, bool):
            return Verdict.binary(Status.CORRECT if value else Status.WRONG)
        if isinstance(value, Mapping):
            return self._of_parts(value)
        return self._of_number(_number(value, "", FORMS))

    def _of_number(self, reward: float, correct: bool | None = None, **fields: Any) -> Verdict:
        right = reward >= self.correct_at if correct is None else correct
        return Verdict(Status.CORRECT if right else Status.WRONG, reward=reward, score=reward, **fields)

    def _of_parts(self, result: Mapping[Any, Any]) -> Verdict:
        """``answer`` is the extracted answer, for votes. Without weights ``score`` is the reward, as in verl."""
        answer = result.get("answer")
        if not isinstance(answer, str | None):
            raise ResultError(f"gave an answer of type {type(answer).__name__}; 'answer' is the extracted text or None")
        values = {name: _plain(value) for name, value in result.items() if name != "answer"}
        for name in values:
            if not (isinstance(name, str) and name.isidentifier()):
                raise ResultError(f"named a part {name!r}; the name of a part must be like the name of a variable")
        whole = not self.weights and "score" in values
        if whole:  # of the rest, texts and lists are notes
            values = {name: value for name, value in values.items() if name == "score" or _is_number(value)}
        parts = {name: _part(name, value) for name, value in values.items()}
        reward = parts.pop("score") if whole else self._weighted(parts)
        correct = bool(parts["correct"]) if "correct" in parts else None
        answer = answer if answer is None else answer[:_MAX_ANSWER]
        return self._of_number(reward, correct, answer=answer, parts=parts)

    def _weighted(self, parts: Mapping[str, float]) -> float:
        if not parts:
            raise ResultError(f"returned a dict without parts; return {FORMS}")
        if not self.takes_parts:
            raise ResultError(f"returned the parts {', '.join(parts)}; a score is a number, or a dict with 'score'")
        without = [name for name in parts if name not in self.weights]
        if without and not self.weights:
            example = ", ".join(f"{name}: 1.0" for name in parts)
            raise ResultError(
                f"returned the parts {', '.join(parts)}, but task.reward_weights is not set; set it, for example "
                f"{{{example}}} (a weight of 0 only records a part)"
            )
        if without:
            raise ResultError(
                f"returned the part {without[0]!r}, which has no weight; add it to task.reward_weights (0 only records "
                "it)"
            )
        missing = [name for name in self.weights if name not in parts]
        if missing:
            raise ResultError(
                f"returned no part {missing[0]!r}, which task.reward_weights names; it returned {', '.join(parts)}"
            )
        reward = sum(self.weights[name] * value for name, value in parts.items())
        return _number(reward, " as the weighted sum of the parts", "smaller parts")


def listed(result: Any, n: int) -> list[Any]:
    """The results of a batch of n answers: a list, an array, a dict of lists, or a dict with a list ``rewards``.

    Raises:
        ResultError: It is not such a result, or has another length.
    """
    if isinstance(result, Mapping):
        if "rewards" in result:  # as in OpenRLHF
            return listed(result["rewards"], n)
        columns = {name: listed(values, n) for name, values in result.items()}
        return [{name: values[i] for name, values in columns.items()} for i in range(n)] if columns else _wrong(result)
    if not isinstance(result, str | bytes) and hasattr(result, "tolist"):  # an array or a tensor
        result = result.tolist()
    if not isinstance(result, Sequence) or isinstance(result, str | bytes):
        return _wrong(result)
    if len(result) != n:
        raise ResultError(f"returned a list of {len(result)} for {n} responses; return one for each, in the same order")
    return list(result)


def _wrong(result: Any) -> list[Any]:
    hint = "; is a return statement missing?" if result is None else ""
    raise ResultError(f"returned {_shown(result)} for a batch; return a list with one result for each response{hint}")


def _plain(value: Any) -> Any:
    """NumPy's and torch's scalars as Python's."""
    if not isinstance(value, bool | int | float | str | Verdict | Mapping) and hasattr(value, "item"):
        try:
            return value.item()
        except (TypeError, ValueError, RuntimeError):
            return value  # more than one element
    return value


def _plain_verdict(verdict: Verdict) -> Verdict:
    """A Verdict that the user's code returned, checked and with fields of the declared types."""
    if verdict.status not in list(Status):
        raise ResultError(f"gave a Verdict of status {verdict.status!r}; choose one of {', '.join(Status)}")
    for name in ("answer", "detail"):
        if not isinstance(getattr(verdict, name), str | None):
            raise ResultError(f"gave a Verdict whose {name} is {_shown(getattr(verdict, name))}; it must be text")
    if not isinstance(verdict.parts, Mapping):
        raise ResultError(f"gave a Verdict whose parts are {_shown(verdict.parts)}; they must be a dict")
    return replace(
        verdict,
        status=Status(verdict.status),
        reward=_number_of(verdict, "reward"),
        score=_number_of(verdict, "score"),
        weak=bool(verdict.weak),
        detail=verdict.detail or "",
        parts={str(name): _part(name, value) for name, value in verdict.parts.items()},
    )


def _number_of(verdict: Verdict, field: str) -> float | None:
    value = getattr(verdict, field)
    return None if value is None else _number(_plain(value), f" as the {field} of a Verdict", "a number")


def _part(name: Any, value: Any) -> float:
    return _number(_plain(value), f" for the part {name!r}", "a number, True or False")


def _is_number(value: Any) -> bool:
    return isinstance(value, bool | int | float) and _is_finite(value)


def _is_finite(value: float) -> bool:
    try:
        return isfinite(value)
    except OverflowError:  # an integer that no float holds
        return False


def _number(value: Any, what: str, forms: str) -> float:
    if not isinstance(value, bool | int | float):
        hint = "; is a return statement missing?" if value is None else ""
        raise ResultError(f"returned {_shown(value)}{what}; return {forms}{hint}")
    if not _is_finite(value):
        raise ResultError(f"returned {_shown(value)}{what}, which is not a finite number")
    return float(value)


def _shown(value: Any) -> str:
    text = "None" if value is None else f"{type(value).__name__} {value!r}"
    return text if len(text) <= 80 else f"{text[:77]}..."


def to_json(verdict: Verdict) -> dict[str, Any]:
    """A verdict as JSON types."""
    names = ("reward", "score", "answer", "seconds", "detail", "weak")
    fields = {name: getattr(verdict, name) for name in names}
    return {"status": str(verdict.status), "parts": dict(verdict.parts), **fields}


def from_json(fields: Mapping[str, Any]) -> Verdict:
    """The verdict that `to_json` wrote."""
    return Verdict(**{**fields, "status": Status(fields["status"])})


def json_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row's columns as JSON types; other types (dates, bytes) become text, and NaN and infinity null."""
    return dict(json.loads(json.dumps(dict(row), default=str), parse_constant=lambda _: None))
