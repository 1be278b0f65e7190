"""A module beside the script."""

LABEL = "rating"
RATE = 0.01
