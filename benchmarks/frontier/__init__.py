"""Compares objectives along training: learning rate, stopping step and temperature are tuned for each metric.

    python -m benchmarks.frontier hours      # what is left to do, and for how long
    python -m benchmarks.frontier run        # every missing training run and evaluation; continues where it stopped
    python -m benchmarks.frontier report     # docs/evidence/frontier: page and figure, from the committed counts
    python -m benchmarks.frontier temperatures --also 0.4 0.6    # the chosen models on validation, outside the plan;
                                                            # with --base-on-test the base model on the test split
    python -m benchmarks.frontier power      # what the tests of the plan can detect, from the spread on validation

The plan (`countdown.yaml`) names contenders, candidates, seeds and primary contrasts. It is committed before the test
split is used, and `run` refuses to use the test split with a plan that is not committed. `run` has three stages:

1. Train every contender at every rate with every seed, evaluating on the validation split. For each metric of the plan
   the best step of each run is chosen as `evaluation.keep_best` does, and only those models are kept.
2. Choose the rate of each contender and metric by the mean over seeds, and evaluate the chosen models on the validation
   split at every temperature, with new samples.
3. Choose the temperature by the mean over seeds, and evaluate on the test split once.

`plan.py` reads the plan, `counts.py` stores the number of right answers of each prompt, `choice.py` chooses,
`stages.py` runs, `page.py` writes the page, `power.py` simulates experiments.
"""
