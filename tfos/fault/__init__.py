"""Failures, what to do about them, and checkpoints."""
