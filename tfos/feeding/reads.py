"""Reads of a feed in whichever process TensorFlow runs them.

Under ParameterServerStrategy a tf.py_function runs on the coordinator, not on the worker that
iterates. The graph op PyFunc looks its token up in the process that runs it, so a process that
registered a reader under our token serves its own batches (serve_reads). That lookup goes through
one private name of TensorFlow, which is touched in serve_reads alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from tfos.compat.tensorflow import python_functions
from tfos.feeding.reader import View

_READ_TOKEN = "tfos_read"
_SHARE_TOKEN = "tfos_share"
_keep_alive: list[Any] = []


class Reader(Protocol):
    def read(self, view: View, epoch: int, start: int, stop: int) -> list[np.ndarray]:
        """See FeedReader.read(). Called from TensorFlow's threads."""


def serve_reads(reader: Reader, index: int = 0, count: int = 1) -> None:
    """Makes this process answer the reads of any feed dataset that TensorFlow runs in it.

    index, count: this process is number `index` of the `count` that iterate such a dataset.
    """

    def read(view: bytes, epoch: Any, start: Any, stop: Any) -> list[np.ndarray]:
        return reader.read(View.from_text(view.decode()), int(epoch), int(start), int(stop))

    def share(rows: Any) -> np.ndarray:
        return np.array([rows * index // count, rows * (index + 1) // count], np.int64)

    functions = python_functions()
    functions[_READ_TOKEN], functions[_SHARE_TOKEN] = read, share
    _keep_alive[:] = [read, share]  # the registry holds weak references


def read_here(view: View, epoch: Any, start: Any, stop: Any, specs: Sequence[Any]) -> list[Any]:
    """In a graph: positions [start, stop) of an epoch, as FeedReader.read() gives them.

    specs: a tf.TensorSpec of each array.
    """
    flat = tf.raw_ops.PyFunc(
        input=[tf.constant(view.to_text()), epoch, start, stop],
        token=_READ_TOKEN,
        Tout=[spec.dtype for spec in specs],
    )
    return [tf.ensure_shape(each, spec.shape) for each, spec in zip(flat, specs, strict=True)]


def own_share(rows: Any) -> Any:
    """In a graph: the part [begin, end) of so many rows that is of the process that runs it."""
    (bounds,) = tf.raw_ops.PyFunc(input=[rows], token=_SHARE_TOKEN, Tout=[tf.int64])
    return tf.ensure_shape(bounds, [2])
