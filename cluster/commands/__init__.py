"""The commands of `bonrl`, a file for each; app.py registers them."""
