"""Rows that train() looks at before, or instead of, training on them."""

from __future__ import annotations

import keras
import pytest
import tensorflow as tf
from zoo import BATCH, ROWS, TRAIN, functional

from tfos.errors import UsageError
from tfos.spec.roles import EVALUATOR

pytest_plugins = ["world_fixtures"]
pytestmark = pytest.mark.usefixtures("quick_tensorflow")


def counts(world):
    record = world.ledger.as_json()["train"]
    return {name: record[name] for name in ("rows_trained", "rows_read")}


def test_rows_that_a_layer_is_adapted_to_are_not_trained_on(world):
    context = world.context()
    scale = keras.layers.Normalization(axis=None)
    scale.adapt(context.dataset("train", BATCH, features="w"))
    assert scale.mean.numpy().ravel() == pytest.approx([TRAIN["w"].mean()])
    assert counts(world) == {"rows_trained": [], "rows_read": [ROWS]}
    context.fit(functional(metrics=[]), context.dataset("train", BATCH, ["x"], "y"), 2)
    assert counts(world) == {"rows_trained": [ROWS] * 2, "rows_read": [ROWS]}


def test_each_time_through_a_dataset_is_counted_apart_as_far_as_it_goes(world):
    dataset = world.context().dataset("train", BATCH)
    for _ in dataset:
        pass
    for number, _ in enumerate(dataset):
        if number == 2:
            break
    assert counts(world) == {"rows_trained": [], "rows_read": [ROWS, 2 * BATCH]}


def test_rows_of_run_epoch_are_trained_on(world):
    context = world.context()
    context.run_epoch(lambda x, y: tf.reduce_sum(y), context.dataset("train", BATCH, ["x"], "y"))
    assert counts(world) == {"rows_trained": [ROWS], "rows_read": []}


def test_an_evaluator_may_read_and_has_something_to_evaluate(world):
    context = world.context()
    context.check_fitted()
    context.role = EVALUATOR
    assert len(list(context.dataset("train", BATCH))) == -(-ROWS // BATCH)
    with pytest.raises(UsageError, match=r"--evaluator evaluates what ctx\.fit"):
        context.check_fitted()
