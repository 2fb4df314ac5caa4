"""Sentences: line ends, points and ratios in them, bounds, denials in other languages, answers that are taken back."""

RIGHT = [
    # line ends of Windows
    ("The answer is:\r\n\r\n12\r\n", "12"),
    ("**Answer:**\r\n12", "12"),
    ("The answer is:\r12", "12"),
    # several numbers that are one value
    ("The ratio is 2:3.", "2:3"),
    ("The point is (1, 2).", "(1,2)"),
    ("The midpoint has the coordinates (3, -1/2).", "(3,-0.5)"),
    ("The interval is [0, 5).", "[0,5)"),
    ("It is (1,234).", "1234"),
    ("It happens at 3:45 PM.", "3:45 PM"),
    ("Step 3: 5 apples are left, so the total is 5.", "5"),
    ("Adding 5 to 7 gives 12.", "12"),
    # signs as words, and signs that only say "therefore"
    ("minus 5", "-5"),
    (r"\boxed{\text{minus }5}", "-5"),
    ("The answer is negative 5.", "-5"),
    ("So the total is minus 5.", "-5"),
    ("= 14", "14"),
    ("∴ x = 14", "14"),
    ("The answer is → 14", "14"),
    # taken back
    ("The answer is $12$. Oops, I mean $13$.", "13"),
    ("The answer is 12. Scratch that, it is 13.", "13"),
    ("The answer is 12. Let me check: 3*4 = 12. Yes.", "12"),
    ("I made a mistake. The answer is 12.", "12"),
    ("Correction: the answer is 13, rather than 12.", "13"),
    # sets and names in sentences
    ("The solution set is {1, 2}.", r"\{1,2\}"),
    ("The solutions are x = 1 and x = 2.", "1,2"),
    ("Hence a = 3 and b = 4.", "(3,4)"),
    ("We have 3 < 4. So x = 5.", "5"),
    ("So the total is 5, since 5 > 3.", "5"),
    ("The largest possible value is 43.", "43"),
    # choices and tables
    ("B is correct.", "B"),
    ("Choice B is the right answer.", "B"),
    ("I choose (B).", "B"),
    ("| Step | Value |\n|------|-------|\n| 1 | 5 |\n| 2 | 9 |\n| **Total** | **14** |", "14"),
]

WRONG = [
    ("The answer is minus 5.", "5"),
    ("So the total is minus 5.", "5"),
    ("The answer is 10 minus 5.", "-5"),
    ("The ratio is 2:3.", "3"),
    ("The point is (1, 2).", "2"),
    ("The interval is [0, 5).", "5"),
    ("It happens at 3:45 PM.", "45"),
    ("The answer is from 14 to 15.", "15"),
    ("The answer is in the range 14 to 15.", "15"),
    ("The answer is 12. Scratch that, it is 13.", "12"),
    ("The solution set is {1, 2}.", "2"),
    ("The solutions are x = 1 and x = 2.", "2"),
    ("| a | 5 |\n|---|---|\n| b | 14 |", "14"),
]

# Wrong or unparsable: no reward either way.
REFUSED = [
    ("The answer is $12$. Oops, I mean $13$.", "12"),
    ("The answer is 12. Oops, that's wrong.", "12"),
    ("So 3 + 4 = 7 and then 7 +", "7"),
    # bounds and hedges
    ("So x > 4.", "4"),
    ("So x ≥ 4.", "4"),
    ("Therefore x < 4", "4"),
    ("Thus x ≠ 4.", "4"),
    ("The interval is 3 < x < 4.", "4"),
    ("The interval is 3 < x < 4.", "3"),
    ("The limit does not equal 4.", "4"),
    ("It could be 42. It could be 43.", "43"),
    ("I think 42, but 43 is possible.", "43"),
    ("It is one of 3, 4.", "4"),
    ("A is correct. B is correct.", "B"),
    ("B is not correct.", "B"),
    ("I doubt that B is correct.", "B"),
    ("| Total | 13 |\n|---|---|\n| Total | 14 |", "14"),
    ("The answer is unlikely to be 14.", "14"),
    ("The answer exceeds 14", "14"),
    ("The answer is nearly 14", "14"),
    ("It is almost 14.", "14"),
    ("There are over 12.", "12"),
    ("The answer is greater than or equal to 14", "14"),
    ("The answer is the square of 14", "14"),
    ("Odpowiedź to nie 12", "12"),
    ("Відповідь: не 12", "12"),
    ("Het antwoord is niet 12.", "12"),
    ("정답은 12가 아닙니다", "12"),
]
