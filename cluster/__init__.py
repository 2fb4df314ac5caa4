"""Configuration, command line, control loop, dashboards and job submission."""
