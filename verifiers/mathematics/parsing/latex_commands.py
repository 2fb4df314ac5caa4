"""Parses LaTeX commands and functions: roots, functions, sets, matrices, names with subscripts."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

from verifiers.mathematics.parsing.syntax import Node, NotMath, Number, Unsupported, number

if TYPE_CHECKING:
    from verifiers.mathematics.parsing.parser import Parser

FUNCTIONS = frozenset(
    "sin cos tan cot sec csc arcsin arccos arctan arccot arcsec arccsc sinh cosh tanh ln log lg exp max min gcd lcm"
    " sqrt abs floor ceil cis".split()
)
_INVERSE = {name: "arc" + name for name in ("sin", "cos", "tan", "cot", "sec", "csc")}
_GREEK = frozenset(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau"
    " angle triangle upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega ell hbar".split()
)
# Commands that only the symbolic path can evaluate.
_SYMBOLIC = frozenset("lim int sum prod iint oint infsum sup inf det bigcup bigcap begin end".split())
_MATRICES = frozenset(("pmatrix", "bmatrix", "matrix", "array", "vmatrix", "Bmatrix", "smallmatrix"))


def letter(text: str) -> Node:
    """A letter: Euler's number, the imaginary unit, or a variable."""
    if text in ("e", "i"):
        return Node("const", value=text)
    return Node("var", value=text)


def numeral(text: str) -> Node:
    """A numeral with its exact value and the way it was written; a recurring decimal becomes a fraction."""
    if "\\" in text:
        return _recurring(*text[:-1].split("\\overline{"))
    whole, _, decimals = text.partition(".")
    if not decimals:
        return Node("num", value=Number(Fraction(int(whole))))
    significant = len((whole + decimals).lstrip("0"))
    return Node(
        "num", value=Number(Fraction(int(whole + decimals or "0"), 10 ** len(decimals)), len(decimals), significant)
    )


def _recurring(start: str, period: str) -> Node:
    whole, _, decimals = start.partition(".")
    once, through = int(whole + decimals or "0"), int(whole + decimals + period)
    return Node("div", (number(through - once), number((10 ** len(period) - 1) * 10 ** len(decimals))))


def subscripted(p: Parser, node: Node) -> Node:
    """A variable with the subscripts that follow it in its name."""
    while p.peek().text == "_" and node.kind in ("var", "const"):
        p.next()
        start = p.position
        if p.peek().text == "{":
            depth = 0
            while True:
                token = p.next()
                if token.kind == "end":
                    raise NotMath("a subscript that is not closed")
                depth += (token.text == "{") - (token.text == "}")
                if depth == 0:
                    break
        else:
            p.next()
        name = "".join(token.text for token in p.tokens[start : p.position] if token.text not in "{}")
        node = Node("var", value=f"{node.value}_{name}")
    return node


def command(p: Parser, name: str) -> Node:
    """Parse what begins with a command whose name was just read."""
    if name == "frac":
        top = p.argument()
        return Node("div", (top, p.argument()))
    if name == "binom":
        top = p.argument()
        return Node("call", (top, p.argument()), "binom")
    if name == "sqrt":
        return root(p)
    if name in FUNCTIONS:
        return call(p, name)
    if name == "pi":
        return Node("const", value="pi")
    if name == "infty":
        return Node("const", value="inf")
    if name == "imath":
        return Node("const", value="i")
    if name in _GREEK:
        return subscripted(p, Node("var", value=name))
    if name == "{":
        return braced_set(p)
    if name in ("lvert", "vert"):
        return p.bar("\\rvert" if name == "lvert" else "\\vert")
    if name in ("lfloor", "lceil"):
        inner = p.sum()
        p.expect("\\r" + name[1:])
        return Node("call", (inner,), "floor" if name == "lfloor" else "ceil")
    if name == "emptyset":
        return Node("set")
    if name == "overline":
        return barred(p)
    if name == "overrightarrow":
        return arrow(p)
    if name == "mathbb":
        return number_set(p)
    if name == "begin":
        return matrix(p)
    if name == "text":
        return letter_text(p)
    if name in _SYMBOLIC:
        raise Unsupported(f"\\{name}")
    raise NotMath(f"the command \\{name}")


def barred(p: Parser) -> Node:
    r"""A name under a bar: the segment ``\overline{AB}`` is AB, but the conjugate ``\overline{z}`` is not z."""
    braced = p.accept("{") is not None
    token = p.next()
    if braced:
        p.expect("}")
    if token.kind != "word" or (len(token.text) > 1 and not (braced and token.text.isupper())):
        raise NotMath("a bar over what is no name")
    if len(token.text) == 1:
        return subscripted(p, Node("var", value=f"bar_{token.text}"))
    node = letter(token.text[0])
    for point in token.text[1:]:
        node = Node("mul", (node, letter(point)))
    return node


def arrow(p: Parser) -> Node:
    r"""A vector from point to point: ``\overrightarrow{AB}`` is not ``\overrightarrow{BA}``."""
    p.expect("{")
    token = p.next()
    p.expect("}")
    if token.kind != "word":
        raise NotMath("an arrow over what is no name")
    return Node("var", value=f"vector_{token.text}")


def letter_text(p: Parser) -> Node:
    r"""``\text{e}``: a letter in upright type is that letter, and a number at the start of an item that number."""
    before = p.tokens[p.position - 2] if p.position > 1 else None
    begins = before is None or before.text in (",", ";", "@", "=", "(", "[", "{")
    node = p.group()
    if node.kind not in ("var", "const") and not (begins and node.kind == "num"):
        raise NotMath("words in a formula")
    return subscripted(p, node)


