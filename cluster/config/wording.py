"""What a value should have been, in plain words and in YAML's spelling, from an error of pydantic."""

from __future__ import annotations

import datetime
from typing import Any

from cluster.config.cluster_settings import ABSOLUTE_PATH, BUCKET, HOST, NAME, NFS, TEXT, TIME
from cluster.config.yaml_reader import brief

_WORDS = {
    "int_type": "should be a whole number",
    "int_parsing": "should be a whole number, written without an exponent or a unit",
    "int_from_float": "should be a whole number",
    "float_type": "should be a number",
    "float_parsing": "should be a number, without a unit",
    "finite_number": "should be a finite number",
    "string_type": "should be text",
    "bool_type": "should be true or false",
    "bool_parsing": "should be true or false",
    "tuple_type": "should be a list, for example [a, b]",
    "list_type": "should be a list, for example [a, b]",
    "dict_type": "should be a mapping, for example {{name: value}}",
    "model_type": "should be a mapping of its own keys, for example {{{example}}}",
    "date_from_datetime_parsing": "should be a date, written YYYY-MM-DD",
    "date_parsing": "should be a date, written YYYY-MM-DD",
    "date_type": "should be a date, written YYYY-MM-DD",
}
_PATTERNS = {
    r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$": "should have at most 100 characters, only A-Z, a-z, 0-9, dot, underscore "
    "and hyphen, and should begin with a letter or a digit",
    r"^[A-Za-z_][A-Za-z0-9_]*$": "should have only letters, digits and underscores, and no digit at its start",
    r"^[^/\\#?%:]+$": r"should have none of / \ # ? % :",
    NAME: "should have at most 40 characters, only a-z, 0-9 and hyphen, and should begin with a letter and end with a "
    "letter or a digit",
    TEXT: "should be one line",
    HOST: "should be a host name or an address, with only letters, digits, dot, colon and hyphen",
    ABSOLUTE_PATH: "should be a path that begins with /, without blanks and quotes",
    NFS: "should be HOST:/EXPORT, such as 10.0.0.10:/share",
    BUCKET: "should be s3://NAME or gs://NAME, with only a-z, 0-9, dot, underscore and hyphen in NAME",
    TIME: "should be HH:MM:SS or DAYS-HH:MM:SS, such as '24:00:00' or 2-00:00:00",
}


def wanted(item: Any, example: str = "") -> str:
    """What is wrong with the value of an error of pydantic, beginning in lower case.

    Args:
        item: One of ``ValidationError.errors()``.
        example: A key of the mapping that is wanted, where one is.
    """
    kind = item["type"]
    if kind in _WORDS:
        text = _WORDS[kind].format(example=f"{example}: ..." if example else "key: ...")
    elif kind == "string_pattern_mismatch" and item["ctx"]["pattern"] in _PATTERNS:
        text = _PATTERNS[item["ctx"]["pattern"]]
    else:
        text = str(item["msg"]).removeprefix("Value error, ").replace("Input should be", "should be", 1)
        text = text[:1].lower() + text[1:]
    if kind in ("tuple_type", "list_type") and isinstance(item["input"], str):
        given = brief(item["input"]).strip("'")
        text = f"should be a list, {'[] for none' if given.lower() == 'none' else f'for example [{given}]'}"
    if kind == "string_type" and isinstance(item["input"], bool | int | float | datetime.date):
        text += f": put it in quotes (on the command line '\"{spelled(item['input'])}\"')"
    if kind == "literal_error" and isinstance(item["input"], bool):
        text += " (YAML reads on, off, yes and no as true and false: a word has to be in quotes)"
    return text


def spelled(value: Any) -> str:
    """A value as a message shows it, with YAML's null, true, false and dates."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return value.isoformat() if isinstance(value, datetime.date) else brief(value)
