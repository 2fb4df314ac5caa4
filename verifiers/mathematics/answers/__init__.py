"""Finds the final answer in a response: boxes, announcements such as "the answer is", formulas."""
