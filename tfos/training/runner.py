"""What the training loop needs of the process that it runs in.

Of a strategy a place to run functions, see runtime.strategies; and somebody who listens.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol

import tensorflow as tf


class Pending(Protocol):
    """The result of a submitted function, some time later."""

    def fetch(self) -> Any:
        """Blocks; the function's outputs as NumPy values. Raises what the function raised."""


class Runner(Protocol):
    """strategy: the tf.distribute strategy whose scope() models are made in.
    coordinator: the ClusterCoordinator, or None where the strategy has none.
    parallelism: how many submitted functions may run at the same time.
    replicas: how many processes run the same program in step; replica: which of them this one is.
    """

    strategy: tf.distribute.Strategy
    coordinator: tf.distribute.coordinator.ClusterCoordinator | None
    parallelism: int
    replicas: int
    replica: int

    def submit(self, function: Any, *args: Any) -> Pending:
        """Runs `function(*args)`, a tf.function on tensors, on some worker."""

    def gather(self, value: int) -> list[int]:
        """The value that each of the processes in step gives here. Blocks until all have."""


class Reports(Protocol):
    """Who is told how the training goes on; hearing nothing for long is taken for a hang."""

    def progress(self, progress: dict[str, Any]) -> None:
        """How far the training is: phase, epoch, epochs, rows_done, rows, rows_per_sec, metrics."""

    def moved(self) -> None:
        """Something went on that has no other word."""

    def quiet(self) -> AbstractContextManager[None]:
        """The block may take long and report nothing."""
