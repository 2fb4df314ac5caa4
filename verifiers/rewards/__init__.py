"""Rewards, scorers and tasks of users: called in a process that can be killed, or over HTTP."""
