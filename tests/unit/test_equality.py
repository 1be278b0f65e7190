"""What two processes that train in step find when they compare their models."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfos.errors import UsageError
from tfos.training.equality import check_equal

X = np.arange(12, dtype="float32").reshape(4, 3)


class Together:
    """gather() of processes that are threads here."""

    def __init__(self, count):
        self.count = count
        self._barrier = threading.Barrier(count, timeout=60)
        self._values = [0] * count

    def runner(self, number):
        def gather(value):
            self._values[number] = value
            self._barrier.wait()
            values = list(self._values)
            self._barrier.wait()
            return values

        return SimpleNamespace(replicas=self.count, gather=gather)


def found(*steps, models=None):
    """What each process raises, as text; "" where it goes on. steps: functions of [batch, 3]."""
    together = Together(len(steps))
    spec = tf.TensorSpec([None, 3])
    traced = [tf.function(step).get_concrete_function(spec) for step in steps]

    def check(number):
        try:
            check_equal(together.runner(number), traced[number], models and models[number])
        except UsageError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(len(steps)) as pool:
        return list(pool.map(check, range(len(steps))))


def model(layer, rate=0.1):
    keras.utils.set_random_seed(1)
    inputs = keras.Input([3])
    made = keras.Model(inputs, keras.layers.Dense(1)(layer(inputs)))
    made.compile(keras.optimizers.SGD(rate), "mse", metrics=["mae"])
    made.optimizer.build(made.trainable_variables)
    return made


def adapted(layer, rows):
    layer.adapt(rows)
    return layer


def test_equal_models_are():
    models = [model(adapted(keras.layers.Normalization(), X)) for _ in range(3)]
    assert found(*models, models=models) == [""] * 3


def test_what_layers_have_learned_is_named_in_each():
    models = [model(adapted(keras.layers.Normalization(), X[n:])) for n in range(2)]
    for error in found(*models, models=models):
        assert "/mean, variable " in error
        assert "layer.adapt(ctx.dataset(...).whole())" in error


def test_boundaries_of_bins_are_compared():
    def make(n):
        return model(adapted(keras.layers.Discretization(num_bins=3), X + n))

    assert found(make(0), make(0)) == ["", ""]
    assert all("the boundaries in " in error for error in found(make(0), make(1)))


def test_vocabularies_are_compared():
    def make(*words):
        lookup = keras.layers.StringLookup(vocabulary=list(words))
        inputs = keras.Input([], dtype="string")
        return keras.Model(inputs, keras.layers.Embedding(4, 1)(lookup(inputs)))

    def same(x):
        return x

    models = [make("a", "b"), make("a", "b"), make("b", "a")]
    for one in models:
        one.set_weights(models[0].get_weights())
        one.optimizer = None
    assert found(same, same, models=models[:2]) == ["", ""]
    for error in found(same, same, models=models[1:]):
        assert "other values of the vocabulary of " in error


@pytest.mark.parametrize("size", [1, 3, 1000], ids=["scalar", "small", "large"])
def test_constants_are_compared(size):
    def made(value):
        constant = tf.fill([size], value)
        return lambda x: x * tf.reduce_sum(constant)

    one, same, other = made(0.5), made(0.5), made(2.5)
    assert found(one, same) == ["", ""]
    assert all("other values of constant " in error for error in found(one, other, one))


def test_constant_is_named_where_its_value_is_another_ones_too():
    def made(value):
        return lambda x: tf.multiply(x, 1.0, name="one") + tf.multiply(x, value, name="mine")

    for error in found(made(1.0), made(2.0)):
        assert "constant mine/y." in error and "one/y" not in error


def test_order_of_constants_says_nothing():
    def one(x):
        return x + 0.5 + 0.25

    def other(x):
        return x + 0.25 + 0.5

    assert found(one, other) == ["", ""]


def test_constants_in_conditions_are_compared():
    def made(value):
        return lambda x: tf.cond(tf.reduce_sum(x) > 0, lambda: x * value, lambda: x)

    assert all("other values of constant " in error for error in found(made(0.5), made(0.75)))


def test_seeds_may_differ():
    def made(seed):
        return lambda x: x + tf.random.stateless_normal([3], [seed, 1])

    assert found(made(1), made(2)) == ["", ""]


def test_learning_rates_are_compared_and_metrics_are_not():
    one, same, other = (
        model(keras.layers.Identity()),
        model(keras.layers.Identity()),
        model(keras.layers.Identity(), rate=0.2),
    )
    one.train_on_batch(X, X[:, 0])
    same.set_weights(one.get_weights())
    same.optimizer.iterations.assign(1)
    assert found(one, same, models=[one, same]) == ["", ""]
    assert all("learning_rate" in each for each in found(one, other, models=[one, other]))


def test_other_numbers_of_variables_are_told():
    one = model(keras.layers.Identity())
    deep = model(keras.layers.Dense(3))
    for error in found(one, deep, models=[one, deep]):
        assert "the number of variables ([" in error


def test_weights_of_a_step_of_ones_own_are_compared():
    def made(*values, metric):
        weights = [tf.Variable(value) for value in values]
        seen = tf.Variable(metric, trainable=False)

        def step(x):
            seen.assign_add(1.0)
            return x * weights[0] + weights[1]

        return step

    one, same = made(1.0, 2.0, metric=0.0), made(1.0, 2.0, metric=1.0)
    other = made(1.0, 3.0, metric=0.0)
    assert found(one, same) == ["", ""]
    assert all("variable Variable:0" in error for error in found(one, other))


def test_one_process_compares_nothing():
    check_equal(SimpleNamespace(replicas=1), None)
