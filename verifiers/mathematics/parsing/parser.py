"""Recursive descent from a normalized answer to an expression tree. No text is ever evaluated as code."""

from __future__ import annotations

from collections.abc import Callable

from verifiers.mathematics.parsing import latex_commands
from verifiers.mathematics.parsing.latex_commands import FUNCTIONS, letter, numeral
from verifiers.mathematics.parsing.syntax import MAX_DEPTH, Node, NotMath, Token, Unsupported, number, tokenize

MAX_TREE_DEPTH = 100
"""Products and quotients nest to the left, so long ones are deep, and tree walks are recursive."""

_RELATIONS = {
    "=": "=", "==": "=", "<": "<", ">": ">", "<=": "<=", ">=": ">=", "!=": "!=",
    "\\le": "<=", "\\ge": ">=", "\\ne": "!=", "\\approx": "~", "\\equiv": "===", "\\in": "in", "\\sim": "~",
}  # fmt: skip
_NO_FACTOR = frozenset(
    "cup cap setminus } \\ pm mp mid rfloor rceil rvert | end right cdot times div bmod mod".split()
)  # commands that cannot begin a factor
_OPENING = {"(": ")", "[": "]"}


class Parser:
    """One pass over the tokens of one answer.

    items    = relation {(, | ; | or) relation}
    relation = union {(= | < | ...) union}
    union    = sum {(cup | setminus) sum}
    sum      = [sign] product {(+ | - | pm) product}
    product  = unary {[* | /] unary}
    """

    def __init__(self, text: str) -> None:
        self.tokens = tokenize(text)
        self.position = 0
        self.depth = 0
        self.bars = 0
        self.pm_count = 0
        self.ratios = True

    # --- tokens -----------------------------------------------------------------------------------

    def peek(self, ahead: int = 0) -> Token:
        index = self.position + ahead
        return self.tokens[index] if index < len(self.tokens) else self.tokens[-1]

    def next(self) -> Token:
        token = self.peek()
        self.position += 1
        return token

    def accept(self, *texts: str) -> Token | None:
        if self.peek().kind in ("sign", "cmd") and self.peek().text in texts:
            return self.next()
        return None

    def expect(self, text: str) -> None:
        if self.accept(text) is None:
            raise NotMath(f"expected {text!r} and found {self.peek().text or 'the end'!r}")

    def enter(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise NotMath(f"nested deeper than {MAX_DEPTH}")

    # --- lists, relations, unions -----------------------------------------------------------------

    def parse(self) -> Node:
        """The whole answer; NotMath if anything follows."""
        node = self.items()
        if self.peek().kind != "end":
            raise NotMath(f"unexpected {self.peek().text!r}")
        return node

    def items(self) -> Node:
        self.enter()
        groups: list[list[Node]] = [[self.relation()]]
        separators: set[str] = set()
        while token := self.accept(",", ";", "@"):
            separators.add(token.text)
            while self.accept(",", ";", "@"):
                pass  # a doubled separator, as in "2, and 3"
            if self.peek().kind == "end":
                break
            item = self.relation()
            if token.text == ";":
                groups.append([item])
            else:
                groups[-1].append(item)
        self.depth -= 1
        if ";" in separators and any(len(group) > 1 for group in groups):
            rows = (Node("seq", tuple(group), "()") if len(group) > 1 else group[0] for group in groups)
            return Node("list", tuple(rows), ";")
        flat = tuple(item for group in groups for item in group)
        return flat[0] if len(flat) == 1 else Node("list", flat, "or" if separators == {"@"} else ",")

    def relation(self) -> Node:
        parts = [self.union()]
        operators: list[str] = []
        while self.peek().text in _RELATIONS and self.peek().kind != "word":
            operators.append(_RELATIONS[self.next().text])
            parts.append(self.union())
        return Node("rel", tuple(parts), tuple(operators)) if operators else parts[0]

    def union(self) -> Node:
        node = self.sum()
        while token := self.accept("\\cup", "\\setminus"):
            right = self.sum()
            node = Node("union" if token.text == "\\cup" else "minus", (node, right))
        if self.peek().text == "\\cap":
            raise Unsupported("an intersection")
        return node

    # --- arithmetic -------------------------------------------------------------------------------

    def sum(self) -> Node:
        self.enter()
        terms: list[Node] = [self.signed(self.accept("+", "-", "\\pm", "\\mp"), self.product)]
        while token := self.accept("+", "-", "\\pm", "\\mp"):
            terms.append(self.signed(token, self.product))
        self.depth -= 1
        if len(terms) == 2 and terms[1].kind == "neg" and terms[1].args[0].kind == "set":
            return Node("minus", (terms[0], terms[1].args[0]))  # the numbers without those of a set
        return terms[0] if len(terms) == 1 else Node("add", tuple(terms))

    def signed(self, sign: Token | None, operand: Callable[[], Node]) -> Node:
        if sign is None or sign.text == "+":
            return operand()
        if sign.text == "-":
            node = operand()
            if node.kind in ("percent", "degree"):
                return Node(node.kind, (Node("neg", node.args),))  # so that the mark can be left out
            return Node("neg", (node,))
        # A minus-plus follows the plus-minus before it; each further plus-minus is independent.
        if sign.text == "\\pm" or self.pm_count == 0:
            self.pm_count += 1
        return Node("pm", (operand(),), (self.pm_count, 1 if sign.text == "\\pm" else -1))

    def product(self) -> Node:
        node = self.unary()
        while True:
            if self.accept("*", "\\cdot", "\\times"):
                node = Node("mul", (node, self.unary()))
            elif self.accept("/", "\\div"):
                node = Node("div", (node, self.unary()))
            elif self.accept("\\bmod", "\\mod"):
                node = Node("mod", (node, self.unary()))
            elif self.ratios and self.peek().text == ":" and self.peek().kind == "sign":
                self.next()
                right = self.unary()
                node = Node("ratio", (*node.args, right) if node.kind == "ratio" else (node, right))
            elif self.starts_factor():
                node = self.juxtaposed(node)
            else:
                return node

    def juxtaposed(self, left: Node) -> Node:
        """A factor without an operator: a product, or the fraction of a mixed number."""
        token = self.peek()
        if left.kind == "num" and left.value.places is None:
            whole = left.value.value
            if token.text == "\\frac" or (token.kind == "num" and token.blank and self.peek(1).text == "/"):
                fraction = self.power()
                if token.kind == "num":
                    self.expect("/")
                    fraction = Node("div", (fraction, self.power()))
                if token.kind == "num" and fraction.args[1].kind in ("percent", "degree"):  # 33 1/3%
                    below = fraction.args[1]
                    fraction = Node(below.kind, (Node("div", (fraction.args[0], *below.args)),))
                marked = fraction.kind in ("percent", "degree")  # 33\frac13\% is a percentage of the mixed number
                part = fraction.args[0] if marked else fraction
                if _is_proper(part):
                    mixed = Node("add", (number(whole), part))
                    return Node(fraction.kind, (mixed,)) if marked else mixed
                if token.kind == "num":
                    raise NotMath("two numbers side by side")
                return Node("mul", (left, fraction))
        if token.kind == "num" and not _ends_in_factorial(left):
            raise NotMath("a number right after another factor")
        # f(x) is read as a product; the mark "apply" lets "f(x) = 3" be a name and its value.
        function = left.args[0] if left.kind == "pow" and left.args[1] == Node("neg", (number(1),)) else left
        applied = function.kind == "var" and token.text == "(" and not token.blank
        return Node("mul", (left, self.power()), "apply" if applied else None)

    def starts_factor(self) -> bool:
        token = self.peek()
        if token.kind in ("num", "word"):
            return True
        if token.kind == "cmd":
            return token.text not in _RELATIONS and token.text[1:] not in _NO_FACTOR
        return token.text in ("(", "[", "{") or (token.text == "|" and not self.bars)

    def unary(self) -> Node:
        sign = self.accept("+", "-", "\\pm", "\\mp")
        if sign is not None:
            self.enter()
            node = self.signed(sign, self.unary)
            self.depth -= 1
            return node
        return self.power()

    def power(self) -> Node:
        node = self.atom()
        while True:
            if operator := self.accept("^", "**"):
                node = self.exponent(node, operator.text)
            elif self.accept("!"):
                if self.peek().text == "!" and not self.peek().blank:
                    raise NotMath("a double factorial")
                node = Node("call", (node,), "factorial")
            elif self.accept("%"):
                node = Node("percent", (node,))
            elif self.accept("\\circ"):
                node = Node("degree", (node,))
            elif self.peek().text == "_" and node.kind in ("num", "list"):
                raise NotMath("a subscript at a number")
            else:
                return node

    def exponent(self, base: Node, operator: str) -> Node:
        if self.accept("\\circ"):
            return Node("degree", (base,))
        if self.peek().text == "{" and self.peek(1).text == "\\circ" and self.peek(2).text == "}":
            self.position += 3
            return Node("degree", (base,))
        if self.peek().text == "'":
            raise NotMath("a stray prime")
        self.enter()
        sign = self.accept("-", "+")
        # LaTeX raises one token, a programming language the whole operand.
        raised = self.argument() if operator == "^" else self.atom()
        degree = "\\circ" in (self.peek(1).text, self.peek(1).text == "{" and self.peek(2).text)
        if not degree and (following := self.accept("^", "**")):
            raised = self.exponent(raised, following.text)  # 2^3^2 is 2^(3^2)
        self.depth -= 1
        return Node("pow", (base, Node("neg", (raised,)) if sign is not None and sign.text == "-" else raised))

    def argument(self) -> Node:
        """The argument of a command or an exponent: a group in braces, or one token (one digit of a numeral)."""
        token = self.peek()
        if token.text == "{":
            return self.group()
        if token.kind == "num" and len(token.text) > 1 and token.text.isdigit():
            # LaTeX takes one digit: \frac12 is one half. The rest stays in the stream.
            self.tokens[self.position] = Token("num", token.text[1:], False)
            return number(int(token.text[0]))
        if token.kind == "word" and len(token.text.rstrip("'")) > 1 and token.text not in FUNCTIONS:
            self.tokens[self.position] = Token("word", token.text[1:], False)
            return letter(token.text[0])
        self.enter()
        sign = self.accept("-", "+")
        node = self.atom()
        self.depth -= 1
        return Node("neg", (node,)) if sign is not None and sign.text == "-" else node

    def group(self) -> Node:
        self.expect("{")
        node = self.items()
        self.expect("}")
        return node

    # --- atoms ------------------------------------------------------------------------------------

    def atom(self) -> Node:
        token = self.next()
        if token.kind == "num":
            return numeral(token.text)
        if token.kind == "word":
            return self.word(token)
        if token.kind == "cmd":
            return latex_commands.command(self, token.text[1:])
        if token.text in _OPENING:
            return self.bracketed(token.text)
        if token.text == "{":
            self.position -= 1
            return self.group()
        if token.text == "|":
            return self.bar("|")
        raise NotMath(f"unexpected {token.text or 'the end'!r}")

    def bar(self, closing: str) -> Node:
        self.bars += 1
        inner = self.sum()
        self.bars -= 1
        self.expect(closing)
        return Node("call", (inner,), "abs")

    def bracketed(self, opening: str) -> Node:
        bars, self.bars = self.bars, 0
        inner = self.items()
        self.bars = bars
        closing = self.next().text
        if closing not in (")", "]"):
            raise NotMath("a bracket that is not closed")
        if inner.kind == "list" and inner.value != "or":
            return Node("seq", inner.args, opening + closing)
        if _OPENING[opening] != closing:
            raise NotMath("brackets of two kinds around one value")
        return inner

    def word(self, token: Token) -> Node:
        text = token.text
        if text in FUNCTIONS:
            return latex_commands.call(self, text)
        if text == "pi":
            return Node("const", value="pi")
        if text in ("infty", "inf", "oo", "infinity"):
            return Node("const", value="inf")
        if len(text) > 3 and not text.endswith("'"):
            raise NotMath(f"the word {text!r}")
        if len(text.rstrip("'")) == 1:
            return latex_commands.subscripted(self, letter(text))
        # Letters side by side are a product; the last one takes what follows (a subscript or an exponent).
        rest = text[1:]
        self.position -= 1
        self.tokens[self.position] = Token("word", rest, False)
        return letter(text[0])


def _ends_in_factorial(node: Node) -> bool:
    """Whether a product ends in a factorial, after which a number can only be a factor: 2!3!."""
    last = node.args[-1] if node.kind == "mul" else node
    return last.kind == "call" and last.value == "factorial"


def _is_proper(node: Node) -> bool:
    """Whether a node is a fraction of two integers, the upper one smaller: the second part of a mixed number."""
    if node.kind != "div" or any(part.kind != "num" or part.value.places is not None for part in node.args):
        return False
    top, bottom = (part.value.value for part in node.args)
    return 0 < top < bottom


def parse(text: str) -> Node:
    """The expression tree of a normalized answer.

    Raises:
        NotMath: It is not a formula.
        Unsupported: Only the symbolic path can compare it.
    """
    node = Parser(text).parse()
    level: list[Node] = [node]
    for _ in range(MAX_TREE_DEPTH):
        level = [part for parent in level for part in parent.args]
        if not level:
            return node
    raise NotMath(f"a tree deeper than {MAX_TREE_DEPTH}")
