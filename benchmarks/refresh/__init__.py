"""Does refreshing the learned verifier on a run's own groups help Best-of-k training with that verifier?

    python -m benchmarks.refresh hours      # what is left to do, and for how long
    python -m benchmarks.refresh run        # every missing training run and evaluation; continues where it stopped
    python -m benchmarks.refresh report     # docs/evidence/refresh: page and figure, from the committed measurements

The plan (`countdown.yaml`) is committed before the test split is used, and `run` refuses to start with a plan that is
not committed. One first verifier, trained on samples of the base model, is the same for all. With every seed two models
are trained for Best-of-k with a verifier:

- `fixed` keeps the first verifier;
- `refreshed` is stopped at some steps, the verifier is trained further on the groups since the last stop and the first
  samples (`bonrl train-verifier --refresh`), and the run is resumed with it.

At the end the first verifier is trained further on all groups of each run and the first samples, in the same way for
both models, and deployed with them. So the two deployments differ in the training of the policy, not in what was spent
on the verifier at the end. Each model is sampled once; every verifier scores the same answers.

`plan.py` reads the plan, `stages.py` runs it, `verifiers.py` trains verifiers and scores answers, `results.py` stores
measurements, `tables.py` and `page.py` write the page.
"""
