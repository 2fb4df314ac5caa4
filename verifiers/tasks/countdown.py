"""Countdown: use each given number exactly once, with + - * / and parentheses, to reach the target.

A prompt reads ``3,7,9,12=24:``, numbers in ascending order, and a right response is an expression such as
``12+7*3-9`` and nothing else. A seeded generator starts from random expressions, so every problem
has a solution. The splits are disjoint: the split of a problem is a hash of its numbers and target and depends neither
on ``task.seed`` nor on the difficulty mix, so no setting moves a test problem into training.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from verifiers.settings import TaskSettings
from verifiers.task import Prompt, check_split
from verifiers.verdict import Status, Verdict

Key = tuple[tuple[int, ...], int]
"""Identifies a problem: its numbers in ascending order, and the target."""

MAX_RESPONSE_CHARS = 128
"""A longer response is unparsable. Four numbers with all parentheses take under 40."""

MAX_DEPTH = 16
"""Deeper nesting is unparsable: far above any use of four numbers, far below Python's recursion limit."""

MAX_DIGITS = 9
"""Longer numerals are rejected before they are converted to integers."""

MAX_TARGET = 99
DEFAULT_SIZES = {"train": 8192, "validation": 512, "test": 1024}


@dataclass(frozen=True, slots=True)
class Level:
    """A difficulty level: how many numbers, and their range. ``above``: the largest number must exceed it."""

    count: int
    high: int
    above: int = 0


LEVELS: dict[str, Level] = {
    "easy": Level(count=3, high=12),
    "medium": Level(count=3, high=30, above=12),
    "hard": Level(count=4, high=12),
}


# --- The verifier ---------------------------------------------------------------------------------


class ExpressionError(ValueError):
    """The text is not an arithmetic expression of this task."""


_TOKEN = re.compile(r" *([0-9]+|[-+*/()])", re.ASCII)


def tokenize(text: str) -> list[str]:
    """Split an expression into numerals, operators and parentheses; ASCII only, spaces allowed between them.

    Raises:
        ExpressionError: Too long, or an unexpected character.
    """
    if len(text) > MAX_RESPONSE_CHARS:
        raise ExpressionError(f"longer than {MAX_RESPONSE_CHARS} characters")
    text = text.strip(" \n")
    tokens: list[str] = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise ExpressionError(f"unexpected character {text[position]!r}")
        tokens.append(match.group(1))
        position = match.end()
    return tokens


class _Parser:
    """Recursive descent.

        sum = product {(+|-) product};  product = atom {(*|/) atom};  atom = numeral | (sum)

    Without unary signs, exponents and juxtaposition, the only numbers are those written out.
    """

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.position = 0
        self.depth = 0
        self.numbers: list[int] = []

    def peek(self) -> str:
        return self.tokens[self.position] if self.position < len(self.tokens) else ""

    def take(self) -> str:
        token = self.peek()
        self.position += 1
        return token

    def sum(self) -> Fraction | None:
        value = self.product()
        while self.peek() in ("+", "-"):
            operator, right = self.take(), self.product()
            if value is not None:
                value = None if right is None else value + right if operator == "+" else value - right
        return value

    def product(self) -> Fraction | None:
        value = self.atom()
        while self.peek() in ("*", "/"):
            operator, right = self.take(), self.atom()
            if value is None or right is None or (operator == "/" and right == 0):
                value = None
            else:
                value = value * right if operator == "*" else value / right
        return value

    def atom(self) -> Fraction | None:
        token = self.take()
        if token == "(":
            self.depth += 1
            if self.depth > MAX_DEPTH:
                raise ExpressionError(f"parentheses nested deeper than {MAX_DEPTH}")
            value = self.sum()
            if self.take() != ")":
                raise ExpressionError("unbalanced parentheses")
            self.depth -= 1
            return value
        if not token.isdigit():
            raise ExpressionError(f"expected a number or '(' and found {token or 'the end'!r}")
        if len(token) > MAX_DIGITS or (token[0] == "0" and token != "0"):
            raise ExpressionError("a number is too long or starts with 0")
        self.numbers.append(int(token))
        return Fraction(int(token))


