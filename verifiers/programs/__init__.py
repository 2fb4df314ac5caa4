"""The program in a response to a coding task."""
