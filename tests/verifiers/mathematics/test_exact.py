"""The exact path: one group of cases per rule, with inputs made up for it; and what must never be accepted."""

from __future__ import annotations

import pytest

from verifiers import Status, grade_math
from verifiers.mathematics.policy import MathPolicy

RIGHT = {
    "numbers": [
        ("7", "7.0"),
        ("-12", "−12"),
        ("1,250", "1250"),
        ("3 400", "3400"),
        ("0.125", "1/8"),
        ("2{,}500", "2500"),
        ("011", "11"),
        ("6.02 \\times 10^{2}", "602"),
        ("5!", "120"),
        ("\\binom{6}{2}", "15"),
        ("17 \\bmod 5", "2"),
    ],
    "fractions": [
        ("\\dfrac{6}{8}", "\\frac34"),
        ("\\frac 5 7", "5/7"),
        ("2\\frac{1}{3}", "7/3"),
        ("-1 3/4", "-1.75"),
        ("\\frac{\\frac12}{3}", "\\tfrac16"),
        ("4/(-6)", "-2/3"),
        ("½", "0.5"),
    ],
    "roots": [
        ("√5", "\\sqrt{5}"),
        ("\\sqrt[3]2", "2^{1/3}"),
        ("\\frac{1}{\\sqrt{7}}", "\\frac{\\sqrt7}{7}"),
        ("\\sqrt{48}", "4\\sqrt3"),
        ("\\sqrt[3]{-8}", "-2"),
        ("|{-3}|", "3"),
    ],
    "expressions": [
        ("(a+b)^2", "a^2+2ab+b^2"),
        ("x²-1", "(x-1)(x+1)"),
        ("\\frac{1+m}{2}", "\\frac12+\\frac m2"),
        ("2\\sin x\\cos x", "\\sin 2x"),
        ("\\ln 8", "3\\ln 2"),
        ("\\log_2 32", "5"),
        ("e^{i\\pi}", "-1"),
        ("\\tan^{-1} 1", "\\frac{\\pi}{4}"),
        ("\\lfloor 7/2 \\rfloor", "3"),
        ("n(n-1)!", "n!"),
    ],
    "towers of powers": [  # read from the right, in LaTeX, in Python and by hand
        ("2**3**2", "512"),
        ("2^3^2", "512"),
        ("2^{3}^{2}", "512"),
        ("2^3**2", "512"),
        ("2**3^2", "512"),
        ("2^3²", "512"),
        ("2**3**2**1", "2^9"),
        ("2^2^2^2", "65536"),
        ("2**-3**2", "1/512"),
        ("2^-3^2", "2^{-9}"),
        ("e^-x^2", "e^{-x^2}"),
        ("x**2**3+1", "x^8+1"),
        ("a^b^c", "a^{b^c}"),
        ("(2**3)**2", "64"),
        ("{2^3}^2", "64"),
        ("2**3*2", "16"),
        ("2**10", "1024"),
        ("3**2x", "9x"),
        ("10**-3", "0.001"),
        ("4**0.5", "2"),
        ("(1+1)**12", "4096"),
    ],
    "units": [
        ("18\\text{ cm}", "18"),
        ("40 miles", "40"),
        ("9\\text{ cm}^2", "9\\text{ square centimeters}"),
        ("$25 dollars", "\\$25"),
        ("70^\\circ", "70"),
        ("70 degrees", "70^{\\circ}"),
        ("90^\\circ", "\\frac{\\pi}{2}"),
        ("15%", "15\\%"),
        ("15 percent", "15\\%"),
        ("15", "15\\%"),
        ("3^{\\text{rd}}", "3"),
        ("5 p.m.", "5"),
        ("12 cents", "\\$0.12"),
        ("50¢", "\\$0.50"),
        ("18\\text{ km/h}", "5\\text{ m/s}"),
        ("60\\text{ mph}", "60\\text{ miles per hour}"),
        ("5\\text{ m}/\\text{s}", "5\\text{ m/s}"),
        ("2 hours", "120 minutes"),
        ("€12", "12"),
        ("\\pi\\text{ radians}", "180^\\circ"),
        ("5\\text{ radians}", "5"),
        ("\\$3\\text{ million}", "3000000"),
        ("3.5 million dollars", "\\$3,500,000"),
        ("1e3", "1000"),
        ("2.5E-4", "0.00025"),
        ("2.5e-4", "0.00025"),
        ("2e-3", "2e-3"),
    ],
    "tuples": [
        ("(1, 2.5)", "\\left(1,\\frac52\\right)"),
        ("[0,3)", "\\left[0,3\\right)"),
        ("(x,y)=(3,4)", "(3,4)"),
        ("3,4", "(3,4)"),
        ("\\{2,1\\}", "1,2"),
        ("\\{5\\}", "5"),
    ],
    "lists": [
        ("2 and 9", "9,2"),
        ("1\\pm\\sqrt3", "1+\\sqrt3, 1-\\sqrt3"),
        ("x=2 \\text{ or } x=-5", "-5, 2"),
        ("p=1,q=6", "1,6"),
        ("4, 7, \\text{ and } 9", "4,7,9"),
        ("(1,2),(3,4),(1,2)", "(3,4),(1,2)"),
    ],
    "sets": [
        ("x<5", "(-\\infty,5)"),
        ("2\\le t<7", "[2,7)"),
        ("x\\ge-1", "[-1,\\infty)"),
        ("7>x", "x<7"),
        ("x<1 \\text{ or } x>4", "(-\\infty,1)\\cup(4,\\infty)"),
        ("\\mathbb{R}\\setminus\\{2\\}", "x\\ne2"),
        ("(1,\\infty)\\cup(-\\infty,0)", "(-\\infty,0)\\cup(1,\\infty)"),
        ("\\{x \\mid x<3\\}", "(-\\infty,3)"),
    ],
    "matrices": [
        ("\\begin{bmatrix}1\\\\0.5\\end{bmatrix}", "\\begin{pmatrix}1\\\\\\frac12\\end{pmatrix}"),
        ("\\begin{vmatrix}3&1\\\\2&5\\end{vmatrix}", "13"),
    ],
    "equations": [
        ("y=2x+1", "2x-y+1=0"),
        ("f(x)=x^3", "x^3"),
        ("f(t)=t+2", "f(x)=x+2"),
        ("r=9", "9"),
        ("|AB|=6", "6"),
        ("\\sqrt{9}=3", "3"),
        ("\\frac{\\sqrt2}{2}\\approx0.707", "\\frac{\\sqrt2}{2}"),
        ("-y>-3", "y<3"),
    ],
    "texts": [
        ("Tuesday", "\\text{Tuesday}"),
        ("no solution", "\\text{No solutions}"),
        ("\\text{NORTH}", "\\text{north}"),
        ("(D)", "D"),
        ("(D) 12", "\\text{D}"),
        ("\\textbf{(B)}", "B"),
        ("\\text{A,D}", "A, D"),
        ("B. the second", "(B)"),
        ("(D) A triangle", "D"),
        ("(E) Both A and B", "E"),
        ("(A) No solution", "A"),
        ("(B) is right", "B"),
        ("\\text{The answer is } 42", "42"),
        ("42\\text{ (approximately)}", "42"),
        ("x,\\text{ y}", "x,y"),
        ("12\\text{ m, }13\\text{ m}", "12,13"),
        ("surely 12", "12"),
        ("\\pi\\approx3", "\\pi"),
        ("\\frac23\\approx0.67", "\\frac23"),
    ],
    "bases": [("214_5", "214_{5}"), ("214", "214_5"), ("2B", "2B_{16}"), ("30_{10}", "30")],
    "ratios": [("3:8", "3/8"), ("2:4", "1:2")],
    "recurring decimals": [
        ("0.1\\overline{6}", "\\frac16"),
        ("0.\\bar{3}", "\\frac13"),
        ("0.\\dot{1}\\dot{2}", "\\frac{12}{99}"),
        ("0.\\dot12\\dot3", "\\frac{41}{333}"),
        ("0.1\\overline{234}", "\\frac{1234-1}{9990}"),
        ("1", "0.\\overline{9}"),
        ("0.\\overline{1212}", "0.\\overline{12}"),
        ("0.333\\ldots", "\\frac13"),
        ("0.1666...", "\\frac16"),
        ("0.(3)", "\\frac13"),
        ("0.3\u0305", "\\frac13"),
        ("2.\\overline{3}", "2\\frac13"),
        ("-0.\\overline{45}", "-\\frac{5}{11}"),
        ("33.\\overline{3}\\%", "\\frac13"),
        ("2.\\overline{3}", "2.333"),
    ],
    "names": [("AB", "\\overline{AB}"), ("\\bar z", "\\overline{z}"), ("\\mathbf{v}", "\\vec{v}")],
}

