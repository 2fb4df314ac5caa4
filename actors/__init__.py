"""Ray actors: samplers, verifier workers, the replay queue, learner ranks, broadcast, supervision."""
