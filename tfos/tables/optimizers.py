"""Keras optimizers that update only the rows of a table that a step has used.

Keras 3's optimizers make the gradient of an embedding dense, and then compute on the whole table.
These take tf.IndexedSlices as they are: duplicates are summed first, then the rows whose gradient
is not zero are updated on the device that holds the variable. (It is zero for rows that only fill
up a short last batch.) Dense gradients work too. Asynchronous workers do not tear each other's
updates apart: TensorFlow's fused kernels update under the variable's lock; Adam and GroupFTRL, for
whose rows there are none, order what they add (see there).

They are Keras optimizers as others, inside tfos and without it. Clipping sees the summed gradient
of the rows used; that of each worker where Keras itself trains several. `weight_decay` is decoupled
(Loshchilov and Hutter 2019), as in Keras, and reaches only the rows used. A learning rate may be a
schedule. XLA has no such updates: on a GPU without tfos, compile with jit_compile=False.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfos.tables.sparse_optimizer import PROXIMAL_DTYPES, SparseOptimizer, add_rows, check_range

_register = keras.saving.register_keras_serializable("tfos")


@_register
class SGD(SparseOptimizer):
    """Stochastic gradient descent, with momentum if asked for; Keras's formula.

    m = momentum * m - rate * g; w += m, or with nesterov w += momentum * m - rate * g.
    (Sutskever et al. 2013.)
    """

    def __init__(
        self,
        learning_rate: Any = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        name: str = "sgd",
        **options: Any,
    ) -> None:
        super().__init__(learning_rate, name=name, **options)
        check_range("momentum", momentum, 0, 1)
        self.momentum, self.nesterov = momentum, nesterov
        self.keeps_zeros = not momentum

    def slots(self) -> dict[str, float]:
        return {"momentum": 0.0} if self.momentum else {}

    def update_dense(self, variable: Any, slots: dict[str, Any], gradient: Any, rate: Any) -> None:
        if not self.momentum:
            tf.raw_ops.ResourceApplyGradientDescent(
                var=variable.handle, alpha=rate, delta=gradient, use_locking=True
            )
            return
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=variable.handle, accum=slots["momentum"].handle, lr=rate, grad=gradient,
            momentum=tf.cast(self.momentum, variable.dtype), use_locking=True,
            use_nesterov=self.nesterov,
        )  # fmt: skip

    def update_rows(
        self, variable: Any, slots: dict[str, Any], gradient: Any, rows: Any, rate: Any
    ) -> None:
        if not self.momentum:
            # the kernel that locks is for these only
            if variable.dtype not in PROXIMAL_DTYPES or "GPU" in variable.device:
                add_rows(variable, rows, -rate * gradient)
                return
            tf.raw_ops.ResourceSparseApplyProximalGradientDescent(
                var=variable.handle, alpha=rate, l1=tf.zeros_like(rate), l2=tf.zeros_like(rate),
                grad=gradient, indices=rows, use_locking=True,
            )  # fmt: skip
            return
        tf.raw_ops.ResourceSparseApplyKerasMomentum(
            var=variable.handle, accum=slots["momentum"].handle, lr=rate, grad=gradient,
            indices=rows, momentum=tf.cast(self.momentum, variable.dtype), use_locking=True,
            use_nesterov=self.nesterov,
        )  # fmt: skip

    def get_config(self) -> dict[str, Any]:
        return self._config("momentum", "nesterov")


@_register
class Adagrad(SparseOptimizer):
    """Adagrad (Duchi et al. 2011): n += g**2; w -= rate * g / (sqrt(n) + epsilon)."""

    def __init__(
        self,
        learning_rate: Any = 0.01,
        initial_accumulator_value: float = 0.1,
        epsilon: float = 1e-7,
        name: str = "adagrad",
        **options: Any,
    ) -> None:
        super().__init__(learning_rate, name=name, **options)
        check_range("initial_accumulator_value", initial_accumulator_value, 0)
        self.initial_accumulator_value, self.epsilon = initial_accumulator_value, epsilon
        self.keeps_zeros = initial_accumulator_value > 0 or epsilon > 0  # else they are 0 / 0

    def slots(self) -> dict[str, float]:
        return {"accumulator": self.initial_accumulator_value}

    def update_dense(self, variable: Any, slots: dict[str, Any], gradient: Any, rate: Any) -> None:
        tf.raw_ops.ResourceApplyAdagradV2(
            var=variable.handle, accum=slots["accumulator"].handle, lr=rate, grad=gradient,
            epsilon=tf.cast(self.epsilon, variable.dtype), use_locking=True,
        )  # fmt: skip

    def update_rows(
        self, variable: Any, slots: dict[str, Any], gradient: Any, rows: Any, rate: Any
    ) -> None:
        tf.raw_ops.ResourceSparseApplyAdagradV2(
            var=variable.handle, accum=slots["accumulator"].handle, lr=rate, grad=gradient,
            indices=rows, epsilon=tf.cast(self.epsilon, variable.dtype), use_locking=True,
        )  # fmt: skip

    def get_config(self) -> dict[str, Any]:
        return self._config("initial_accumulator_value", "epsilon")


@_register
class Adam(SparseOptimizer):
    """Adam (Kingma and Ba 2015, the form of the end of section 2), lazy.

    Moments and weights of a row change only in the steps that use it; the correction of the bias
    counts all steps. With tf.IndexedSlices moments change by what is added to them, the second
    before the first, and are read the other way round: who reads a first moment while others write
    has what belongs to it in the second, and takes no step larger than Adam's.
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        name: str = "adam",
        **options: Any,
    ) -> None:
        super().__init__(learning_rate, name=name, **options)
        check_range("beta_1", beta_1, 0, 1)
        check_range("beta_2", beta_2, 0, 1)
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon

    def slots(self) -> dict[str, float]:
        return {"momentum": 0.0, "velocity": 0.0}

    def _powers(self, dtype: Any) -> tuple[Any, Any]:
        # bfloat16 has too few digits for them
        step = tf.cast(self.iterations + 1, tf.float32)
        return tuple(tf.cast(tf.pow(beta, step), dtype) for beta in (self.beta_1, self.beta_2))

    def update_dense(self, variable: Any, slots: dict[str, Any], gradient: Any, rate: Any) -> None:
        if variable.dtype in (tf.bfloat16, tf.float16):  # in which a beta of 0.999 is 1
            self._update_half(variable, slots, gradient, rate)
            return
        power_1, power_2 = self._powers(variable.dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle, m=slots["momentum"].handle, v=slots["velocity"].handle,
            beta1_power=power_1, beta2_power=power_2, lr=rate,
            beta1=tf.cast(self.beta_1, variable.dtype), beta2=tf.cast(self.beta_2, variable.dtype),
            epsilon=tf.cast(self.epsilon, variable.dtype), grad=gradient, use_locking=True,
        )  # fmt: skip

    def _update_half(self, variable: Any, slots: dict[str, Any], gradient: Any, rate: Any) -> None:
        power_1, power_2 = self._powers(tf.float32)
        scale = tf.cast(rate, tf.float32) * tf.sqrt(1 - power_2) / (1 - power_1)
        gradient = tf.cast(gradient, tf.float32)
        moments = []
        for name, value, beta in (
            ("velocity", gradient**2, self.beta_2), ("momentum", gradient, self.beta_1)
        ):  # fmt: skip
            before = tf.cast(slots[name], tf.float32)
            moments.append(before + (value - before) * (1 - beta))
            slots[name].assign(tf.cast(moments[-1], variable.dtype))
        change = scale * moments[1] / (tf.sqrt(moments[0]) + self.epsilon)
        variable.assign_sub(tf.cast(change, variable.dtype))

    def update_rows(
        self, variable: Any, slots: dict[str, Any], gradient: Any, rows: Any, rate: Any
    ) -> None:
        dtype = variable.dtype
        power_1, power_2 = self._powers(tf.float32)
        scale = rate * tf.cast(tf.sqrt(1 - power_2) / (1 - power_1), dtype)
        momentum, velocity = slots["momentum"], slots["velocity"]
        first = tf.gather(momentum, rows)
        with tf.control_dependencies([first]):
            second = tf.gather(velocity, rows)
        more = (gradient - first) * tf.cast(1 - self.beta_1, dtype)
        more_squared = (gradient**2 - second) * tf.cast(1 - self.beta_2, dtype)
        with tf.control_dependencies([add_rows(velocity, rows, more_squared)]):
            added = add_rows(momentum, rows, more)
        # what others take off at the same time may leave less than nothing
        second = tf.maximum(second + more_squared, 0)
        change = scale * (first + more) / (tf.sqrt(second) + tf.cast(self.epsilon, dtype))
        with tf.control_dependencies([added]):
            add_rows(variable, rows, -change)

    def get_config(self) -> dict[str, Any]:
        return self._config("beta_1", "beta_2", "epsilon")
