"""Options on which math graders legitimately disagree, each with a default and its reason."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from verifiers.section import Section


class MathPolicy(Section):
    """How strictly an answer is graded. The defaults fit the MATH benchmark: exact values, lenient spelling."""

    boxes: Literal["merge", "last"] = Field(
        "merge",
        description="Several different boxes in one answer: merge reads them as one list (so they are wrong where one "
        "value is asked, and may be right where the reference is a list); last takes the last box, which rewards "
        "guessing twice.",
    )
    prose: bool = Field(
        True,
        description="Take the last formula or number of an answer that has neither a box nor a phrase such as 'the "
        "answer is'; false: such an answer is unparsable.",
    )
    percent: Literal["lenient", "sign_optional", "strict"] = Field(
        "lenient",
        description="When 5 % equals what: lenient 5 and 0.05; sign_optional 5 (the sign is a unit); strict 0.05.",
    )
    units: Literal["optional", "required"] = Field(
        "optional",
        description="optional: a unit may be left out, but two different known units never match; required: both "
        "sides must carry the same unit or none.",
    )
    base_optional: bool = Field(
        True, description="Let an answer leave out the base subscript of the reference (101 for 101_2)."
    )
    list_order: bool = Field(False, description="Whether the order of a list without brackets matters (1,2 and 2,1).")
    reduced_fractions: bool = Field(
        False, description="Refuse a fraction that is not in lowest terms where the reference is one (2/4 for 1/2)."
    )
    letter_case: bool = Field(False, description="Whether upper and lower case differ in words (East and east).")
    decimal_digits: int = Field(
        10,
        ge=2,
        le=50,
        description="A decimal answer to an exact reference that no decimal can equal (1/3, the root of 2) counts "
        "when it is right to its last digit and has at least this many significant digits.",
    )
    reference_digits: int = Field(
        3,
        ge=1,
        le=50,
        description="A reference written as a decimal with at least this many significant digits is taken as rounded: "
        "an exact answer (a fraction, a root) that rounds to it is right. Two decimals are always compared exactly.",
    )


DEFAULT_POLICY = MathPolicy()
