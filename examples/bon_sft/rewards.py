"""Grades an expression by bonrl's own Countdown grader, which returns a Verdict."""

from verifiers.tasks.countdown import grade


def score(response, numbers, target):
    """`numbers` and `target` are columns of solutions.jsonl."""
    return grade(response, numbers, target)
