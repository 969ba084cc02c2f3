"""Engines: they start `fire-rl` on run directories, and nothing else."""
