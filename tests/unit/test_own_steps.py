"""Models with steps of their own, of which Keras asks for nothing else: trained as by Keras."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from worlds import Interrupted, World, assert_same_history, assert_same_weights, interrupt
from zoo import BATCH, EVAL, TRAIN, as_tf_data, autoencoder, functional, rivals, task

from tfos.errors import UsageError
from tfos.inference.signature import SIGNATURE

pytest_plugins = ["world_fixtures"]
pytestmark = pytest.mark.usefixtures("quick_tensorflow")

COLUMNS = {
    autoencoder: {"features": "x", "label": None},
    task: {"features": ["id", "x"], "label": "y"},
    rivals: {"features": "x", "label": "y"},
}


def rows(make, values=TRAIN):
    columns = COLUMNS[make]
    found = as_tf_data(values, columns["features"], columns["label"] or "y")
    return found.map(lambda x, y: x) if columns["label"] is None else found


@pytest.mark.parametrize("make", COLUMNS)
def test_is_trained_and_evaluated_as_by_keras(world, make):
    """Without call(), with compute_loss(inputs, training), with two optimizers: logs by the step's
    own names for them, and those that are no metric's as the last step had them."""
    ours, theirs = make(), make()
    context = world.context()
    history = context.fit(ours, world.dataset(**COLUMNS[make]), 2, "eval")
    expected = theirs.fit(rows(make), epochs=2, validation_data=rows(make, EVAL), verbose=0)
    assert_same_weights(ours, theirs, 1e-5)
    assert_same_history(history, expected, 1e-5)
    found = context.evaluate(ours, world.dataset("eval", **COLUMNS[make]))
    logs = ours.evaluate(rows(make, EVAL), verbose=0, return_dict=True)
    assert found == pytest.approx(logs, rel=1e-5)


@pytest.mark.parametrize("make", COLUMNS)
def test_goes_on_from_a_checkpoint(world, make):
    """With the state of every optimizer that the step applies."""
    dataset = world.dataset(**COLUMNS[make])
    with pytest.raises(Interrupted):
        stop = interrupt(on_train_batch_end=3)
        world.fit(make(), 2, dataset=dataset, every_secs=0.0, callbacks=[stop])
    ours, theirs = make(), make()
    again = World(world.reader, world.root, world.lake)
    again.fit(ours, 2, dataset=dataset)
    theirs.fit(rows(make), epochs=2, verbose=0)
    assert_same_weights(ours, theirs, 1e-5)


def test_of_an_optimizer_that_is_not_applied_nothing_is_built(world):
    model = rivals()
    world.fit(model, dataset=world.dataset(**COLUMNS[rivals]))
    assert not model.optimizer.built
    assert (int(model.critics.iterations), int(model.makers.iterations)) == (7, 7)


class Derived(keras.Model):
    """Returns what it makes of a metric's result, of which a worker has seen its own rows only."""

    def train_step(self, data):
        logs = super().train_step(data)
        return {**logs, "percent": 100.0 * logs["mae"]}


class Rows(keras.Model):
    """Returns a value for each row."""

    def train_step(self, data):
        return {**super().train_step(data), "each": self(data[0])}


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (Derived, r"returns 'percent', which it computes from the state of a metric: .*result\(\)"),
        (Rows, r"returns 'each' of shape \(None, 1\), which depends on the batch: return a scalar"),
    ],
)
def test_logs_that_nobody_could_put_together_are_refused(world, kind, told):
    inputs = keras.Input([3])
    model = kind(inputs, keras.layers.Dense(1)(inputs))
    model.compile("sgd", "mse", metrics=["mae"])
    with pytest.raises(UsageError, match=told):
        world.fit(model, dataset=world.dataset(features="x"))
    assert world.ledger.as_json() == {}


class Silent(keras.Model):
    """Has its metrics' results under names of its own, one of them of several values."""

    def train_step(self, data):
        logs = super().train_step(data)
        return {"error": logs["mae"], "scores": {"f1": logs["f1"]}}


def test_logs_inside_logs_are_among_the_others(world):
    def make():
        keras.utils.set_random_seed(7)
        inputs = keras.Input([3])
        model = Silent(inputs, keras.layers.Dense(3, activation="softmax")(inputs))
        model.compile("sgd", "mse", metrics=["mae", keras.metrics.F1Score(name="f1")])
        return model

    ours, theirs = make(), make()
    history = world.fit(ours, 2, dataset=world.dataset(features="x", label="hot"))
    expected = theirs.fit(as_tf_data(TRAIN, "x", "hot"), epochs=2, verbose=0)
    assert set(history.history) == {"error", "f1"}
    assert_same_history(history, expected)


