"""Compares formulas with math-verify, in host processes that can be killed."""
