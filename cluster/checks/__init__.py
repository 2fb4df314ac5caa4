"""Checks before anything starts: files, model, cluster, and the memory and time that a run will take."""