WRONG = {
    "values": [
        ("7", "7.1"),
        ("-4", "4"),
        ("0.333", "1/3"),
        ("3.1415926", "\\pi"),
        ("2.236068", "\\sqrt5"),
        ("1.2", "1.23"),
        ("12.0000001", "12"),
        ("1.000", "1000"),
        ("4 2", "42"),
        ("\\frac{2}{3}", "\\frac{3}{2}"),
        ("6", "6!"),
    ],
    "expressions": [("x", "|x|"), ("x^2", "x^3"), ("b+1", "a+1"), ("2x+C", "2x"), ("\\sin x", "\\cos x"), ("x", "3")],
    "towers of powers": [("2**3**2", "64"), ("2^3^2", "64"), ("a^b^c", "(a^b)^c"), ("(2^3)^2", "512"), ("2**10", "20")],
    "signs": [
        ("\\pm 6", "6"),
        ("6", "\\pm 6"),
        ("\\neq 6", "6"),
        ("\\text{not } 6", "6"),
        ("-(\\frac \\pi3+1)", "\\frac \\pi3+1"),
    ],
    "lists": [
        ("1,2,3", "1,2"),
        ("1", "1,2"),
        ("5 or 6", "6"),
        ("1,1,2", "1,2"),
        ("1,2,\\ldots,50", "6"),
        ("3,4,5,6,7", "5"),
    ],
    "brackets": [
        ("[1,2]", "(1,2)"),
        ("[1,2)", "(1,2]"),
        ("(2,1)", "(1,2)"),
        ("\\{1,2\\}", "(1,2)"),
        ("[0,10]", "6"),
        ("x\\le6", "6"),
        ("x<6", "x>6"),
        ("(1,2,3)", "(1,2)"),
        ("x\\in\\mathbb{R}", "6"),
    ],
    "hedges": [
        ("42,\\text{43}", "42"),
        ("42;\\text{43}", "42"),
        ("42,\\text{ 43, 44}", "42"),
        ("42\\text{ (or 43)}", "42"),
        ("42\\text{, not } 43", "42"),
        ("42\\text{ maybe}", "42"),
        ("42\\text{ 43}", "42"),
        ("4\\text{ apples }2", "42"),
        ("4\\text{ apples }200", "4200"),
        ("x", "x,\\text{ y}"),
        ("\\text{either }42\\text{ or }24", "42"),
        ("3 \\approx 5", "3"),
        ("42 \\approx 43", "42"),
        ("\\frac23\\approx0.76", "\\frac23"),
    ],
    "choices": [
        ("(A),(B),(C),(D)", "A"),
        ("\\text{(A) or (B)}", "\\text{(A)}"),
        ("\\text{A}, \\text{B}", "A"),
        ("(A) is wrong, (C) is right", "A"),
        ("(A) is wrong", "A"),
        ("(A), B", "A"),
        ("(A) / B", "A"),
        ("(A) or B", "A"),
        ("A. No. B is it", "A"),
        ("\\text{not C}", "C"),
    ],
    "chains": [("5=6", "6"), ("0=1=2=6", "6"), ("x=5=6", "6"), ("y=6", "x=6")],
    "units": [
        ("5\\text{ cm}", "5\\text{ m}"),
        ("6\\text{ million}", "6"),
        ("6 a.m.", "6\\text{ p.m.}"),
        ("two dozen 6", "6"),
        ("12 cents", "\\$12"),
        ("€12", "\\$12"),
        ("5\\text{ m/s}", "5\\text{ km/h}"),
        ("5 mph", "5\\text{ km/h}"),
        ("9\\text{ m/s}", "9\\text{ m/s}^2"),
        ("90 degrees", "90\\text{ radians}"),
        ("5\\text{ radians}", "5^\\circ"),
        ("5\\text{ below zero}", "5"),
        ("\\$3\\text{ million}", "3"),
    ],
    "texts": [
        ("\\text{stop}", "\\text{post}"),
        ("A, B, C, D", "\\text{(B)}"),
        ("B", "\\text{(C)}"),
        ("\\text{even}", "\\text{odd}"),
    ],
    "bases": [("101_2", "101_3"), ("102_3", "101_3")],
    "recurring decimals": [
        ("0.1\\overline{6}", "0.6"),
        ("0.12", "0.\\overline{12}"),
        ("0.1\\overline{2}", "0.\\overline{12}"),
        ("0.1\\overline{234}", "\\frac{1234}{9990}"),
        ("3.14159...", "\\pi"),
        ("4\\overline{2}", "8"),
    ],
    "bars": [("\\overline{z}", "z"), ("\\overline{abc}", "abc"), ("z^*", "z")],
    "times": [("1:00", "12:00"), ("4:30", "4:45")],
    "garbage": [
        ("6 spam \\zzz{}", "6"),
        ("<b>6</b>", "6"),
        ("AB6C", "6"),
        ("NaN", "6"),
        ("\\frac{{{", "1"),
        ("=", "6"),
    ],
}


