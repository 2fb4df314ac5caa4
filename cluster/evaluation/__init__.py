"""Evaluation on held-out prompts, and how curves are printed and compared."""
