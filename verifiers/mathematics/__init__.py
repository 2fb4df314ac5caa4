"""Grading of mathematical answers: extraction, an exact path, and math-verify in a process that can be killed.

The entry point is ``verifiers.grade_math``. Importing this package loads nothing, so settings stay cheap.
"""
