"""One step of a model whose weights are in the store, while it is traced."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfos.compat.keras import replaced
from tfos.errors import UsageError


class Given:
    """A Reader of the rows of one step: those of each table in a variable, from the first call on.

    held: by the layer's id. places: of the keys of each call, in the order of the calls.
    """

    def __init__(self, held: Mapping[int, tf.Variable], places: Sequence[Any]) -> None:
        self._held, self._places = held, list(places)

    def read(self, layer: Any, keys: Callable[[], Any]) -> tuple[Any, Any]:
        return tf.identity(self._held[id(layer)].read_value()), self._places.pop(0)


class StoredScope(keras.StatelessScope):
    """A step's view of a model's variables, which changes none of them.

    What it assigns to metrics, and to weights that no optimizer updates, is kept as values; seeds
    and counters are this process's own, and are written, unless `is_trial`. held: see
    variables.Variables.
    """

    def __init__(
        self,
        model: keras.Model,
        metrics: Sequence[Any],
        state: Sequence[Any],
        held: Sequence[tuple[Any, Any]] = (),
        is_trial: bool = False,
    ) -> None:
        self._model, self._is_trial = model, is_trial
        measured = {id(v) for v in metrics}
        self._kept = [
            v
            for v in model.non_trainable_variables
            if id(v) not in measured and v.value.dtype.is_floating
        ]
        super().__init__(
            state_mapping=[
                *zip(metrics, state, strict=True),
                *[(v, tf.identity(v.value)) for v in self._kept],
            ],
            collect_losses=True,
        )
        # Keras would refuse them, as their number of rows is not that of the weight
        self.state_mapping.update({id(v): value for v, value in held})
        self._begun = dict(self.state_mapping)
        self._values = measured | {id(v) for v in self._kept}

    def add_update(self, update: tuple[Any, Any]) -> None:
        """Called by Keras for each assignment."""
        variable, value = update
        if id(variable) in self._values:
            super().add_update(update)
        elif not variable.value.dtype.is_floating:
            if self._is_trial:
                super().add_update(update)
                return
            variable.value.assign(tf.cast(value, variable.value.dtype))
        else:
            raise UsageError(
                f"the step of model {self._model.name!r} assigns {variable.path}, for a constraint"
                " or a normalization of weights, which are on the servers of --strategy kv: do"
                " without, or use --strategy multi-worker"
            )

    def changes(self) -> list[tuple[Any, Any]]:
        """What the step adds to weights that no optimizer updates, as (variable, difference)."""
        return [
            (v, self.state_mapping[id(v)] - self._begun[id(v)])
            for v in self._kept
            if self.state_mapping[id(v)] is not self._begun[id(v)]
        ]


class Updates:
    """What optimizers were asked to apply: (optimizer, variable, gradient), clipped."""

    def __init__(self) -> None:
        self.found: list[tuple[Any, Any, Any]] = []

    @contextlib.contextmanager
    def noted(self) -> Iterator[None]:
        """Optimizers apply nothing meanwhile."""
        found = self.found

        def apply(self: Any, grads: Any, trainable_variables: Any = None) -> None:
            variables = self._trainable_variables if trainable_variables is None else (
                trainable_variables
            )  # fmt: skip
            pairs = [
                (variable, _dense(gradient))
                for variable, gradient in zip(variables, grads, strict=True)
                if gradient is not None
            ]
            for variable, _ in pairs:
                if variable.constraint is not None:
                    raise UsageError(
                        f"variable {variable.path} has a constraint, which the servers of"
                        " --strategy kv do not apply: do without, or use --strategy multi-worker"
                    )
                if any(variable is known for _, known, _ in found):
                    raise UsageError(
                        f"the step updates {variable.path} more than once, but with --strategy kv"
                        " what it has pushed is seen from the next step on: make one update a step,"
                        " or use --strategy single or multi-worker"
                    )
            clipped = self._clip_gradients([gradient for _, gradient in pairs])
            for (variable, _), gradient in zip(pairs, clipped, strict=True):
                found.append((self, variable, gradient))

        with replaced("optimizers.base_optimizer:BaseOptimizer", apply=apply):
            yield


def _dense(gradient: Any) -> Any:
    if not isinstance(gradient, tf.IndexedSlices):
        return tf.cast(gradient, tf.float32)
    values = tf.cast(gradient.values, tf.float32)
    rows = tf.cast(gradient.dense_shape[0], tf.int32)
    return tf.math.unsorted_segment_sum(values, gradient.indices, rows)
