"""What a run reports while it works: terminal, wandb, warnings, incidents and memory."""
