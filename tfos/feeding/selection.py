"""Which columns of a feed an element has, and how it is arranged of them. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from tfos.errors import FeedError
from tfos.feeding.schema import Column, Manifest, blocks

# of all columns together, in one read: 4 MiB at most
_READ_VALUES = 1 << 19
S = TypeVar("S", bound="Selection")


@dataclass(frozen=True)
class Selection:
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
        cls: type[S],
        manifest: Manifest,
        features: Sequence[str] | str | None,
        label: str | Sequence[str] | None,
        weight: str | None,
    ) -> S:
        """What a dataset's arguments mean; raises FeedError when the feed lacks a column."""
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

    @cached_property
    def blocks(self) -> list[list[int]]:
        """The columns, by number, that are read as one array; see schema.blocks."""
        return blocks(self.columns)

    @property
    def has_blocks(self) -> bool:
        """Whether several columns are read as one array."""
        return len(self.blocks) < len(self.columns)

    def batches_at_a_time(self, batch_size: int) -> int:
        """How many batches are read at once and then cut, as a read costs as much as many rows do.

        0 where that is not known to be little, as strings may be long, or where columns cannot be
        cut: those of which a row is no part of each component.
        """
        if any(c.sparse or c.is_ragged or c.dtype == "string" for c in self.columns):
            return 0
        values = sum(math.prod(column.shape) for column in self.columns)
        return max(1, _READ_VALUES // (values * batch_size))

    def arranged(self, tensors: Sequence[Any]) -> Any:
        """One element from the tensors, or arrays, of its columns; or features from theirs."""
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
