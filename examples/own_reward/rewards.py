"""A reward of several parts: use the given numbers, and prefer products."""

import re


def score(response, numbers):
    """`numbers` is a column of problems.jsonl. The weights of the parts are in config.yaml."""
    used = sorted(int(number) for number in re.findall(r"\d+", response))
    return {"numbers": used == sorted(numbers), "product": "*" in response}
