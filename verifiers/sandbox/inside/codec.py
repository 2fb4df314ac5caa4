"""Encodes and decodes Python values as JSON with tags, for a channel whose other end may be hostile.

``decode`` makes exact built-in types only (and those of a few standard modules), never an instance of a class that
the sender named. So no method of the sender runs in the receiver. An object that has no encoding is sent as a *handle*,
a number that stands for the object in the sender's process. An iterator is sent as a *stream*, a handle from which the
receiver can request the items. No pickle, no marshal.

Plain JSON: null, booleans, integers, floats, strings, and lists. Everything else is ``{"t": tag, "v": ...}``.
"""

from __future__ import annotations

import array
import builtins
import collections
import datetime
import decimal
import fractions
import functools
import itertools
import json
import keyword
import sys
from collections.abc import Callable, Iterator
from typing import Any

MAX_DEPTH = 60
MAX_ITEMS = 100_000
"""Items taken from an iterator; more is an error, as an endless one would never finish."""

_MAX_INT_BITS = 8192
"""Longer integers go as hexadecimal: decimal text of them costs quadratic time, and Python refuses it."""

_MAX_FIELDS = 64
"""Named tuples with more fields go as tuples."""

_MISSING = object()
_MALFORMED = (
    ValueError, TypeError, AttributeError, SyntaxError, LookupError, ArithmeticError, RecursionError, MemoryError,
)  # fmt: skip
"""What decoders raise where the data encodes no value."""


class CodecError(ValueError):
    """A value that cannot be encoded, or text that encodes no value."""


class Unencodable(CodecError):
    """A value of a kind that has no encoding, and no handle may represent it."""


def _no_handles(value: Any) -> Any:
    raise Unencodable(f"a value of type {type(value).__name__} cannot be sent")


def encode(value: Any, handle: Callable[[Any], Any] = _no_handles, depth: int = MAX_DEPTH) -> Any:
    """``value`` as plain JSON types; ``handle`` gives the encoding of objects that have none of their own.

    Raises:
        CodecError: Too deep, an iterator that is too long, or (without ``handle``) a kind that has no encoding.
    """
    try:
        return _encode(value, handle, depth)
    except (RecursionError, MemoryError) as error:
        raise CodecError(f"too large or too deep to send ({type(error).__name__})") from error


def drained(iterator: Iterator[Any], handle: Callable[[Any], Any], depth: int) -> dict[str, Any]:
    """The encoding of an iterator with all of its items. Raises CodecError."""
    items = list(itertools.islice(iterator, MAX_ITEMS + 1))
    if len(items) > MAX_ITEMS:
        raise CodecError(f"an iterator of more than {MAX_ITEMS} items")
    return _tagged("iter", [encode(item, handle, depth) for item in items])


def decode(data: Any, handle: Callable[[Any], Any] = _no_handles, depth: int = MAX_DEPTH) -> Any:
    """The value that ``data`` encodes; ``handle`` creates the proxy of an object of the other side.

    Raises:
        CodecError: ``data`` encodes no value.
    """
    try:
        return _decode(data, handle, depth)
    except CodecError:
        raise
    except _MALFORMED as error:
        raise CodecError(f"no encoding of a value ({type(error).__name__})") from error


def replace_contents(old: Any, new: Any) -> None:
    """Give a list, dict, set or the like the contents of another one of its type; other values stay as they are."""
    if type(old) is not type(new):
        return
    if isinstance(old, (list, bytearray)) or (isinstance(old, array.array) and old.typecode == new.typecode):
        old[:] = new
    elif isinstance(old, (dict, set)):
        old.clear()
        old.update(new)
    elif isinstance(old, collections.deque):
        old.clear()
        old.extend(new)


def pack(message: dict[str, Any]) -> bytes:
    """A message of plain JSON types as bytes."""
    return json.dumps(message, separators=(",", ":")).encode("ascii")


def unpack(body: bytes) -> dict[str, Any]:
    """The message that ``pack`` made; values in it are not decoded yet. Raises CodecError."""
    try:
        message = json.loads(body)
    except (ValueError, RecursionError, MemoryError) as error:
        raise CodecError(f"no message ({type(error).__name__})") from error
    if type(message) is not dict:
        raise CodecError("no message")
    return message


def _tagged(tag: str, value: Any) -> dict[str, Any]:
    return {"t": tag, "v": value}


