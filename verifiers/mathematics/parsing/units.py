"""Units and other words around a number: their measure, and whether they change the value."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction

from verifiers.mathematics.parsing import foreign_units
from verifiers.mathematics.parsing.number_words import NUMERALS
from verifiers.mathematics.parsing.rejections import rejects

# Each measure: its quantity, and how many of the quantity's first unit it is.
_TABLE = """
length: mm millimeter millimetre = 1/1000, cm centimeter centimetre = 1/100, dm decimeter = 1/10, m meter metre = 1,
  km kilometer kilometre = 1000, in inch inches = 254/10000, ft foot feet = 3048/10000, yd yard = 9144/10000,
  mi mile = 1609344/1000
mass: mg milligram = 1/1000, g gram gm = 1, kg kilogram = 1000, lb pound lbs = 45359237/100000,
  oz ounce = 45359237/1600000
ton: ton tonne = 1
time: ms millisecond = 1/1000, s second sec = 1, min minute = 60, h hour hr hrs = 3600, day = 86400,
  week wk wks = 604800
month: month = 1, year yr yrs = 12
volume: ml milliliter millilitre = 1/1000, l liter litre = 1
liquid: gallon gal = 1, quart = 1/4, pint = 1/8, cup = 1/16
dollar: cent = 1/100, dollar usd buck = 1
euro: euro eur = 1
yen: yen jpy = 1
yuan: yuan cny rmb = 1
rupee: rupee inr = 1
sterling: sterling gbp = 1
won: won = 1
franc: chf = 1
rouble: rouble ruble = 1
hryvnia: hryvnia = 1
lira: lira = 1
dong: dong = 1
peso: peso = 1
shekel: shekel = 1
baht: baht = 1
angle: radian rad = 1
temperature: celsius = 1
fahrenheit: fahrenheit = 1
kelvin: kelvin = 1
force: newton = 1, kilonewton = 1000
energy: joule = 1, kilojoule = 1000, calorie cal = 4184/1000, kilocalorie kcal = 4184
power: watt = 1, kilowatt = 1000, megawatt = 1000000
voltage: volt = 1, kilovolt = 1000, millivolt = 1/1000
current: ampere amp = 1, milliampere = 1/1000
resistance: ohm = 1, kiloohm = 1000
pressure: pascal = 1, kilopascal = 1000, megapascal = 1000000
frequency: hertz = 1, kilohertz = 1000, megahertz = 1000000, gigahertz = 1000000000
electronvolt: electronvolt = 1, kiloelectronvolt = 1000, megaelectronvolt = 1000000
amount: mole = 1
turns: rpm = 1
unit: unit = 1
am: am = 1
pm: pm = 1
"""
_UNITS: dict[str, tuple[str, Fraction]] = {}
for _line in _TABLE.replace("\n  ", " ").strip().splitlines():
    _quantity, _, _measures = _line.partition(": ")
    for _measure in _measures.split(", "):
        _names, _, _size = _measure.partition(" = ")
        for _name in _names.split():
            _UNITS[_name] = (_quantity, Fraction(_size.rstrip(",")))
            if len(_name) > 2:
                _UNITS.setdefault(_name + "s", _UNITS[_name])
# Symbols whose case matters, and the names that stand for them above. One letter alone is a unit only after a plain
# number and a space: 2V may be twice a volume.
_SYMBOLS = {
    "N": "newton", "kN": "kilonewton", "J": "joule", "kJ": "kilojoule", "W": "watt", "kW": "kilowatt", "MW": "megawatt",
    "V": "volt", "kV": "kilovolt", "mV": "millivolt", "mA": "milliampere", "K": "kelvin", "Pa": "pascal",
    "kPa": "kilopascal", "MPa": "megapascal", "Hz": "hertz", "kHz": "kilohertz", "MHz": "megahertz",
    "GHz": "gigahertz", "eV": "electronvolt", "keV": "kiloelectronvolt", "MeV": "megaelectronvolt", "mol": "mole",
    "\\Omega": "ohm", "k\\Omega": "kiloohm", "Ω": "ohm", "kΩ": "kiloohm", "rpm": "rpm",
}  # fmt: skip
_SYMBOL = re.compile(
    "(?<![A-Za-z])(?:" + "|".join(sorted(map(re.escape, _SYMBOLS), key=len, reverse=True)) + ")(?![A-Za-z])"
)
_BARE_SYMBOL = re.compile(
    r"(?<=\d) ?(?P<unit>" + "|".join(re.escape(name) for name in _SYMBOLS if len(name) > 1) + r")$"
    r"|^-?\d[\d.,]* (?P<letter>[NJWVKΩ])$"
)
_TEMPERATURE = re.compile(
    r"(?:\^ *(?:\{ *\\circ *\}|\\circ)| degrees?) *(?:\\text *\{ *)?(?P<scale>C|F|[Cc]elsius|[Ff]ahrenheit)\b *\}?$"
    r"|\\text *\{ *degrees? *(?P<words>C|F|[Cc]elsius|[Ff]ahrenheit) *\}$"
)
_SHORT = {"mph": "mi/h", "kph": "km/h", "kmph": "km/h"}
# Words that often follow a number without a text command. They count something and are not measures.
_COUNTED = """
unit people person student way integer number ticket page book apple coin point step
mark hectare acre card game child children man men woman women boy girl digit solution time pair degree outfit marble
ball piece match matches
""".split()

CHANGES_VALUE = frozenset(
    "not no non never neither nor none except without minus negative plus hundred hundreds thousand thousands million"
    " millions billion billions trillion lakh lakhs"
    " crore crores dozen dozens half halves third thirds quarter quarters double twice times"
    " less least greater more most than over between between up from to squared cubed mod modulo base divided"
    " if unless or and either maybe perhaps possibly versus below beneath under above after before ago past short off"
    " until beyond within against instead rather but power powers bn mn among etc factorial".split()
)
"""Words that change the value and cannot be dropped: numbers, negations, comparisons, directions, alternatives."""

_NAMES = {*_UNITS, *_SHORT, *_COUNTED, *(name + "s" for name in _COUNTED)}
_BARE_UNIT = re.compile(
    r"(?<=[0-9)}\]])\s{0,4}(?P<power>square |cubic |sq\.? |cu\.? )?(?P<unit>"
    + "|".join(sorted(map(re.escape, _NAMES), key=len, reverse=True))
    + r")(?P<script>\^\{?[23]\}?|\^[23])?(?:\s?(?:/|per)\s?(?:[a-z]{1,10})(?:\^\{?2\}?)?)?$",
    re.IGNORECASE,
)
_RATE = re.compile(r"(?<=\d) per [a-z]{2,20}$")
_HALF_OF_DAY = re.compile(r"(?<=\d)\s?[ap]\.\s?m\.?$|(?<=\d)\s?[ap]m$", re.IGNORECASE)
_PERCENT_WORD = re.compile(
    r"\s*\\text\s*\{\s*(?:percent|per cent|pct|percentage)s?\s*\}|(?<=[0-9}])\s*(?:percentage|percent|per cent|pct)\b"
)
_DEGREE_WORD = re.compile(r"\s*\\text\s*\{\s*deg(?:rees?|\.)?\s*\}|(?<=[0-9}])\s*deg(?:rees?)?$")
_EQUALS = re.compile(r"(?<=[A-Za-z0-9)}]) equals (?=[-A-Za-z0-9\\(])")
_SCALES = {
    "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12
}  # fmt: skip
_SCALE_WORD = re.compile(
    rf"(?<=[0-9}}])\s*(?:\\text\s*\{{\s*(?P<inside>{'|'.join(_SCALES)})\b\s*(?P<rest>[^{{}}]*)\}}|(?P<plain>{'|'.join(_SCALES)})\b)"
)
_CURRENCIES = {
    "\\$": "dollar", "$": "dollar", "€": "euro", "£": "sterling", "¥": "¥", "￥": "¥", "₹": "rupee", "¢": "cent",
    "₩": "won", "₽": "rouble", "₴": "hryvnia", "₺": "lira", "₫": "dong", "₱": "peso", "₪": "shekel", "฿": "baht",
    "\\textdollar": "dollar", "\\pounds": "sterling", "\\textsterling": "sterling", "\\euro": "euro",
    "\\texteuro": "euro",
}  # fmt: skip
_CURRENCY = re.compile(
    r"\\(?:textdollar|pounds|textsterling|euro|texteuro)(?![A-Za-z])|\\\$|[€£¥￥₹¢₩₽₴₺₫₱₪฿]|^\s*\$(?=\s*[\d.])(?=[^$]*$)"
)
_CODES = {
    "USD": "dollar", "US$": "dollar", "EUR": "euro", "GBP": "sterling", "INR": "rupee", "Rs": "rupee", "JPY": "yen",
    "CNY": "yuan", "RMB": "yuan", "CHF": "chf",
}  # fmt: skip
_CODE = re.compile(
    r"^\s*(?:\\text[a-z]*\s*\{\s*)?(?P<code>"
    + "|".join(map(re.escape, _CODES))
    + r")(?![A-Za-z])\.?\s*\}?[\s~]*(?:\\ )?(?=[\d\\])"
)
# 5k after a sign of a currency is 5000.
_SCALE_LETTERS = {"k": "thousand", "m": "million", "b": "billion", "bn": "billion", "mn": "million"}
_THOUSANDS_OF_MONEY = re.compile(r"^(\s*-?(?:US)?(?:\\?\$|[€£¥₹]) ?\d[\d.,]{0,30}) ?(bn|mn|[kKmMbB])\s*$")
_EMPTY_TEXT = re.compile(r"\\text[a-z]*\s*\{\s*\}")
_ORDINAL = re.compile(r"(?<=[0-9])(?:\^?\{?\\text\{(?:st|nd|rd|th)\}\}?|(?:st|nd|rd|th)\b)")


def signs_for_words(text: str) -> str:
    """``28 percent`` as ``28%``, ``72 degrees`` with a degree sign, ``3 million`` as a product, ``12th`` as 12."""
    if not any(letter.isalpha() for letter in text):
        return text
    text = _EQUALS.sub(" = ", foreign_units.scaled(text))
    text = _PERCENT_WORD.sub("%", text)
    text = _DEGREE_WORD.sub(r"^{\\circ}", text)
    text = _SCALE_WORD.sub(_scaled, text)
    return _ORDINAL.sub("", text)


def _scaled(match: re.Match[str]) -> str:
    rest = f"\\text{{{match['rest']}}}" if match["rest"] else ""
    return f" \\cdot {_SCALES[match['inside'] or match['plain']]} {rest}"


def without_currency(text: str) -> tuple[str, str]:
    """An answer without currency signs, and the currency; empty if there is none."""
    text = _THOUSANDS_OF_MONEY.sub(lambda match: f"{match[1]} {_SCALE_LETTERS[match[2].lower()]}", text)
    if (code := _CODE.match(text)) is not None:
        return text[code.end() :], _CODES[code["code"]]
    signs = _CURRENCY.findall(text)
    if not signs:
        return text, ""
    return _EMPTY_TEXT.sub("", _CURRENCY.sub("", text)), _CURRENCIES[signs[0].strip()]


@dataclass(frozen=True, slots=True)
class Measure:
    """A measure: the powers of its quantities, and its size in their base units."""

    powers: tuple[tuple[str, int], ...]
    size: Fraction

    @property
    def degree(self) -> int:
        """2 for an area, whatever its unit."""
        return sum(power for _, power in self.powers)


_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3, "squared": 2, "cubed": 3}
_FACTOR = re.compile(r"([a-z]+)(?:\^?\{?(-?[1-4])\}?)?")


def measure(words: str) -> Measure | None:
    """The measure that a unit's words name, such as ``km/h`` or ``square feet``; None if a word is not a measure."""
    words = _SYMBOL.sub(lambda match: _SYMBOLS[match.group()], words).replace("\\cdot", " ").replace("*", " ")
    text = re.sub(r"\b([ap])\.? ?m\b\.?", r"\1m", words.lower()).replace(" per ", " / ").replace(".", " ")
    for short, long in _SHORT.items():
        text = re.sub(rf"\b{short}\b", long, text)
    powers: Counter[str] = Counter()
    size, direction, pending = Fraction(1), 1, 1
    last = ""
    for part in re.findall(r"[a-z]+(?:\^?\{?-?[1-4]\}?)?|\S", text):
        factor = _FACTOR.fullmatch(part)
        if part == "/":
            direction = -1
        elif part in ("squared", "cubed") and last:
            quantity, unit = _UNITS[last]
            powers[quantity] += direction * (_POWERS[part] - 1)
            size *= unit ** (direction * (_POWERS[part] - 1))
        elif part in _POWERS:
            pending = _POWERS[part]
        elif factor is None or factor[1] not in _UNITS:
            return None
        else:
            last = factor[1]
            quantity, unit = _UNITS[last]
            power = direction * pending * int(factor[2] or 1)
            powers[quantity] += power
            size *= unit**power
            pending = 1
    return Measure(tuple(sorted((name, power) for name, power in powers.items() if power)), size) if powers else None


