"""Parses a candidate answer to an expression tree or words, and a unit."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace

from verifiers.mathematics.answers import announcements
from verifiers.mathematics.parsing import units
from verifiers.mathematics.parsing.compound import compound, spelled_quantity
from verifiers.mathematics.parsing.named_sets import in_symbols
from verifiers.mathematics.parsing.normalization import matching_brace, normalize
from verifiers.mathematics.parsing.number_words import spelled_number
from verifiers.mathematics.parsing.parser import parse
from verifiers.mathematics.parsing.rejections import is_rejecting_label
from verifiers.mathematics.parsing.remarks import profit_or_loss, without_remark
from verifiers.mathematics.parsing.syntax import (
    MAX_ANSWER_CHARS,
    MAX_DEPTH,
    MAX_DIGITS,
    Node,
    NotMath,
    Unsupported,
    number,
)


@dataclass(frozen=True, slots=True)
class ParsedAnswer:
    """A parsed answer.

    Attributes:
        text: The normalized answer without its unit.
        node: Its tree; None if the parser cannot read it.
        words: Its words, lower case and without punctuation; None if it is not text.
        is_text: Whether it is words rather than mathematics, so that only the words are compared.
        symbolic: Whether it is a formula for the symbolic path.
        unit: The unit's words; empty if there is none.
        counted: Whether the unit is plain words for what is counted, as in ``72 clips``.
        problem: The reason why there is no tree.
        alternatives: Trees of other readings.
        whole: The value of a quantity in several units in its largest unit.
    """

    text: str
    node: Node | None = None
    words: str | None = None
    is_text: bool = False
    symbolic: bool = False
    unit: str = ""
    counted: bool = False
    problem: str = ""
    alternatives: tuple[Node, ...] = ()
    whole: Node | None = None


# Words that could be read as products of letters.
_SHORT_WORDS = frozenset("yes no odd red mon tue wed thu fri sat sun may ja da oui non si dne".split())
_TEXT_COMMAND = re.compile(r"\\text\s*\{")
# "and" and "or" between items; in a text command only if nothing but a unit is next to them.
_CONJUNCTION = re.compile(r"(?:, ?)?(?<![A-Za-z\\])(and|or)(?![A-Za-z])|(?<=\d)(and|or)(?=[A-Z(\\])")
_JOINT = re.compile(r"\s*(?P<unit>[A-Za-z][A-Za-z .]*?)?\s*(?:[,;]|,?\s*\b(?P<word>and|or)\b,?)\s*")
_QUANTIFIED = re.compile(
    r",?\s*\\text\s*\{\s*,?\s*(?:for|where)\s+(?:all|any|every|each|some)\b.*?(?=,?\s*\\text\s*\{\s*(?:and|or)|$)"
)
_WORDS = re.compile(r"[A-Za-z][A-Za-z ,.;:()'\"!?-]*|\([A-Za-z, ]+\)\.?")
_LABEL = re.compile(
    r"(?:(?<=^)|(?<=[,;@]))\s*(?:\\text\s*\{[A-Za-z ]{2,30}\}|[A-Za-z]{3,20}(?: [A-Za-z]{1,20}){0,3})\s*[:=](?![=:])"
)
_BASED = re.compile(
    r"(?:(?:\\text\{)?(-?[0-9A-Z.]{0,60}[0-9A-Z]|[0-9a-f]{1,60})\}?|\((-?[0-9A-Za-z.]{1,60})\)|\\overline\{([0-9A-Za-z]{1,60})\})"
    r"_\{?(?:\\text\{)?(\d{1,3}|[a-z]{3,8})\}?\}?"
)
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?!\d|,\d)")
_GROUP_OF_ZEROS = re.compile(r",0\d\d")  # a list has no item such as 000
_SPACED = re.compile(r"(-?)(\d{1,3}(?: \d{3})+)(\.\d+)?")
_DECIMAL_COMMA = re.compile(r"(-?\d+),(\d{2}|\d{4,}|(?<=^0,)\d{3}|(?<=^-0,)\d{3}|(?<=\d{4},)\d{3})")
_GROUPED_COMMA = re.compile(r"(-?[1-9]\d{0,2}(?:\.\d{3})+),(\d+)")  # 1.234,56
_SCIENTIFIC = re.compile(r"(?<![\w.\\])(\d+(?:\.\d+)?)(?:[eE]\+?|E(?=-))(-?\d{1,3})(?![\w.])")
_SMALL = re.compile(r"(-?\d+(?:\.\d+)?)e(-\d{1,3})")
_LETTER_CHOICE = re.compile(r"\(?\s*([A-J])\s*\)?\s*[).:]\s*(\S.*)|\(\s*([A-J])\s*\)\s*(\S.*)", re.DOTALL)
_CHOICE_WORD = re.compile(
    r"^\s*(\\text[a-z]*\s*\{\s*)?(?:the )?(?:correct )?(?:option|choice)\s*:?\s*(?=\(?\s*[A-J]\s*(?:[).:}]|$))",
    re.IGNORECASE,
)
_BOLD_CHOICE = re.compile(r"\\text\s*\{\s*([A-J])\s*\}\s*(?=-?\d|-?\\(?:frac|sqrt))")
# A letter offered as a choice: in brackets, with a mark, or before "is". "Both A and B" offers none.
_OFFERED = re.compile(r"\(\s*([A-J])\s*\)|(?<![A-Za-z\\])([A-J])(?:[).:]|\s+(?:is|was|seems)\b)")
_GOES_ON = re.compile(r"[,;/&|]|(?:or|and)\b")
# "is wrong" after a letter is a remark about that choice, not its content.
_DENIAL = re.compile(
    r"(?:is|was|can|could|does|would|seems?)(?=\b|n't|not).*?(?:not\b|n't|wrong|incorrect|false)", re.DOTALL
)
_SCRIPT = re.compile(r"\s*\^\s*\{?\s*(-?[1-4])\s*\}?")
_EXPONENT = re.compile(r"\^\{?-?[1-4]\}?|(?<=[A-Za-z])[23]\b")
_BASE_NAMES = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}
_ANNOUNCED = re.compile(r"^.{0,80}\banswer is\b:?")
_DIGIT = re.compile(r"\d")
_DATE = re.compile(
    r"\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])|(?:0?[1-9]|[12]\d|3[01])/(?:0?[1-9]|[12]\d|3[01])/(?:19|20)\d\d"
)
_QUOTED = re.compile(r"[\"'“”„«»「『]([^\"'“”„«»「」『』]+)[\"'“”«»」』]")
# Words before a value that do not change it: "surely", "about", "the answer is".
_SURELY = "(?!un|hard|bare|fami|near|scarc|doub|trip|part|most|possib|suppos|negativ)[a-z]{2,12}ly"
_LEADING = re.compile(
    rf"^(?:\\text\s*\{{\s*(?:only|about|{_SURELY}|"
    r"[^{}]{0,80}\banswer(?: is:?|:)"
    r"|(?!not\b)[A-Za-z ]{2,30}:"
    r"|(?![^{}]*\b(?:not|no|least|most|than|between|almost|nearly|wrong|incorrect|false)\b)"
    r"[Tt]he [A-Za-z ]{2,50} (?:is|equals):?)\s*\}"
    r"|(?:\\text *\{ *)?(?:[Tt]he )?(?:[Pp]oint|[Cc]ent(?:er|re)|[Vv]ertex|[Ff]ocus|[Mm]idpoint|[Ii]nterval)"
    r"(?: is| at)?:? *\}?(?= *[\[(])"
    r"|\\(?:approx|sim)(?![A-Za-z])"
    r"|(?:=>|-{1,2} ?>|[=→⇒⟹➜∴]|\\(?:to|[Ll]?(?:ong)?[Rr]ightarrow)(?![A-Za-z]))(?=\s*[\w\\($.+-])"
    r"|(?:\\Pr|\\mathbb *\{ *[PE] *\}) *\([^()=]{1,80}\) *=(?!=)|[PE] *\( *\\text *\{[^{}]{1,80}\} *\) *=(?!=)"
    rf"|(?:about|just|(?:a )?total of|{_SURELY})\b(?! *[A-Za-z]{{2}}))\s*"
)

_MINUS = re.compile(r"^(?:\\text\s*\{\s*(?:minus|negative)\s*\}|(?:minus|negative)\b)\s*(?=[\d.\\(])", re.IGNORECASE)


def exceeded_limit(raw: str) -> str:
    """The limit that a candidate exceeds (length, depth, digits), as a message; empty if none."""
    if len(raw) > MAX_ANSWER_CHARS:
        return f"the answer has more than {MAX_ANSWER_CHARS} characters"
    depth = deepest = 0
    for sign in raw:
        if sign in "({[":
            depth += 1
            deepest = max(deepest, depth)
        elif sign in ")}]":
            depth -= 1
    if deepest > MAX_DEPTH:
        return f"the answer is nested deeper than {MAX_DEPTH}"
    if re.search(rf"\d{{{MAX_DIGITS}}}", raw):
        return f"the answer has a number of more than {MAX_DIGITS} digits"
    return ""


def unwrap_text(text: str) -> str:
    """The text with each ``\\text{...}`` replaced by its content."""
    for _ in range(20):
        match = _TEXT_COMMAND.search(text)
        if match is None:
            break
        end = matching_brace(text, match.end() - 1)
        if end < 0:
            break
        text = text[: match.start()] + text[match.end() : end] + text[end + 1 :]
    return text


def words_of(text: str, *, keep_case: bool = False) -> str | None:
    """Words in comparable form; None if the text is not made of words."""
    plain = unwrap_text(text).strip().strip(".\"' ")
    if not _WORDS.fullmatch(plain):
        return None
    letters = [part.strip(" ().\"'") for part in re.split(r"[,;]|\band\b", plain)]
    if all(len(letter) <= 1 for letter in letters):  # one or several choices: letters keep their case
        distinct = len(set(letters)) == len(letters) and set(letters) <= set("ABCDEFGHIJ")
        return ",".join(sorted(letters) if distinct else letters)
    plain = re.sub(r"[^A-Za-z]+", " ", plain).strip()
    return plain if keep_case else plain.lower()


def parse_answer(raw: str, *, keep_case: bool = False) -> ParsedAnswer:
    """Parse one candidate answer. Never raises: an unreadable one has a ``problem``."""
    problem = exceeded_limit(raw)
    if problem:
        return ParsedAnswer("", problem=problem)
    plain, currency = units.without_currency(raw)
    parsed = _parse_answer(plain, keep_case)
    return replace(parsed, unit=currency) if currency and not parsed.unit else parsed


def _parse_answer(raw: str, keep_case: bool) -> ParsedAnswer:
    text = normalize(_CHOICE_WORD.sub(r"\1", raw))
    leading = _LEADING.match(text)
    if leading is not None and not is_rejecting_label(leading.group()):
        text = text[leading.end() :]
    text = _MINUS.sub("-", text)
    if not text.isascii():
        text = announcements.announced_answer(text) or text
    if (quoted := _QUOTED.fullmatch(text)) is not None:
        text = quoted[1]
    if not text:
        return ParsedAnswer("", problem="the answer is empty")
    if _DATE.fullmatch(text):
        return ParsedAnswer(text, words=text, is_text=True)
    text = without_remark(text)
    words = words_of(text, keep_case=keep_case)
    if (change := profit_or_loss(text)) is not None:
        return _changed(_parse_formula(change[0], words), change[1])
    if words is not None and "," not in text and (spelled := spelled_number(words)) is not None:
        return ParsedAnswer(text, node=number(spelled), words=words)
    if words is not None and "," not in text and (spoken := spelled_quantity(words)) is not None:
        return ParsedAnswer(text, node=number(spoken[0]), unit=spoken[1], words=words)
    if words is not None and words.lower() in _SHORT_WORDS:
        return ParsedAnswer(text, words=words, is_text=True)
    if (named := in_symbols(plain := " ".join(unwrap_text(text).split()))) is not None:
        return replace(_parse_formula(named, words), text=text)
    based = _based(text.replace(" ", ""))
    if based is not None:
        return ParsedAnswer(text, node=based)
    if _DIGIT.match(text) and (quantity := compound(plain)) is not None:
        return ParsedAnswer(text, node=number(quantity.last), unit=quantity.unit, whole=number(quantity.first))
    whole = _whole_text(text)
    if whole is not None:
        single = len(whole.strip(" ()")) == 1
        inner = parse_answer(_ANNOUNCED.sub("", whole), keep_case=keep_case) if single or _DIGIT.search(whole) else None
        if inner is not None and inner.node is not None:
            return replace(inner, words=words)
        return ParsedAnswer(
            text, words=words or _loose(text), is_text=words is None or len(words) > 1 or words.isupper()
        )
    return _parse_formula(text, words)


def _changed(amount: ParsedAnswer, change: str) -> ParsedAnswer:
    """A profit or a loss. A question asks for the amount of a loss, or for the change, which is negative then."""
    if change != "loss" or amount.node is None:
        return replace(amount, unit=change)
    negative = Node("neg", (amount.node,))
    return replace(amount, unit=change, alternatives=(*amount.alternatives, negative))


def _based(text: str) -> Node | None:
    """A numeral with its base: 101_2, (101)_2, a3_{16}; None for a name with an index, such as a3_{7}."""
    match = _BASED.fullmatch(text)
    if match is None or not _DIGIT.search(digits := match[1] or match[2] or match[3]):
        return None
    base = str(_BASE_NAMES.get(match[4], match[4]))
    if not base.isdigit() or (digits != digits.upper() and any(int(digit, 36) >= int(base) for digit in digits)):
        return None
    return Node("based", value=(digits.upper(), int(base)))


def _loose(text: str) -> str | None:
    """Letters, digits and symbols of a text in any script, without case and punctuation; None if there are none.

    A sign and the marks inside a number are kept: "-3 units" is not "3 units".
    """
    plain = unicodedata.normalize("NFKC", unwrap_text(text)).casefold()
    parts = [_kept(plain, index) for index in range(len(plain))]
    return " ".join("".join(parts).split()) or None


def _kept(text: str, index: int) -> str:
    sign = text[index]
    kind = unicodedata.category(sign)[0]
    if kind in "LNM":
        return sign
    before, after = text[index - 1 : index] if index else "", text[index + 1 : index + 2]
    if sign == "-" and after.isdigit() and not before.isalnum():
        return sign
    if sign in ".,:/" and before.isdigit() and after.isdigit():
        return sign
    return f" {sign} " if kind == "S" and sign not in "`^$" else " "


def _whole_text(text: str) -> str | None:
    """The content of an answer that is a single ``\\text{...}``."""
    match = _TEXT_COMMAND.match(text)
    if match is None or matching_brace(text, match.end() - 1) != len(text) - 1:
        return None
    return text[match.end() : -1]


def _parse_formula(text: str, words: str | None) -> ParsedAnswer:
    original = text
    text = units.signs_for_words(text)
    text = _QUANTIFIED.sub("", text)
    text = _LABEL.sub(lambda label: label.group() if is_rejecting_label(label.group()) else " ", _separated(text))
    text, unit = _without_units(text)
    text = text.strip().strip(",;@ ")
    try:
        node = parse(_SCIENTIFIC.sub(r"(\1 \\cdot 10^{\2})", _joined_thousands(text)))
    except Unsupported as error:
        return ParsedAnswer(text, words=words, symbolic=True, unit=unit, problem=str(error))
    except NotMath as error:
        value, things = units.split_counted_things(text)
        if things:
            return replace(_parse_formula(value, words), unit=things, counted=True)
        return ParsedAnswer(
            text, words=words or _loose(original), is_text=words is not None, unit=unit, problem=str(error)
        )
    except RecursionError:
        return ParsedAnswer(text, words=words, unit=unit, problem="the answer is nested too deeply")
    return ParsedAnswer(text, node=node, words=words, unit=unit, alternatives=_alternatives(text))


def _separated(text: str) -> str:
    """The text with a comma for each "and" between items, and ``@`` for each "or"."""
    parts: list[str] = []
    position = 0
    for start, opening, end in _texts(text):
        parts.append(_CONJUNCTION.sub(lambda match: "@" if "or" in match.group() else ",", text[position:start]))
        joint = _JOINT.fullmatch(text, opening, end)
        if joint is None:
            parts.append(text[start : end + 1])
        else:
            unit = f"\\text{{{joint['unit']}}}" if joint["unit"] else ""
            parts.append(unit + ("@" if joint["word"] == "or" else ","))
        position = end + 1
    rest = _CONJUNCTION.sub(lambda match: "@" if "or" in match.group() else ",", text[position:])
    return "".join([*parts, rest])


def _texts(text: str) -> Iterator[tuple[int, int, int]]:
    """For each text command: its start, the start and the end of its content."""
    position = 0
    while match := _TEXT_COMMAND.search(text, position):
        end = matching_brace(text, match.end() - 1)
        if end < 0:
            return
        yield match.start(), match.end(), end
        position = end + 1


def _without_units(text: str) -> tuple[str, str]:
    """The text without unit words, and the last of these units."""
    unit = ""
    kept: list[str] = []
    position = 0
    for start, opening, end in _texts(text):
        if start < position:
            continue
        content, between = text[opening:end].strip(), text[position:start].strip()
        before = "".join([*kept, text[position:start]]).rstrip(" /")
        if unit:
            before = before.removesuffix("\\cdot").rstrip()
        script = _SCRIPT.match(text, end + 1)
        after = script.end() if script else end + 1
        if _names_unit(before, content, text[after:]):
            kept = [before, " "]
            joined = between in ("", "/", "\\cdot")  # \text{m}/\text{s}
            compound = f"{unit}{'/' if between == '/' else ' '}" if unit and joined else ""
            unit = compound + content + ("^" + script.group(1) if script else "")
            position = after
    bare, bare_unit = units.split_bare_unit("".join([*kept, text[position:]]).strip())
    return bare, bare_unit or unit


def _names_unit(before: str, content: str, after: str) -> bool:
    """Whether words are a unit: they follow a value, contain no number, and no number follows them."""
    follows = before[-1:].isalnum() or before[-1:] in (")", "]", "}", "%", "'", "!", "|", ".")
    is_symbol = content in ("", "E", "e", "i", "d", "C", "T")
    if not follows or is_symbol or not units.droppable(content):
        return False
    return not _DIGIT.search(_EXPONENT.sub("", content)) and not after.lstrip()[:1].isdigit()


def _joined_thousands(text: str) -> str:
    """The text with thousands separators removed from numbers outside brackets."""
    spaced = _SPACED.fullmatch(text.strip())
    if spaced is not None:
        return text.replace(" ", "")
    if "," not in text:
        return text
    parts: list[str] = []
    position = 0
    for match in _THOUSANDS.finditer(text):
        before = text[: match.start()]
        if all(before.count(left) == before.count(right) for left, right in ("()", "[]", ("\\{", "\\}"))):
            parts += [text[position : match.start()], match.group().replace(",", "")]
            position = match.end()
    return "".join([*parts, text[position:]])


def _alternatives(text: str) -> tuple[Node, ...]:
    """Other readings: of the comma in ``120,240``, and of ``2e-3``, which may mean 2e - 3."""
    found: list[Node] = []
    if _THOUSANDS.search(text) and not _GROUP_OF_ZEROS.search(text):
        try:
            found.append(parse(text))
        except (NotMath, Unsupported):
            found.clear()
    if (scientific := _SMALL.fullmatch(text)) is not None:
        found.append(parse(rf"{scientific.group(1)} \cdot 10^{{{scientific.group(2)}}}"))
    return tuple(found)


def decimal_comma(text: str) -> Node | None:
    """A normalized answer such as ``2,74`` or ``1.234,56`` read with a decimal comma; None if that is impossible."""
    if (grouped := _GROUPED_COMMA.fullmatch(text)) is not None:
        return parse(f"{grouped[1].replace('.', '')}.{grouped[2]}")
    match = _DECIMAL_COMMA.fullmatch(text)
    return None if match is None else parse(f"{match.group(1)}.{match.group(2)}")


def choice(raw: str) -> tuple[str, str] | None:
    """Letter and content of an answer such as ``(C) 12`` or ``C. twelve``; None if it has none, or several."""
    text = unwrap_text(normalize(_CHOICE_WORD.sub(r"\1", raw))).strip()
    match = _LETTER_CHOICE.fullmatch(text)
    if match is None and (bold := _BOLD_CHOICE.match(normalize(raw))) is not None:
        return bold[1], text[1:].strip()
    if match is None:
        return None
    letter, content = match[1] or match[3], match[2] or match[4]
    offered = {first or second for first, second in _OFFERED.findall(content)}
    if offered - {letter} or _GOES_ON.match(content) or _DENIAL.match(content):
        return None
    return letter, content