def flat(groups: dict[str, list[tuple[str, str]]]) -> list:
    return [pytest.param(*pair, id=f"{rule}-{i}") for rule, pairs in groups.items() for i, pair in enumerate(pairs)]


@pytest.fixture(autouse=True)
def _no_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """These answers are decided without the symbolic path."""

    def refuse(*_: object) -> None:
        raise AssertionError("the symbolic path was asked")

    monkeypatch.setattr("verifiers.mathematics.symbolic.host.HostPool.ask", refuse)


@pytest.mark.parametrize(("prediction", "reference"), flat(RIGHT))
def test_right(prediction: str, reference: str) -> None:
    for text in (prediction, f"\\boxed{{{prediction}}}", f"So it is $\\boxed{{{prediction}}}$, as asked."):
        assert grade_math(text, reference).status is Status.CORRECT, text


@pytest.mark.parametrize(("prediction", "reference"), flat(WRONG))
def test_wrong(prediction: str, reference: str) -> None:
    for text in (prediction, f"\\boxed{{{prediction}}}"):
        assert grade_math(text, reference).status in (Status.WRONG, Status.UNPARSABLE), text


@pytest.mark.parametrize(
    ("policy", "prediction", "reference", "default"),
    [
        ({"boxes": "last"}, "\\boxed{5} or \\boxed{6}", "6", False),
        ({"prose": False}, "It comes to 6 in the end, because we find that", "6", True),
        ({"percent": "strict"}, "5", "5\\%", True),
        ({"percent": "sign_optional"}, "0.05", "5\\%", True),
        ({"units": "required"}, "5", "5\\text{ cm}", True),
        ({"base_optional": False}, "214", "214_5", True),
        ({"list_order": True}, "2,1", "1,2", True),
        ({"reduced_fractions": True}, "\\frac{2}{4}", "\\frac12", True),
        ({"letter_case": True}, "\\text{East}", "\\text{east}", True),
        ({"decimal_digits": 7}, "1.414214", "\\sqrt2", False),
        ({"reference_digits": 5}, "\\frac{600}{7}", "85.71", True),
    ],
)
def test_switches(policy: dict, prediction: str, reference: str, default: bool) -> None:
    assert (grade_math(prediction, reference).reward == 1.0) is default
    assert (grade_math(prediction, reference, policy=MathPolicy(**policy)).reward == 1.0) is not default


def test_a_copy_of_the_question_is_wrong_unless_it_is_the_reference() -> None:
    question = "Factor $x^2 - 9$ completely."
    assert grade_math("\\boxed{x^2-9}", "(x-3)(x+3)", question=question).status is Status.WRONG
    assert grade_math("\\boxed{(x+3)(x-3)}", "(x-3)(x+3)", question=question).status is Status.CORRECT
    assert grade_math("\\boxed{x^2-9}", "x^2 - 9", question=question).status is Status.CORRECT
    assert grade_math("7", "7.0", question="Which of 5 and 7 is larger?").status is Status.CORRECT


@pytest.mark.parametrize(
    ("first", "second"),
    [("0.5", "\\frac12"), ("1{,}000", "1000"), ("x = 7", "7"), ("\\text{East}", "east"), ("2^3", "8")],
)
def test_equal_answers_are_one_vote(first: str, second: str) -> None:
    assert grade_math(first, "99").answer == grade_math(second, "99").answer


def test_an_empty_reference_is_no_verdict() -> None:
    assert grade_math("5", "").status is Status.VERIFIER_ERROR
    assert grade_math("", "5").status is Status.UNPARSABLE