_GENERIC = frozenset(
    "unit people person way integer number thing item object piece total different of the a an per in and each every"
    " daily remaining".split()
)
"""Words in a unit that do not tell what is counted."""


def is_specific(word: str) -> bool:
    """Whether a word of a unit, in singular form, tells what is counted or in which direction."""
    return word not in _UNITS and word not in _GENERIC and word not in _POWERS


def droppable(words: str) -> bool:
    """Whether words next to a number do not change its value."""
    # 5k is 5000; K is a unit
    found = set(re.findall(r"[a-z]+", words.lower())) & CHANGES_VALUE
    numeral = set(re.findall(r"(?<![a-z-])[a-z]+(?![a-z-])", words.lower())) & NUMERALS  # not "two-digit"
    changes = found or numeral or words.strip() in ("k", "M", "B", "bn", "mn")
    return not changes and not rejects(words) and foreign_units.droppable(words)


_COUNTED_THINGS = re.compile(
    r"(-?\d[\d.,]*(?:/\d+)?|\\frac\{\d+\}\{\d+\}) ?((?:[A-Za-z]{3,20})(?: [A-Za-z]{2,20}){0,2})"
)


_NO_THINGS = frozenset(
    "is are was wrong incorrect false error undefined impossible factorial root power square cube score pi mod tenth"
    " tenths hundredth hundredths thousandth thousandths fourth fourths fifth fifths sixth sixths seventh sevenths"
    " eighth eighths ninth ninths sqrt sin cos tan log exp max min equals answer right correct zero one two three four"
    " five six seven eight nine ten eleven twelve twenty thirty forty fifty sixty seventy eighty ninety fewer choose"
    " out of point remainder prime digits digit figure figures nope false true invalid unknown only maximum"
    " minimum repeating recurring infinity radical exponent inverse reciprocal complex imaginary i".split()
)
"""Words after a number that are not counted things: they comment on it or change its value."""
_FRACTION_WORD = re.compile(r"(?:teen|elf|tie|leven|illion|ousand|undred)ths?\b", re.IGNORECASE)  # 3 sixteenths


