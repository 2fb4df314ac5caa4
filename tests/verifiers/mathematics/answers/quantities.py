"""Units with exponents, compound quantities, losses, and words that contradict each other."""

RIGHT = [
    # powers and products of units
    (r"\boxed{5\text{ s}^{-1}}", r"5\text{ s}^{-1}"),
    (r"\boxed{5 \text{ m s}^{-1}}", "5 m/s"),
    (r"\boxed{72 m/s}", r"72\text{ m}\cdot\text{s}^{-1}"),
    (r"\boxed{5\ \text{m}\cdot\text{s}^{-2}}", r"5\text{ m/s}^2"),
    # several units
    ("2 hrs 30 mins", "2.5 hours"),
    ("2 hrs 30 mins", "150 minutes"),
    ("2 hrs 30 mins", "2.5"),
    ("2 hrs and 30 mins", "150"),
    (r"\boxed{2 \text{ hr } 30 \text{ min}}", "2.5 hours"),
    ("3 yrs 2 months", "38 months"),
    ("72 dollars and 50 cents", "72.50"),
    ("5'3\"", "63 inches"),
    ("2.5", "2 hours 30 minutes"),
    # losses
    (r"\boxed{\$5\text{ loss}}", "-5"),
    ("a loss of $5", "-5"),
    (r"\boxed{-5}", r"\$5\text{ loss}"),
    (r"\boxed{\$5\text{ loss}}", r"\$5\text{ loss}"),
    (r"\boxed{\$5}", r"\$5\text{ profit}"),
    ("a gain of 5", "5"),
    (r"20\%\text{ decrease}", r"20\%"),
    # things
    ("5 people", "5 students"),
    ("72 different ways", "72 arrangements"),
    ("5 meters long", "5 m"),
    ("3 boys and 5 girls", "5 girls and 3 boys"),
    (r"3\text{ boys}, 5\text{ girls}", "3, 5"),
    ("$5 per hour", "$5"),
    ("5 miles north", "5 miles"),
    ("72 clips", "72 red clips"),
    (r"\boxed{£12}", "12 pounds"),
    (r"\boxed{\textdollar 12}", "12"),
]

WRONG = [
    (r"\boxed{5\text{ s}^{-1}}", r"5\text{ s}"),
    (r"5\text{ m}^{-2}", r"5\text{ m}^2"),
    (r"\boxed{5\ \text{m s}^{-1}}", "5 m s"),
    ("2 hrs 30 mins", "2.5 minutes"),
    ("2 hrs 30 mins", "150 hours"),
    ("2 hrs 30 mins", "230"),
    ("2 hrs 30 mins", "2"),
    ("5'3\"", "5.3"),
    ("72 dollars and 50 cents", "7250 dollars"),
    (r"\boxed{\$5\text{ loss}}", "5"),
    ("a loss of $5", "5"),
    (r"\boxed{5}", r"\$5\text{ loss}"),
    (r"\boxed{\$5\text{ loss}}", r"\$5\text{ profit}"),
    (r"\boxed{5\pi\text{ loss}}", r"5\pi"),
    (r"12\%\text{ increase}", r"12\%\text{ decrease}"),
    ("5 miles north", "5 miles south"),
    (r"5\text{ units left}", r"5\text{ units right}"),
    ("5 boys", "5 girls"),
    ("72 clips", "72 m"),
    ("3 boys and 5 girls", "5 boys and 3 girls"),
    (r"\boxed{3\text{ boys}, 5\text{ girls}}", r"5\text{ boys},\ 3\text{ girls}"),
    (r"5\text{ red clips}", r"5\text{ blue clips}"),
    ("5 minutes early", "5 minutes late"),
    (r"\boxed{12 yen}", "12 yuan"),
    (r"\boxed{£12}", "12 kg"),
]

REFUSED: list[tuple[str, str]] = []
