"""Checkpoints: saved and restored whole, large variables a piece at a time."""
