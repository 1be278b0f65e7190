"""Models whose weights are in the store, against Keras's own fit on the same rows."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from kv_servers import client, servers
from worlds import World, assert_same_history, assert_same_weights
from zoo import CASES, EVAL, TRAIN, as_tf_data, functional, two_towers

from tfos import optimizers
from tfos.errors import UsageError
from tfos.layers import Embedding
from tfos.tables.stored import keep_in_store
from tfos.training.stored.runners import SingleRunner
from tfos.training.stored.snapshots import Snapshots
from tfos.training.stored.store import ModelStore

pytest_plugins = ["world_fixtures"]
pytestmark = [pytest.mark.usefixtures("quick_tensorflow"), pytest.mark.timeout(120)]


class AllStored(SingleRunner):
    """Of one process; every model is in the store."""

    def know(self, model):
        self._made().know(model)
        self._stored.append(model)


@pytest.fixture
def stored(world, monkeypatch):
    """The world, whose contexts have a new store each, on two servers."""
    opened = []
    with servers(2, storage=world.lake) as started:

        def make():
            opened.append(client(started))
            return ModelStore(opened[-1]), Snapshots(opened[-1], world.lake, "1.1", lambda: None)

        make_context = world.context
        world.context = lambda *args, **options: make_context(
            *args, **{"runner": AllStored(make), **options}
        )
        yield world
        for each in opened:
            each.close()


@pytest.mark.parametrize(
    "optimizer",
    [
        keras.optimizers.SGD(0.1),
        keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
        keras.optimizers.Adam(0.05),
        keras.optimizers.Adagrad(0.1),
        keras.optimizers.SGD(0.1, global_clipnorm=0.1),
        keras.optimizers.Adam(keras.optimizers.schedules.ExponentialDecay(0.1, 5, 0.5)),
    ],
    ids=lambda each: each.name,
)
def test_is_keras_fit(stored, optimizer):
    ours = functional(optimizer=optimizer)
    theirs = functional(optimizer=type(optimizer).from_config(optimizer.get_config()))
    history = stored.fit(ours, 3, validation=stored.dataset("eval"))
    expected = theirs.fit(as_tf_data(TRAIN), epochs=3, validation_data=as_tf_data(EVAL), verbose=0)
    assert_same_weights(ours, theirs, 1e-5)
    assert_same_history(history, expected)
    assert int(ours.optimizer.iterations) == int(theirs.optimizer.iterations) == 3 * 7


def tabled(kind=Embedding, optimizer=None, rows=7):
    """`two_towers` with a table of tfos."""
    keras.utils.set_random_seed(7)
    inputs = {"x": keras.Input([3], name="x"), "id": keras.Input([], dtype="int64", name="id")}
    vectors = kind(rows, 4, embeddings_initializer="ones", name="table")(inputs["id"])
    both = keras.layers.Concatenate()([inputs["x"], vectors])
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(both))
    model.compile(optimizer or optimizers.Adagrad(0.1), "binary_crossentropy", metrics=["mae"])
    return model


@pytest.mark.parametrize("rows", [7, None])
@pytest.mark.parametrize(
    "optimizer",
    [optimizers.Adagrad(0.1), optimizers.FTRL(0.1), optimizers.SGD(0.1, clipnorm=0.05)],
    ids=lambda each: each.name,
)
def test_tables_are_those_of_variables(stored, rows, optimizer, monkeypatch):
    """A table in the store is trained as one in variables, and exported as one."""
    again = type(optimizer).from_config(optimizer.get_config())
    theirs = tabled(optimizer=again)
    dataset = stored.dataset(features=["x", "id"], batch_size=8)
    plain = World(stored.reader, stored.root / "plain").fit(theirs, 3, dataset=dataset)
    keep_in_store()
    try:
        ours = tabled(optimizer=optimizer, rows=rows)
        history = stored.fit(ours, 3, dataset=dataset)
    finally:
        keep_in_store(False)
    assert_same_history(history, plain)