def _encode(value: Any, handle: Callable[[Any], Any], left: int) -> Any:
    if left < 0:
        raise CodecError("a value that is nested too deep")
    kind = type(value)
    if value is None or kind is bool or kind is float or kind is str:
        return value
    if kind is int:
        return value if value.bit_length() <= _MAX_INT_BITS else _tagged("int", hex(value))

    def inner(item: Any) -> Any:
        return _encode(item, handle, left - 1)

    if kind is list:
        return [inner(item) for item in value]
    if kind in _ENCODERS:
        tag, encoder = _ENCODERS[kind]
        return _tagged(tag, encoder(value, inner))
    if isinstance(value, tuple) and (fields := _field_names(value)):
        return _tagged("namedtuple", [kind.__name__, list(fields), [inner(item) for item in tuple.__iter__(value)]])
    for base, plain in _BASES:
        if isinstance(value, base):
            return _encode(plain(value), handle, left)
    if isinstance(value, type) and _TYPES.get(value.__name__) is value:
        return _tagged("type", value.__name__)
    if kind.__module__ == "numpy":
        return _encode_numpy(value, handle, inner)
    return handle(value)


def _field_names(value: tuple[Any, ...]) -> tuple[str, ...]:
    """The names of the fields of a named tuple; empty for any other tuple."""
    fields = getattr(type(value), "_fields", None)
    if type(fields) is not tuple or not 0 < len(fields) == tuple.__len__(value) <= _MAX_FIELDS:
        return ()
    return fields if all(map(_is_field, fields)) else ()


def _is_field(name: Any) -> bool:
    """Whether a field may have this name. None may hide a method of tuples. Python makes some names in other scripts
    equal.
    """
    if type(name) is not str or not name.isascii():
        return False
    return name.isidentifier() and not keyword.iskeyword(name) and name[0] != "_" and not hasattr(tuple, name)


@functools.lru_cache(maxsize=64)
def _named_tuple(name: str, fields: tuple[str, ...]) -> type:
    if len(fields) > _MAX_FIELDS or not all(map(_is_field, fields)):
        raise CodecError("no named tuple")
    usable = len(name) < 100 and name.isidentifier() and not keyword.iskeyword(name)
    return collections.namedtuple(name if usable else "namedtuple", fields)


def _decode_named_tuple(value: Any, inner: Callable[[Any], Any]) -> Any:
    name, fields, items = value
    if type(name) is not str or type(fields) is not list:
        raise CodecError("no named tuple")
    return _named_tuple(name, tuple(fields))(*_items(items, inner))


def _encode_numpy(value: Any, handle: Callable[[Any], Any], inner: Callable[[Any], Any]) -> Any:
    numpy = sys.modules["numpy"]
    if isinstance(value, numpy.ndarray) and value.dtype.kind in "biufcUS":
        return _tagged("ndarray", [value.dtype.str, list(value.shape), inner(value.ravel().tolist())])
    if isinstance(value, numpy.generic) and value.dtype.kind in "biufcUS":
        return _tagged("npscalar", [value.dtype.str, inner(value.item())])
    return handle(value)


Encoder = Callable[[Any, Callable[[Any], Any]], Any]


def _items(value: Any, inner: Callable[[Any], Any]) -> list[Any]:
    return [inner(item) for item in value]


def _pairs(value: Any, inner: Callable[[Any], Any]) -> list[Any]:
    return [[inner(key), inner(item)] for key, item in value.items()]


_ENCODERS: dict[type, tuple[str, Encoder]] = {
    tuple: ("tuple", _items),
    set: ("set", _items),
    frozenset: ("frozenset", _items),
    dict: ("dict", _pairs),
    collections.Counter: ("Counter", _pairs),
    collections.OrderedDict: ("OrderedDict", _pairs),
    collections.defaultdict: ("defaultdict", _pairs),
    collections.deque: ("deque", lambda value, inner: [_items(value, inner), value.maxlen]),
    array.array: ("array", lambda value, inner: [value.typecode, inner(value.tolist())]),
    bytes: ("bytes", lambda value, inner: value.hex()),
    bytearray: ("bytearray", lambda value, inner: value.hex()),
    complex: ("complex", lambda value, inner: [value.real, value.imag]),
    range: ("range", lambda value, inner: [inner(part) for part in (value.start, value.stop, value.step)]),
    slice: ("slice", lambda value, inner: [inner(part) for part in (value.start, value.stop, value.step)]),
    decimal.Decimal: ("Decimal", lambda value, inner: str(value)),
    fractions.Fraction: ("Fraction", lambda value, inner: [inner(value.numerator), inner(value.denominator)]),
    datetime.date: ("date", lambda value, inner: value.isoformat()),
    datetime.time: ("time", lambda value, inner: value.isoformat()),
    datetime.datetime: ("datetime", lambda value, inner: value.isoformat()),
    datetime.timedelta: ("timedelta", lambda value, inner: [value.days, value.seconds, value.microseconds]),
    type(Ellipsis): ("Ellipsis", lambda value, inner: None),
    type({}.keys()): ("keys", _items),
    type({}.values()): ("values", _items),
    type({}.items()): ("items", lambda value, inner: [[inner(key), inner(item)] for key, item in value]),
}

