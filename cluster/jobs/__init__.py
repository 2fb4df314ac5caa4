"""Jobs of a Ray cluster: what travels with one, the job server, and following it."""
