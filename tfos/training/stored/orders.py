"""What a unit of a program is made with, besides its positions. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Order:
    """As JSON.

    number: of the unit in this run, by which its rows are counted. iteration: steps made before
    it. rates: of the step's optimizers; None for a schedule, which says itself.
    """

    number: int = 0
    iteration: int = 0
    rates: Sequence[float | None] = ()
