"""Programs judged in the sandbox: SmolLM2-135M-Instruct on MBPP and HumanEval, before and after fine-tuning.

    python -m benchmarks.programs run --data DIR --scratch runs/programs     # needs models/SmolLM2-135M-Instruct
    python -m benchmarks.programs report

`DIR` holds mbpp.jsonl, mbpp_sanitized.jsonl and humaneval.jsonl. `run` fine-tunes the model on the solutions of MBPP's
training split (`bonrl sft`), samples both models on the test problems (`bonrl eval`), and runs every MBPP program once
more against the only test that its prompt shows, which is what a user of the model could check. It continues where it
stopped. `report` writes the page from docs/evidence/programs/counts.parquet. The plan is `plan.yaml` in this folder.
"""
