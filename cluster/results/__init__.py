"""Reads runs, finished or under way, and compares them. Imports neither Ray nor torch, and writes no run directory."""

from cluster.results.comparison import Comparison, compare
from cluster.results.group_records import GroupRecord, SampleRecord
from cluster.results.run_results import ResultsError, RunResults, load_run

__all__ = ["Comparison", "GroupRecord", "ResultsError", "RunResults", "SampleRecord", "compare", "load_run"]