def evaluate(text: str) -> tuple[Fraction | None, tuple[int, ...]]:
    """Value and numbers of an expression, exactly.

    Args:
        text: An expression in ASCII digits, ``+ - * / ( )`` and spaces.

    Returns:
        The value (None if it divides by zero) and the numbers in ascending order, with repetition.

    Raises:
        ExpressionError: ``text`` is not such an expression.
    """
    parser = _Parser(tokenize(text))
    value = parser.sum()
    if parser.position != len(parser.tokens):
        raise ExpressionError(f"unexpected {parser.peek()!r} after the expression")
    return value, tuple(sorted(parser.numbers))


def grade(response: str, numbers: Sequence[int], target: int) -> Verdict:
    """Grade a whole response, which must be one expression and nothing else.

    Args:
        response: The model's text, without special tokens.
        numbers: The numbers to use, each exactly once.
        target: The value to reach.
    """
    start = time.perf_counter()
    try:
        value, used = evaluate(response)
    except ExpressionError as error:
        return Verdict.binary(Status.UNPARSABLE, seconds=time.perf_counter() - start, detail=str(error))
    answer = response.replace(" ", "").strip()
    if used != tuple(sorted(numbers)):
        status, detail = Status.WRONG, f"uses {list(used)} and not {sorted(numbers)}"
    elif value is None:
        status, detail = Status.WRONG, "divides by zero"
    elif value != target:
        status, detail = Status.WRONG, f"gives {value} and not {target}"
    else:
        status, detail = Status.CORRECT, ""
    return Verdict.binary(status, answer=answer, seconds=time.perf_counter() - start, detail=detail)


# --- The generator --------------------------------------------------------------------------------

DRAWS = 20_000
"""So many problems are drawn in search of a new one; then the level has too few."""

_RANK = {"+": 1, "-": 1, "*": 2, "/": 2}


@dataclass(frozen=True, slots=True)
class _Term:
    """A subexpression: its text, its value, and how tightly its top operator binds (3 for a numeral)."""

    text: str
    value: int
    rank: int


def _combine(left: _Term, operator: str, right: _Term) -> _Term | None:
    """Join two subexpressions with few parentheses; None if the value is not a positive integer."""
    rank = _RANK[operator]
    if operator == "+":
        value = left.value + right.value
    elif operator == "-":
        value = left.value - right.value
    elif operator == "*":
        value = left.value * right.value
    else:
        value = left.value // right.value if left.value % right.value == 0 else 0
    if value <= 0:
        return None
    left_text = f"({left.text})" if left.rank < rank else left.text
    tight = right.rank < rank or (right.rank == rank and operator in "-/")
    right_text = f"({right.text})" if tight else right.text
    return _Term(left_text + operator + right_text, value, rank)


def _random_expression(numbers: Sequence[int], rng: random.Random) -> _Term | None:
    """Join the numbers in random order by random operators; None if a value is not a positive integer."""
    terms = [_Term(str(number), number, 3) for number in numbers]
    while len(terms) > 1:
        left = terms.pop(rng.randrange(len(terms)))
        right = terms.pop(rng.randrange(len(terms)))
        joined = _combine(left, rng.choice("+-*/"), right)
        if joined is None:
            return None
        terms.append(joined)
    return terms[0]


def draw_problem(level: str, rng: random.Random) -> tuple[Key, str]:
    """One random problem of a level with one of its solutions.

    Returns:
        The key (numbers ascending, target of 1 to 99), and an expression that solves it.
    """
    shape = LEVELS[level]
    while True:
        numbers = [rng.randint(1, shape.high) for _ in range(shape.count)]
        if max(numbers) <= shape.above:
            continue
        term = _random_expression(numbers, rng)
        if term is not None and term.value <= MAX_TARGET:
            return (tuple(sorted(numbers)), term.value), term.text


