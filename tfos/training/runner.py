"""What the training loop needs of a strategy: a place to run functions. See runtime.strategies."""

from __future__ import annotations

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
    """

    strategy: tf.distribute.Strategy
    coordinator: tf.distribute.coordinator.ClusterCoordinator | None
    parallelism: int

    def submit(self, function: Any, *args: Any) -> Pending:
        """Runs `function(*args)`, a tf.function on tensors, on some worker."""

    def join(self) -> None:
        """Blocks until all that was submitted is done. Raises what any of it raised."""
