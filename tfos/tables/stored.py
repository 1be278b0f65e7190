"""Tables whose rows are in the key-value store (tfos.kv), and not in variables of TensorFlow.

A layer cannot look a row up inside a graph: the store is asked from Python, for all tables of a
step at once. So a step is traced twice, each time with another Reader in place: once to find out
which keys it looks up, and once with the rows that were found.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import tensorflow as tf


class Reader(Protocol):
    """What the layers of a graph that is being traced read from."""

    def read(self, layer: Any, keys: Callable[[], Any]) -> tuple[Any, Any]:
        """Rows of `layer`, float32 [m, width], and which of them is that of each key.

        keys: gives int64 [n], those of one call of the layer. The second is int32 [n].
        """


_readers: list[Reader] = []
_everywhere = [False]


@contextlib.contextmanager
def reading(reader: Reader) -> Iterator[None]:
    """Layers whose tables are in the store read from `reader` in what is traced meanwhile."""
    _readers.append(reader)
    try:
        yield
    finally:
        _readers.pop()


def reader() -> Reader | None:
    return _readers[-1] if _readers else None


def keep_in_store(everywhere: bool = True) -> None:
    """Whether tables with a number of rows are in the store as well, in this process."""
    _everywhere[0] = everywhere


def are_in_store() -> bool:
    return _everywhere[0]


class Nothing:
    """Reads zeros: for what is traced to find shapes, or to see which keys it looks up.

    calls: the layer and the keys of each call so far.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[Any, Any]] = []

    def read(self, layer: Any, keys: Callable[[], Any]) -> tuple[Any, Any]:
        asked = keys()
        self.calls.append((layer, asked))
        # of the layer's own weight, so that this has a gradient, too
        return 0.0 * layer.held.value[:1], tf.zeros_like(asked, tf.int32)


class Contents(tf.Module):
    """All rows of a table, in this process: what an exported model has.

    keys: int64 [n], ascending. vectors: float32 [n, width]. default: of a row that is not there.
    """

    def __init__(self, keys: Any, vectors: Any, default: float) -> None:
        super().__init__()
        self.keys = tf.Variable(keys, trainable=False, dtype=tf.int64, name="keys")
        self.vectors = tf.Variable(vectors, trainable=False, dtype=tf.float32, name="vectors")
        self._default = default

    def read(self, layer: Any, keys: Callable[[], Any]) -> tuple[Any, Any]:
        distinct, places = tf.unique(keys())
        count = tf.shape(self.keys, out_type=tf.int64)[0]
        at = tf.searchsorted(self.keys, distinct, out_type=tf.int64)
        # one more row than there are, for what is not there
        at = tf.where(at < count, at, tf.zeros_like(at))
        inside = tf.cond(
            count > 0, lambda: tf.gather(self.keys, at), lambda: tf.bitwise.invert(distinct)
        )
        found = tf.cond(
            count > 0,
            lambda: tf.gather(self.vectors, at),
            lambda: tf.zeros([tf.size(distinct), layer.output_dim]),
        )
        rows = tf.where((inside == distinct)[:, tf.newaxis], found, self._default)
        return tf.ensure_shape(rows, [None, layer.output_dim]), places