def split_counted_things(text: str) -> tuple[str, str]:
    """A number and up to three plain words for what it counts: ``72 clips`` gives ``72`` and ``clips``."""
    match = _COUNTED_THINGS.fullmatch(text)
    if match is None or not droppable(match[2]) or _FRACTION_WORD.search(match[2]):
        return text, ""
    if set(match[2].lower().split()) & _NO_THINGS:
        return text, ""
    return match[1], match[2]


def split_bare_unit(text: str) -> tuple[str, str]:
    """A number and the unit that follows it as plain words: ``64 square feet`` gives ``64`` and ``square feet``."""
    if len(text) > 200:
        return text, ""
    value, foreign = foreign_units.split(text)
    if foreign:
        return value, foreign
    if not text[-1:].isalnum() and text[-1:] not in ("}", "."):
        return text, ""
    if (scale := _TEMPERATURE.search(text)) is not None and text[: scale.start()].rstrip()[-1:].isdigit():
        name = scale["scale"] or scale["words"]
        return text[: scale.start()].rstrip(), "celsius" if name[0] in "Cc" else "fahrenheit"
    if (symbol := _BARE_SYMBOL.search(text)) is not None:
        unit = symbol["unit"] or symbol["letter"]
        return text[: -len(unit)].rstrip(), unit
    if (rate := _RATE.search(text)) is not None:
        return text[: rate.start()].rstrip(), rate.group().strip()
    half = _HALF_OF_DAY.search(text)
    if half is not None:
        return text[: half.start()].rstrip(), half.group().strip()
    match = _BARE_UNIT.search(text.rstrip("."))
    if match is None:
        return text, ""
    # A single letter after a digit is a variable (3m, 2s) unless a space precedes it.
    if len(match.group("unit")) == 1 and not match.group().startswith(" "):
        return text, ""
    return text[: match.start()].rstrip(), match.group().strip()
