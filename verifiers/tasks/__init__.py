"""The tasks: problems in splits, and the verifier of each."""
