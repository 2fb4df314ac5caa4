"""The code sandbox: runs untrusted programs against tests, isolated by the operating system.

Two processes per program: a *candidate* that runs it, and a *judge* that runs the tests and asks the candidate for
values. See docs/sandbox.md for the layers, the levels and the attacks they stop. `grading.py` grades a program,
`executor.py` starts the processes.
"""
