"""What each objective buys and costs: real training runs, unattended, which go on where they stopped.

    python -m benchmarks.objectives run EXPERIMENT       # what is not there yet: the base, tuning, every seed
    python -m benchmarks.objectives report EXPERIMENT    # tables and plots of contenders that have run

Countdown and the shipped base model on the main job's stack. All contenders of an experiment get the same numbers of
prompts, samples and steps; the learning rate of each is chosen on the validation split, by the metric that it is for,
from the same candidates with the same budget. Results are on the test split, which nothing here was tuned on.

`experiments.py` says what is compared, `grid.py` runs it, `results.py` keeps every run's figures in one Parquet file
beside the page (so a page can be made again, and a grid goes on, from a fresh clone), `page.py` writes the page.
"""
