"""How weights travel from the learner to samplers: packed buckets in shared memory or the object store."""
