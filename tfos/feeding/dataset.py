"""A feed as tf.data, read where it is consumed.

Under ParameterServerStrategy a tf.py_function runs on the coordinator, not on the worker that
iterates. The graph op PyFunc looks its token up in the process that runs it, so a process that
registered a reader under our token serves its own batches (serve_reads). That lookup goes through
one private name of TensorFlow, which is touched in serve_reads alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfos.errors import FeedError, TFOSError
from tfos.feeding.plan import units
from tfos.feeding.reader import FeedReader, View
from tfos.feeding.schema import Column, Manifest

_READ_TOKEN = "tfos_read"
_SHARE_TOKEN = "tfos_share"
_PREFETCH_BATCHES = 4
_keep_alive: list[Any] = []


def serve_reads(reader: FeedReader, index: int = 0, count: int = 1) -> None:
    """Makes this process answer the reads of any feed dataset that TensorFlow runs in it.

    index, count: this process is number `index` of the `count` that iterate such a dataset.
    """

    def read(view: bytes, epoch: Any, start: Any, stop: Any) -> list[np.ndarray]:
        return reader.read(View.from_text(view.decode()), int(epoch), int(start), int(stop))

    def share(rows: Any) -> np.ndarray:
        return np.array([rows * index // count, rows * (index + 1) // count], np.int64)

    try:
        from tensorflow.python.ops import script_ops

        script_ops._py_funcs._funcs[_READ_TOKEN] = read
        script_ops._py_funcs._funcs[_SHARE_TOKEN] = share
    except (ImportError, AttributeError) as error:
        raise TFOSError(
            f"TensorFlow {tf.__version__} keeps its PyFunc registry elsewhere ({error}); tfos needs"
            " it to read feeds on workers: use a TensorFlow version that tfos is tested with"
        ) from error
    _keep_alive[:] = [read, share]  # the registry holds weak references


def _spec(column: Column) -> Any:
    dtype = tf.dtypes.as_dtype(column.dtype)
    if column.is_ragged:
        return tf.RaggedTensorSpec([None, None], dtype, ragged_rank=1, row_splits_dtype=tf.int64)
    return tf.TensorSpec([None] if column.length is None else [None, column.length], dtype)


class FeedDataset:
    """Batches of a feed: (dict of features, label[, weight]), or the dict alone without a label.

    Made by TrainContext.dataset(). Iterating it in a `for` loop gives one epoch in this process;
    each further iteration is the next epoch, newly shuffled. Calling it, as
    ClusterCoordinator.create_per_worker_dataset does, gives a tf.data.Dataset of the calling
    worker's even share of each epoch's rows, repeated for ever. The last batch of an epoch may be
    short; no row is left out or repeated in an epoch.
    """

    def __init__(
        self,
        manifest: Manifest,
        batch_size: int,
        features: Sequence[str] | None = None,
        label: str | None = None,
        weight: str | None = None,
        shuffle: bool = True,
        seed: int = 0,
        *,
        on_rows: Callable[[str, int, int], None] | None = None,
    ) -> None:
        if batch_size < 1:
            raise FeedError(
                f"batch_size is {batch_size} for feed {manifest.feed!r}: use at least 1"
            )
        if weight is not None and label is None:
            raise FeedError(f"feed {manifest.feed!r}: weight={weight!r} needs a label as well")
        target = [name for name in (label, weight) if name is not None]
        if features is None:
            features = [c.name for c in manifest.columns if c.name not in target]
        self._columns = [manifest.column(name) for name in [*features, *target]]
        self._features = len(features)
        self._targets = len(target)
        self._view = View(manifest.feed, tuple(c.name for c in self._columns), shuffle, seed)
        self._maps: list[Callable[..., Any]] = []
        self._on_rows = on_rows
        self._epochs_begun = 0
        self.feed = manifest.feed
        self.rows = manifest.rows
        self.batch_size = batch_size

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.rows // self.batch_size)

    @property
    def feature_columns(self) -> list[Column]:
        """The columns of the features as the feed has them, before any map()."""
        return self._columns[: self._features]

    @property
    def element_spec(self) -> Any:
        """The type of one batch, as tf.data has it."""
        return self.positions(tf.constant(0, tf.int64), tf.constant(0, tf.int64), 0).element_spec

    def map(self, function: Callable[..., Any]) -> FeedDataset:
        """A dataset whose batches went through `function(features, label[, weight])`.

        The function must keep one batch one batch. It is traced, and runs where the batch is read.
        """
        result = FeedDataset.__new__(FeedDataset)
        result.__dict__.update(self.__dict__)
        result._maps = [*self._maps, function]
        return result

    def positions(self, start: Any, stop: Any, epoch: Any) -> tf.data.Dataset:
        """The batches at the row positions [start, stop) of an epoch; all three int64 scalars.

        May be called inside a tf.function; then it reads where that function runs.
        """
        epoch = tf.cast(epoch, tf.int64)
        dataset = tf.data.Dataset.range(start, stop, self.batch_size).map(
            lambda at: self._batch(epoch, at, tf.minimum(at + self.batch_size, stop))
        )
        for function in self._maps:
            dataset = dataset.map(function)
        return dataset.prefetch(_PREFETCH_BATCHES)

    def __iter__(self) -> Iterator[Any]:
        epoch = self._epochs_begun
        self._epochs_begun += 1
        # in pieces, so that the count of rows given out never runs ahead of the loop
        for start, stop in units(0, self.rows, self.batch_size, 1):
            if start == 0:
                batches = iter(self.positions(start, self.rows, epoch))
            yield next(batches)
            if self._on_rows:
                self._on_rows(self.feed, epoch, stop - start)

    def __call__(self) -> tf.data.Dataset:
        rows = tf.constant(self.rows, tf.int64)
        (bounds,) = tf.raw_ops.PyFunc(input=[rows], token=_SHARE_TOKEN, Tout=[tf.int64])
        bounds = tf.ensure_shape(bounds, [2])
        # a share without rows has no epoch to repeat
        epochs = tf.where(bounds[0] < bounds[1], tf.constant(-1, tf.int64), 0)
        return (
            tf.data.Dataset.counter()
            .take(epochs)
            .flat_map(lambda epoch: self.positions(bounds[0], bounds[1], epoch))
        )

    def _batch(self, epoch: Any, start: Any, stop: Any) -> Any:
        specs = [_spec(column) for column in self._columns]
        types: list[Any] = []
        for spec in specs:
            types.extend([spec.dtype, tf.int64] if _is_ragged(spec) else [spec.dtype])
        flat = tf.raw_ops.PyFunc(
            input=[tf.constant(self._view.to_text()), epoch, start, stop],
            token=_READ_TOKEN,
            Tout=types,
        )
        arrays = iter(flat)
        tensors: list[Any] = []
        for spec in specs:
            if _is_ragged(spec):
                values = tf.ensure_shape(next(arrays), [None])
                splits = tf.ensure_shape(next(arrays), [None])
                tensors.append(tf.RaggedTensor.from_row_splits(values, splits, validate=False))
            else:
                tensors.append(tf.ensure_shape(next(arrays), spec.shape))
        names = self._view.columns
        features = dict(zip(names, tensors[: self._features], strict=False))
        return (features, *tensors[self._features :]) if self._targets else features


def _is_ragged(spec: Any) -> bool:
    return isinstance(spec, tf.RaggedTensorSpec)
