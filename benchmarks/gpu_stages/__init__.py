"""Stages of `benchmarks.gpu`: each measures one row of figures in less than nine minutes."""
