"""Grading of mathematical answers: extraction, an exact path, and math-verify in a process that can be killed.

``verifiers.grade_math`` is the way in; importing this package loads nothing, so that settings stay cheap.
"""
