"""What the training loop needs of the process that it runs in: a place to run functions.

The training loop cuts an epoch into units and submits a tf.function for each; a Runner, of which
each strategy has one, decides where it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

import keras
import numpy as np
import tensorflow as tf

from tfos.errors import UsageError
from tfos.tables.of_model import check_rows_stay, tables_without_rows

if TYPE_CHECKING:
    from tfos.fault.checkpoint.checkpointer import Checkpointer, Elsewhere
    from tfos.training.stored.store import ModelStore


# of a checkpoint, which names the snapshot of the store that belongs to it
SECTION = "store"
# what processes do together
Section = Literal["fit", "evaluate", "predict", "epoch"]


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
    python_store: where a step of the user's own is called as it is, and not traced, the store that
    it uses; else None.
    """

    strategy: tf.distribute.Strategy
    coordinator: tf.distribute.coordinator.ClusterCoordinator | None
    parallelism: int
    is_asynchronous: bool
    replicas: int
    replica: int
    io_device: str | None
    python_store: ModelStore | None

    def submit(self, function: Any, *args: Any) -> Pending:
        """Runs `function(*args)`, a tf.function on tensors, on some worker."""

    def gather(self, value: int) -> list[int]:
        """The value that each of the processes in step gives here. Blocks until all have."""

    def owns(self, variable: tf.Variable) -> bool:
        """Whether a variable is where the strategy wants it, made in its scope."""

    def know(self, model: keras.Model) -> None:
        """Called for each model that is given to ctx, in order. Raises UsageError for one whose
        tables this strategy has no place for.
        """

    def store_of(self, model: keras.Model) -> ModelStore | None:
        """The key-value store that the model's weights are in; None for those in variables."""

    def continue_from(self, checkpoint: Checkpointer) -> None:
        """Called once, before anything is trained; in an evaluator for each checkpoint."""

    @property
    def parts(self) -> Mapping[str, Callable[[], Elsewhere]]:
        """What a checkpoint has of the store; see Checkpointer."""

    def repeated_rows(self) -> int | None:
        """Rows made more than once since the last call; None where the loop counts them itself."""

    def leave(
        self,
        checkpoint: Checkpointer,
        step: int,
        section: str,
        told: Callable[[], tuple[Any, Mapping[str, np.ndarray]]],
        optimizers: Sequence[Any],
        is_due: bool,
    ) -> None:
        """Called in a fit before its first unit and after each: a process that takes the place of
        this one may go on from here, where the weights are elsewhere.

        told: gives the state and the arrays of the section, as for Checkpointer.save().
        is_due: for the begin and the end of an epoch.
        """

    def saves(self, section: str) -> None:
        """Called when a checkpoint is to be made with the state of a section."""

    def regain(self, section: str, optimizers: Sequence[Any]) -> None:
        """Gives optimizers of a fit what leave() was last told of them, by whichever process."""

    def together(
        self,
        what: Section,
        lead: Callable[[], Any],
        make: Callable[[Any], Any],
        tell: Callable[[Any], Any],
        told: Callable[..., Any],
    ) -> Any:
        """What lead() returns; where other processes make its units, in these what it has told.

        make: makes a unit, in the others. tell: of what lead() has returned, JSON and a list of
        arrays. told: the other way round.
        """


class Base:
    """A strategy without a store, where each process that runs train() leads itself."""

    python_store: ModelStore | None = None

    def know(self, model: keras.Model) -> None:
        for layer in tables_without_rows(model):
            raise UsageError(
                f"layer {layer.name!r} of model {model.name!r} has a table without a number of"
                " rows, which only --strategy kv and single have a place for: use one of them, or"
                " give the layer an input_dim, with ids='hash' for ids of any kind"
            )
        check_rows_stay(model)

    def store_of(self, model: keras.Model) -> ModelStore | None:
        return None

    def continue_from(self, checkpoint: Checkpointer) -> None:
        pass

    @property
    def parts(self) -> Mapping[str, Callable[[], Elsewhere]]:
        return {}

    def repeated_rows(self) -> int | None:
        return None

    def leave(self, *args: Any) -> None:
        """A process that takes the place of this one goes on from a checkpoint."""

    def regain(self, section: str, optimizers: Sequence[Any]) -> None:
        """They have what the checkpoint has."""

    def saves(self, section: str) -> None:
        pass

    def together(
        self, what: Section, lead: Callable[[], Any], make: Any, tell: Any, told: Any
    ) -> Any:
        return lead()


class _Done:
    def __init__(self, value: Any) -> None:
        self._value = value

    def fetch(self) -> Any:
        return tf.nest.map_structure(lambda tensor: tensor.numpy(), self._value)


class LocalRunner(Base):
    """Functions run here, when they are submitted."""

    coordinator = None
    parallelism = 1
    is_asynchronous = False
    io_device: str | None = None

    def submit(self, function: Any, *args: Any) -> Pending:
        return _Done(function(*args))


class Alone(Base):
    """No other process is in step with this one."""

    replicas, replica = 1, 0

    def gather(self, value: int) -> list[int]:
        return [value]

    def owns(self, variable: Any) -> bool:
        return True
