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

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfos.tables.sparse_optimizer import SparseOptimizer, add_rows, tensorflows, write_rows

# TensorFlow's proximal kernels are for these
_PROXIMAL_DTYPES = ("float32", "float64")
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
        _check_range("momentum", momentum, 0, 1)
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
            if variable.dtype not in _PROXIMAL_DTYPES or "GPU" in variable.device:
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
        _check_range("initial_accumulator_value", initial_accumulator_value, 0)
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
        _check_range("beta_1", beta_1, 0, 1)
        _check_range("beta_2", beta_2, 0, 1)
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
            _check_range(argument, value, 0)
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
        _check_range("l1", l1, 0)
        _check_range("l2", l2, 0)
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
            if variable.dtype not in _PROXIMAL_DTYPES:
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
            _check_range(argument, value, 0)
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


def _check_range(name: str, value: float, low: float, below: float = float("inf")) -> None:
    if not low <= value < below:
        above = "" if below == float("inf") else f" and less than {below}"
        raise ValueError(f"{name} is {value}: use {low} or more{above}")


def _check_no_decay(optimizer: SparseOptimizer) -> None:
    if optimizer.weight_decay is not None:
        raise ValueError(
            f"weight_decay is {optimizer.weight_decay}: the weights of"
            f" {type(optimizer).__name__} are functions of its slots, use l2 instead"
        )
