"""What a run writes to disk: its directory, checkpoints, and the table of metrics."""
