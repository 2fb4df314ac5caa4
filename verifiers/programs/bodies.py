"""A function that a prompt begins and a response continues."""

from __future__ import annotations

import ast
import re
import textwrap

from verifiers.programs.lines import Lexer, is_prose, lines_of
from verifiers.programs.parts import FUNCTIONS, joined, parsed, with_definitions

_CLOSER = (")", "]", "}")
_DEFINITION = re.compile(r"^(?=(?:async +def|def|class) )", re.MULTILINE)


def continued(prompt: str, text: str) -> str:
    """The program that ``text``, which is not in a block, continues, with later definitions that it uses."""
    body = _flattened(text) or _body(text)
    code = with_body(prompt, body)
    later = [_body(part) for part in _DEFINITION.split(text)[1:]]
    return with_definitions(code, later) if later else code


def _body(text: str) -> str:
    """The rest of a function: up to the first line at the left margin, where something new begins."""
    kept: list[str] = []
    lexer = Lexer()
    for line in _without_introduction(lines_of(text)):
        at_margin = bool(line.strip()) and not line[0].isspace() and not line.startswith(_CLOSER)
        # The first line continues the line at which the prompt ended.
        if at_margin and kept and not lexer.goes_on:
            if not line.startswith("#"):
                break
            continue  # a comment ends nothing, and would hide how far the body is indented
        line, ends = lexer.take(line)
        kept.append(line)
        if ends:
            break
    return "".join(kept)


def _flattened(text: str) -> str:
    """The body of a function that has lost its indentation altogether: all up to the last statement that returns.

    Python allows ``return`` only in a function, so that these statements at the left margin can be nothing else. What
    follows them, such as an example, is not reached. Empty if the text is no such body.
    """
    kept: list[str] = []
    lexer = Lexer()
    for line in lines_of(text):
        if not kept and not line.strip():
            continue
        if not kept and re.match(r" \S", line):
            line = line[1:]  # tokenizers put a space in front
        at_margin = bool(line.strip()) and not line[0].isspace()
        if at_margin and not lexer.goes_on and is_prose(line):
            if kept:
                break
            continue  # a sentence before the code
        line, ends = lexer.take(line)
        kept.append(line)
        if ends:
            break
    code = "".join(kept)
    if not code or code[0].isspace():
        return ""
    tree = parsed("def _():\n" + textwrap.indent(code, " "))
    if tree is None or len(tree.body) != 1 or not isinstance(tree.body[0], ast.FunctionDef):
        return ""
    last = [part.end_lineno or 0 for part in tree.body[0].body if _returns(part)][-1:]
    return "".join(lines_of(code)[: last[0] - 1]) if last else ""


def _returns(statement: ast.stmt) -> bool:
    """Whether a statement holds a ``return`` or ``yield`` of the function around it."""
    if isinstance(statement, FUNCTIONS):
        return False
    parts = list(ast.iter_child_nodes(statement))
    while parts:
        part = parts.pop()
        if isinstance(part, (ast.Return, ast.Yield, ast.YieldFrom)):
            return True
        if not isinstance(part, (*FUNCTIONS, ast.Lambda)):
            parts.extend(ast.iter_child_nodes(part))
    return isinstance(statement, ast.Return)


def _without_introduction(lines: list[str]) -> list[str]:
    """Without a sentence before the first indented line."""
    first = next((line for line in lines if line.strip()), "")
    if not first or first[0].isspace() or not is_prose(first):
        return lines
    start = next((number for number, line in enumerate(lines) if line.strip() and line[0].isspace()), 0)
    return lines[start:]


def with_body(prompt: str, code: str) -> str:
    """The prompt's function with ``code`` as the rest of it, which may have lost its indentation in part or altogether.

    Of the ways to read it, the first one that yields a function.
    """
    margin = _margin(prompt)
    code = code.lstrip("\n") if prompt.endswith("\n") else code
    # Often only the first line has lost its indentation: models and tokenizers strip what they begin with.
    bodies = [textwrap.indent(textwrap.dedent(code), margin), margin + code.lstrip()]
    if prompt.endswith("\n") and code[:1].strip():
        readings = [prompt + body for body in bodies]
    elif prompt.endswith("\n"):
        readings = [prompt + body for body in (code, *bodies)]
    else:
        readings = [prompt + code, *(f"{prompt}\n{body}" for body in (code, *bodies))]
    return next((program for program in readings if _ends_in_function(program)), readings[0])


def _margin(prompt: str) -> str:
    """The indentation of the body of the function with which a prompt ends."""
    last = prompt.rstrip().rpartition("\n")[2]
    indent = last[: len(last) - len(last.lstrip())]
    return indent + "    " if last.endswith(":") else indent or "    "


def _ends_in_function(program: str) -> bool:
    tree = parsed(program)
    return tree is not None and bool(tree.body) and isinstance(tree.body[-1], FUNCTIONS)


def after_prompt(prompt: str, code: str, entry_point: str | None) -> str:
    """A whole program after the prompt, whose imports and helpers stay available."""
    if not prompt:
        return code
    if parsed(prompt) is None and entry_point is not None:
        # The prompt's own function has no body.
        unfinished = re.search(rf"^(?:async +)?def +{re.escape(entry_point)}\b", prompt, re.MULTILINE)
        prompt = prompt[: unfinished.start()] if unfinished else prompt
    return joined(f"{prompt}\n", code)
