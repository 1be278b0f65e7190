"""The rows of a model's tables in this process, for its export."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras
import numpy as np

from tfos.tables.stored import Contents
from tfos.training.stored.store import ModelStore


@contextlib.contextmanager
def contents_of(model: keras.Model, store: ModelStore) -> Iterator[None]:
    """The model has all its weights here meanwhile: what is exported needs no store."""
    tables = store.tables(model)
    store.refresh(model)
    # its slots are with the rows, and a Keras file would have some of other shapes in their place
    optimizer = getattr(model, "optimizer", None)  # a model that is not compiled has none
    if optimizer is not None:
        model.optimizer = None
    try:
        for table in tables:
            parts = list(table.remote.scan())
            keys = np.concatenate([np.empty(0, np.int64), *(part.keys for part in parts)])
            width = table.layer.output_dim
            vectors = np.concatenate(
                [np.empty((0, width), np.float32), *(part.values for part in parts)]
            )
            order = np.argsort(keys)
            table.layer.contents = Contents(keys[order], vectors[order], table.layer.default)
        yield
    finally:
        if optimizer is not None:
            model.optimizer = optimizer
        for table in tables:
            table.layer.contents = None
