"""Finds the final answer in a model's response: the box, else the announced answer, else the last formula.

A box has precedence over every phrase; only the text after the reasoning counts. All patterns run in linear time, and
only the end of a long response is read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from verifiers.mathematics.answers import announcements, following, json_objects, statements
from verifiers.mathematics.answers.denials import is_denied_phrase, is_negated, is_other_phrase, retraction
from verifiers.mathematics.answers.formulas import formulas, without_formulas
from verifiers.mathematics.parsing.normalization import matching_brace
from verifiers.reasoning import after_reasoning
from verifiers.turns import first_turn, without_start

MAX_RESPONSE_CHARS = 20_000
"""Only this many characters at the end of a response are read, because the answer is there."""

MAX_BOXES = 64
"""More boxes than this are rejected."""

MAX_JOINED = 20
"""At most so many values that "and" joins are read as one list."""

MAX_SENTENCE_CHARS = 400
"""Only this much of the last sentence is searched for other numbers."""

Source = Literal["box", "phrase", "bare", "prose", "none"]


@dataclass(frozen=True, slots=True)
class Extraction:
    """The candidate answers of a response as written (several only from several boxes), and their source."""

    candidates: tuple[str, ...]
    source: Source
    detail: str = ""


_BOX = re.compile(
    r"\\(?:f|x|frame)?[Bb]ox(?:ed?)?\s{0,8}(?=\{)|\\bbox\s{0,8}(?:\[[^\]\n]{0,80}\]\s{0,8})?(?=\{)"
    r"|\\boxed(?: {1,8}(?=[A-Za-z0-9])|(?=\d))"
)
_UNESCAPED_BOX = re.compile(r"(?:(?<=\x08)ox|(?<![A-Za-z\\])box)ed(?=\{)")  # the backslash was lost on the way
_UNBRACED = re.compile(r"\d[\d.,/]*(?<=\d)|[A-Za-z0-9]")
# Tags around the answer itself, and tags around a longer final part.
_ANSWER_TAGS, _PART_TAGS = (
    re.compile(
        rf"<\s{{0,4}}(?:{names})\b[^<>\n]{{0,80}}>(.*?)"
        rf"(?:<\s{{0,4}}/\s{{0,4}}(?:{names})\s{{0,4}}>?|(?=<\s{{0,4}}(?:{names})\b)|\Z)",
        re.IGNORECASE | re.DOTALL,
    )
    for names in ("(?:final[_ -]?)?answer", "solution|result|response|output|conclusion")
)
_OTHER_TAG = re.compile(r"\[(/?)(?:final[_ -]?)?answer\]|<\|(begin|end)_of_box\|>", re.IGNORECASE)
# Markdown emphasis. A star between two operands is a product and two are a power, so a mark must not touch an operand
# on its outer side.
_EMPHASIS = (
    ("**", re.compile(r"(?<![\w)\]}*\\])\*{2,3}(?=[^\s*])([^*\n]{1,400})(?<=[^\s*])\*{2,3}(?:!(?=\s|$)|(?![\w(*]))")),
    ("*", re.compile(r"(?<![\w)\]}*\\^])\*(?=[^\s*])([^*\n{}^]{1,200})(?<=[^\s*])\*(?![\w(*])")),
    ("__", re.compile(r"(?<![\w\\}])__(?=[^\s_])([^_\n]{1,400})(?<=[^\s_])__(?!\w)")),
    ("_", re.compile(r"(?<![\w\\}^)_])_(?=[^\s_{])([^_\n{}^\\]{1,200})(?<=[^\s_])_(?![\w{_])")),
    ("```", re.compile(r"(?<!`)`{3}(?:[a-z]{1,12}(?=\n))?\s*([^`]{1,400}?)\s*`{3}(?!`)")),
    ("`", re.compile(r"(?<!`)`{1,2}(?=[^\s`])([^`\n]{1,400})(?<=[^\s`])`{1,2}(?!`)")),
)
_STRUCK = re.compile(r"~~[^~\n]{1,200}~~|<(?P<tag>s|del|strike)>[^<>\n]{1,200}</(?P=tag)>", re.IGNORECASE)
_HTML_SCRIPT = re.compile(r"<(?P<tag>sup|sub)>(?P<content>[-+\w]{1,40})</(?P=tag)>", re.IGNORECASE)
_HTML_BREAK = re.compile(r"<br ?/?>", re.IGNORECASE)
# Four marks are a heading only before a title; GSM8K has the answer after them.
_HEADING = re.compile(
    r"(?m)^ {0,3}(?:#{1,3}[ \t]+(?=\S)"
    r"|#{4,6}[ \t]+(?:\*\*)?(?=(?:step|part|case|method|approach)\b|\d{1,2}[.)][ \t]+[a-z]"
    r"|[^\d\n#]{3,80}\n\s*\S))",
    re.IGNORECASE,
)
_MARKED = re.compile(r"[*_`#]")
_PHRASE = re.compile(
    r"(?<![A-Za-z])(?:(?:final|correct|right)\s{1,4}answer|(?:correct|right)\s{1,4}(?:option|choice)|answer|solution|result|value)(?:\s{1,4}is|\s{1,4}are|\s{1,4}equals)"
    r"(?:\s{0,4}:)?|(?:(?:final\s{1,4})?answer|(?:correct|right)\s{1,4}(?:option|choice))\s{0,4}(?:\*{1,2})?\s{0,4}:|ans\.(?=\s)|####",
    re.IGNORECASE,
)
_INTERJECTION = re.compile(
    r"^[\s,]{0,4}(?:of course|indeed|thus|therefore|then|simply|just|in fact|clearly|hence)\b[\s,:]{1,4}",
    re.IGNORECASE,
)
_REASON = re.compile(r",?\s(?:because|since)\s|,\s(?:and\s)?not\s(?![^.]*\bor\b)")  # the answer stands before it
_WEAK = re.compile(r"(?:solution|result|value)", re.IGNORECASE)
# What joins two values of an answer: "3 and 4", "3, 4, or 5".
_JOINED = re.compile(
    r"[\s$)\\]*,?\s+(?:and|or)\s+(?:[A-Za-z](?:_\d)? ?= ?)?[\s$(\\]*|[\s$)\\]*,[\s$(\\]*", re.IGNORECASE
)
_CHOICE = re.compile(r"\(?[A-J](?:\)[.:]?|[.:])\s")
_LABELLED = re.compile(r"[^\W\d]{3,20}\s{0,2}:\s{0,2}-?\d[\d.,]*(?![\d:])\s*\S*\s")
_NUMBER = re.compile(
    r"(?<![A-Za-z\d.,])-?(?:\d{1,3}(?:(?:,|\{,\}|,\\!)\d{3})+(?!\d)|\d+,\d\d(?!\d)|\d+)(?:\.\d+)?(?:/\d+)?%?(?![A-Za-z]{4})"
)
# Several numbers that are one value: a point or an interval, a ratio or a time, a range.
_SCALAR = r"[-−]?\d+(?:\.\d+)?(?:/\d+)?"
_GROUP = (
    rf"(?:[(\[]|\\?\{{)(?!\d{{1,3}}(?:,\d{{3}})+[)\]])\s{{0,2}}{_SCALAR}(?:\s{{0,2}}[,;]\s{{0,2}}{_SCALAR}){{1,9}}"
    rf"\s{{0,2}}(?:[)\]]|\\?\}})"
    rf"|(?<![\d.,:]){_SCALAR}(?:(?::| : ){_SCALAR}){{1,4}}(?:\s?[ap]\.?m\b\.?)?"
    r"|(?<![\d.,])\d+ ?(?:hours?|hrs?|h|days?|weeks?|years?|minutes?|mins?|feet|foot|ft|pounds?|lbs?|dollars?"
    r"|met(?:er|re)s?)"
    r",? (?:and )?\d+(?:\.\d+)? ?(?:days?|hours?|minutes?|mins?|seconds?|secs?|inch(?:es)?|ounces?|oz|cents?|cm"
    r"|centimet(?:er|re)s?|months?)(?![A-Za-z])"
    rf"|(?<![\d.,]){_SCALAR}\s+(?:to|minus|plus|times|divided by)\s+{_SCALAR}"
)
_VALUE = re.compile(rf"{_GROUP}|(?<![\w-])(?:minus|negative)\s+(?:{_NUMBER.pattern})|{_NUMBER.pattern}", re.IGNORECASE)
_PLAIN = re.compile(r"-?\d{1,20}(?:\.\d{1,20}|/[1-9]\d{0,19})?")
_GOES_ON = re.compile(r"[-+*/=^×÷(]\s*$")  # a response that was cut off
_HOPE = re.compile(r"(?<!\s)\s*I hope (?:it|this) is correct\.?", re.IGNORECASE)
_HEDGE = re.compile(r"\b(?:or|also|maybe|perhaps|possibly|alternatively|could|might)\b", re.IGNORECASE)
# Words of a sentence; a bare answer such as "7 square feet" has none.
_SENTENCE = re.compile(
    r"(?<![\\A-Za-z])(?:the|is|are|was|that|this|therefore|thus|hence|so|we|find|have|get|it|answer|because|since|which|gives?"
    r"|here|let|to|with|when|not|special|sum|then|rather|instead|got|were|he|she|they|giving|made|pays?|costs?|takes?|needs?|earns?)\b",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?<!\d)\.(?=\s+[A-Z])|\.(?=\s*\n)|\n\s*\n|\.\s+(?=[A-Z])")


def final_part(response: str) -> str:
    """The part of a response that may contain the answer: its end, after the reasoning, before a chat token."""
    text = first_turn(without_html(without_struck(without_start(after_reasoning(response)[-MAX_RESPONSE_CHARS:]))))
    return text.replace("{:}", ":").replace("\r\n", "\n").replace("\r", "\n")


def boxes(text: str) -> tuple[str, ...]:
    """Contents of all outermost boxes with balanced braces, in order."""
    found: list[str] = []
    if "oxed{" in text and _BOX.search(text) is None:
        text = _UNESCAPED_BOX.sub(r"\\boxed", text)
    position = 0
    while match := _BOX.search(text, position):
        if text[match.end()] != "{":
            unbraced = _UNBRACED.match(text, match.end())
            assert unbraced is not None
            found.append(unbraced.group())
            position = unbraced.end()
        else:
            end = matching_brace(text, match.end())
            if end < 0:
                # A box without its closing brace extends to the end of the formula.
                cut = re.split(r"\$|\\\)|\\\]|\n", text[match.end() + 1 :], maxsplit=1)[0]
                found.append(cut)
                break
            found.append(text[match.end() + 1 : end])
            position = end + 1
        if len(found) > MAX_BOXES:
            break
    return tuple(_inner_box(content) for content in found)


def _inner_box(content: str) -> str:
    """The content of the innermost box; a box around a part of the content is only its frame."""
    for _ in range(4):
        match = _BOX.match(content.strip())
        stripped = content.strip()
        if match is None or stripped[match.end()] != "{" or matching_brace(stripped, match.end()) != len(stripped) - 1:
            break
        content = stripped[match.end() + 1 : -1]
    return _BOX.sub("", content) if "ox" in content else content


def _after_phrase(text: str) -> str | None:
    """The answer after the last phrase such as "the answer is"; empty if it is taken back, None without a phrase."""
    matches = list(_PHRASE.finditer(text))
    strong = [match for match in matches if not _WEAK.match(match.group())]
    for match in reversed(strong or matches):
        if is_denied_phrase(text, match.start()):
            continue
        if is_other_phrase(text, match.start()):
            return ""
        taken_back = retraction(text[match.end() :])
        if taken_back is not None:
            return _from_prose(text[match.end() + taken_back :]) or ""
        tail = text[match.end() : match.end() + 2_000].lstrip(" *:：\n\t\"“'").removeprefix('\\"')
        formula = next(formulas(tail), None)
        if formula is not None and formula.start == 0:
            if is_negated(tail, 0, formula.end) or following.is_changed(tail, formula.end):
                return ""
            other = following.alternative(tail, formula.end)
            if other is not None:
                return f"{formula.content} or {other}"
            joined = _joined_formulas(tail[formula.end :])
            return formula.content + joined if joined else following.with_words(tail, formula.end, formula.content)
        sentence = _SENTENCE_END.split(tail, maxsplit=1)[0].split("\n")[0]
        other = following.alternative(tail, len(sentence))
        sentence = _REASON.split(sentence, maxsplit=1)[0] or sentence
        sentence = _INTERJECTION.sub("", sentence).strip(" *\"'”").removesuffix(".").rstrip(' *"”')
        if sentence and is_bare_answer(sentence):
            return f"{sentence} or {other}" if other else sentence
        if sentence:
            return _from_prose(sentence) or statements.in_words(sentence)
    return None


def _joined_formulas(rest: str) -> str:
    """``$12$ and $13$`` is one answer: the formulas that follow, joined by a comma or "and", and words of a unit."""
    joined = ""
    while match := re.match(r"\s*(?:,|and|or|,\s*and|;)\s*\$((?:[^$])*)\$", rest):
        joined += ", " + match.group(1)
        rest = rest[match.end() :]
    unit = re.match(r"\s*(?:\\?%|percent|degrees)", rest)
    return joined + (unit.group() if unit else "")


def is_bare_answer(text: str) -> bool:
    """Whether a whole response is an answer without a sentence around it."""
    text = text.strip()
    if len(text) > 600 or text.count("\n") > 6:
        return False
    if "####" in text or text[:4].lower() == "ans.":
        return False
    if _CHOICE.match(text) and not _PHRASE.search(text) and len(text) <= 120 and "\n" not in text:
        return True
    outside = without_formulas(text.replace("\\!", ""))
    outside = re.sub(r"\\text[a-z]*\s*\{[^{}]*\}", " ", outside)
    if _LABELLED.match(outside) and len(_NUMBER.findall(outside)) == 1:
        return False  # a label and one number, as in "Price: 2.74 or so"
    if _SENTENCE.search(outside):
        return False
    return ":" not in re.sub(r"\d:\d|\} ?:|\w:[A-Za-z0-9]|: *-?\d", "", outside)


def _from_prose(text: str) -> str | None:
    """The last formula or number of a text that is not negated; None if the sentence hedges between several values, or
    if the text ends within a calculation."""
    text = _HOPE.sub("", text)
    if _GOES_ON.search(text):
        return None
    found = list(formulas(text))
    numbers = list(_VALUE.finditer(text, found[-1].end if found else 0))
    if numbers and len(_hedged_numbers(text)) > 1:
        return None
    values = [(formula.start, formula.end, formula.content) for formula in found]
    values += [(number.start(), number.end(), number.group()) for number in numbers]
    for index in range(len(values) - 1, -1, -1):
        start, end, value = values[index]
        if not is_negated(text, start, end) and not following.is_changed(text, end):
            value = following.with_words(text, end, value)
            return _with_joined(text, values[:index], start, value)
    return None


def _plain_value(text: str) -> Fraction | str:
    """The value of a decimal, a fraction or a percentage, so that 3/8 and 37.5% are one; other texts as they are."""
    plain = text.replace(",", "").removesuffix("%")
    if _PLAIN.fullmatch(plain) is None:
        return text
    return Fraction(plain) / (100 if text.endswith("%") else 1)


def _hedged_numbers(text: str) -> set[Fraction | str]:
    """The numbers of the last sentence and of those before it that hedge, if the last one does: "Maybe 3. Maybe 4."."""
    *earlier, last = re.split(r"[.!?\n]\s", text.strip()[-2 * MAX_SENTENCE_CHARS :])
    last = last[-MAX_SENTENCE_CHARS:]
    if not _HEDGE.search(last):
        return set()
    found: set[str] = set()
    for sentence in [*filter(_HEDGE.search, earlier), last]:
        numbers = _NUMBER.finditer(sentence)
        found |= {match.group() for match in numbers if not is_negated(sentence, match.start())}
    return {_plain_value(number) for number in found}


def _with_joined(text: str, earlier: list[tuple[int, int, str]], start: int, value: str) -> str:
    """The last value with those that "and" or "or" joins to it, as one list: "the roots are 3 and 4"."""
    joined = [value]
    words: set[str] = set()
    for first, end, other in reversed(earlier[-MAX_JOINED:]):
        between = text[end:start]
        if _JOINED.fullmatch(between) is None:
            break
        words.update(word.lower() for word in re.findall(r"\b(?:and|or)\b", between, re.IGNORECASE))
        if not words:
            break  # a comma alone, as in "x = 3, y = 4", may separate clauses
        joined.insert(0, other)
        start = first
    # "3/8 or 37.5%" is one value
    return (" or " if words == {"or"} else ", ").join(dict.fromkeys(joined))


def extract(response: str, *, prose: bool = True) -> Extraction:
    """Candidate answers of a response: from the answer tags if there are any, else from all of it.

    Args:
        response: The whole response, or a bare answer.
        prose: Whether a response with neither a box nor an announced answer yields its last formula or number.
    """
    text = final_part(response)
    if not text.strip():
        return Extraction((), "none", "nothing follows the reasoning" if response.strip() else "empty")
    tagged = _tagged(text)
    if not tagged:
        return _extract(text, prose)
    if len(tagged) > MAX_BOXES:
        return Extraction((), "none", f"more than {MAX_BOXES} answer tags")
    inside = [_extract(content, prose) for content in tagged if content.strip()]
    candidates = tuple(candidate for part in inside for candidate in part.candidates)
    if not candidates:
        return Extraction((), "none", "the answer tag holds no answer")
    return Extraction(candidates, "box")


def _tagged(text: str) -> list[str]:
    """The contents of the answer tags; without any, of the tags around a longer final part."""
    if "[/" in text or "_of_box|>" in text:
        text = _OTHER_TAG.sub(lambda match: "</answer>" if match[1] or match[2] == "end" else "<answer>", text)
    if "<" not in text:
        return []
    return _ANSWER_TAGS.findall(text) or _PART_TAGS.findall(text)


def has_tag(text: str) -> bool:
    """Whether a text contains an answer tag."""
    return bool(_tagged(text))


def without_struck(text: str) -> str:
    """The text without what it strikes out, in Markdown or HTML."""
    return _STRUCK.sub("", text) if "~~" in text or "</" in text else text


def without_html(text: str) -> str:
    """The text with HTML's line breaks as such, and its exponents and indices in LaTeX."""
    if "<" not in text:
        return text
    return _HTML_BREAK.sub("\n", _HTML_SCRIPT.sub(_script, text))


