"""Learned verifiers: a sequence classifier over prompt and answer, and what is needed to make and judge one.

    samples       labelled answers, and their split by prompt
    sequences     prompt and answer as the token ids that the classifier reads
    classifier    a trained verifier: answers in, logits out
    calibration   from logits to probabilities, and how good they are
    training      from a backbone and labelled answers to a verifier directory
    scorer        the verifier as the score by which Best-of-N selects

Nothing here imports another part of bonrl than `verifiers`. `bonrl train-verifier` is the way in.
"""
