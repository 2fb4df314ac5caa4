"""Normalizes LaTeX, Unicode and plain text without changing the meaning. Every pattern runs in linear time."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from verifiers.mathematics.parsing.decoration import undecorated
from verifiers.mathematics.parsing.rewriting import rewritten

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_VULGAR = {
    "½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅖": "2/5", "⅗": "3/5",
    "⅘": "4/5", "⅙": "1/6", "⅚": "5/6", "⅛": "1/8", "⅜": "3/8", "⅝": "5/8", "⅞": "7/8",
}  # fmt: skip
_SYMBOLS = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "‒": "-", "―": "-", "˗": "-", "➖": "-", "∶": ":",
    "×": r"\times ", "÷": r"\div ", "·": r"\cdot ", "⋅": r"\cdot ",
    "∙": r"\cdot ", "√": r"\sqrt ", "∛": r"\sqrt[3] ", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "⩽": r"\le ",
    "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "°": r"^{\circ}",
    "±": r"\pm ", "∓": r"\mp ", "∅": r"\emptyset ", "ℝ": r"\mathbb{R}", "∖": r"\setminus ", "′": "'", "’": "'",
    "π": r"\pi ", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "δ": r"\delta ",
    "λ": r"\lambda ", "μ": r"\mu ", "ρ": r"\rho ", "σ": r"\sigma ", "φ": r"\phi ", "ω": r"\omega ", "∠": r"\angle ",
    "＜": "<", "＞": ">", "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "⁄": "/",
    "º": r"^{\circ}", "˚": r"^{\circ}", "⟨": "(", "⟩": ")", "∕": "/", "٪": "%", "∜": r"\sqrt[4] ",
}  # fmt: skip
_INVISIBLE = re.compile(
    "[\u200b-\u200f\u2060-\u2064\u202a-\u202e\u2066-\u2069\u061c\u180e\ufe00-\ufe0f\ufeff\u00ad\x00]"
)
_SUBSCRIPT_RUN = re.compile("(?<=[A-Za-z0-9])[₀₁₂₃₄₅₆₇₈₉]+")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_SUPERSCRIPT_RUN = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+")
_SYMBOL = re.compile("[" + "".join(map(re.escape, _SYMBOLS)) + "]")
# Greek words have letters without a meaning in formulas; then all letters of the word are kept.
_GREEK_WORD = re.compile("[\u0370-\u03ff\u1f00-\u1fff]{2,}")

# Layout only. `\left.` and `\right.` are invisible delimiters.
_SPACING = re.compile(
    r"\\(?:left|right)\.|\\(?:left|right|bigl|bigr|Bigl|Bigr|biggl|biggr|big|Big|bigg|Bigg|displaystyle|textstyle"
    r"|limits|nolimits|hfill|boldsymbol|bm)(?![A-Za-z])"
)
_SPACES = re.compile(r"\\(?:[,;:> ]|quad(?![A-Za-z])|qquad(?![A-Za-z])|enspace(?![A-Za-z]))|~|\s")
_THOUSANDS_MARK = re.compile(r"(?<=\d)(?:,\\!| *\{ *, *\}|\\,|\{\\,\}|\\!,|') *(?=\d{3}(?!\d))")
# A point in braces is a decimal one. So is a comma in braces, or after groups that spaces separate (12 345,67), if the
# whole value is one number; in a set it separates the members.
_DECIMAL_POINT = re.compile(r"(?<=\d) *\{ *\. *\} *(?=\d)")
_DECIMAL_COMMA = re.compile(
    r"^([\\$ ]{0,4}(?:[A-Za-z] ?= ?)?[-+]?\d+) *\{ *, *\} *(?=\d+[^\d,;]*(?:\^ ?\{?[23][^\d,;]*)?$)"
    r"|^(-?\d{1,3}(?:[ ~]\d{3})+),(?=\d\d$)"
)
_BRACED_COMMA = re.compile(r"(?<=\d) *\{ *, *\} *(?=\d)")
_FRACTIONS = re.compile(r"\\(?:[dtc]|nice|s|x|flat)frac(?![A-Za-z])")
_BINOMIALS = re.compile(r"\\[dt]binom(?![A-Za-z])")
_CHOICE_STYLE = re.compile(r"\\(?:mathbf|bf|mathsf|mathit)\s*\{\s*(?=\(\s*[A-J]\s*\))")
_TEXT = re.compile(r"\\(?:mbox|hbox|textnormal|textbf|textit|textrm|textsf|texttt|emph|textup|mathrm|rm|text)\s*(?=\{)")
_ARROW = re.compile(r"\\vec\s*(?=\{\s*[A-Z]\s*[A-Z])")
_STYLES = re.compile(r"\\(?:mathbf|mathit|mathsf|mathtt|mathnormal|mathcal|bold|vec|operatorname)(?![A-Za-z])\s*(?=\{)")
_RELATIONS = {
    "leqslant": "le", "geqslant": "ge", "leq": "le", "geq": "ge", "lt": "<", "gt": ">", "neq": "ne", "simeq": "approx",
    "lbrace": "{", "rbrace": "}", "infin": "infty", "varnothing": "emptyset", "backslash": "setminus", "ast": "cdot",
    "not=": "ne", "not =": "ne",
    "bar": "overline", "land": "text{ and }", "lor": "text{ or }", "to": "to", "degree": "circ", "textdegree": "circ",
    "Bbb": "mathbb", "R": "mathbb{R}", "Z": "mathbb{Z}", "N": "mathbb{N}", "Q": "mathbb{Q}", "reals": "mathbb{R}",
}  # fmt: skip
_SYNONYM = re.compile(r"\\(" + "|".join(sorted(_RELATIONS, key=len, reverse=True)) + r")(?![A-Za-z])")
_DOUBLED = re.compile(
    r"\\\\(?=(?:frac|dfrac|tfrac|sqrt|left|right|pi|text|boxed|le|ge|leq|geq|cup|in|infty|cdot|times|theta|pm|circ|ln"
    r"|log|sin|cos|tan|quad|[{}%$]))"
)
_EMPTY_SCRIPT = re.compile(r"\^\{? *\}?$")
_BLANKS = re.compile(r"(?<!\d) +| +(?!\d)")
_LONG_EXPONENT = re.compile(r"(\^|\\sqrt) *(-?\d{2,})(?![\d.])")
_PHANTOM = re.compile(r"\\[hv]?phantom *(?:\{[^{}]*\}|[-+0-9A-Za-z])|\\(?:_|underline *\{ *\})|_{2,}")
_DEGREE_LETTER = re.compile(
    r"(?<=\d) *\^ *(?:o|\{ *o *\}|\{? *\\(?:text|mathrm) *\{ *o *\} *\}?)(?= *(?:\\?[,.;CF]|$))"
)
# Three dots are no full stop: "12..." goes on.
_END = re.compile(r"(?:[\s,;:]|(?<=[\w)}\]])。|(?<!\.)\.|\\$)+$")
# Check marks, smileys and the like after an answer. An answer that is only such a sign is kept.
_SIGNS_OF_JOY = "\u2705\u2713\u2714\u2611\u2728\u2b50\ufe0f\u220e\U0001f389\U0001f3af\U0001f44d\U0001f600-\U0001f64f"
_CHEER = re.compile(rf"(?<=[\w)}}\]%.!$])[\s*]*[{_SIGNS_OF_JOY}]+\s*$|^[{_SIGNS_OF_JOY}]+\s*(?=\S)")
_NEGATIVE_TEXT = re.compile(r"\\(?:text|mathrm|textrm|mbox)\s*\{\s*-\s*\}(?=\s*[\d\\(.])")


# Recurring decimals: a bar, dots over the first and the last digit of the period, or brackets after the point.
_BAR = re.compile(r"(?<!\d)(\d*\.\d*) *(?:\\(?:overline|bar) *(?:\{ *(\d+) *\}|(\d))|(?<=\.)\((\d+)\))")
_DOTTED = r"\\dot *(?:\{ *\d *\}|\d)"
_DOTS = re.compile(rf"(?<!\d)(\d*\.\d*)({_DOTTED}(?:\d*{_DOTTED})?)")
_ELLIPSIS = re.compile(r"(?<![\d.])(\d*\.)(\d{2,60}) *(?:\\[lc]?dots(?![A-Za-z])|\.{2,})")
_PERIOD = re.compile(r"(\d+?)\1+$")
_ENUMERATION = re.compile(r"(?<=[\w)}\]])、(?=[\w\\({\[-])")
_COMBINING = re.compile("((?:\\d\u0305)+)|(\\d)\u0307")


def _recurring(text: str) -> str:
    r"""Recurring decimals in one spelling, ``0.1\overline{6}``; ``0.1666...`` is one as well, ``3.1415...`` is not."""
    text = _BAR.sub(lambda m: f"{m[1]}\\overline{{{m[2] or m[3] or m[4]}}}", text)
    text = _DOTS.sub(lambda m: f"{m[1]}\\overline{{{re.sub('[^0-9]', '', m[2])}}}", text)
    return _ELLIPSIS.sub(_continued, text)


def _continued(match: re.Match[str]) -> str:
    period = _PERIOD.search(match[2])
    if period is None:
        return match.group()
    return f"{match[1]}{match[2][: period.start()]}\\overline{{{period[1]}}}"


def _synonym(match: re.Match[str]) -> str:
    replacement = _RELATIONS[match.group(1)]
    return replacement + " " if replacement in "<>" else "\\" + replacement


def clean_unicode(text: str) -> str:
    """Fold unicode spellings into ASCII and LaTeX: full-width digits, roots, superscripts, minus signs, spaces."""
    if text.isascii():
        return text
    text = _INVISIBLE.sub("", text).replace("³√", "∛").replace("⁴√", "∜")
    text = _SUPERSCRIPT_RUN.sub(lambda match: "^{" + match.group().translate(_SUPERSCRIPTS) + "}", text)
    text = _SUBSCRIPT_RUN.sub(lambda match: "_{" + match.group().translate(_SUBSCRIPTS) + "}", text)
    for sign, value in _VULGAR.items():
        if sign in text:
            top, bottom = value.split("/")
            text = text.replace(sign, rf"\frac{{{top}}}{{{bottom}}}")
    text = _symbols(_ENUMERATION.sub(",", text))
    text = _COMBINING.sub(
        lambda m: f"\\dot{{{m[2]}}}" if m[2] else f"\\overline{{{m[1].replace(chr(0x305), '')}}}", text
    )
    return _symbols(_digits(unicodedata.normalize("NFKC", text)))


def _symbols(text: str) -> str:
    parts: list[str] = []
    position = 0
    for word in _GREEK_WORD.finditer(text):
        if not all(letter in _SYMBOLS for letter in word.group()):
            parts += [_SYMBOL.sub(lambda match: _SYMBOLS[match.group()], text[position : word.start()]), word.group()]
            position = word.end()
    return "".join([*parts, _SYMBOL.sub(lambda match: _SYMBOLS[match.group()], text[position:])])


def _digits(text: str) -> str:
    """Decimal digits of any script as ASCII ones, and the Arabic separators between them."""
    if not _OTHER_DIGIT.search(text):
        return text
    text = _OTHER_DIGIT.sub(lambda match: str(unicodedata.decimal(match.group())), text)
    return re.sub(r"(?<=\d)٫(?=\d)", ".", re.sub(r"(?<=\d)٬(?=\d{3})", "", text))


_OTHER_DIGIT = re.compile(r"(?![0-9])\d")


@lru_cache(maxsize=64)  # one verdict normalizes the same texts about seven times
def normalize(text: str) -> str:
    r"""An answer in the form that the parser reads.

    Dollars, spacing commands and decoration are removed; ``\dfrac`` and the like become ``\frac``, every text command
    becomes ``\text``, unambiguous thousands separators (``,\!`` and ``{,}``) are removed.
    """
    text = _recurring(
        _NEGATIVE_TEXT.sub("-", clean_unicode(text if text.isascii() else _CHEER.sub("", text)))
        .replace("\x0crac", "\\frac")
        .replace("{:}", ":")
        .replace(":=", "=")
        .strip()
    )
    text = undecorated(_DEGREE_LETTER.sub(r"^{\\circ}", rewritten(text)))
    if "\\" in text:
        if "\\begin" not in text:
            text = _DOUBLED.sub(r"\\", text)
        text = _decimal_marks(_THOUSANDS_MARK.sub("", text).replace("\\!", ""))
        text = text.replace("\\colon", ":")
        text = text.replace("\\$", "").replace("\\%", "%").replace("\\#", "")
        text = text.replace("\\(", "").replace("\\)", "")
        if "\\begin" not in text:
            text = text.replace("\\[", "").replace("\\]", "")
        text = _SPACING.sub("", _PHANTOM.sub("", text))
        text = _FRACTIONS.sub(r"\\frac", text)
        text = _BINOMIALS.sub(r"\\binom", text)
        text = _TEXT.sub(r"\\text", _CHOICE_STYLE.sub(r"\\text{", text))
        text = _STYLES.sub("", _ARROW.sub(r"\\overrightarrow", text))
        text = _SYNONYM.sub(_synonym, text)
    else:
        text = _decimal_marks(_THOUSANDS_MARK.sub("", text))
    # Row breaks of a matrix are kept; the space after one keeps "\\ 1" from becoming a spacing command.
    parts = text.replace("$", "").split("\\\\")
    text = "\\\\ ".join(re.sub(r" {2,}", " ", _SPACES.sub(" ", part)) for part in parts).strip()
    text = _LONG_EXPONENT.sub(r"\1{\2}", _EMPTY_SCRIPT.sub("", _END.sub("", text)))
    return braced(text).strip()


def _decimal_marks(text: str) -> str:
    if "\\{" in text and ";" not in text:
        return _BRACED_COMMA.sub(",", _DECIMAL_POINT.sub(".", text))
    return _DECIMAL_COMMA.sub(lambda match: f"{match[1] or match[2]}.", _DECIMAL_POINT.sub(".", text))


_ARGUMENT = re.compile(r" *(\\[A-Za-z]+(?: *\{[^{}]*\})?|\d|[A-Za-z])")


def braced(text: str) -> str:
    r"""``\frac12``, ``\frac \pi4`` and ``\sqrt2`` with their braces, so that all parsers see the same arguments."""
    parts: list[str] = []
    position = 0
    for match in _COMMAND.finditer(text):
        if match.start() < position:
            continue
        parts.append(text[position : match.end()])
        position = match.end()
        for _ in range(2 if match.group(1) == "frac" else 1):
            blank = len(text[position:]) - len(text[position:].lstrip(" "))
            start = position + blank
            if text[start : start + 1] in ("{", "["):
                end = matching_brace(text, start) if text[start] == "{" else -1
                if end < 0:
                    break
                parts.append(
                    text[start : end + 1] if match.group(1) == "sqrt" else "{" + braced(text[start + 1 : end]) + "}"
                )
                position = end + 1
                continue
            argument = _ARGUMENT.match(text, position)
            if argument is None or argument.group(1).startswith(("\\frac", "\\sqrt")):
                break
            parts.append("{" + argument.group(1) + "}")
            position = argument.end()
    return "".join([*parts, text[position:]])


_COMMAND = re.compile(r"\\(frac|sqrt)(?![A-Za-z])")


def without_spaces(text: str) -> str:
    """A normalized answer without spaces, except between digits: equal texts are equal answers."""
    return _BLANKS.sub("", text)


def matching_brace(text: str, start: int) -> int:
    """Index of the brace that closes the one at ``start``; -1 if there is none. Escaped braces do not count."""
    depth = 0
    position = start
    while position < len(text):
        sign = text[position]
        if sign == "\\":
            position += 2
            continue
        if sign == "{":
            depth += 1
        elif sign == "}":
            depth -= 1
            if depth == 0:
                return position
        position += 1
    return -1
