"""Compares two expression trees, exactly or numerically, without sympy."""