class TestWithoutCall:
    def test_what_needs_it_says_so_before_the_first_step(self, world):
        class Bare(keras.Model):
            """Trains nothing."""

            def train_step(self, rows):
                return {}

        model, context = Bare(), world.context()
        model.compile("sgd")
        dataset = world.dataset(**COLUMNS[autoencoder])
        with pytest.raises(UsageError, match=r"has no call\(\).* test_step\(\) .* leave the valid"):
            context.fit(model, dataset, validation="eval")
        with pytest.raises(UsageError, match=r"has no call\(\).* predict_step\(\) of its own"):
            context.predict(model, dataset)
        assert world.ledger.as_json() == {}

    def test_the_part_that_predicts_can_be_exported(self, world, caplog):
        warned = []
        begin = keras.callbacks.LambdaCallback(
            on_train_begin=lambda logs: warned.append(caplog.text)
        )
        model, context = autoencoder(), world.context()
        dataset = world.dataset(**COLUMNS[autoencoder])
        context.fit(model, dataset, callbacks=[begin])
        assert (
            "ctx.export() of this model will fail: model 'autoencoder' has no call()" in warned[0]
        )
        with pytest.raises(UsageError, match=r"call\(self, inputs\), or export the part"):
            context.export(model)
        context.export_by_itself()
        assert context.model_uri is None
        uri = context.export(model.encoder, dataset=dataset)
        serve = tf.saved_model.load(uri).signatures["serving_default"]
        found = serve(x=tf.constant(EVAL["x"]))["predictions"]
        np.testing.assert_allclose(found, model.encoder(EVAL["x"]), 1e-5, 1e-5)
        assert world.lake.read_json(f"model/{SIGNATURE}")["inputs"][0]["name"] == "x"

    def test_models_with_one_are_exported_by_themselves(self, world):
        context = world.context()
        context.fit(functional(), world.dataset(batch_size=BATCH))
        context.export_by_itself()
        assert context.model_uri is not None


class Wavering(keras.Model):
    """Decides by what it has computed, as TensorFlow's own functions may."""

    def train_step(self, data):
        logs = super().train_step(data)
        sign = tf.constant(-1.0)
        if tf.reduce_sum(data[0]) > 0:
            sign = -sign
        return {**logs, "sign": sign}

    def predict_step(self, data):
        predicted = super().predict_step(data)
        if tf.reduce_sum(data) > 0:
            predicted = -predicted
        return predicted


class TestAutoGraph:
    """Users' functions are converted as by tf.function, though what calls them is not."""

    def test_functions_may_decide_by_tensors(self, world):
        def flipped(x, y):
            if tf.reduce_sum(x) > 0:
                x = -x
            return x, y

        def total(x, y):
            loss = tf.reduce_sum(x)
            if loss > 0:
                loss = -loss
            return loss

        model = Wavering(inputs := keras.Input([3]), keras.layers.Dense(1)(inputs))
        model.compile("sgd", "mse", metrics=["mae"])
        context, dataset = world.context(), world.dataset(features="x")
        history = context.fit(model, dataset.map(lambda x, y: (tf.abs(x) + 1, y)), 1).history
        assert history["sign"] == [1.0]
        assert context.run_epoch(total, dataset.map(flipped)) < 0
        plain = world.dataset(features="x", label=None)
        above = context.predict(model, plain.map(lambda x: tf.abs(x) + 1))
        np.testing.assert_allclose(above, -model(np.abs(TRAIN["x"]) + 1), 1e-5, 1e-5)

    def test_nothing_of_ours_is_converted(self, world, monkeypatch):
        """It would take most of the time until the first step."""
        from tensorflow.python.autograph.impl import api

        converted, convert = [], api._convert_actual

        def noted(entity, *args):
            converted.append(entity.__module__)
            return convert(entity, *args)

        monkeypatch.setattr(api, "_convert_actual", noted)
        dataset = world.dataset(features="x").map(lambda x, y: (x, y))
        context, model = world.context(), functional(metrics=[])
        context.fit(model, world.dataset(), 2, "eval")
        context.run_epoch(lambda x, y: tf.reduce_sum(y), dataset)
        context.predict(model, world.dataset(label=None))
        list(dataset)
        assert set(converted) == {__name__}