def number_set(p: Parser) -> Node:
    node = p.argument()
    if node.kind == "var" and node.value == "R":
        infinity = Node("const", value="inf")
        return Node("seq", (Node("neg", (infinity,)), infinity), "()")
    if node.kind == "var" and node.value in ("Z", "N", "Q", "C"):
        return Node("var", value=f"mathbb_{node.value}")
    raise NotMath("an unknown set of numbers")


def root(p: Parser) -> Node:
    degree: Node | None = None
    if p.accept("["):
        degree = p.items()
        p.expect("]")
    if p.peek().text == "(":
        p.next()
        inner = p.bracketed("(")
    else:
        inner = whole_number(p) or p.argument()
    return Node("call", (inner,) if degree is None else (inner, degree), "root")


def whole_number(p: Parser) -> Node | None:
    """``\\sqrt 12`` by a model means the root of 12, though LaTeX would take one digit."""
    token = p.peek()
    if token.kind != "num":
        return None
    p.next()
    return numeral(token.text)


def braced_set(p: Parser) -> Node:
    if p.accept("\\}"):
        return Node("set")
    start = p.position
    bars, p.bars, p.ratios = p.bars, 1, False  # a bar or a colon here separates the variable from its condition
    inner = p.items()
    p.bars, p.ratios = bars, True
    if p.peek().text in ("|", "\\mid", ":") and _is_variable(inner):
        p.next()
        condition = p.items()
        p.expect("\\}")
        return condition
    if p.peek().text == ":":
        p.position = start
        inner = p.items()
    p.expect("\\}")
    return Node("set", inner.args if inner.kind == "list" else (inner,))


def _is_variable(node: Node) -> bool:
    """Whether the part of a set before its condition is a variable over the real numbers."""
    if node.kind == "rel" and node.value == ("in",):
        if node.args[1].kind == "var":
            raise NotMath("a condition on other numbers than the real ones")
        return node.args[0].kind == "var" and node.args[1].kind == "seq"
    return node.kind == "var"


def call(p: Parser, name: str) -> Node:
    if name == "sqrt":
        return root(p)
    base: Node | None = None
    exponent: Node | None = None
    for _ in range(2):
        if name in ("log", "lg") and p.accept("_"):
            base = p.argument()
        elif p.accept("^"):
            exponent = p.argument()
    if exponent is not None and exponent == Node("neg", (number(1),)):
        if name not in _INVERSE:
            raise NotMath(f"the inverse of {name}")
        name, exponent = _INVERSE[name], None
    if p.peek().text in ("(", "[", "{"):
        opening = p.peek().text
        argument = p.atom()
        if opening == "{" and p.peek().text == "(" and name in _INVERSE:
            raise NotMath(f"two arguments of {name}")
    else:
        argument = implicit_argument(p)
    if name == "cis":  # cos x + i sin x
        turned = Node("mul", (Node("const", value="i"), Node("call", (argument,), "sin")))
        node = Node("add", (Node("call", (argument,), "cos"), turned))
        return node if exponent is None else Node("pow", (node, exponent))
    arguments = (
        argument.args if argument.kind in ("seq", "list") and name in ("max", "min", "gcd", "lcm") else (argument,)
    )
    if base is not None:
        arguments = (*arguments, base)
    node = Node("call", arguments, name)
    return node if exponent is None else Node("pow", (node, exponent))


def implicit_argument(p: Parser) -> Node:
    """The argument of a function without parentheses: factors up to the next sign or function."""
    p.enter()
    if p.accept("-"):
        node = Node("neg", (p.power(),))
    else:
        node = p.power()
    while p.starts_factor():
        token = p.peek()
        if token.text in ("(", "[", "|") or token.text.lstrip("\\") in FUNCTIONS:
            break
        node = p.juxtaposed(node)
    p.depth -= 1
    return node


def matrix(p: Parser) -> Node:
    name = environment(p)
    if name in ("cases", "aligned"):
        return system(p)
    if name not in _MATRICES:
        raise Unsupported(f"the environment {name}")
    if name == "array" and p.peek().text == "{":
        while p.next().text != "}":
            if p.peek().kind == "end":
                raise NotMath("an array whose columns are not closed")
    rows: list[list[Node]] = [[]]
    while True:
        if p.accept("\\end"):
            p.position -= 1
            break
        rows[-1].append(p.relation())
        if p.accept("\\\\"):
            rows.append([])
        elif p.accept("&") is None and p.peek().text != "\\end":
            raise NotMath(f"unexpected {p.peek().text!r} in a matrix")
    p.next()
    environment(p)
    rows = [row for row in rows if row]
    if not rows or any(len(row) != len(rows[0]) for row in rows):
        raise NotMath("a matrix with rows of different lengths")
    flat = tuple(entry for row in rows for entry in row)
    node = Node("matrix", flat, len(rows[0]))
    return Node("call", (node,), "det") if name == "vmatrix" else node


def system(p: Parser) -> Node:
    """Equations below each other, as a list; a function defined in pieces is left to the symbolic path."""
    rows: list[Node] = []
    while not p.accept("\\end"):
        rows.append(p.relation())
        p.accept(",", ";")
        if not p.accept("\\\\") and p.peek().text != "\\end":
            raise Unsupported("cases")
    environment(p)
    return rows[0] if len(rows) == 1 else Node("list", tuple(rows), ",")


def environment(p: Parser) -> str:
    p.expect("{")
    name = p.next().text
    p.expect("}")
    return name
