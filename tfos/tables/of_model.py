"""The embeddings of a model, by where their tables are."""

from __future__ import annotations

from collections.abc import Iterator

import keras

from tfos.compat.keras import all_layers
from tfos.errors import UsageError
from tfos.tables.embedding import Embedding


def embeddings(model: keras.Model) -> Iterator[Embedding]:
    return (layer for layer in all_layers(model) if isinstance(layer, Embedding))


def stored_layers(model: keras.Model) -> list[Embedding]:
    """The layers whose rows are in the store. They have been built."""
    return [layer for layer in embeddings(model) if layer.is_stored]


def tables_without_rows(model: keras.Model) -> list[Embedding]:
    """The layers whose tables have no number of rows."""
    return [layer for layer in embeddings(model) if layer.input_dim is None]


def check_rows_stay(model: keras.Model) -> None:
    """Where tables with a number of rows are in variables. Raises UsageError for one whose rows are
    to come late, or to go.
    """
    for layer in embeddings(model):
        asked = {name: value for name, value in layer.keeping.items() if value not in (1, None)}
        if layer.input_dim is not None and asked:
            words = ", ".join(f"{name}={value}" for name, value in asked.items())
            raise UsageError(
                f"layer {layer.name!r} of model {model.name!r} has {words}, but a table of"
                f" {layer.input_dim:,} rows, which this strategy has in variables, where all of"
                " them stay: use --strategy kv, or make the layer without an input_dim (under kv"
                f" or single), or leave {' and '.join(asked)} out"
            )
