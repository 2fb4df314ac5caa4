"""Rewrites notations that the parser does not know: 1_000, 0xFF, 5C2, cis, 5 x 7, aligned equations, [[1,2],[3,4]]."""

from __future__ import annotations

import re

# Digit groups as in Python (1_000_000), and with points (1.234.567,8); with one point it may be a decimal.
_UNDERSCORES = re.compile(r"(?<![\w.])\d{1,3}(?:\\?_\d{3})+(?![\w}])")
_POINTS = re.compile(r"(?<![\w.,])[1-9]\d{0,2}(?:\.\d{3}){2,}(?:,\d{1,20})?(?![\w.,])")
_PREFIXED = re.compile(r"(?<![\w.\\])0(?:[xX]([0-9A-Fa-f]{1,60})|[bB]([01]{1,60})|[oO]([0-7]{1,60}))(?![\w.])")
# The letter x as a sign between numbers: 5 x 7, 6.02x10^23.
_TIMES = re.compile(
    r"(?<=[\d)}]) +[xX] +(?=[\d($]|\\(?:[dt]?frac|sqrt|pi)(?![A-Za-z]))|(?<=\d) ?[xX] ?(?=10 ?(?:\^|\*\*))"
)
# Not 5C_2, in which C_2 may be a name.
_CHOICES = re.compile(
    r"(?<![\w.,)}\\^_])(?:(\d{1,4}) ?([CP]) ?(\d{1,4})"
    r"|(?:\{ *\})?[_^](?:\{ *(\d{1,4}) *\}|(\d)) *(?:\\(?:mathrm|text|rm) *\{ *)?([CP])(?: *\})? *_"
    r"(?:\{ *(\d{1,4}) *\}|(\d)))"
    r"(?![\w.])"
)
_UNION = re.compile(r"(?<=[)\]]) *U *(?=[(\[])")
_PLUS_MINUS = re.compile(r"\+ ?/ ?-|\bplus or minus\b")
_CIS = re.compile(r"\\(?:operatorname|text|mathrm|textrm|mathop) *\{ *cis *\}|\\cis(?![A-Za-z])")
_ALIGNED = re.compile(
    r"\s*\\begin *\{(aligned|align\*?|gathered|gather\*?|split|equation\*?|eqnarray\*?)\}(?:\[[tbc]\])?"
    r"((?:(?!\\begin).)*)\\end *\{\1\}\s*",
    re.DOTALL,
)
# A matrix as lists of its rows, as programs write it.
_ROWS = re.compile(r"\s*(?:(?:np\.)?(?:[Mm]atrix|array) *\( *)?\[ *((?:\[[^\[\]]+\] *(?:, *(?=\[))?)+)\] *\)?\s*")
_NOON = re.compile(
    r"(?:\\(?:text|mathrm) ?\{)? ?(?:12(?::00)?)? ?(?:\\(?:text|mathrm) ?\{)? ?(noon|midnight) ?\}?", re.IGNORECASE
)
_UNIT_FRACTION = re.compile(
    r"\\[dt]?frac *\{ *\\(?:text|mathrm) *\{([A-Za-z ]{1,30})\} *\} *\{ *\\(?:text|mathrm) *\{([A-Za-z ]{1,30})\} *\}"
)
_O_CLOCK = re.compile(r"(?<=\d) ?(?:\\text ?\{)? ?o' ?clock ?\}?", re.IGNORECASE)
_ARC_MINUTES = re.compile(
    r"(\d{1,3}) *(?:\^ *\{? *\\circ *\}?|°) *(\d{1,2}) *(?:'|\^ *\{ *\\prime *\})(?: *(\d{1,2}) *(?:''|\"))?"
)
_IN_BASE = re.compile(
    r"([0-9A-F]{1,60}) ?(?:\\(?:text|mathrm) ?\{)? ?\(? ?(?:in )?base[- ]?(\d{1,2}|[a-z]{3,7}) ?\)? ?\}?"
    r"|([0-9A-F]{1,60})_\{ ?\((\d{1,2})\) ?\}"
)
# The patterns here try every length of a run of blanks, so that long runs would take quadratic time.
_BLANKS = re.compile(r"\s{2,}")
_ROW = re.compile(r"\\\\(?: *\[[^\]]{0,20}\])?")


