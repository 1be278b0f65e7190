"""Where the rows of an epoch of fit come from: a feed that is complete, or one that grows.

An epoch of fit is an epoch of its dataset, or as many steps as the user says, which go on through
one epoch of the dataset after the other. Either kind of source hands out the steps that can be made
now, as parts of the dataset's epochs, or of what earlier processes have left of one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from tfos.feeding.arrival import ARRIVAL_SECS
from tfos.feeding.dataset import FeedDataset
from tfos.feeding.plan import Part, Position


@dataclass(frozen=True)
class Stretch:
    """Steps that can be made now, one after the other.

    dataset: whose positions the parts are.
    parts: none where a feed that grows has no more steps for the time being.
    due: rows of the whole epoch of the feed; None where more may come.
    """

    dataset: FeedDataset
    parts: list[Part]
    due: int | None

    def position_after(self, unit: Part) -> Position:
        """Where the training is when it has made the steps up to the end of `unit`."""
        takes = (*self.dataset.takes, (self.dataset.replicas, unit.stop))
        if sum(rows for _, rows in takes) == self.due:
            return Position(unit.epoch + 1)
        return Position(unit.epoch, takes)


class EpochSource(Protocol):
    """What is left of one epoch of fit.

    dataset: of the first stretch. rows: of all that is left, as far as they are known. steps: their
    number; None where it is not known. is_whole: whether no more rows will come than are known.
    """

    @property
    def dataset(self) -> FeedDataset: ...

    @property
    def rows(self) -> int: ...

    @property
    def steps(self) -> int | None: ...

    @property
    def is_whole(self) -> bool: ...

    def stretches(self) -> Iterator[Stretch]:
        """All steps that are left. Each stretch is asked for when the one before is done."""


class CompleteEpoch:
    """An epoch of a feed of which all rows are there, from a position on.

    position: where the epochs of `dataset` are.
    steps: that are left of the epoch of fit, maybe none; up to the end of the dataset's epoch when
    not given.
    """

    is_whole = True

    def __init__(self, dataset: FeedDataset, position: Position, steps: int | None = None) -> None:
        self.rows = self.steps = 0
        self._stretches: list[Stretch] = []
        self._whole = dataset
        while steps is None or self.steps < steps:
            takes, start = position.resumed_by(dataset.replicas)
            sequence = dataset.without(takes)
            count = sequence.steps_in(sequence.rows - start)
            if steps is not None:
                count = min(count, steps - self.steps)
            stop = min(start + count * sequence.step_rows, sequence.rows)
            part = Part(position.epoch, start, stop)
            if self._stretches and self._stretches[-1].dataset is sequence:
                self._stretches[-1].parts.append(part)
            else:
                self._stretches.append(Stretch(sequence, [part], dataset.rows))
            self.rows += part.rows
            self.steps += count
            position = Position(position.epoch + 1)
            if steps is None:
                break

    @property
    def dataset(self) -> FeedDataset:
        return self._stretches[0].dataset if self._stretches else self._whole

    def stretches(self) -> Iterator[Stretch]:
        return iter(self._stretches)


class GrowingEpoch:
    """The first epoch of a feed that is still being written, in whole steps as its rows come.

    While more may come a step is kept back, so that the end of the epoch is never one without a
    step since the last checkpoint. Between stretches that have no steps it sleeps.
    """

    steps = None

    def __init__(self, dataset: FeedDataset, position: Position) -> None:
        takes, self._start = position.resumed_by(dataset.replicas)
        assert not takes and not position.epoch, "others than one process wait for all rows"
        self.dataset = dataset

    @property
    def rows(self) -> int:
        return self.dataset.arrival.manifest.rows - self._start

    @property
    def is_whole(self) -> bool:
        return self.dataset.arrival.manifest.complete

    def stretches(self) -> Iterator[Stretch]:
        dataset, at = self.dataset, self._start
        while True:
            here = dataset.arrival.look()
            stop = here.rows
            if not here.complete:
                stop = at + max(stop - 1 - at, 0) // dataset.step_rows * dataset.step_rows
            parts = [Part(0, at, stop)] if stop > at else []
            yield Stretch(dataset, parts, here.rows if here.complete else None)
            if here.complete:
                return
            if not parts:
                time.sleep(ARRIVAL_SECS)
            at = stop
