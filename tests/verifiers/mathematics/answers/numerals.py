"""Numbers in words, remarks after a number, and separators of other locales."""

RIGHT = [
    # numerals in words
    ("seventy-two", "72"),
    (r"\boxed{\text{fourteen}}", "14"),
    (r"\boxed{\text{Zero}}", "0"),
    ("21", r"\text{twenty-one}"),
    ("one hundred and five", "105"),
    ("two hundred thousand", "200000"),
    ("minus seven", "-7"),
    ("one half", r"\frac12"),
    ("three quarters", "0.75"),
    ("two and a half", "2.5"),
    (r"\boxed{7}\boxed{\text{seven}}", "7"),
    # remarks
    ("14 (fourteen)", "14"),
    (r"\boxed{14 \text{ (fourteen)}}", "14"),
    (r"\boxed{1,000 \text{ (one thousand)}}", "1000"),
    ("fourteen (14)", "14"),
    ("The answer is forty-two (42).", "42"),
    ("The answer is 42 (exactly).", "42"),
    ("42 in total", "42"),
    ("The answer is 42, as required.", "42"),
    ("x equals 3", "3"),
    # short words are not products of letters
    (r"\boxed{No}", "no"),
    (r"\boxed{yes}", r"\text{Yes}"),
    (r"\boxed{Odd}", "odd"),
    # separators
    (r"\boxed{3{,}5}", "3.5"),
    (r"\boxed{0{,}25}", r"\frac14"),
    (r"\boxed{1{.}5}", "1.5"),
    (r"\boxed{12\,345{,}67}", "12345.67"),
    ("12 345,67", "12345.67"),
    ("12,34,567", "1234567"),
    ("12٪", r"12\%"),
    # times and angles
    ("12:00 noon", "12:00 PM"),
    (r"\boxed{\text{midnight}}", "12:00 a.m."),
    ("3 o'clock", "3:00"),
    (r"\boxed{3\colon45\text{ PM}}", "3:45 PM"),
    (r"\boxed{30.5^\circ}", r"30^\circ 30'"),
    (r"\boxed{60^{\text{o}}}", "60"),
    ("2 to 3", "2:3"),
    ("10<sup>5</sup>", "100000"),
]

WRONG = [
    ("seventy-three", "72"),
    ("fourteen", "-14"),
    ("fourteen hundred", "14"),
    ("two three", "5"),
    ("one third", "3"),
    (r"\boxed{\text{fourteen or fifteen}}", "14"),
    (r"\boxed{\text{not fourteen}}", "14"),
    ("14 (fifteen)", "14"),
    ("14 (fifteen)", "15"),
    (r"\boxed{14 \text{ (fifteen)}}", "14"),
    (r"\boxed{14 \text{ fifteen}}", "14"),
    ("fourteen (15)", "14"),
    ("fourteen (15)", "15"),
    ("42 (wrong)", "42"),
    ("42 (doubled)", "84"),
    (r"\boxed{7}\boxed{\text{eight}}", "7"),
    (r"\boxed{No}", "on"),
    (r"\boxed{Mg}", "mg"),
    (r"\boxed{3{,}5}", "35"),
    (r"\boxed{3{,}500}", "3.5"),
    (r"\boxed{1,5}", "1.5"),
    ("12,34,567", "12345.67"),
    ("noon", "12:00 a.m."),
    (r"30^\circ 30'", "30"),
    ("2 to 3", "3:2"),
    ("2 to 3", "3"),
    ("10<sup>5</sup>", "105"),
]

# Wrong or unparsable: no reward either way.
REFUSED = [
    ("afternoon", "12:00 PM"),
    ("<b>42</b>", "42"),
]
