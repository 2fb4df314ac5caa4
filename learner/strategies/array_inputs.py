"""Validates the arguments of `strategy_value` and `group_advantages` and converts them to arrays."""

from __future__ import annotations

import difflib
import operator
from typing import Any

import numpy as np

from learner.strategies.registry import CORRECT, DEFAULT_SUBSETS, STRATEGIES, UNPARSABLE, AnswerGroups, Strategy

IN_PLUGINS = "for your own, name its file in plugins"  # ends the message about an unknown name
_NEVER_OVERFLOWS = 1e100  # rewards below it stay finite in bonrl's own strategies and estimators


def as_count(name: str, value: Any) -> int:
    """A Python int >= 1. NumPy integers are converted, because products of binomials would silently overflow them."""
    try:
        count = operator.index(value)
    except TypeError:
        count = 0
    if isinstance(value, bool) or count < 1:
        raise ValueError(f"{name} must be an integer >= 1, got {value!r}")
    return count


def check_strategy(name: str, k: int) -> Strategy:
    """The strategy of that name; ValueError if there is none, or if it is not defined for this k."""
    found, k = look_up("strategy", name, STRATEGIES), as_count("k", k)
    only = found.only_k
    if only is not None and k != only:
        raise ValueError(f"k = {k} does not fit strategy '{name}', which is defined for k = {only}; set k = {only}")
    return found


def look_up(what: str, name: Any, known: dict[str, Any]) -> Any:
    """The registered entry of that name; ValueError with the nearest name if there is none."""
    if not isinstance(name, str):
        raise ValueError(f"{what} must be a name, got {name!r}. Known: {', '.join(sorted(known))}")
    if name not in known:
        close = difflib.get_close_matches(name, list(known), n=1)
        hint = f"; did you mean '{close[0]}'?" if close else "."
        names = ", ".join(sorted(known))
        raise ValueError(f"{what} '{name}' is unknown{hint} Known: {names}; {IN_PLUGINS}")
    return known[name]


def make_group(
    rewards: Any,
    scores: Any,
    answers: Any,
    correct: Any,
    strategy: Strategy,
    subsets: int = DEFAULT_SUBSETS,
    *,
    responses: Any = None,
) -> AnswerGroups:
    """Validated arrays [G, n]. Inputs that the strategy does not use are checked for their shape and left out."""
    rewards_GN, shape = _matrix("rewards", rewards)
    if strategy.count_value is not None and not np.isin(rewards_GN, (0.0, 1.0)).all():
        raise ValueError(f"rewards must be 0 or 1 for strategy '{strategy.name}'; max_at_k takes any reward")
    for name, given in (("scores", scores), ("answers", answers), ("correct", correct), ("responses", responses)):
        if given is None and name in strategy.required_inputs:
            raise ValueError(f"{name} is missing: strategy '{strategy.name}' selects by it")
    scores_GN = None if scores is None else like_rewards("scores", scores, shape)
    rows = None if answers is None else _answer_rows("answers", answers, shape)
    written = None if responses is None else _answer_rows("responses", responses, shape)
    rights = None if correct is None else _right_answers(correct, shape)
    if isinstance(correct, tuple) and len(shape) == 1 and rows and not any(isinstance(a, tuple) for a in rows[0]):
        raise ValueError(f"correct is a tuple, {correct!r}, but no answer is: pass the right answer itself")
    labels_GN = None
    if rows is not None and "answers" in strategy.required_inputs:
        _refuse_flags(rights or [], rows)
        _refuse_other_kinds(rights or [], rows)
        labels_GN = np.array([_labels(row, rights and rights[g : g + 1]) for g, row in enumerate(rows)])
    responses_GN = None
    if written is not None and "responses" in strategy.inputs:
        responses_GN = np.array([_response_labels(row) for row in written])
    return AnswerGroups(
        rewards_GN,
        scores_GN if "scores" in strategy.required_inputs else None,
        labels_GN,
        as_count("subsets", subsets),
        responses_GN,
    )


def like_rewards(name: str, values: Any, shape: tuple[int, ...]) -> np.ndarray:
    """float64[G, n] of an argument that must have the shape of rewards."""
    matrix_GN, own = _matrix(name, values)
    if own != shape:
        raise ValueError(f"{name} has shape {own}, rewards has {shape}")
    return matrix_GN


def finite(name: str, values: np.ndarray, rewards: np.ndarray, ratios: np.ndarray | None = None) -> np.ndarray:
    """`values` unchanged; ValueError if the arithmetic on finite arguments has overflowed, or a strategy or estimator
    of the user gave NaN or infinity.
    """
    if np.isfinite(values).all():
        return values
    if ratios is not None and ratios.max() > np.abs(rewards).max():
        raise ValueError(f"{name} overflowed float64: ratios reach {ratios.max():.3g}; truncate them with ratio_cap")
    reach = np.abs(rewards).max()
    if reach < _NEVER_OVERFLOWS:
        raise ValueError(
            f"{name} contains NaN or infinity, and the rewards (at most {reach:.3g} in magnitude) do not cause it: "
            "correct the function of the strategy or estimator"
        )
    raise ValueError(f"{name} overflowed float64: rewards reach {reach:.3g} in magnitude; scale the rewards down")


