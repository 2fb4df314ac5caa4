"""Compares objectives by real training runs, and writes the pages of docs/evidence.

    python -m benchmarks.objectives run EXPERIMENT       # the missing runs: the base model, the tuning, every seed
    python -m benchmarks.objectives report EXPERIMENT    # tables and plots of the contenders that have run

Countdown and the shipped base model, trained by `bonrl train`. All contenders of an experiment get the same number of
prompts, samples and steps. The learning rate of each is chosen on the validation split, by the metric that it is
trained for, from the same candidates. Results are on the test split, which was not used for tuning. The number of
steps is not tuned; `benchmarks.frontier` tunes it.

`experiments.py` lists what is compared, `grid.py` runs it, `results.py` stores the figures of every run in one Parquet
file next to the page, `page.py` writes the page. A page can be written, and a grid continued, from a fresh clone.
"""
