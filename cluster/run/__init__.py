"""One training run: the control loop, the objects it drives, and their start and end."""