def rewritten(text: str) -> str:
    """The text in a notation that the parser knows."""
    text = _BLANKS.sub(" ", text)
    if "." in text:
        text = _POINTS.sub(lambda match: match.group().replace(".", "").replace(",", "."), text)
    if "_" in text:
        text = _UNDERSCORES.sub(lambda match: re.sub(r"\\?_", "", match.group()), text)
    if "0" in text:
        text = _PREFIXED.sub(_with_base, text)
    if "x" in text or "X" in text:
        text = _TIMES.sub(r" \\times ", text)
    if "C" in text or "P" in text:
        text = _CHOICES.sub(_factorials, text)
    if "U" in text:
        text = _UNION.sub(r" \\cup ", text)
    if "+" in text or "plus" in text:
        text = _PLUS_MINUS.sub(r"\\pm ", text)
    if "frac" in text:
        text = _UNIT_FRACTION.sub(r"\\text{\1/\2}", text)
    if "cis" in text:
        text = _CIS.sub("cis ", text)
    if "\\begin" in text and (aligned := _ALIGNED.fullmatch(text)) is not None:
        text = _on_one_line(aligned[2])
    if "[" in text and (rows := _ROWS.fullmatch(text)) is not None:
        text = _matrix(rows[1]) or text
    if ("base" in text or "_{" in text) and (based := _IN_BASE.fullmatch(text)) is not None:
        text = f"{based[1] or based[3]}_{{{based[2] or based[4]}}}"
    if text[-10:].rstrip(" }").lower().endswith(("noon", "midnight")) and (twelve := _NOON.fullmatch(text)) is not None:
        text = rf"12:00 \text{{ {'PM' if twelve[1].lower() == 'noon' else 'AM'}}}"
    if "'" in text:
        text = _ARC_MINUTES.sub(_degrees, _O_CLOCK.sub(":00", text))
    return text


def _matrix(rows: str) -> str | None:
    """Several rows of equal length as a matrix; None for other lists."""
    entries = [row.split(",") for row in re.findall(r"\[([^\[\]]+)\]", rows)]
    if len(entries) < 2 or len(set(map(len, entries))) > 1:
        return None
    body = r" \\ ".join(" & ".join(row) for row in entries)
    return rf"\begin{{bmatrix}}{body}\end{{bmatrix}}"


def _degrees(match: re.Match[str]) -> str:
    """Degrees with minutes and seconds of arc as a fraction of degrees."""
    seconds = int(match[1]) * 3600 + int(match[2]) * 60 + int(match[3] or 0)
    return rf"\frac{{{seconds}}}{{3600}}^{{\circ}}"


def _with_base(match: re.Match[str]) -> str:
    """A numeral of a programming language: 0xFF as FF with the base 16."""
    for digits, base in zip(match.groups(), (16, 2, 8), strict=True):
        if digits is not None:
            return f"{digits.upper()}_{{{base}}}"
    raise AssertionError("one of the groups matches")


def _factorials(match: re.Match[str]) -> str:
    """The number of choices (C) or of arrangements (P)."""
    above, kind, below = (found for found in match.groups() if found is not None)
    return rf"\binom{{{above}}}{{{below}}}" if kind == "C" else rf"\frac{{{above}!}}{{({above}-{below})!}}"


def _on_one_line(rows: str) -> str:
    """Aligned rows as a list; one that begins with an equals sign goes on with the row before it."""
    found: list[str] = []
    for row in (part.replace("&", " ").strip().rstrip(",;.") for part in _ROW.split(rows)):
        if found and row.startswith("="):
            found[-1] += row
        elif row:
            found.append(row)
    return ", ".join(found)
