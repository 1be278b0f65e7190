"""What Keras does otherwise while a step is traced."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

import keras

from tfos.errors import TFOSError
from tfos.tables.clipping import clipped_tables
from tfos.tables.rows import own_copy
from tfos.training.collectives import all_sum

_OPTIMIZER = "backend.tensorflow.optimizer:TFOptimizer"
_BASE_OPTIMIZER = "optimizers.base_optimizer:BaseOptimizer"


@contextlib.contextmanager
def summed_gradients() -> Iterator[None]:
    """Keras's optimizers apply the sum of all processes' gradients; it is clipped as a whole.

    Keras would clip each process's own, and sum up with an allreduce that takes no slices whose
    number varies.
    """
    from keras.src.optimizers.base_optimizer import BaseOptimizer

    def apply(self: Any, gradients: Any, variables: Any) -> None:
        BaseOptimizer._backend_apply_gradients(self, all_sum(list(gradients)), variables)

    with (
        _keras_with(_OPTIMIZER, _backend_apply_gradients=apply),
        _keras_with(_OPTIMIZER, _all_reduce_sum_gradients=lambda self, pairs: list(pairs)),
    ):
        yield


@contextlib.contextmanager
def gradients_and_losses_as_they_are() -> Iterator[None]:
    """Keras neither divides losses by the number of replicas nor sums up gradients.

    It divides most losses, as if all replicas had as many rows, and not those of outputs without a
    second dimension. We weight by rows, and need each loss as it is.
    """
    with (
        _keras_with(
            "losses.loss",
            scale_loss_for_distribution=lambda value: value,
            unscale_loss_for_distribution=lambda value: value,
        ),
        _keras_with(_OPTIMIZER, _all_reduce_sum_gradients=lambda self, pairs: list(pairs)),
    ):
        yield


@contextlib.contextmanager
def tables_clipped() -> Iterator[None]:
    """Keras's optimizers clip the gradient of a divided table as a whole, and not each shard's."""
    from keras.src.optimizers.base_optimizer import BaseOptimizer

    unclipped = BaseOptimizer._backend_apply_gradients

    def apply(self: Any, gradients: Any, variables: Any) -> None:
        unclipped(self, clipped_tables(self, gradients, variables), variables)

    # after summed_gradients(), whose TFOptimizer is this one's subclass: what is clipped is the sum
    with _keras_with(_BASE_OPTIMIZER, _backend_apply_gradients=apply):
        yield


@contextlib.contextmanager
def rows_read() -> Iterator[None]:
    """Keras's Embedding reads the rows that it looks up where the table is, not the whole table.

    tf.gather() does so for variables that can, TensorFlow's and, in this context, Keras's.
    """
    from keras.src.backend.tensorflow.core import Variable

    def sparse_read(self: Any, indices: Any, name: str | None = None) -> Any:
        return own_copy(self.value).sparse_read(indices, name=name)

    Variable.sparse_read = sparse_read
    try:
        yield
    finally:
        del Variable.sparse_read


@contextlib.contextmanager
def _keras_with(place: str, **functions: Any) -> Iterator[None]:
    """Replaces functions inside Keras: place is "module:class", or "module" below keras.src."""
    module, _, name = place.partition(":")
    try:
        owner = importlib.import_module(f"keras.src.{module}")
        owner = getattr(owner, name) if name else owner
        before = {function: getattr(owner, function) for function in functions}
    except (ImportError, AttributeError) as error:
        raise TFOSError(
            f"Keras {keras.__version__} differs from those that tfos is tested with ({error}): use"
            " one of them, or --strategy single"
        ) from error
    try:
        for function, replacement in functions.items():
            setattr(owner, function, replacement)
        yield
    finally:
        for function, original in before.items():
            setattr(owner, function, original)
