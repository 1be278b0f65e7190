"""The sparse optimizers against the formulas of their papers, in NumPy and float64."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfos import optimizers
from tfos.training.atomic import make_atomic

ROWS, WIDTH = 9, 4


def soft(z, l1):
    return np.where(np.abs(z) > l1, z - np.sign(z) * l1, 0)


# Each updates the rows w, and the slots in s, in place: w [n, d], slots [n, d] or [n].
def sgd(w, s, g, rate, step):
    w -= rate * g


def momentum(w, s, g, rate, step):
    s["m"][:] = 0.9 * s["m"] - rate * g
    w += s["m"]


def nesterov(w, s, g, rate, step):
    s["m"][:] = 0.9 * s["m"] - rate * g
    w += 0.9 * s["m"] - rate * g


def adagrad(w, s, g, rate, step):
    s["n"] += g**2
    w -= rate * g / (np.sqrt(s["n"] + 0.1) + 1e-7)


def adam(w, s, g, rate, step):
    s["m"][:] = 0.9 * s["m"] + 0.1 * g
    s["v"][:] = 0.99 * s["v"] + 0.01 * g**2
    scale = rate * np.sqrt(1 - 0.99**step) / (1 - 0.9**step)
    w -= scale * s["m"] / (np.sqrt(s["v"]) + 1e-7)


def ftrl(w, s, g, rate, step):
    sigma = (np.sqrt(s["n"] + g**2) - np.sqrt(s["n"])) / rate
    s["z"] += g - sigma * w
    s["n"] += g**2
    w[:] = -soft(s["z"], 0.3) / ((0.5 + np.sqrt(s["n"])) / rate + 0.2)


def proximal_adagrad(w, s, g, rate, step):
    s["n"] += g**2
    rates = rate / np.sqrt(s["n"] + 0.1)
    w[:] = soft(w - rates * g, rates * 0.2) / (1 + rates * 0.3)


def group_ftrl(w, s, g, rate, step):
    more = (g**2).mean(axis=1)
    sigma = (np.sqrt(s["row"] + more) - np.sqrt(s["row"])) / rate
    s["z"] += g - sigma[:, None] * w
    s["row"] += more
    shrunk = soft(s["z"], 0.1)
    norm = np.sqrt((shrunk**2).sum(axis=1))
    scale = np.maximum(0, 1 - 0.4 * np.sqrt(w.shape[1]) / np.maximum(norm, 1e-30))
    scale /= (0.5 + np.sqrt(s["row"])) / rate + 0.2
    w[:] = -scale[:, None] * shrunk


@dataclass(frozen=True)
class Case:
    make: Callable[..., Any]
    reference: Callable[..., None]
    options: dict[str, Any]


CASES = {
    "sgd": Case(optimizers.SGD, sgd, {}),
    "momentum": Case(optimizers.SGD, momentum, {"momentum": 0.9}),
    "nesterov": Case(optimizers.SGD, nesterov, {"momentum": 0.9, "nesterov": True}),
    "adagrad": Case(optimizers.Adagrad, adagrad, {}),
    "adam": Case(optimizers.Adam, adam, {"beta_2": 0.99}),
    "ftrl": Case(optimizers.FTRL, ftrl, {"beta": 0.5, "l1": 0.3, "l2": 0.2}),
    "proximal": Case(optimizers.ProximalAdagrad, proximal_adagrad, {"l1": 0.2, "l2": 0.3}),
    "group": Case(
        optimizers.GroupFTRL, group_ftrl, {"beta": 0.5, "l1": 0.1, "l2": 0.2, "l21": 0.4}
    ),
}
DECAYING = [name for name in CASES if name not in ("ftrl", "group")]
every = pytest.mark.parametrize("name", CASES)


class Reference:
    """A table of float64 that only the rows of each gradient change in."""

    def __init__(self, case: Case, weights: np.ndarray) -> None:
        self.case, self.weights, self.step = case, weights.astype("float64"), 0
        self.slots = {name: np.zeros(weights.shape) for name in "mvnz"}
        self.slots["row"] = np.zeros(len(weights))

    def apply(self, gradient: np.ndarray, rows: np.ndarray, rate: float, decay: float = 0) -> None:
        """gradient: of the whole table."""
        self.step += 1
        rows = np.unique(rows)
        slots = {name: values[rows] for name, values in self.slots.items()}
        weights = self.weights[rows] * (1 - rate * decay)
        self.case.reference(weights, slots, gradient[rows].astype("float64"), rate, self.step)
        self.weights[rows] = weights
        for name, values in slots.items():
            self.slots[name][rows] = values


def table(dtype: str = "float32", seed: int = 1) -> np.ndarray:
    return tf.cast(np.random.default_rng(seed).normal(size=(ROWS, WIDTH)), dtype).numpy()


def slices(seed: int) -> tuple[tf.IndexedSlices, np.ndarray, np.ndarray]:
    """A gradient that names rows twice and others not at all; the same made dense; its rows."""
    random = np.random.default_rng(seed)
    rows = random.integers(0, ROWS - 2, 6)
    rows[3] = rows[0]
    values = random.normal(size=(6, WIDTH)).astype("float32")
    dense = np.zeros((ROWS, WIDTH), "float32")
    np.add.at(dense, rows, values)
    return tf.IndexedSlices(values, tf.constant(rows), tf.constant([ROWS, WIDTH])), dense, rows


def close(variable: Any, reference: Reference, tolerance: float = 2e-5) -> None:
    found = tf.cast(variable, tf.float64).numpy()
    np.testing.assert_allclose(found, reference.weights, rtol=tolerance, atol=tolerance)


@pytest.fixture(params=["eager", "function"])
def applied(request) -> Callable[[Any, Any], Callable[[Any], None]]:
    """(optimizer, variable) -> a function that applies a gradient, perhaps a tf.function."""

    def make(optimizer, variable):
        optimizer.build([variable])

        def apply(gradient):
            optimizer.apply([gradient], [variable])

        return apply if request.param == "eager" else tf.function(apply)

    return make


@every
def test_rows_named_are_updated_and_no_others(name, applied):
    case, begun = CASES[name], table()
    variable, reference = keras.Variable(begun), Reference(case, begun)
    apply = applied(case.make(0.1, **case.options), variable)
    for seed in range(6):
        gradient, dense, rows = slices(seed)
        apply(gradient)
        reference.apply(dense, rows, 0.1)
    close(variable, reference)
    np.testing.assert_array_equal(variable[ROWS - 2 :], begun[ROWS - 2 :])
    assert not np.allclose(variable, begun)


@every
def test_row_of_weight_zero_is_not_updated(name):
    """As of rows that fill up the last batch: others see no difference."""
    case, begun = CASES[name], table()
    variables = [keras.Variable(begun), keras.Variable(begun)]
    optimizers = [case.make(0.1, **case.options) for _ in variables]
    for seed in range(3):
        gradient, _, rows = slices(seed)
        values = tf.concat([gradient.values, tf.zeros([1, WIDTH])], 0)
        # with a row that is used too, and with one that was used before
        other = next(row for row in range(ROWS) if row not in rows)
        for index in (rows[0], other):
            indices = tf.concat([gradient.indices, [index]], 0)
            padded = tf.IndexedSlices(values, indices, gradient.dense_shape)
            optimizers[0].apply([padded], [variables[0]])
            optimizers[1].apply([gradient], [variables[1]])
    np.testing.assert_array_equal(*variables)


@every
@pytest.mark.parametrize("shape", [(ROWS, WIDTH), (ROWS,), ()])
def test_dense_gradients(name, applied, shape):
    case, random = CASES[name], np.random.default_rng(3)
    begun = random.normal(size=shape).astype("float32")
    variable = keras.Variable(begun)
    # each element of a vector is a row of its own
    reference = Reference(case, begun.reshape(-1, 1) if len(shape) < 2 else begun)
    apply = applied(case.make(0.1, **case.options), variable)
    for _ in range(4):
        gradient = random.normal(size=shape).astype("float32")
        apply(tf.constant(gradient))
        reference.apply(
            gradient.reshape(reference.weights.shape), np.arange(len(reference.weights)), 0.1
        )
    close(tf.reshape(variable, reference.weights.shape), reference)


@pytest.mark.parametrize("name", [name for name in CASES if name != "proximal"])
def test_bfloat16(name):
    case, begun = CASES[name], table("bfloat16")
    variable, reference = keras.Variable(begun, dtype="bfloat16"), Reference(case, begun)
    optimizer = case.make(0.1, **case.options)
    for seed in range(3):
        gradient, dense, rows = slices(seed)
        optimizer.apply([gradient], [variable])
        reference.apply(dense, rows, 0.1)
    assert variable.dtype == "bfloat16"
    close(variable, reference, 0.05)


@every
def test_learning_rate_may_be_a_schedule(name):
    case, begun = CASES[name], table()
    variable, reference = keras.Variable(begun), Reference(case, begun)
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([1, 2, 3], [0.2, 0.0, 0.1, 0.05])
    optimizer = case.make(schedule, **case.options)
    for seed, rate in enumerate([0.2, 0.2, 0.0, 0.1, 0.05]):
        gradient, dense, rows = slices(seed)
        optimizer.apply([gradient], [variable])
        if rate or not optimizer.divides_by_rate:
            reference.apply(dense, rows, rate)
    close(variable, reference)


@every
def test_dense_gradients_at_a_rate_of_0(name, applied):
    case, begun = CASES[name], table()
    variable = keras.Variable(begun)
    applied(case.make(0.0, **case.options), variable)(tf.ones_like(begun))
    np.testing.assert_array_equal(variable, begun)


@every
def test_variables_of_tensorflow(name, applied):
    case, begun = CASES[name], table()
    variable, reference = tf.Variable(begun), Reference(case, begun)
    apply = applied(case.make(0.1, **case.options), variable)
    for seed in range(3):
        gradient, dense, rows = slices(seed)
        apply(gradient)
        reference.apply(dense, rows, 0.1)
    close(variable, reference)


@every
def test_workers_at_once_make_no_large_steps(name):
    """Of gradients from -100 to 1 for one row, from four threads."""
    case = CASES[name]
    begun = np.zeros((ROWS, WIDTH), "float32")
    variable = keras.Variable(begun)
    optimizer = case.make(0.01, **case.options)
    optimizer.build([variable])

    @tf.function
    def apply(scale):
        values = tf.fill([1, WIDTH], scale)
        optimizer.apply([tf.IndexedSlices(values, [3], [ROWS, WIDTH])], [variable])

    def work(number):
        for step in range(50):
            apply(tf.constant((-100.0) ** (step % 2) if (step + number) % 5 == 0 else 0.001))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    # SGD's steps are as large as the gradients, times 10 with momentum; Adam's at most about rate
    bound = 200 * 0.01 * 100 * 10 if case.make is optimizers.SGD else 200 * 0.01 * 10
    assert 0 < np.abs(variable[3]).max() < bound
    assert np.count_nonzero(variable) == WIDTH


@every
@pytest.mark.parametrize("clipping", ["clipnorm", "global_clipnorm", "clipvalue"])
def test_clipping_sees_the_summed_gradient(name, clipping):
    case, begun = CASES[name], table()
    variables = [keras.Variable(begun), keras.Variable(begun)]
    references = [Reference(case, begun), Reference(case, begun)]
    optimizer = case.make(0.1, **case.options, **{clipping: 0.7})
    for seed in range(3):
        parts = [slices(seed), slices(seed + 10)]
        optimizer.apply([part[0] for part in parts], variables)
        norms = [np.sqrt((dense**2).sum()) for _, dense, _ in parts]
        if clipping == "global_clipnorm":
            norms = [np.sqrt(sum(norm**2 for norm in norms))] * 2
        for reference, (_, dense, rows), norm in zip(references, parts, norms, strict=True):
            assert norm > 0.7
            clipped = dense.clip(-0.7, 0.7) if clipping == "clipvalue" else dense * 0.7 / norm
            reference.apply(clipped, rows, 0.1)
    for variable, reference in zip(variables, references, strict=True):
        close(variable, reference)


@pytest.mark.parametrize("name", DECAYING)
def test_weight_decay_reaches_the_rows_used(name):
    case, begun = CASES[name], table()
    variable, reference = keras.Variable(begun), Reference(case, begun)
    excluded, other = keras.Variable(begun, name="excluded"), Reference(case, begun)
    optimizer = case.make(0.1, **case.options, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["excluded"])
    for seed in range(3):
        gradient, dense, rows = slices(seed)
        optimizer.apply([gradient, gradient], [variable, excluded])
        reference.apply(dense, rows, 0.1, decay=0.5)
        other.apply(dense, rows, 0.1)
    close(variable, reference)
    close(excluded, other)


@every
def test_slots_survive_a_checkpoint(name, tmp_path):
    case, begun = CASES[name], table()
    reference = Reference(case, begun)
    gradients = [slices(seed) for seed in range(4)]
    variable, optimizer = keras.Variable(begun), case.make(0.1, **case.options)
    for gradient, dense, rows in gradients[:2]:
        optimizer.apply([gradient], [variable])
        reference.apply(dense, rows, 0.1)
    saved = tf.train.Checkpoint(variable=variable.value, optimizer=optimizer)
    path = saved.write(str(tmp_path / "weights"))

    variable, optimizer = keras.Variable(begun * 0), case.make(0.1, **case.options)
    optimizer.build([variable])
    restored = tf.train.Checkpoint(variable=variable.value, optimizer=optimizer).read(path)
    restored.assert_consumed()
    for gradient, dense, rows in gradients[2:]:
        optimizer.apply([gradient], [variable])
        reference.apply(dense, rows, 0.1)
    close(variable, reference)


def test_adam_of_a_dense_layer_in_bfloat16():
    """In bfloat16 the usual beta_2 of 0.999 is 1."""
    variable = keras.Variable(np.zeros((2, 2)), dtype="bfloat16")
    optimizer = optimizers.Adam(0.1)
    for _ in range(3):
        optimizer.apply([tf.constant([[1.0, -1.0], [5.0, 0.0]])], [variable])
    found = tf.cast(variable, tf.float32)
    np.testing.assert_allclose(found, [[-0.3, 0.3], [-0.3, 0.0]], rtol=0.03)


@every
def test_config_makes_the_same_optimizer(name):
    case = CASES[name]
    optimizer = case.make(0.1, **case.options, clipnorm=2.0)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(again) is case.make
    assert again.get_config() == optimizer.get_config()
    assert all(again.get_config()[option] == value for option, value in case.options.items())


@every
def test_a_model_trains(name):
    case = CASES[name]
    keras.utils.set_random_seed(1)
    inputs = keras.Input([], dtype="int32")
    embedded = keras.layers.Embedding(ROWS, WIDTH)(inputs)
    model = keras.Model(inputs, keras.layers.Dense(1)(embedded))
    options = {option: 0.01 if option[0] == "l" else v for option, v in case.options.items()}
    model.compile(case.make(0.1, **options), "mse")
    ids = np.arange(600) % ROWS
    losses = model.fit(ids, ids % 3 - 1.0, 32, 20, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0]
    assert losses[-1] < 0.2


def test_dtype_without_a_kernel():
    with pytest.raises(ValueError, match=r"table is bfloat16.*keep it in float32"):
        optimizers.ProximalAdagrad().build(
            [keras.Variable(table(), name="table", dtype="bfloat16")]
        )


def test_l1_makes_weights_that_are_zero():
    variable = keras.Variable(np.zeros((ROWS, WIDTH), "float32"))
    optimizer = optimizers.FTRL(0.1, l1=2.0)
    gradient = np.full((ROWS, WIDTH), 0.5, "float32")
    gradient[0] = 5
    optimizer.apply([tf.constant(gradient)], [variable])
    assert np.count_nonzero(variable[1:]) == 0
    assert np.count_nonzero(variable[0]) == WIDTH


def test_group_lasso_makes_rows_that_are_zero():
    begun = np.zeros((2, WIDTH), "float32")
    variable = keras.Variable(begun)
    optimizer = optimizers.GroupFTRL(0.1, l21=1.0)
    # both have an element that l1=1 would keep
    optimizer.apply([tf.constant([[1.5, 0.1, 0.1, 0.1], [1.5, 1.0, 0.9, 0.9]])], [variable])
    assert np.count_nonzero(variable[0]) == 0
    assert np.count_nonzero(variable[1]) == WIDTH


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (optimizers.SGD, {"momentum": 1.0}, "momentum is 1.0: use 0 or more and less than 1"),
        (optimizers.Adam, {"beta_1": -0.1}, "beta_1 is -0.1"),
        (optimizers.FTRL, {"l1": -1}, "l1 is -1: use 0 or more"),
        (optimizers.FTRL, {"weight_decay": 0.1}, "weight_decay is 0.1.*use l2 instead"),
        (optimizers.GroupFTRL, {"l21": -1}, "l21 is -1"),
        (optimizers.Adagrad, {"initial_accumulator_value": -1}, "initial_accumulator_value is -1"),
        (
            optimizers.ProximalAdagrad,
            {"initial_accumulator_value": 0},
            "initial_accumulator_value is 0: use more than 0",
        ),
    ],
)
def test_arguments_out_of_range(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(0.1, **options)


@every
def test_asynchronous_workers_may_use_it(name):
    make_atomic(CASES[name].make(0.1, **CASES[name].options), workers=4)
