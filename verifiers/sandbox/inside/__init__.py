"""What runs in the sandbox's own processes: fork server, judge and candidate. Standard library only.

The fork server is started by exec and imports this package under its own name, so that nothing else of the
project, and no installed package, comes into the memory that programs are forked from.
"""