def _script(match: re.Match[str]) -> str:
    return f"{'^' if match['tag'].lower() == 'sup' else '_'}{{{match['content']}}}"


def without_emphasis(text: str) -> str:
    """The text without Markdown marks for bold, italic, code and headings; their content is kept."""
    if not _MARKED.search(text):
        return text
    for sign, mark in _EMPHASIS:
        if sign in text:
            text = mark.sub(r"\1", text)
    return without_headings(text)


def without_headings(text: str) -> str:
    """The text without the marks of Markdown's headings; their titles are kept."""
    return _HEADING.sub("", text) if "#" in text else text


def _extract(text: str, prose: bool) -> Extraction:
    found = boxes(text)
    if len(found) > MAX_BOXES:
        return Extraction((), "none", f"more than {MAX_BOXES} boxes")
    if found:
        return Extraction(tuple(map(without_emphasis, found)), "box")
    text = without_emphasis(text)
    stated = json_objects.json_answers(text)
    if stated:
        return Extraction((", ".join(stated),), "phrase")
    if json_objects.is_vague_json(text):
        return Extraction((), "none", "the JSON object does not say which value is the answer")
    chosen = statements.chosen(text)
    if chosen is not None and _PHRASE.search(text) is None:
        return Extraction((chosen,), "phrase")
    foreign = announcements.announced_answer(text)
    if foreign:
        return Extraction((next((formula.content for formula in formulas(foreign)), foreign),), "phrase")
    if is_bare_answer(text):
        return Extraction((text,), "bare")
    announced_answer = _after_phrase(text)
    if announced_answer is not None:
        return Extraction((announced_answer,), "phrase")
    last = statements.named_first(text) or (_from_prose(text) if prose else None)
    last = last or statements.in_words(text)
    if last is None:
        return Extraction((), "none", "no box, no announced answer and no formula")
    return Extraction((last,), "prose")
