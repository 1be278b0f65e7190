"""Elements of a feed's dataset as TensorFlow has them, of the arrays that are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from tfos.feeding.reader import View
from tfos.feeding.reads import read_here
from tfos.feeding.selection import Selection
from tfos.feeding.tensors import component_specs, tensor_of, tensor_spec


@dataclass(frozen=True)
class Elements(Selection):
    """(features, label[, weight]) of tensors, or the features alone without a label."""

    @property
    def spec(self) -> Any:
        """The type of a batch, as tf.data has it."""
        return self.arranged([tensor_spec(column) for column in self.columns])

    def read(self, view: View, epoch: Any, start: Any, stop: Any) -> Any:
        """In a graph: positions [start, stop) of an epoch, a tensor for each block.

        Where each block is a column, the element itself.
        """
        firsts = [self.columns[block[0]] for block in self.blocks]
        specs = [
            component_specs(column)
            if len(block) == 1
            else [tf.TensorSpec([None, len(block)], column.dtype)]
            for block, column in zip(self.blocks, firsts, strict=True)
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
        for block, tensor in zip(self.blocks, read, strict=True):
            each = [tensor] if len(block) == 1 else tf.unstack(tensor, axis=1)
            for number, column in zip(block, each, strict=True):
                tensors[number] = column
        return self.arranged(tensors)
