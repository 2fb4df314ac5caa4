"""Learned verifiers: a sequence classifier over prompt and answer, its training and its evaluation.

    samples       labeled answers, and their split by prompt
    sequences     prompt and answer as the token ids that the classifier reads
    classifier    a trained verifier: answers in, logits out
    calibration   from logits to probabilities, and their quality
    training      from a backbone and labeled answers to a verifier directory
    scorer        the verifier as the score by which Best-of-N selects

Imports only `verifiers`. The command is `bonrl train-verifier`.
"""
