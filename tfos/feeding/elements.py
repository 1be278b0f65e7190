"""Elements of a feed's dataset: of which columns, and how they come of the arrays that are read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import tensorflow as tf

from tfos.errors import FeedError
from tfos.feeding.reader import View
from tfos.feeding.reads import read_here
from tfos.feeding.schema import Column, Manifest, blocks
from tfos.feeding.tensors import component_specs, tensor_of, tensor_spec

# of all columns together, in one read: 4 MiB at most
_READ_VALUES = 1 << 19


@dataclass(frozen=True)
class Elements:
    """(features, label[, weight]), or the features alone without a label.

    features, labels: how many of the columns, in this order, are these; others are the weight.
    bare_features, bare_label: whether it is one tensor rather than a dict of names.
    """

    columns: tuple[Column, ...]
    features: int
    labels: int
    bare_features: bool
    bare_label: bool

    @classmethod
    def of(
        cls,
        manifest: Manifest,
        features: Sequence[str] | str | None,
        label: str | Sequence[str] | None,
        weight: str | None,
    ) -> Elements:
        """What FeedDataset's arguments mean; raises FeedError when the feed lacks a column."""
        if weight is not None and label is None:
            raise FeedError(f"feed {manifest.feed!r}: weight={weight!r} needs a label as well")
        labels = [label] if isinstance(label, str) else list(label or ())
        weights = [weight] if weight is not None else []
        if features is None:
            others = {*labels, *weights}
            features = [c.name for c in manifest.columns if c.name not in others]
        inputs = [features] if isinstance(features, str) else list(features)
        columns = tuple(manifest.column(name) for name in [*inputs, *labels, *weights])
        bare = isinstance(features, str), isinstance(label, str)
        return cls(columns, len(inputs), len(labels), *bare)

    @property
    def spec(self) -> Any:
        """The type of a batch, as tf.data has it."""
        return self.arranged([tensor_spec(column) for column in self.columns])

    @cached_property
    def _blocks(self) -> list[list[int]]:
        return blocks(self.columns)

    @property
    def has_blocks(self) -> bool:
        """Whether several columns are read as one array."""
        return len(self._blocks) < len(self.columns)

    def batches_at_a_time(self, batch_size: int) -> int:
        """How many batches are read at once and then cut, as a read costs as much as many rows do.

        0 where that is not known to be little, as strings may be long, or where columns cannot be
        cut: those of which a row is no part of each component.
        """
        specs = [component_specs(column) for column in self.columns]
        if any(len(each) > 1 or each[0].dtype == tf.string for each in specs):
            return 0
        values = sum(math.prod(spec.shape[1:]) for each in specs for spec in each)
        return max(1, _READ_VALUES // (values * batch_size))

    def read(self, view: View, epoch: Any, start: Any, stop: Any) -> Any:
        """In a graph: positions [start, stop) of an epoch, a tensor for each block.

        Where each block is a column, the element itself.
        """
        firsts = [self.columns[block[0]] for block in self._blocks]
        specs = [
            component_specs(column)
            if len(block) == 1
            else [tf.TensorSpec([None, len(block)], column.dtype)]
            for block, column in zip(self._blocks, firsts, strict=True)
        ]
        parts = iter(read_here(view, epoch, start, stop, [s for each in specs for s in each]))
        read = [
            tensor_of(column, [next(parts) for _ in each])
            for column, each in zip(firsts, specs, strict=True)
        ]
        return tuple(read) if self.has_blocks else self.arranged(read)

    def unpacked(self, read: Sequence[Any]) -> Any:
        """The element that read() gave as blocks."""
        tensors: list[Any] = [None] * len(self.columns)
        for block, tensor in zip(self._blocks, read, strict=True):
            each = [tensor] if len(block) == 1 else tf.unstack(tensor, axis=1)
            for number, column in zip(block, each, strict=True):
                tensors[number] = column
        return self.arranged(tensors)

    def arranged(self, tensors: Sequence[Any]) -> Any:
        """One element from the tensors of its columns; or features from theirs."""
        names = [column.name for column in self.columns]
        named = list(zip(names, tensors, strict=False))
        upto = self.features + self.labels
        features: Any = dict(named[: self.features])
        label: Any = dict(named[self.features : upto])
        if self.bare_features:
            (features,) = features.values()
        if not label:
            return features
        if self.bare_label:
            (label,) = label.values()
        return features, label, *(tensor for _, tensor in named[upto:])
