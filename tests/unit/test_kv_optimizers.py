"""The store's optimizers against tfos.optimizers, and the formulas of the papers in float64."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_optimizers import CASES, ROWS, WIDTH, Case, Reference, slices, table

from tfos.kv import optimizers as kv
from tfos.kv.distinct import summed
from tfos.kv.optimizers import optimizer_from_json
from tfos.kv.spec import TableSpec
from tfos.kv.table import Table

pytestmark = pytest.mark.timeout(60)
every = pytest.mark.parametrize("name", CASES)
STEPS = 8


def make(case: Case, rate: float) -> Any:
    """Ours of the same name, with the same arguments."""
    return getattr(kv, case.make.__name__)(rate, **case.options)


def pushed(optimizer: Any, begun: np.ndarray, rates: list[float | None]) -> np.ndarray:
    """The weights after a push of each of the tests' gradients, at each of the rates."""
    found = Table(TableSpec("t", WIDTH, optimizer), stripe_bits=1)
    found.put(np.arange(ROWS), begun)
    for seed, rate in enumerate(rates):
        gradient, _, _ = slices(seed)
        found.push(*summed(*map(np.asarray, (gradient.indices, gradient.values))), rate=rate)
    return found.pull(np.arange(ROWS))


@every
def test_equal_to_tfos_optimizers(name):
    case, begun = CASES[name], table()
    variable, theirs = keras.Variable(begun), case.make(0.1, **case.options)
    for seed in range(STEPS):
        theirs.apply([slices(seed)[0]], [variable])
    ours = pushed(make(case, 0.1), begun, [None] * STEPS)
    np.testing.assert_allclose(ours, variable.numpy(), rtol=1e-6, atol=1e-6)
    assert not np.allclose(ours, begun)


@every
def test_formulas(name):
    case, begun = CASES[name], table()
    reference = Reference(case, begun)
    for seed in range(STEPS):
        _, dense, rows = slices(seed)
        reference.apply(dense, rows, 0.1)
    ours = pushed(make(case, 0.1), begun, [None] * STEPS)
    np.testing.assert_allclose(ours, reference.weights, rtol=2e-5, atol=2e-6)


@every
def test_a_push_may_have_a_rate_of_its_own(name):
    case, begun, rates = CASES[name], table(), [0.2, 0.0, 0.05]
    variable = keras.Variable(begun)
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0, 1], rates)
    theirs = case.make(schedule, **case.options)
    for seed in range(3):
        theirs.apply([slices(seed)[0]], [variable])
    ours = pushed(make(case, 7.0), begun, list(rates))
    np.testing.assert_allclose(ours, variable.numpy(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in CASES if name != "group"])
def test_dense_variables(name):
    """Gradients of zero are gradients there: moments decay."""
    case, begun = CASES[name], table()
    variable, theirs = keras.Variable(begun), case.make(0.1, **case.options)
    spec = TableSpec("t", WIDTH, make(case, 0.1), is_dense=True)
    ours = Table(spec, stripe_bits=1)
    ours.put(np.arange(ROWS), begun)
    for seed in range(STEPS):
        dense = slices(seed)[1]
        theirs.apply([tf.constant(dense)], [variable])
        ours.push(np.arange(ROWS), dense)
    np.testing.assert_allclose(ours.pull(np.arange(ROWS)), variable.numpy(), rtol=1e-6, atol=1e-6)


@every
def test_json(name):
    optimizer = make(CASES[name], 0.1)
    assert optimizer_from_json(optimizer.to_json()) == optimizer


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: kv.SGD(-1), "SGD's learning_rate is -1: use 0 or more"),
        (lambda: kv.SGD(momentum=1.0), "SGD's momentum is 1.0: use less than 1"),
        (lambda: kv.SGD(nesterov=1), "SGD's nesterov is 1: use a bool"),
        (lambda: kv.Adam(float("nan")), "Adam's learning_rate is nan"),
        (lambda: kv.Adam("1"), "Adam's learning_rate is '1': use a float"),
        (lambda: kv.ProximalAdagrad(initial_accumulator_value=0.0), "use more than 0"),
        (lambda: optimizer_from_json({"name": "Lion"}), "no optimizer: use one of SGD"),
        (lambda: optimizer_from_json({"name": "SGD", "beta": 1}), "SGD: .*beta"),
    ],
)
def test_bad_arguments(act, message):
    with pytest.raises(ValueError, match=message):
        act()


def test_duplicates_are_summed_once():
    random = np.random.default_rng(0)
    keys = random.integers(-20, 20, 300)
    values = random.normal(size=(300, 3)).astype(np.float32)
    found, sums = summed(keys, values)
    expected = {key: values[keys == key].sum(axis=0, dtype=np.float64) for key in keys.tolist()}
    assert found.tolist() == list(expected)  # in the order of the first of each
    np.testing.assert_allclose(sums, list(expected.values()), rtol=1e-5, atol=1e-6)
    none = summed(np.empty(0, np.int64), np.empty((0, 3), np.float32))
    assert none[0].shape == (0,) and none[1].shape == (0, 3)
