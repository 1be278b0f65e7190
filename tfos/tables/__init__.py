"""Embedding tables and the optimizers that update only some of their rows."""