def _wrong_solution(key: Key, rng: random.Random) -> str:
    """An expression with the right numbers that misses the target."""
    numbers, target = key
    while True:
        term = _random_expression(numbers, rng)
        if term is not None and term.value != target:
            return term.text


def split_of(key: Key) -> str:
    """The split of a problem, fixed for all releases: 80 % train, 10 % validation, 10 % test, by a hash of its key."""
    numbers, target = key
    text = ",".join(map(str, numbers)) + f"={target}"
    bucket = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % 10
    return {0: "test", 1: "validation"}.get(bucket, "train")


def prompt_text(numbers: Sequence[int], target: int) -> str:
    """The prompt, short because every character is a token: ``3,7,12=24:``."""
    return ",".join(map(str, numbers)) + f"={target}:"


def _as_prompt(name: str, key: Key, level: str, demonstration: str | None = None) -> Prompt:
    return Prompt(name, prompt_text(*key), {"numbers": list(key[0]), "target": key[1]}, level, demonstration)


def _some_problems(level: str, split: str, rng: random.Random) -> Iterator[tuple[Key, str]]:
    """Problems of one level and split, with repetition; finite, so that a search for new ones terminates."""
    for _ in range(DRAWS):
        key, solution = draw_problem(level, rng)
        if split_of(key) == split:
            yield key, solution


class Countdown:
    """The task. See the module's docstring for the problems and ``grade`` for the rules."""

    name = "countdown"

    def __init__(self, settings: TaskSettings) -> None:
        self.settings = settings
        self._cache: dict[str, list[Prompt]] = {}

    def _level(self, rng: random.Random) -> str:
        names = list(LEVELS)
        weights = [getattr(self.settings.difficulty, name) for name in names]
        return rng.choices(names, weights)[0]

    def prompts(self, split: str) -> Sequence[Prompt]:
        """Distinct problems of a split, in a fixed order. See ``Task.prompts``."""
        check_split(split)
        if split not in self._cache:
            size = getattr(self.settings, f"{split}_size") or DEFAULT_SIZES[split]
            self._cache[split] = self._make(split, size)
        return self._cache[split]

    def _make(self, split: str, size: int) -> list[Prompt]:
        rng = random.Random(f"countdown/{split}/{self.settings.seed}")
        prompts: dict[Key, Prompt] = {}
        for _ in range(size):
            # The level is fixed while searching for a new problem, so all splits have the same mix.
            level = self._level(rng)
            found = next(((k, s) for k, s in _some_problems(level, split, rng) if k not in prompts), None)
            if found is None:
                raise ValueError(
                    f"task.{split}_size is {size}, but level {level} has too few distinct problems for its "
                    f"share of the {split} split; lower task.{split}_size or task.difficulty.{level}"
                )
            key, solution = found
            name = f"countdown/{split}/" + prompt_text(*key).rstrip(":")
            prompts[key] = _as_prompt(name, key, level, solution if split == "train" else None)
        return list(prompts.values())

    def verify(self, prompt: Prompt, response: str) -> Verdict:
        """Grade one response; see ``grade``."""
        return grade(response, prompt.reference["numbers"], prompt.reference["target"])

    def expert_solutions(self, seed: int) -> Iterator[tuple[Prompt, str]]:
        """Endless problems of the train split with a solution each, for imitation learning.

        A problem may be repeated with another solution; validation and test problems are excluded. With ``task.slips``
        above 0, that share of the solutions is wrong: the numbers are right, the value is not.
        """
        rng = random.Random(f"countdown/expert/{self.settings.seed}/{seed}")
        for index in itertools.count():
            level = self._level(rng)
            key, solution = next(_some_problems(level, "train", rng))
            if rng.random() < self.settings.slips:
                solution = _wrong_solution(key, rng)
            yield _as_prompt(f"countdown/expert/{seed}/{index}", key, level), solution
