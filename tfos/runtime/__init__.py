"""Launching roles on Spark executors, and holding them together."""
