"""What a run reports while it works: terminal, trackers, gauges for Prometheus, warnings, incidents and memory."""
