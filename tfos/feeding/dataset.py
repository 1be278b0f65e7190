"""A feed as tf.data, read where it is consumed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from tfos.compat.tensorflow import converted
from tfos.errors import FeedError, UsageError
from tfos.feeding.arrival import Arrival
from tfos.feeding.elements import Elements
from tfos.feeding.not_tf_data import NotTfData
from tfos.feeding.plan import Take, left, share
from tfos.feeding.reader import View
from tfos.feeding.reads import own_share
from tfos.feeding.schema import Column, Manifest

_PREFETCH_BATCHES = 4


class FeedDataset(NotTfData):
    """Batches of a feed: (features, label[, weight]), or the features alone without a label.

    Made by TrainContext.dataset(). Iterating it in a `for` loop gives one epoch in this process;
    each further iteration is the next epoch, newly shuffled. Calling it, as
    ClusterCoordinator.create_per_worker_dataset does, gives a tf.data.Dataset of the calling
    worker's even share of each epoch's rows, repeated for ever. The last batch of an epoch may be
    short; no row is left out or repeated in an epoch.

    Where processes train in step, iterating it gives this process's share of the rows, in as many
    batches as the others get. In the last step some may get a row more than others, or no row.
    Iterating whole() gives all rows in each process.

    A feed may still be written (--overlap). Then iterating and calling it wait until all rows are
    there, and so does wait_complete(); what needs to know how many there are raises before.

    feed: what is there of it, for one that may still be written as an Arrival.
    batch_size: rows in one batch. step_rows: rows in one step of all the processes in step.
    replica, replicas: this process, and how many run in step.
    takes: of what is left of an epoch, what was taken of it; see without().
    """

    def __init__(
        self,
        feed: Manifest | Arrival,
        batch_size: int,
        features: Sequence[str] | str | None = None,
        label: str | Sequence[str] | None = None,
        weight: str | None = None,
        shuffle: bool = True,
        seed: int = 0,
        *,
        replica: int = 0,
        replicas: int = 1,
        on_rows: Callable[[str, int, int], None] | None = None,
    ) -> None:
        self.arrival = feed if isinstance(feed, Arrival) else Arrival(feed)
        manifest = self.arrival.manifest
        if batch_size < 1:
            raise FeedError(
                f"batch_size is {batch_size} for feed {manifest.feed!r}: use at least 1"
            )
        self._elements = Elements.of(manifest, features, label, weight)
        columns = tuple(column.name for column in self._elements.columns)
        self._view = View(manifest.feed, columns, shuffle, seed)
        self._maps: list[Callable[..., Any]] = []
        self._on_rows = on_rows
        self._epochs_begun = 0
        self._is_whole = False
        self.feed = manifest.feed
        self._rows: int | None = None  # of a part of the feed
        self.takes: tuple[Take, ...] = ()
        self.batch_size = batch_size
        self.replica, self.replicas = replica, replicas
        self.step_rows = batch_size * replicas

    def wait_complete(self) -> FeedDataset:
        """Blocks until all rows are there, for as long as the ETL takes; returns this dataset."""
        self.arrival.wait_complete()
        return self

    @property
    def is_complete(self) -> bool:
        """Whether all rows were there at the last look."""
        return self.arrival.manifest.complete

    @property
    def rows(self) -> int:
        """Rows of an epoch. Raises FeedError while the feed is still being written."""
        if self._rows is not None:
            return self._rows
        if not self.is_complete:
            raise FeedError(
                f"feed {self.feed!r} is still being written, so that nobody knows how many rows it"
                f" has ({self.arrival.manifest.rows} so far): call wait_complete() on the dataset"
                " before, or run with --overlap off"
            )
        return self.arrival.manifest.rows

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch. Raises FeedError while the feed is still being written."""
        return self.steps_in(self.rows)

    def steps_in(self, rows: int) -> int:
        """How many steps so many rows of an epoch are, from a step's begin on."""
        return -(-rows // self.step_rows)

    @property
    def can_begin_early(self) -> bool:
        """Whether its first epoch may take the rows as they come: shuffled, and all of the feed."""
        return self._view.shuffle and self._view.part is None and self.replicas == 1

    @property
    def order(self) -> dict[str, Any]:
        """What the order of the rows in an epoch depends on, as JSON."""
        view = self._view
        part = None if view.part is None else list(view.part)
        return {"feed": view.feed, "shuffle": view.shuffle, "seed": view.seed, "part": part}

    @property
    def feature_columns(self) -> list[Column]:
        """The columns of the features as the feed has them, before any map()."""
        return list(self._elements.columns[: self._elements.features])

    @property
    def target_columns(self) -> list[Column]:
        """The columns of the labels, and of the weight, as the feed has them."""
        return list(self._elements.columns[self._elements.features :])

    @property
    def functions(self) -> list[Callable[..., Any]]:
        """What map() was given, in order."""
        return list(self._maps)

    @property
    def element_spec(self) -> Any:
        """The type of one batch, as tf.data has it."""
        if not self._maps:  # known, and to make a dataset takes a tenth of a second
            return self._elements.spec
        return self.positions(tf.constant(0, tf.int64), tf.constant(0, tf.int64), 0).element_spec

    def map(self, function: Callable[..., Any]) -> FeedDataset:
        """A dataset whose batches went through `function(features, label[, weight])`.

        The function must keep one batch one batch. It is traced, and runs where the batch is read.
        """
        return self._like(_maps=[*self._maps, function])

    def whole(self) -> FeedDataset:
        """The same rows; iterating it gives all of them in each process, also where several train
        in step.

        For what a model is set up from, which must be the same in each: `layer.adapt(...)`, a
        vocabulary, a count. fit() and run_epoch() divide its rows as they do those of any dataset.
        """
        return self._like(_is_whole=True)

    def in_order(self) -> FeedDataset:
        """The same rows, not shuffled."""
        return self._like(_view=dataclasses.replace(self._view, shuffle=False))

    def of(self, manifest: Manifest) -> FeedDataset:
        """The same columns of another feed, in order. Raises FeedError when it lacks one."""
        for here in self._elements.columns:
            there = manifest.column(here.name)
            if here != there:
                raise FeedError(
                    f"column {here.name!r} is {there} in feed {manifest.feed!r}, but {here} in feed"
                    f" {self.feed!r}"
                )
        view = dataclasses.replace(self._view, feed=manifest.feed, shuffle=False, part=None)
        return self._like(_view=view, feed=manifest.feed, arrival=Arrival(manifest), _rows=None)

    def split(self, fraction: float) -> tuple[FeedDataset, FeedDataset]:
        """Two datasets: all but the last rows of the feed, and the last `fraction` of them.

        The latter comes in order. Raises UsageError when one of the two would be empty.
        """
        kept = self.rows - int(self.rows * fraction) if 0 < fraction < 1 else 0
        if not 0 < kept < self.rows:
            raise UsageError(
                f"{fraction} of the {self.rows} rows of feed {self.feed!r} cannot be split off: use"
                " a number above 0 and below 1 that leaves rows on both sides"
            )
        first = self._view.part[0] if self._view.part else 0
        parts = (first, first + kept), (first + kept, first + self.rows)
        one, other = (dataclasses.replace(self._view, part=part) for part in parts)
        return (
            self._like(_view=one, _rows=kept),
            self._like(_view=dataclasses.replace(other, shuffle=False), _rows=self.rows - kept),
        )

    def without(self, takes: tuple[Take, ...]) -> FeedDataset:
        """What `takes` have left of an epoch, as a sequence of its own; see plan.left."""
        if not takes:
            return self
        ranges = tuple(left(self.rows, takes))
        rows = sum(stop - start for start, stop in ranges)
        view = dataclasses.replace(self._view, left=ranges)
        return self._like(_view=view, _rows=rows, takes=takes)

    def _like(self, **changes: Any) -> FeedDataset:
        result = type(self).__new__(type(self))
        result.__dict__.update(self.__dict__)
        result.__dict__.update(changes)
        return result

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def positions(
        self, start: Any, stop: Any, epoch: Any, *, padded: bool = False, packed: bool = False
    ) -> tf.data.Dataset:
        """This replica's batches of the steps that make up the positions [start, stop) of an epoch.

        start, stop, epoch: int64 scalars; start is a multiple of the replicas, and from there to
        stop are full steps, but at the end of the epoch.
        padded: whether a batch without rows has some row instead of none, as models need it.
        packed: whether a batch is what unpacked() takes. An iterator over thousands of columns
        takes longer to make than a short unit of steps.
        May be called inside a tf.function; then it reads where that function runs.
        """
        start, stop, epoch = (tf.cast(each, tf.int64) for each in (start, stop, epoch))
        begin, end, size = start, stop, self.batch_size
        if self.replicas > 1:
            first, last = share(self.rows, self.replica, self.replicas)
            begin, end = first + start // self.replicas, tf.constant(last, tf.int64)
        steps = self.steps_in(stop - start)
        several = self._elements.batches_at_a_time(size) * size
        whole = begin + tf.clip_by_value((end - begin) // size, 0, steps) * size
        dataset = tf.data.Dataset.range(whole if several else begin, begin + steps * size, size)
        dataset = dataset.map(
            lambda at: self._elements.read(self._view, epoch, *self._bounds(at, end, padded))
        )
        if several:
            reads = tf.data.Dataset.range(begin, whole, several)
            reads = reads.map(
                lambda at: self._elements.read(
                    self._view, epoch, at, tf.minimum(at + several, whole)
                )
            )
            dataset = reads.rebatch(size).concatenate(dataset)
        if self._elements.has_blocks and not (packed and self._packs):
            dataset = dataset.map(lambda *read: self._elements.unpacked(read))
        for function in self._maps:
            dataset = dataset.map(converted(function))
        # a unit of steps makes an iterator of its own, and to rewrite its graph takes longer than
        # what that gains here
        options = tf.data.Options()
        options.experimental_optimization.apply_default_optimizations = False
        return dataset.prefetch(_PREFETCH_BATCHES).with_options(options)

    def unpacked(self, batch: Any) -> Any:
        """A batch of positions(packed=True) as those of others are."""
        return self._elements.unpacked(batch) if self._packs else batch

    @property
    def _packs(self) -> bool:
        """Whether batches can leave tf.data as they are read: map() wants them arranged there."""
        return self._elements.has_blocks and not self._maps

    def _bounds(self, start: Any, end: Any, padded: bool) -> tuple[Any, Any]:
        stop = tf.minimum(start + self.batch_size, end)
        if not padded:
            return tf.minimum(start, stop), stop
        start = tf.minimum(start, tf.maximum(end, 1) - 1)
        return start, tf.maximum(stop, start + 1)

    def __iter__(self) -> Iterator[Any]:
        self.wait_complete()
        epoch = self._epochs_begun
        self._epochs_begun += 1
        given = self
        if self._is_whole:
            given = self._like(replica=0, replicas=1, step_rows=self.batch_size)
        # in pieces, so that the count of rows given out never runs ahead of the loop
        for start in range(0, self.rows, given.step_rows):
            if start == 0:
                batches = iter(given.positions(start, self.rows, epoch))
            yield next(batches)
            if self._on_rows:
                self._on_rows(self.feed, epoch, min(given.step_rows, self.rows - start))

    def __call__(self) -> tf.data.Dataset:
        self.wait_complete()
        rows = tf.constant(self.rows, tf.int64)
        bounds = own_share(rows)
        # a share without rows has no epoch to repeat
        epochs = tf.where(bounds[0] < bounds[1], tf.constant(-1, tf.int64), 0)
        return (
            tf.data.Dataset.counter()
            .take(epochs)
            .flat_map(lambda epoch: self.positions(bounds[0], bounds[1], epoch))
        )

    def arranged(self, tensors: list[Any]) -> Any:
        """One element, before any map(), from the tensors of its columns; or features from theirs.

        tensors: those of feature_columns, and of target_columns where there are such.
        """
        return self._elements.arranged(tensors)
