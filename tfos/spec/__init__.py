"""What a run is asked to be, and what came of it."""
