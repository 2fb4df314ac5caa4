"""The work of each command of `bonrl`; cluster/cli.py declares their options."""
