"""Configuration, checks before a start, control loop, records, reports, command line, jobs and clusters."""
