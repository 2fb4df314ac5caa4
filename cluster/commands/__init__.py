"""The commands of `bonrl`, a file for each; cluster/cli.py registers them."""
