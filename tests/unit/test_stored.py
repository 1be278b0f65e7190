"""Models whose weights are in the store, against Keras's own fit on the same rows."""

from __future__ import annotations

import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from kv_servers import client, servers
from worlds import Interrupted, World, assert_same_history, assert_same_weights, interrupt
from zoo import BATCH, EVAL, TRAIN, as_tf_data, functional

from tfos import optimizers
from tfos.errors import UsageError
from tfos.layers import Embedding
from tfos.tables.stored import keep_in_store
from tfos.training.runner import SECTION, LocalRunner
from tfos.training.single import AllInStore, SingleRunner
from tfos.training.stored.faster import Faster
from tfos.training.stored.snapshots import Snapshots
from tfos.training.stored.store import ModelStore

pytest_plugins = ["world_fixtures"]
pytestmark = [pytest.mark.usefixtures("quick_tensorflow"), pytest.mark.timeout(120)]


@pytest.fixture
def stored(world, monkeypatch):
    """The world, whose contexts have a new store each, on two servers."""
    opened = []
    with servers(2, storage=world.lake) as started:

        def make():
            opened.extend([client(started), client(started)])
            snapshots = Snapshots(opened[-1], world.lake, "1.1", lambda: None)
            return ModelStore(opened[-2]), snapshots

        world.make = make
        make_context = world.context
        world.context = lambda *args, **options: make_context(
            *args, **{"runner": AllInStore(make), **options}
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
        context = stored.context()
        history = context.fit(ours, dataset, 3, steps_per_execution=1)
        assert_same_history(history, plain)
        expected = theirs.predict(as_tf_data(TRAIN, ("x", "id")), verbose=0)
        np.testing.assert_allclose(context.predict(ours, dataset), expected, 1e-5, 1e-5)
        uri = context.export(ours)
        stored.saver.wait()
    finally:
        keep_in_store(False)
    served = tf.saved_model.load(uri).signatures["serving_default"]
    found = served(x=tf.constant(TRAIN["x"]), id=tf.constant(TRAIN["id"]))["predictions"]
    np.testing.assert_allclose(found, expected, 1e-5, 1e-5)
    # in a process without a store
    alone = keras.models.load_model(f"{uri}/model.keras")
    np.testing.assert_allclose(alone({"x": TRAIN["x"], "id": TRAIN["id"]}), expected, 1e-5, 1e-5)


def vectors_of(uri):
    """What a SavedModel or a Keras file gives for ids 0 to 6."""
    served = tf.saved_model.load(uri).signatures["serving_default"]
    (found,) = served(id=tf.range(7, dtype=tf.int64)).values()
    return found.numpy()


def encoder_of(model):
    """A part of it, which nothing was trained or asked with."""
    table = model.get_layer("table")
    ids = next(each for each in model.inputs if each.name == "id")
    return keras.Model({"id": ids}, table.output)


@pytest.mark.parametrize("runner", [SingleRunner, AllInStore])
def test_a_part_of_a_model_is_exported_with_its_rows(stored, runner):
    model = tabled(rows=None)
    dataset = stored.dataset(features=["x", "id"])
    context = stored.context(runner=runner(stored.make))
    context.fit(model, dataset)
    found = vectors_of(context.export(encoder_of(model), stored.dataset(features=["id"])))
    rows = context.predict(encoder_of(model), stored.dataset(features=["id"]))
    np.testing.assert_allclose(found[TRAIN["id"]], rows, 1e-6)
    assert np.abs(found - 1).max() > 0.01, "they are trained"


def test_a_model_of_which_nothing_is_in_the_store_is_not_exported(stored):
    with pytest.raises(UsageError, match=r"the rows of layer 'table'.*are not in the store"):
        stored.context().export(tabled(rows=None), stored.dataset(features=["x", "id"]))


def test_a_fit_that_was_complete_is_exported_with_its_rows(stored):
    """The process died between the last checkpoint and the export."""
    dataset = stored.dataset(features=["x", "id"])
    context = stored.context()
    model = tabled(rows=None)
    context.fit(model, dataset, 2)
    expected = context.predict(model, dataset)
    stored.saver.wait()
    again, context = tabled(rows=None), stored.context()
    context.fit(again, dataset, 2)
    served = tf.saved_model.load(context.export(again)).signatures["serving_default"]
    found = served(x=tf.constant(TRAIN["x"]), id=tf.constant(TRAIN["id"]))["predictions"]
    np.testing.assert_allclose(found, expected, 1e-5, 1e-5)


def test_a_process_that_has_trained_nothing_takes_the_tables_as_they_are(stored):
    """As a worker that is started anew when the fit is over, with a part without an optimizer."""
    dataset = stored.dataset(features=["id"])
    context, model = stored.context(), tabled(rows=None)
    context.fit(model, stored.dataset(features=["x", "id"]))
    expected = context.predict(encoder_of(model), dataset)
    stored.saver.wait()
    fresh, model = stored.context(), tabled(rows=None)
    fresh._runner.know(model)
    np.testing.assert_allclose(fresh.predict(encoder_of(model), dataset), expected)


def test_unknown_ids_of_an_exported_table_have_what_a_new_row_has(stored):
    model = tabled(rows=None)
    context = stored.context()
    dataset = stored.dataset(features=["x", "id"])
    context.fit(model, dataset)
    served = tf.saved_model.load(context.export(model)).signatures["serving_default"]
    x = tf.zeros([2, 3])
    unknown = served(x=x, id=tf.constant([1_000_000, -5], tf.int64))["predictions"].numpy()
    kernel, bias = (weight.numpy() for weight in model.layers[-1].weights)
    expected = 1 / (1 + np.exp(-(np.ones(4) @ kernel[3:] + bias)))
    np.testing.assert_allclose(unknown, [expected, expected], 1e-5, 1e-5)


def test_run_goes_on_from_a_snapshot_with_other_servers(world, tmp_path):
    """As if it had not been interrupted: rows, slots, dense weights, the ledger."""

    def context(started):
        snapshots = Snapshots(client(started), world.lake, "1.1", lambda: None)
        store = ModelStore(client(started))
        return world.context(
            0, runner=AllInStore(lambda: (store, snapshots))
        )  # saves after each unit

    dataset = world.dataset(features=["x", "id"])
    expected = World(world.reader, tmp_path / "plain").fit(tabled(), 3, dataset=dataset)
    with servers(2, storage=world.lake) as started, pytest.raises(Interrupted):
        context(started).fit(
            tabled(rows=None), dataset, 3, steps_per_execution=1,
            callbacks=[interrupt(on_train_batch_end=10)],
        )  # fmt: skip
    world.saver.wait()
    with servers(3, storage=world.lake) as started:
        history = context(started).fit(tabled(rows=None), dataset, 3, steps_per_execution=1)
        world.saver.wait()
    assert_same_history(history, expected)
    assert world.trained == {"train": [50, 50, 50]}


@pytest.mark.parametrize("kind", [SingleRunner, AllInStore])
def test_an_evaluators_store_has_the_rows_of_each_checkpoint(stored, kind):
    """Those of the last one are gone, also rows that this one has not."""
    with servers(1, storage=stored.lake) as started, client(started) as one, client(started) as two:
        table = two.table("t", 2)
        sections = []
        snapshots = Snapshots(one, stored.lake, "1.1", lambda: None)
        for key in (1, 2):
            table.add([key], np.full((1, 2), key, np.float32))
            section, finish = snapshots.save()
            finish()
            sections.append({SECTION: section})
    with servers(1, storage=stored.lake) as started, client(started) as one, client(started) as two:
        runner = kind(lambda: (ModelStore(two), Snapshots(one, stored.lake, "1.1", lambda: None)))
        runner.continue_from(types.SimpleNamespace(state=sections[1].get))
        runner.know(tabled(rows=None))
        table = two.table("t", 2)
        assert table.pull([1, 2]).tolist() == [[1, 1], [2, 2]]
        runner.continue_from(types.SimpleNamespace(state=sections[0].get))
        assert table.pull([1, 2]).tolist() == [[1, 1], [0, 0]]


def test_what_the_store_cannot_do_is_refused(stored):
    with pytest.raises(UsageError, match="RMSprop is not one that the servers"):
        stored.fit(functional(optimizer="rmsprop"))
    with pytest.raises(UsageError, match=r"weight_decay=0\.1"):
        stored.fit(functional(optimizer=keras.optimizers.SGD(0.1, weight_decay=0.1)))


def test_other_strategies_have_no_place_for_tables_without_rows(world):
    class Others(LocalRunner):
        pass

    with pytest.raises(UsageError, match="only --strategy kv and single"):
        Others().know(tabled(rows=None))


KEEPING = {"admit_after": 5, "expire_secs": 3600.0, "expire_below": 1e-6}


def test_rows_that_come_late(stored):
    """An id has a row from its fifth step on; what was learned is exported, and goes on."""
    context, dataset = stored.context(), stored.dataset(features=["x", "id"])
    model = tabled(lambda *args, **options: Embedding(*args, **options, **KEEPING), rows=None)
    layer = model.get_layer("table")
    assert Embedding.from_config(layer.get_config()).keeping == layer.keeping == KEEPING
    context.fit(model, dataset, 1, steps_per_execution=1)
    steps = [set(TRAIN["id"][begin : begin + BATCH]) for begin in range(0, len(TRAIN["id"]), BATCH)]
    seen = {key: sum(key in step for step in steps) for key in range(7)}
    admitted = [key for key, times in seen.items() if times >= 5]
    assert 0 < len(admitted) < 7, f"the rows show nothing: {seen}"
    uri = context.export(model)
    stored.saver.wait()
    loaded = keras.models.load_model(f"{uri}/model.keras")
    table = loaded.get_layer("table")
    assert table.keeping == KEEPING
    assert table.contents.keys.numpy().tolist() == admitted
    # as in training: rows that are not there are zeros, whatever a new one begins with
    absent = next(key for key in range(7) if key not in admitted)
    assert not np.any(table(np.array([absent])))
    context.fit(loaded, dataset, 3, steps_per_execution=1)
    again = keras.models.load_model(f"{context.export(loaded)}/model.keras")
    stored.saver.wait()
    assert again.get_layer("table").contents.keys.numpy().tolist() == list(range(7))


@pytest.mark.parametrize("runner", [LocalRunner, SingleRunner])
def test_rows_of_a_table_in_variables_stay(runner):
    model = tabled(lambda *args, **options: Embedding(*args, **options, expire_secs=60.0))
    with pytest.raises(UsageError, match=r"'table' .* has expire_secs=60\.0, but a table of 7"):
        runner().know(model)


def test_layer_outside_of_a_step_says_where_its_rows_are():
    layer = Embedding(None, 4, name="far")
    with pytest.raises(UsageError, match="layer 'far' are in the store"):
        layer(np.array([1, 2]))


def test_models_that_share_a_layer_share_its_rows(stored):
    """As two towers, or an encoder inside of a model, do."""
    table = Embedding(None, 4, embeddings_initializer="ones", name="shared")
    ids = keras.Input([], dtype="int64", name="id")
    encoder = keras.Model({"id": ids}, table(ids))
    model = keras.Model({"id": ids}, keras.layers.Dense(1)(encoder({"id": ids})))
    model.compile(optimizers.SGD(0.05), "mse")
    context = stored.context()
    dataset = stored.dataset(features=["id"])
    context.fit(model, dataset, 2)
    vectors = context.predict(encoder, dataset)  # not compiled
    assert np.abs(vectors - 1).max() > 0.01
    dense = [weight.numpy() for weight in model.layers[-1].weights]
    expected = context.predict(model, dataset)
    np.testing.assert_allclose(vectors @ dense[0] + dense[1], expected, 1e-5, 1e-5)


def test_exported_model_goes_on_with_its_rows(stored, tmp_path):
    model, dataset = tabled(rows=None), stored.dataset(features=["x", "id"])
    context = stored.context()
    context.fit(model, dataset, 2)
    expected = context.predict(model, dataset)
    loaded = keras.models.load_model(f"{context.export(model)}/model.keras")
    stored.saver.wait()
    found = context.predict(loaded, dataset)  # another model of this store
    np.testing.assert_allclose(found, expected, 1e-5, 1e-5)


def test_other_optimizer_than_the_slots_are_of_is_refused(stored):
    model = functional(optimizer=keras.optimizers.SGD(0.1))
    context = stored.context()
    context.fit(model, stored.dataset())
    model.compile(keras.optimizers.Adam(0.1), "binary_crossentropy")
    with pytest.raises(UsageError, match=r"to be updated by Adam.*the store has it with SGD"):
        context.fit(model, stored.dataset())


class Odd(keras.Model):
    """kind: what its step does besides."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.dense = kind, keras.layers.Dense(1)
        self.steps = self.add_weight(
            name="steps", dtype="int32", initializer="zeros", trainable=False
        )

    def call(self, x):
        return self.dense(x["x"])

    def train_step(self, data):
        x, y = data
        self.steps.assign_add(1)
        for _ in range(2 if self.kind == "twice" else 1):
            with tf.GradientTape() as tape:
                loss = self.compute_loss(y=y, y_pred=self(x))
            self.optimizer.apply(
                tape.gradient(loss, self.trainable_variables), self.trainable_variables
            )
        return {"loss": loss}


def odd(kind):
    model = Odd(kind)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


def test_step_counts_once(stored):
    model = odd("")
    stored.fit(model, 1)
    assert int(model.steps) == 7


def test_second_update_in_a_step_is_refused(stored):
    with pytest.raises(UsageError, match="more than once"):
        stored.fit(odd("twice"))


def test_best_weights_cannot_be_put_back(stored):
    stopping = keras.callbacks.EarlyStopping("loss", restore_best_weights=True)
    with pytest.raises(UsageError, match=r"EarlyStopping\(restore_best_weights=True\)"):
        stored.fit(functional(), callbacks=[stopping])


def test_check_in_a_step_is_never_compiled_away():
    def step(x):
        tf.debugging.assert_less(x, 10.0)
        return x + 1

    calls = Faster(step, [tf.TensorSpec([None], tf.float32)])
    for _ in range(250):
        calls(tf.zeros([3]))
    with pytest.raises(tf.errors.InvalidArgumentError):
        calls(tf.fill([3], 11.0))


def test_what_comes_often_is_compiled():
    seen = []

    def step(x):
        seen.append(x.shape.as_list())
        return x * 2

    calls = Faster(step, [tf.TensorSpec([None], tf.float32)])
    for _ in range(300):
        assert calls(tf.ones([4])).numpy().tolist() == [2.0] * 4
    assert seen == [[None], [4]]  # as a graph, and for XLA
    calls(tf.ones([5]))
    assert len(seen) == 2
