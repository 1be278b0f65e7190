"""Keras layers of tfos. Public names only; see tfos.tables."""

from tfos.tables.embedding import Embedding

__all__ = ["Embedding"]
