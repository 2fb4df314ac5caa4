"""Joined inequalities, absolute values, names of values."""

RIGHT = [
    # joined inequalities
    (r"\boxed{x \ge 1 \text{ and } x \le 2}", "[1,2]"),
    ("x ≥ 1 and x ≤ 2", "[1,2]"),
    (r"\boxed{x > 3 \land x < 5}", "(3,5)"),
    (r"\boxed{[1,2]}", r"x\ge 1, x\le 2"),
    (r"\boxed{x \ge 0, x \ne 1}", r"[0,1)\cup(1,\infty)"),
    (r"\boxed{x \ne 1, x \ne 2}", r"\mathbb{R}\setminus\{1,2\}"),
    (r"\boxed{x<1, x>2}", "x>2, x<1"),
    # absolute values
    (r"\boxed{-1<x<1}", "|x|<1"),
    (r"\boxed{|x-1| \le 2}", "[-1,3]"),
    (r"\boxed{(-\infty,-2)\cup(2,\infty)}", "|x|>2"),
    # names
    (r"\boxed{\cos\theta=\frac12}", r"\frac12"),
    (r"\boxed{\frac{dy}{dx}=2x}", "2x"),
]

WRONG = [
    (r"\boxed{x \ge 1 \text{ and } x \le 2}", "(1,2)"),
    (r"\boxed{x \ge 1 \text{ or } x \le 2}", "[1,2]"),
    (r"\boxed{x \ge 1 \text{ and } y \le 2}", "[1,2]"),
    (r"\boxed{x > 1, x > 2}", "x > 2"),
    (r"\boxed{x > 1, x > 2}", "x > 1"),
    (r"\boxed{x < 1 \text{ and } x > 2}", r"(-\infty,1)\cup(2,\infty)"),
    (r"\boxed{x \ge 1 \text{ and } x \le 2}", "1,2"),
    (r"\boxed{|x|<1}", "(-1,2)"),
    (r"\boxed{|x|>1}", "(-1,1)"),
    (r"\boxed{|x-1| \le 2}", "[-3,1]"),
    (r"\boxed{\cos\theta=\frac12}", r"\sin\theta=\frac12"),
    (r"\boxed{\frac{dy}{dx}=2x}", r"\frac{dx}{dy}=2x"),
]

REFUSED: list[tuple[str, str]] = []
