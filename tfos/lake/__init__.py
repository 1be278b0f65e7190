"""Storage of any kind, and one run's directory in it."""
