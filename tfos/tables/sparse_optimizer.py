"""What the optimizers of tables have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfos.tables.rows import summed, used

# TensorFlow's proximal kernels are for these
PROXIMAL_DTYPES = ("float32", "float64")


class SparseOptimizer(keras.optimizers.Optimizer):
    """The common part: subclasses give the slots and the two updates.

    slots: name of each variable that is kept per weight, and its initial value.
    divides_by_rate: whether there is no formula for a learning rate of 0; it then updates nothing.
    keeps_zeros: whether a gradient of zero changes nothing, so that such rows may be left in.
    Raises ValueError for arguments out of range.
    """

    divides_by_rate = False
    keeps_zeros = False

    def __init__(self, learning_rate: Any, **options: Any) -> None:
        super().__init__(learning_rate=learning_rate, **options)
        self._slots: dict[str, list[Any]] = {}
        self._is_summed = False

    def slots(self) -> dict[str, float]:
        raise NotImplementedError

    def update_dense(self, variable: Any, slots: dict[str, Any], gradient: Any, rate: Any) -> None:
        """One update with a gradient of the variable's shape; slots are tf.Variables."""
        raise NotImplementedError

    def update_rows(
        self, variable: Any, slots: dict[str, Any], gradient: Any, rows: Any, rate: Any
    ) -> None:
        """One update of the rows numbered `rows`, int [n], each of them there once."""
        raise NotImplementedError

    def build(self, variables: Sequence[Any]) -> None:
        if self.built:
            return
        super().build(variables)
        for name, initial in self.slots().items():
            initializer = keras.initializers.Constant(initial)
            self._slots[name] = self.add_optimizer_variables(variables, name, initializer)

    def _backend_update_step(self, grads: Any, variables: Any, learning_rate: Any) -> None:
        """Sums duplicates on the worker, where Keras would have it done with the variables."""
        if self._distribution_strategy.num_replicas_in_sync == 1:
            self._is_summed = True
            grads = [self._prepared(g) if isinstance(g, tf.IndexedSlices) else g for g in grads]
        try:
            super()._backend_update_step(grads, variables, learning_rate)
        finally:
            self._is_summed = False

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        index = self._get_variable_index(variable)
        decays = self.weight_decay is not None and self._use_weight_decay(
            self._trainable_variables[index]
        )
        variable = tensorflows(variable)
        slots = {name: tensorflows(variables[index]) for name, variables in self._slots.items()}
        rate = tf.cast(learning_rate, variable.dtype)
        decay = rate * tf.cast(self.weight_decay, variable.dtype) if decays else None

        if isinstance(gradient, tf.IndexedSlices) and not self._is_summed:
            gradient = self._prepared(gradient)

        def update() -> None:
            if isinstance(gradient, tf.IndexedSlices):
                rows, values = gradient.indices, tf.cast(gradient.values, variable.dtype)
                if decay is not None:
                    add_rows(variable, rows, -decay * tf.gather(variable, rows))
                self.update_rows(variable, slots, values, rows, rate)
            else:
                if decay is not None:
                    variable.assign_sub(decay * variable)
                self.update_dense(variable, slots, tf.cast(gradient, variable.dtype), rate)

        with tf.device(variable.device):
            if self.divides_by_rate:
                tf.cond(rate > 0, update, lambda: None)
            else:
                update()

    def _prepared(self, gradient: Any) -> Any:
        """What update_step takes: each row once, and those of zero left out."""
        gradient = summed(gradient)
        return gradient if self.keeps_zeros and self.weight_decay is None else used(gradient)

    def _apply_weight_decay(self, variables: Sequence[Any]) -> None:
        """Nothing: update_step does, for the rows that it updates."""

    def _clip_gradients(self, gradients: Sequence[Any]) -> list[Any]:
        if not (self.clipnorm or self.global_clipnorm or self.clipvalue):
            return list(gradients)
        whole = [summed(g) if isinstance(g, tf.IndexedSlices) else g for g in gradients]
        plain = [g.values if isinstance(g, tf.IndexedSlices) else g for g in whole]
        return [
            tf.IndexedSlices(clipped, gradient.indices, gradient.dense_shape)
            if isinstance(gradient, tf.IndexedSlices)
            else clipped
            for clipped, gradient in zip(super()._clip_gradients(plain), whole, strict=True)
        ]

    def _config(self, *names: str) -> dict[str, Any]:
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def tensorflows(variable: Any) -> Any:
    return variable.value if isinstance(variable, keras.Variable) else variable


def add_rows(variable: Any, rows: Any, values: Any) -> Any:
    return tf.raw_ops.ResourceScatterAdd(resource=variable.handle, indices=rows, updates=values)


def write_rows(variable: Any, rows: Any, values: Any) -> Any:
    return tf.raw_ops.ResourceScatterUpdate(resource=variable.handle, indices=rows, updates=values)


def check_range(name: str, value: float, low: float, below: float = float("inf")) -> None:
    if not low <= value < below:
        above = "" if below == float("inf") else f" and less than {below}"
        raise ValueError(f"{name} is {value}: use {low} or more{above}")