def _matrix(name: str, values: Any) -> tuple[np.ndarray, tuple[int, ...]]:
    """Finite numbers as float64[G, n], and the shape in which they were given."""
    array = as_numbers(name, values)
    if array.ndim not in (1, 2) or array.size == 0:
        raise ValueError(f"{name} must be a non-empty array of shape [n] or [groups, n], got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} contains NaN or infinity; leave such samples out (a failed verifier gives no score)")
    return np.atleast_2d(array), array.shape


def as_numbers(name: str, values: Any) -> np.ndarray:
    """float64 of any shape; ValueError for anything but real numbers: text and masked arrays, for example."""
    _refuse_masked(name, values)
    if hasattr(values, "detach"):  # a tensor of any precision, on any device
        values = values.detach().tolist()
    try:
        array = np.asarray(values)
        texts = array.dtype.kind == "O" and any(isinstance(value, str | bytes | complex) for value in array.flat)
        if texts or array.dtype.kind not in "biufO":
            raise TypeError(f"they are of type {array.dtype}")  # NumPy would parse text and drop imaginary parts
        return array.astype(np.float64)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise ValueError(f"{name} must be numbers: {error}") from error


def _refuse_masked(name: str, values: Any) -> None:
    rows = values if isinstance(values, list | tuple) else ()
    if any(isinstance(part, np.ma.MaskedArray) for part in (values, *rows)):
        raise ValueError(f"{name} is a masked array, whose mask would be lost; remove the masked samples")


def _answer_rows(name: str, answers: Any, shape: tuple[int, ...]) -> list[list[Any]]:
    """The answers or responses of each group; ValueError unless they have the shape of rewards."""
    wanted = f"{name} must have the shape of rewards, {list(shape)}"
    outer = _items(name, answers, wanted)
    rows = [outer] if len(shape) == 1 else [_items(name, row, wanted) for row in outer]
    if len(shape) == 2 and len(rows) != shape[0] or any(len(row) != shape[-1] for row in rows):
        raise ValueError(wanted)
    return rows


def _right_answers(correct: Any, shape: tuple[int, ...]) -> list[Any]:
    """The right answer of each group. For a single group it may be given alone or in a list of one."""
    if len(shape) == 1 and not _is_list(correct):
        return [_plain(correct)]
    groups = 1 if len(shape) == 1 else shape[0]
    wanted = f"correct must be one answer for each of the {groups} groups"
    rights = _items("correct", correct, wanted)
    if len(rights) != groups:
        raise ValueError(f"{wanted}, got {len(rights)}")
    return rights


def _refuse_flags(rights: list[Any], rows: list[list[Any]]) -> None:
    """ValueError if `correct` is a flag but the answers are not: it must be the right answer, not whether one is."""
    flags = [right for right in rights if isinstance(right, bool | np.bool_)]
    if flags and not all(answer is None or answer in (False, True) for row in rows for answer in row):
        raise ValueError(f"correct is {flags[0]}, but the answers are not true or false: pass the right answer itself")


def _refuse_other_kinds(rights: list[Any], rows: list[list[Any]]) -> None:
    """ValueError if all answers are text and `correct` is a number, or the reverse: none could ever be equal to it."""
    kinds = {_kind(answer) for row in rows for answer in row if answer is not None}
    for right in rights:
        if len(kinds) == 1 and kinds | {_kind(right)} == {"text", "a number"} and right == right:
            raise ValueError(
                f"correct is {right!r}, {_kind(right)}, but every answer is {kinds.pop()}: give both the same type"
            )


def _kind(answer: Any) -> str:
    if isinstance(answer, str):
        return "text"
    return "a number" if isinstance(answer, int | float | np.number) else "other"


def _is_list(values: Any) -> bool:
    """Whether `values` are several answers. For a single group, a tuple is one answer."""
    return isinstance(values, list | np.ndarray) or (hasattr(values, "detach") and values.ndim > 0)


def _items(name: str, values: Any, wanted: str) -> list[Any]:
    _refuse_masked(name, values)
    values = _plain(values.tolist() if isinstance(values, np.ndarray) else values)
    if not isinstance(values, list | tuple):
        raise ValueError(f"{wanted}, as a list or an array; got {values!r}")
    return [_plain(value) for value in values]


def _plain(value: Any) -> Any:
    """Tensors as Python numbers, because the hash of a tensor is its identity."""
    return value.tolist() if hasattr(value, "detach") else value


def _response_labels(row: list[Any]) -> list[int]:
    """Integer labels of one group's responses: equal ones have equal labels."""
    known: dict[Any, int] = {}
    for response in row:
        _check_hashable("responses", response)
    return [known.setdefault(response, len(known)) for response in row]


def _labels(row: list[Any], rights: list[Any] | None) -> list[int]:
    """Integer labels of one group's answers: equal answers have equal labels. `rights`: the right one, if given."""
    known: dict[Any, int] = {None: UNPARSABLE}
    for right in rights or ():
        _check_answer("correct", right)
        if right is None:
            raise ValueError("correct contains None, which means unparsable; give the right answer of each group")
        known[right] = CORRECT
    for answer in row:
        _check_answer("answers", answer)
    return [known.setdefault(answer, len(known)) for answer in row]


def _check_answer(name: str, answer: Any) -> None:
    _check_hashable(name, answer)
    if answer != answer:
        raise ValueError(f"{name} contains NaN, which equals nothing; use None for an unparsable answer")


def _check_hashable(name: str, value: Any) -> None:
    try:
        hash(value)
    except TypeError as error:
        raise ValueError(f"{name} must be hashable (strings, numbers): {error}") from error
