"""``grade_math``: extraction, then the exact path, then (rarely) the symbolic path in its own process."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, replace
from fractions import Fraction

from verifiers.mathematics import deadline
from verifiers.mathematics.answers.extraction import (
    Extraction,
    boxes,
    extract,
    has_tag,
    is_bare_answer,
    without_emphasis,
)
from verifiers.mathematics.comparison import numeric, quantities
from verifiers.mathematics.comparison.compare import SCALARS, Comparison
from verifiers.mathematics.comparison.numerals import is_unreduced
from verifiers.mathematics.comparison.numeric import Evaluator, Undefined, variables
from verifiers.mathematics.comparison.rewriting import simplify_relation
from verifiers.mathematics.parsing import units
from verifiers.mathematics.parsing.answer import (
    ParsedAnswer,
    choice,
    decimal_comma,
    exceeded_limit,
    parse_answer,
    unwrap_text,
)
from verifiers.mathematics.parsing.normalization import normalize, without_spaces
from verifiers.mathematics.parsing.syntax import MAX_ANSWER_CHARS, MAX_DIGITS, Node, Unsupported, number
from verifiers.mathematics.policy import DEFAULT_POLICY, MathPolicy
from verifiers.mathematics.symbolic import host
from verifiers.mathematics.symbolic.value_parts import value_parts
from verifiers.reasoning import after_reasoning
from verifiers.verdict import Status, Verdict


def prepare() -> str:
    """Load what grading needs and start a host for the symbolic path, so that no answer waits for it.

    Returns:
        One line for the log.

    Raises:
        HostError: The host does not start.
    """
    started = time.perf_counter()
    prepare_exact()
    host.shared().warm()
    return f"math grader: ready after {time.perf_counter() - started:.1f} s"


def prepare_exact() -> None:
    """Load the arbitrary-precision arithmetic of this thread before the time of an answer begins."""
    numeric.context()


@dataclass(frozen=True, slots=True)
class _Decision:
    """Result of the exact path: ``right`` is None if only the symbolic path can decide."""

    right: bool | None
    detail: str = ""


def grade_math(
    prediction: str,
    reference: str,
    *,
    timeout_s: float = 5.0,
    policy: MathPolicy = DEFAULT_POLICY,
    question: str | None = None,
) -> Verdict:
    r"""Grade a mathematical answer against a reference.

    Args:
        prediction: A whole response (with ``\boxed{}``, "the answer is ...", or neither) or a bare answer.
        reference: The right answer; LaTeX or plain text.
        timeout_s: Deadline of the whole comparison in seconds of wall time. The exact path usually takes
            well under a millisecond. The start of the verifier (loading libraries, starting or waiting for a host
            process) does not count; ``prepare`` does it in advance.
        policy: Options on which graders legitimately disagree.
        question: The problem's text. An answer that only repeats an expression of it is then wrong, unless it
            is the reference.

    Returns:
        A verdict; ``answer`` is the extracted answer in canonical form. ``unparsable``: no answer was found, or
        it exceeds a limit. ``timeout`` and ``crash``: comparing the answer exceeded the deadline or the memory.
        ``verifier_error``: the reference is empty, or the host process failed twice.
    """
    prepare_exact()
    started = time.perf_counter()
    try:
        with deadline.within(timeout_s):
            return _grade(prediction, reference, policy, question, started)
    except deadline.DeadlineExceeded:
        return _verdict(Status.TIMEOUT, None, started, f"no verdict within {timeout_s:g} s")


def _grade(prediction: str, reference: str, policy: MathPolicy, question: str | None, started: float) -> Verdict:
    found = extract(prediction, prose=policy.prose)
    truth = _reference_text(reference)
    if not normalize(truth):
        return Verdict.failed("the reference is empty", seconds=time.perf_counter() - started)
    answer, problem = _select_candidate(found, policy)
    if answer is None:
        return _verdict(Status.UNPARSABLE, None, started, problem)
    problem = exceeded_limit(answer)
    if problem:
        return _verdict(Status.UNPARSABLE, None, started, problem)
    if not normalize(answer):
        return _verdict(Status.UNPARSABLE, None, started, "the answer is empty")
    ours, theirs = _parse_answer(answer, policy), _parse_reference(truth, policy)
    if found.source == "phrase" and (exclaimed := _EXCLAIMED.fullmatch(answer)) is not None:
        ours = _with_exclamation(ours, _parse_answer(exclaimed[1], policy))
    spelling = canonical(ours, answer)
    decision = _decide(answer, truth, ours, theirs, policy)
    if question is not None and decision.right is not False and _copies_question(ours, theirs, question):
        return _verdict(Status.WRONG, spelling, started, "the answer repeats an expression of the question")
    if decision.right is not None:
        return _verdict(Status.CORRECT if decision.right else Status.WRONG, spelling, started, decision.detail)
    return _symbolic(ours, theirs, spelling, started)


_EXCLAIMED = re.compile(r"\s*(-?\d[\d,]{0,30}(?:\.\d{1,30})?%?)\s?!{1,3}[^\w!]{0,8}")


def _with_exclamation(factorial: ParsedAnswer, value: ParsedAnswer) -> ParsedAnswer:
    """What "The answer is 42!" may mean: the factorial, as in a formula, or the number with an exclamation mark."""
    if factorial.node is None or value.node is None:
        return value
    return replace(factorial, alternatives=(*factorial.alternatives, value.node))


def _verdict(status: Status, answer: str | None, started: float, detail: str = "") -> Verdict:
    return Verdict.binary(status, answer=answer, seconds=time.perf_counter() - started, detail=detail)


def _parse_answer(text: str, policy: MathPolicy) -> ParsedAnswer:
    return parse_answer(text, keep_case=policy.letter_case)


def _reference_text(reference: str) -> str:
    """The answer in a reference, extracted as from a prediction; all of it if it is bare or announces nothing."""
    reference = after_reasoning(reference) or reference
    found = boxes(reference)
    if found:
        return ", ".join(dict.fromkeys(found))
    if is_bare_answer(reference) and not has_tag(reference):
        return without_emphasis(reference)
    answer = extract(reference, prose="$" in reference).candidates
    return answer[-1] if answer else reference


MAX_DISTINCT = 16
"""More different boxes than this are rejected, because they are compared pair by pair."""


def _select_candidate(found: Extraction, policy: MathPolicy) -> tuple[str | None, str]:
    """The candidate to grade: several different boxes become a list, or the last one counts (``policy.boxes``)."""
    if not found.candidates:
        return None, found.detail
    if len(found.candidates) == 1 or policy.boxes == "last":
        return found.candidates[-1], ""
    distinct: dict[str, str] = {}
    for candidate in found.candidates:
        if exceeded_limit(candidate):
            return None, "a box exceeds the size limits"
        key = without_spaces(normalize(candidate))
        distinct.setdefault(key, candidate)
    if len(distinct) == 1:
        return found.candidates[-1], ""
    if len(distinct) > MAX_DISTINCT or sum(map(len, distinct.values())) > MAX_ANSWER_CHARS:
        return None, f"more than {MAX_DISTINCT} different boxes, or {MAX_ANSWER_CHARS} characters in them"
    # A placeholder such as \boxed{?} or \boxed{answer} next to a formula is not a second answer; words in \text are.
    parsed_answers = {candidate: _parse_answer(candidate, policy) for candidate in distinct.values()}
    last = parsed_answers[distinct[without_spaces(normalize(found.candidates[-1]))]]
    if not last.is_text:
        kept = [
            candidate
            for candidate, parsed in parsed_answers.items()
            if parsed.node is not None or parsed.symbolic or (parsed.words and "\\text" in normalize(candidate))
        ]
    else:
        kept = list(parsed_answers)
    merged: list[str] = []
    for candidate in kept:
        if not any(
            _decide(candidate, other, parsed_answers[candidate], parsed_answers[other], policy).right
            for other in merged
        ):
            merged.append(candidate)
    return (merged[0] if len(merged) == 1 else ", ".join(merged)), ""


def _decide(answer: str, truth: str, ours: ParsedAnswer, theirs: ParsedAnswer, policy: MathPolicy) -> _Decision:
    """The exact path."""
    if without_spaces(normalize(answer)) == without_spaces(normalize(truth)):
        return _Decision(True)
    named = quantities.same_named_counts(*(unwrap_text(normalize(text)) for text in (answer, truth)))
    if named is not None:
        return _Decision(named, "compared by what is counted")
    several = any(node is not None and node.kind == "list" for node in (ours.node, theirs.node))
    conflict, ratio = quantities.compare_units(ours.unit, theirs.unit, policy, several=several)
    if conflict:
        return _Decision(False, conflict)
    if theirs.counted or ours.counted:
        clash = quantities.counts_differ(ours, theirs)
        if clash:
            return _Decision(False, clash)
    if quantities.is_percent_of_quantity(ours, theirs) or quantities.is_percent_of_quantity(theirs, ours):
        return _Decision(False, "a percentage is not a quantity")
    chosen = _decide_choice(answer, truth, theirs, policy)
    if chosen is not None:
        return chosen
    if theirs.node is not None and theirs.node.kind == "based" and policy.base_optional:
        if without_spaces(ours.text).upper() == theirs.node.value[0]:
            return _Decision(True)
    if ours.is_text or theirs.is_text:
        same = (
            ours.words is not None
            and theirs.words is not None
            and _without_article(ours.words) == _without_article(theirs.words)
        )
        return _Decision(same, "" if same else "compared as words")
    if ours.words is not None and ours.words == theirs.words and ours.node is None and theirs.node is None:
        return _Decision(True)
    if ours.node is None and not ours.symbolic:
        return _Decision(False, f"no formula: {ours.problem}")
    if theirs.node is None and not theirs.symbolic:
        return _Decision(False, f"the reference is not a formula ({theirs.problem}), and the texts differ")
    if ours.node is None or theirs.node is None:
        return _Decision(None)
    return _compare(ours, theirs, policy, ratio)


def _without_article(words: str) -> str:
    """Words in singular form without an article in front: "an ellipse" is "ellipse"."""
    return re.sub(r"^(?:an?|the) (?=[A-Za-z]{3})", "", quantities.singular(words))


_VALUED_CHOICE = re.compile(r"\\text\s*\{\s*\(?[A-J]\)?[).:]?\s*\}|\(?[A-J](?:\)[.:]?|[.:])\s")

_TEXT_CHOICE = re.compile(r"\\text\s*\{\s*\(?[A-J](?:\)[.:]?|[.:])\s+[^{}]*\}$")


def _is_valued_choice(text: str) -> bool:
    text = normalize(text)
    return _VALUED_CHOICE.match(text) is not None or _TEXT_CHOICE.match(text) is not None


def _decide_choice(answer: str, truth: str, theirs: ParsedAnswer, policy: MathPolicy) -> _Decision | None:
    """Decides answers with a choice letter, with or without a value: ``(B) 12``, ``B``; None without a letter."""
    letter = theirs.words if theirs.words is not None and len(theirs.words) == 1 and theirs.words.isupper() else None
    ours_choice = choice(answer)
    if letter is not None:
        return None if ours_choice is None else _Decision(ours_choice[0] == letter)
    theirs_choice = choice(truth) if _is_valued_choice(truth) else None
    if theirs_choice is None:
        if ours_choice is None or not _is_valued_choice(answer):
            return None
        return _decide(ours_choice[1], truth, _parse_answer(ours_choice[1], policy), theirs, policy)
    letter, value = theirs_choice
    if ours_choice is None:
        ours_text = unwrap_text(normalize(answer)).strip(" ().")
        if len(ours_text) == 1 and ours_text in "ABCDEFGHIJ":
            return _Decision(ours_text == letter)
        return _decide(answer, value, _parse_answer(answer, policy), _parse_reference(value, policy), policy)
    if ours_choice[0] != letter:
        return _Decision(False, f"choice {ours_choice[0]} and not {letter}")
    return _decide(
        ours_choice[1], value, _parse_answer(ours_choice[1], policy), _parse_reference(value, policy), policy
    )


def _parse_reference(text: str, policy: MathPolicy) -> ParsedAnswer:
    """A parsed reference; only the part after its last equals sign if the whole is not a formula."""
    parsed = _parse_answer(text, policy)
    if parsed.node is None and not parsed.symbolic and not parsed.is_text and "=" in parsed.text:
        last = _parse_answer(parsed.text.rpartition("=")[2], policy)
        if last.node is not None:
            return last
    return parsed


def _compare(ours: ParsedAnswer, theirs: ParsedAnswer, policy: MathPolicy, ratio: Fraction) -> _Decision:
    assert ours.node is not None and theirs.node is not None
    radians = any(unit is not None and unit.powers == (("angle", 1),) for unit in _measures(ours, theirs))
    comparison = Comparison(policy, f"{ours.text}\n{theirs.text}", degree_signs=radians)
    if ratio != 1:
        converted = Node("mul", (number(ratio), ours.node))
        same = ours.node.kind in SCALARS and comparison.equal(converted, theirs.node)
        return _Decision(same, f"{ours.unit!r} is converted to {theirs.unit!r}")
    given, wanted = ours.node, theirs.node
    if any(unit is not None and unit.powers in _HALVES_OF_DAY for unit in _measures(ours, theirs)):
        given, wanted = _hours(given), _hours(wanted)
    # A comma between digits is ambiguous: the other reading of one side is tried as well. A decimal comma is tried only
    # in the answer, or in a reference such as "0,111" or "1.234,5": "10,25" is a list.
    pairs: list[tuple[Node, Node]] = [(given, wanted)]
    pairs += [(other, wanted) for other in ours.alternatives]
    if wanted.kind not in ("list", "seq") and (decimal := decimal_comma(ours.text)) is not None:
        pairs.append((decimal, wanted))
    if _DECIMAL_REFERENCE.fullmatch(theirs.text) and (decimal := decimal_comma(theirs.text)) is not None:
        pairs.append((given, decimal))
    pairs += [(given, other) for other in theirs.alternatives]
    if ours.whole is not None and not theirs.unit:
        pairs.append((ours.whole, wanted))  # 2 hours 30 minutes is 2.5 as well as 150
    if theirs.whole is not None and not ours.unit:
        pairs.append((given, theirs.whole))
    undecided = False
    for left, right in pairs:
        try:
            if comparison.equal(left, right):
                return _Decision(True)
        except numeric.OutOfRange as error:
            return _Decision(False, str(error))
        except Unsupported:
            undecided = True
        except RecursionError:
            return _Decision(False, "nested too deeply")
    return _Decision(None) if undecided else _Decision(False)


_HALVES_OF_DAY = ((("am", 1),), (("pm", 1),))


def _hours(node: Node) -> Node:
    """A time of day in hours: 9:30 is 9 and a half, not nine thirtieths."""
    if node.kind != "ratio" or len(node.args) != 2:
        return node
    return Node("add", (node.args[0], Node("div", (node.args[1], number(60)))))


_DECIMAL_REFERENCE = re.compile(r"-?0,\d{3,}|-?[1-9]\d{0,2}(?:\.\d{3})+,\d+")


def _measures(*parsed_answers: ParsedAnswer) -> list[units.Measure | None]:
    return [units.measure(parsed.unit) for parsed in parsed_answers]


def _symbolic(ours: ParsedAnswer, theirs: ParsedAnswer, spelling: str, started: float) -> Verdict:
    try:
        outcome, detail = host.shared().ask(value_parts(ours.text), value_parts(theirs.text)[-1], deadline.remaining())
    except host.HostError as error:
        return Verdict.failed(str(error), seconds=time.perf_counter() - started)
    status = {
        "equal": Status.CORRECT,
        "different": Status.WRONG,
        "timeout": Status.TIMEOUT,
        "memory": Status.CRASH,
        "error": Status.UNPARSABLE,
    }[outcome]
    return _verdict(status, spelling, started, detail)


def canonical(parsed: ParsedAnswer, answer: str) -> str:
    """The canonical form: equal rational values get the same text and so one vote; else the normalized text."""
    if parsed.words is not None and parsed.node is None:
        return parsed.words
    try:
        node = None if parsed.node is None else simplify_relation(parsed.node)
        if node is not None and node.kind == "named":
            node = node.args[0]
        if node is not None and node.kind in SCALARS and not variables(node):
            value = Evaluator().value(node)
            if isinstance(value, Fraction) and max(abs(value.numerator), value.denominator) < 10**MAX_DIGITS:
                return str(value)
    except (Undefined, Unsupported):
        pass  # the value is out of range or does not exist, so the text identifies the answer
    return without_spaces(normalize(answer))


def _copies_question(ours: ParsedAnswer, theirs: ParsedAnswer, question: str) -> bool:
    """Whether an answer is an unevaluated expression copied from the question, while the reference is another one.

    A number, a reduced fraction, a name or a structure such as a tuple can be in the question and still be right.
    """
    if ours.node is None or ours.node == (theirs.node or ours.node) or ours.node.kind not in SCALARS:
        return False
    node = ours.node.args[0] if ours.node.kind in ("neg", "percent", "degree") else ours.node
    if node.kind in ("num", "const", "var") or (_is_fraction(node) and not is_unreduced(node)):
        return False
    return without_spaces(ours.text) in without_spaces(normalize(question))


def _is_fraction(node: Node) -> bool:
    return node.kind in ("div", "ratio") and all(part.kind == "num" for part in node.args)
