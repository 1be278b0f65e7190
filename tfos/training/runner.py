"""What the training loop needs of the process that it runs in: a place to run functions.

The training loop cuts an epoch into units and submits a tf.function for each; a Runner, of which
each strategy has one, decides where it runs.
"""

from __future__ import annotations

from typing import Any, Protocol

import tensorflow as tf


class Pending(Protocol):
    """The result of a submitted function, some time later."""

    def fetch(self) -> Any:
        """Blocks; the function's outputs as NumPy values. Raises what the function raised."""


class Runner(Protocol):
    """strategy: the tf.distribute strategy whose scope() models are made in.
    coordinator: the ClusterCoordinator, for code of the user's own; None where there is none.
    parallelism: how many submitted functions may run at the same time.
    is_asynchronous: whether functions run on other machines, beside each other, on variables that
    they share; one that was submitted may then be run twice.
    replicas: how many processes run the same program in step; replica: which of them this one is.
    io_device: the device on which the chief's own files are written; None where there is no other.
    """

    strategy: tf.distribute.Strategy
    coordinator: tf.distribute.coordinator.ClusterCoordinator | None
    parallelism: int
    is_asynchronous: bool
    replicas: int
    replica: int
    io_device: str | None

    def submit(self, function: Any, *args: Any) -> Pending:
        """Runs `function(*args)`, a tf.function on tensors, on some worker."""

    def gather(self, value: int) -> list[int]:
        """The value that each of the processes in step gives here. Blocks until all have."""

    def owns(self, variable: tf.Variable) -> bool:
        """Whether a variable is where the strategy wants it, made in its scope."""


class _Done:
    def __init__(self, value: Any) -> None:
        self._value = value

    def fetch(self) -> Any:
        return tf.nest.map_structure(lambda tensor: tensor.numpy(), self._value)


class LocalRunner:
    """Functions run here, when they are submitted."""

    coordinator = None
    parallelism = 1
    is_asynchronous = False
    io_device: str | None = None

    def submit(self, function: Any, *args: Any) -> Pending:
        return _Done(function(*args))


class Alone:
    """No other process is in step with this one."""

    replicas, replica = 1, 0

    def gather(self, value: int) -> list[int]:
        return [value]

    def owns(self, variable: Any) -> bool:
        return True
