"""Optimizers whose penalties make weights that are exactly zero; see tfos.tables.optimizers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfos.tables.sparse_optimizer import (
    PROXIMAL_DTYPES,
    SparseOptimizer,
    add_rows,
    check_range,
    tensorflows,
    write_rows,
)

_register = keras.saving.register_keras_serializable("tfos")


@_register
class FTRL(SparseOptimizer):
    """FTRL-proximal (McMahan et al. 2013, algorithm 1), whose l1 makes weights that are zero.

    z += g - (sqrt(n + g**2) - sqrt(n)) / rate * w; n += g**2; then w = 0 where |z| <= l1, else
    w = -(z - sign(z) * l1) / ((beta + sqrt(n)) / rate + l2). `learning_rate` is the paper's alpha.
    Weights are functions of z and n: the first update of a weight forgets its initial value.
    """

    divides_by_rate = True

    def __init__(
        self,
        learning_rate: Any = 0.05,
        beta: float = 1.0,
        l1: float = 0.0,
        l2: float = 0.0,
        initial_accumulator_value: float = 0.0,
        name: str = "ftrl",
        **options: Any,
    ) -> None:
        super().__init__(learning_rate, name=name, **options)
        for argument, value in (
            ("beta", beta), ("l1", l1), ("l2", l2),
            ("initial_accumulator_value", initial_accumulator_value),
        ):  # fmt: skip
            check_range(argument, value, 0)
        _check_no_decay(self)
        self.beta, self.l1, self.l2 = beta, l1, l2
        self.initial_accumulator_value = initial_accumulator_value

    def slots(self) -> dict[str, float]:
        return {"accumulator": self.initial_accumulator_value, "linear": 0.0}

    def _arguments(self, variable: Any, slots: dict[str, Any], rate: Any) -> dict[str, Any]:
        # TensorFlow's kernel divides by sqrt(n) / rate + 2 * l2
        l2 = tf.cast(self.l2, rate.dtype) / 2 + tf.cast(self.beta, rate.dtype) / (2 * rate)
        return {
            "var": variable.handle,
            "accum": slots["accumulator"].handle,
            "linear": slots["linear"].handle,
            "lr": rate,
            "l1": tf.cast(self.l1, rate.dtype),
            "l2": l2,
            "lr_power": tf.constant(-0.5, rate.dtype),
            "use_locking": True,
        }

    def update_dense(self, variable: Any, slots: dict[str, Any], gradient: Any, rate: Any) -> None:
        arguments = self._arguments(variable, slots, rate)
        tf.raw_ops.ResourceApplyFtrl(grad=gradient, **arguments)

    def update_rows(
        self, variable: Any, slots: dict[str, Any], gradient: Any, rows: Any, rate: Any
    ) -> None:
        arguments = self._arguments(variable, slots, rate)
        tf.raw_ops.ResourceSparseApplyFtrl(grad=gradient, indices=rows, **arguments)

    def get_config(self) -> dict[str, Any]:
        return self._config("beta", "l1", "l2", "initial_accumulator_value")


@_register
class ProximalAdagrad(SparseOptimizer):
    """Adagrad with a proximal step for l1 and l2 (Duchi and Singer 2009; Duchi et al. 2011).

    n += g**2; r = rate / sqrt(n); u = w - r * g; w = sign(u) * max(|u| - r * l1, 0) / (1 + r * l2).
    """

    divides_by_rate = True

    def __init__(
        self,
        learning_rate: Any = 0.01,
        l1: float = 0.0,
        l2: float = 0.0,
        initial_accumulator_value: float = 0.1,
        name: str = "proximal_adagrad",
        **options: Any,
    ) -> None:
        super().__init__(learning_rate, name=name, **options)
        check_range("l1", l1, 0)
        check_range("l2", l2, 0)
        if not initial_accumulator_value > 0:
            raise ValueError(
                f"initial_accumulator_value is {initial_accumulator_value}: use more than 0"
            )
        self.l1, self.l2 = l1, l2
        self.initial_accumulator_value = initial_accumulator_value

    def slots(self) -> dict[str, float]:
        return {"accumulator": self.initial_accumulator_value}

    def build(self, variables: Sequence[Any]) -> None:
        for variable in variables:
            if variable.dtype not in PROXIMAL_DTYPES:
                raise ValueError(
                    f"{_path(variable)} is {variable.dtype}, for which TensorFlow has no"
                    " ProximalAdagrad: keep it in float32, or use another optimizer"
                )
        super().build(variables)

    def _arguments(self, variable: Any, slots: dict[str, Any], rate: Any) -> dict[str, Any]:
        return {
            "var": variable.handle,
            "accum": slots["accumulator"].handle,
            "lr": rate,
            "l1": tf.cast(self.l1, rate.dtype),
            "l2": tf.cast(self.l2, rate.dtype),
            "use_locking": True,
        }

    def update_dense(self, variable: Any, slots: dict[str, Any], gradient: Any, rate: Any) -> None:
        arguments = self._arguments(variable, slots, rate)
        tf.raw_ops.ResourceApplyProximalAdagrad(grad=gradient, **arguments)

    def update_rows(
        self, variable: Any, slots: dict[str, Any], gradient: Any, rows: Any, rate: Any
    ) -> None:
        arguments = self._arguments(variable, slots, rate)
        tf.raw_ops.ResourceSparseApplyProximalAdagrad(grad=gradient, indices=rows, **arguments)

    def get_config(self) -> dict[str, Any]:
        return self._config("l1", "l2", "initial_accumulator_value")


@_register
class GroupFTRL(SparseOptimizer):
    """FTRL-proximal with a group lasso: whole rows of a table become zero, and stay out of a model.

    A row is a group; of a vector or scalar each element is. With s = z where |z| > l1, less
    sign(z) * l1, else 0, and d elements in a row:
    w = -max(0, 1 - l21 * sqrt(d) / |s|) * s / ((beta + sqrt(n)) / rate + l2).
    n, the sum of the squared gradients' means, is one per row, as only then this is the minimum
    (McMahan et al. 2013 with the penalty of Yuan and Lin 2006, and Simon et al. 2013 for both
    penalties together). Slots are added to, and a row's weights are a function of them: what one of
    two updates of a row at once leaves there has, as a rule, both in it.
    """

    divides_by_rate = True

    def __init__(
        self,
        learning_rate: Any = 0.05,
        beta: float = 1.0,
        l1: float = 0.0,
        l2: float = 0.0,
        l21: float = 0.0,
        name: str = "group_ftrl",
        **options: Any,
    ) -> None:
        super().__init__(learning_rate, name=name, **options)
        for argument, value in (("beta", beta), ("l1", l1), ("l2", l2), ("l21", l21)):
            check_range(argument, value, 0)
        _check_no_decay(self)
        self.beta, self.l1, self.l2, self.l21 = beta, l1, l2, l21

    def slots(self) -> dict[str, float]:
        return {"linear": 0.0}

    def build(self, variables: Sequence[Any]) -> None:
        if self.built:
            return
        super().build(variables)
        self._slots["accumulator"] = []
        for variable in variables:
            with self._distribution_strategy.extended.colocate_vars_with(tensorflows(variable)):
                self._slots["accumulator"].append(
                    self.add_variable(
                        variable.shape[:1],
                        "zeros",
                        variable.dtype,
                        name=f"{_path(variable)}_accumulator",
                    )
                )

    def update_dense(self, variable: Any, slots: dict[str, Any], gradient: Any, rate: Any) -> None:
        accumulator, linear = slots["accumulator"], slots["linear"]
        more = self._means(gradient**2)
        linear.assign_add(self._linear(gradient, more, accumulator, variable, rate))
        accumulator.assign_add(more)
        variable.assign(self._weights(linear, accumulator, rate))

    def update_rows(
        self, variable: Any, slots: dict[str, Any], gradient: Any, rows: Any, rate: Any
    ) -> None:
        accumulator, linear = slots["accumulator"], slots["linear"]
        more = self._means(gradient**2)
        before = tf.gather(accumulator, rows), tf.gather(variable, rows)
        add_rows(linear, rows, self._linear(gradient, more, *before, rate))
        add_rows(accumulator, rows, more)
        after = tf.gather(linear, rows), tf.gather(accumulator, rows)
        write_rows(variable, rows, self._weights(*after, rate))

    def _means(self, squares: Any) -> Any:
        return tf.reduce_mean(squares, axis=list(range(1, max(1, squares.shape.rank))))

    def _linear(self, gradient: Any, more: Any, accumulator: Any, weights: Any, rate: Any) -> Any:
        """What is added to z."""
        sigma = (tf.sqrt(accumulator + more) - tf.sqrt(accumulator)) / rate
        return gradient - _beside(sigma, gradient) * weights

    def _weights(self, linear: Any, accumulator: Any, rate: Any) -> Any:
        linear = tf.convert_to_tensor(linear)
        beta, l1, l2, l21 = (
            tf.cast(value, linear.dtype) for value in (self.beta, self.l1, self.l2, self.l21)
        )
        soft = tf.sign(linear) * tf.maximum(tf.abs(linear) - l1, 0)
        mean = self._means(soft**2)  # |s| / sqrt(d), squared
        scale = tf.where(mean > l21**2, 1 - l21 * tf.math.rsqrt(mean), 0)
        # without beta and l2 it is 0 / 0 for what had no gradient yet
        scale = tf.math.divide_no_nan(scale, (beta + tf.sqrt(accumulator)) / rate + l2)
        return -_beside(scale, soft) * soft

    def get_config(self) -> dict[str, Any]:
        return self._config("beta", "l1", "l2", "l21")


def _path(variable: Any) -> str:
    """Its name in names of slots and messages, of Keras's variables and TensorFlow's."""
    return str(getattr(variable, "path", variable.name)).replace("/", "_").replace(":", "_")


def _beside(values: Any, other: Any) -> Any:
    """[n] as [n, 1, ...], of as many dimensions as `other` has."""
    return (
        tf.reshape(values, tf.concat([tf.shape(values), [1] * (other.shape.rank - 1)], 0))
        if (other.shape.rank > 1)
        else values
    )


def _check_no_decay(optimizer: SparseOptimizer) -> None:
    if optimizer.weight_decay is not None:
        raise ValueError(
            f"weight_decay is {optimizer.weight_decay}: the weights of"
            f" {type(optimizer).__name__} are functions of its slots, use l2 instead"
        )
