"""What in a traced graph depends on what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any


def reached(tensors: Sequence[Any]) -> Iterator[Any]:
    """The tensors of a graph that these are computed from, and themselves, each once.

    A call of another function, or a condition, is taken to need all that it is given.
    """
    seen: set[int] = set()
    left = list(tensors)
    while left:
        tensor = left.pop()
        if id(tensor) not in seen:
            seen.add(id(tensor))
            yield tensor
            left.extend(tensor.op.inputs)