# Classes that are sent by name: the built-in ones, and those whose instances have an encoding.
_TYPES: dict[str, type] = {kind.__name__: kind for kind in vars(builtins).values() if isinstance(kind, type)}
_TYPES |= {kind.__name__: kind for kind in (*_ENCODERS, type(None))}

# An instance of a subclass (an IntEnum, for example) goes as the built-in value that it holds. The base's own methods
# read it, so that overridden ones do not decide; the receiver gets an exact built-in either way.
_BASES: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (int, lambda value: int.__add__(value, 0)),
    (float, lambda value: float.__add__(value, 0.0)),
    (str, lambda value: str.__add__(value, "")),
    (tuple, lambda value: tuple(tuple.__iter__(value))),
    (list, lambda value: list(list.__iter__(value))),
    (dict, lambda value: dict(dict.items(value))),
    (set, lambda value: set(set.__iter__(value))),
)


def _decode(data: Any, handle: Callable[[Any], Any], left: int) -> Any:
    if left < 0:
        raise CodecError("a value that is nested too deep")
    if type(data) is list:
        return [_decode(item, handle, left - 1) for item in data]
    if type(data) is not dict:
        return data
    tag, value = data.get("t"), data.get("v", _MISSING)
    if len(data) != 2 or type(tag) is not str or value is _MISSING:
        raise CodecError("an object without tag and value")
    if tag in ("handle", "stream"):
        return handle(value)
    decoder = _DECODERS.get(tag)
    if decoder is None:
        raise CodecError(f"no such tag: {tag[:40]!r}")
    return decoder(value, lambda item: _decode(item, handle, left - 1))


def _dict_of(value: Any, inner: Callable[[Any], Any]) -> dict[Any, Any]:
    return {inner(key): inner(item) for key, item in value}


def _decode_date(kind: Any) -> Encoder:
    return lambda value, inner: kind.fromisoformat(value)


def _decode_ndarray(value: Any, inner: Callable[[Any], Any]) -> Any:
    numpy = sys.modules["numpy"]
    dtype, shape, flat = value
    return numpy.array(inner(flat), dtype=_dtype(dtype)).reshape([int(side) for side in shape])


def _dtype(text: Any) -> Any:
    kind = sys.modules["numpy"].dtype(text) if type(text) is str and len(text) < 12 else None
    if kind is None or kind.kind not in "biufcUS" or kind.itemsize > 4096:
        raise CodecError("no such kind of array")
    return kind


_DECODERS: dict[str, Encoder] = {
    "int": lambda value, inner: int(value, 16),
    "tuple": lambda value, inner: tuple(_items(value, inner)),
    "namedtuple": _decode_named_tuple,
    "set": lambda value, inner: set(_items(value, inner)),
    "frozenset": lambda value, inner: frozenset(_items(value, inner)),
    "dict": _dict_of,
    "Counter": lambda value, inner: collections.Counter(_dict_of(value, inner)),
    "OrderedDict": lambda value, inner: collections.OrderedDict(_dict_of(value, inner)),
    "defaultdict": lambda value, inner: collections.defaultdict(None, _dict_of(value, inner)),
    "deque": lambda value, inner: collections.deque(_items(value[0], inner), inner(value[1])),
    "array": lambda value, inner: array.array(value[0], inner(value[1])),
    "bytes": lambda value, inner: bytes.fromhex(value),
    "bytearray": lambda value, inner: bytearray.fromhex(value),
    "complex": lambda value, inner: complex(float(value[0]), float(value[1])),
    "range": lambda value, inner: range(*[inner(part) for part in value]),
    "slice": lambda value, inner: slice(*[inner(part) for part in value]),
    "Decimal": lambda value, inner: decimal.Decimal(value),
    "Fraction": lambda value, inner: fractions.Fraction(inner(value[0]), inner(value[1])),
    "date": _decode_date(datetime.date),
    "time": _decode_date(datetime.time),
    "datetime": _decode_date(datetime.datetime),
    "timedelta": lambda value, inner: datetime.timedelta(*[int(part) for part in value]),
    "Ellipsis": lambda value, inner: Ellipsis,
    "type": lambda value, inner: _TYPES[value],
    "iter": lambda value, inner: iter(_items(value, inner)),
    "keys": lambda value, inner: dict.fromkeys(_items(value, inner)).keys(),
    "values": lambda value, inner: dict(enumerate(_items(value, inner))).values(),
    "items": lambda value, inner: _dict_of(value, inner).items(),
    "ndarray": _decode_ndarray,
    "npscalar": lambda value, inner: _dtype(value[0]).type(inner(value[1])),
}
