"""The code that runs inside Ray actors: samplers, verifier workers, learner ranks and the replay queue."""
