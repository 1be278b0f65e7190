"""Custom loops, repeated rows, hurried saves, optimizers and export, in one process."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from worlds import Interrupted, World, assert_same_weights, interrupt
from zoo import BATCH, EVAL, ROWS, TRAIN, functional, ragged

from tfos import optimizers
from tfos.errors import UsageError
from tfos.lake.run_directory import RunDirectory
from tfos.lake.storage import COMMIT
from tfos.layers import Embedding
from tfos.training.atomic import make_atomic
from tfos.training.export import export_model
from tfos.training.patches import tables_clipped
from tfos.training.serving import ServedFeatures
from tfos.training.single import SingleRunner

pytest_plugins = ["world_fixtures"]
pytestmark = pytest.mark.usefixtures("quick_tensorflow")


class TestHurriedSave:
    def test_is_made_at_the_next_moment_that_allows_one(self, world):
        """The chief is asked for a checkpoint when a process is about to be taken away."""
        context = world.context()

        def hurry(batch, logs):
            if batch == 2:
                world.saver.hurry()

        callbacks = [
            keras.callbacks.LambdaCallback(on_train_batch_end=hurry),
            interrupt(on_train_batch_end=5),
        ]
        with pytest.raises(Interrupted):
            context.fit(
                functional(metrics=[]), world.dataset(), callbacks=callbacks, steps_per_execution=1
            )
        world.saver.wait()
        assert world.saver.stats["saved"] == 1
        step = world.saver.stats["step"]
        assert 3 <= step <= 5
        context = world.context()
        assert world.trained == {"train": [step * BATCH]}


class TwiceRunner(SingleRunner):
    """Does some units a second time, as when a worker dies in one: counts steps, as under ps.

    again: the bounds (epoch, start, stop) to be done before the unit that holds them.
    """

    def __init__(self, *again):
        super().__init__()
        self.is_asynchronous = True
        self._again = list(again)

    def submit(self, function, bounds):
        epoch, start, stop = bounds.numpy().tolist()
        for other in list(self._again):
            if other[0] == epoch and start <= other[1] < stop:
                self._again.remove(other)
                function(tf.constant(other, tf.int64))
        return super().submit(function, bounds)


class TestRepeatedRows:
    @pytest.fixture
    def trainer(self, world):
        def make(*again, every_secs=1e9):
            runner = TwiceRunner(*again)
            context = world.context(every_secs, runner)
            runner.coordinator = None  # of use for the count alone: variables are here
            return context

        return make

    def repeated(self, world):
        return {feed: record["rows_repeated"] for feed, record in world.ledger.as_json().items()}

    def fit(self, trainer, world, epochs):
        model = functional(metrics=[])
        trainer.fit(model, world.dataset(), epochs, world.dataset("eval"), (), 2)
        return model

    def test_none_where_nothing_is_done_twice(self, trainer, world):
        self.fit(trainer(), world, 2)
        assert world.trained == {"train": [ROWS, ROWS]}
        assert self.repeated(world) == {"train": [0, 0]}

    @pytest.mark.parametrize("every_secs", [1e9, 0.0], ids=["one save", "a save after each unit"])
    def test_are_counted_in_their_epoch(self, trainer, world, every_secs):
        again = [(0, 16, 32), (1, 0, 8), (1, 48, 50)]  # a whole unit, half of one, the last rows
        self.fit(trainer(*again, every_secs=every_secs), world, 3)
        assert world.trained == {"train": [ROWS] * 3}
        assert self.repeated(world) == {"train": [16, 10, 0]}

    def test_are_in_the_checkpoint_that_has_their_weights(self, trainer, world):
        """A save inside an epoch knows of those before it and of no others."""
        with pytest.raises(Interrupted):
            trainer((0, 0, 16), (0, 40, 48), every_secs=0.0).fit(
                functional(metrics=[]), world.dataset(), 1, None,
                [interrupt(on_train_batch_end=1)], 2,
            )  # fmt: skip
        world.saver.wait()
        trainer((0, 16, 24), every_secs=0.0)  # a new process, with a count of its own
        saved = world.ledger.as_json()
        of_train = saved["train"]
        assert (of_train["rows_due"], of_train["rows_trained"]) == ([ROWS], [16])
        assert of_train["rows_repeated"] == [16]

    def test_of_a_run_that_goes_on_are_added_to_what_was_restored(self, trainer, world):
        with pytest.raises(Interrupted):
            trainer((0, 0, 16), every_secs=0.0).fit(
                functional(metrics=[]), world.dataset(), 1, None,
                [interrupt(on_train_batch_end=2)], 2,
            )  # fmt: skip
        world.saver.wait()
        self.fit(trainer((0, 48, 50)), world, 1)
        assert world.trained == {"train": [ROWS]}
        assert self.repeated(world) == {"train": [18]}

    def test_of_a_loop_of_ones_own(self, trainer, world):
        def step(features, label):
            return tf.reduce_mean(label)

        one = trainer((1, 0, 16))
        for epoch in range(3):
            one.run_epoch(step, world.dataset(), epoch)
        assert world.trained == {"train": [ROWS] * 3}
        assert self.repeated(world) == {"train": [0, 16, 0]}

    def test_evaluation_counts_nothing(self, trainer, world):
        one = trainer((0, 0, 8))
        one.evaluate(functional(), world.dataset("eval"))
        self.fit(one, world, 1)
        assert self.repeated(world) == {"train": [0]}


class TestRunEpoch:
    def test_mean_loss_is_over_rows_and_each_row_is_seen_once(self, world):
        seen = tf.Variable(tf.zeros([0], tf.float32), shape=[None])

        def step(features, label):
            seen.assign(tf.concat([seen, features["x"][:, 0]], 0))
            return tf.reduce_mean(features["x"][:, 0])

        context = world.context()
        mean = context.run_epoch(step, world.dataset(), 0)
        assert mean == pytest.approx(float(TRAIN["x"][:, 0].mean()), abs=1e-6)
        np.testing.assert_array_equal(seen, TRAIN["x"][:, 0])
        context.run_epoch(step, world.dataset(), 1)
        assert world.trained == {"train": [ROWS, ROWS]}

    def test_step_that_returns_none_is_refused(self, world):
        with pytest.raises(UsageError, match="None"):
            world.context().run_epoch(lambda features, label: None, world.dataset(), 0)


@pytest.mark.parametrize("own_loop", [False, True])
@pytest.mark.parametrize("library", [optimizers, keras.optimizers])
def test_a_table_in_shards_is_clipped_as_a_whole(world, monkeypatch, library, own_loop):
    def trained(servers):
        monkeypatch.setattr("tfos.tables.embedding.number_of_servers", lambda: servers)
        keras.utils.set_random_seed(7)
        ids = keras.Input([], dtype="int64", name="id")
        table = Embedding(3000, 4)
        model = keras.Model(ids, keras.layers.Dense(1)(table(ids)))
        model.compile(library.SGD(0.5, clipnorm=0.01), "mse")

        def step(features, label):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((model(features["id"])[:, 0] - label) ** 2)
            weights = model.trainable_variables
            model.optimizer.apply(tape.gradient(loss, weights), weights)
            return loss

        model.optimizer.build(model.trainable_variables)
        fresh = World(world.reader, world.root, RunDirectory(str(world.root), f"of {servers}"))
        dataset = fresh.dataset(features=["id"])
        if own_loop:
            fresh.context().run_epoch(step, dataset, 0)
        else:
            fresh.fit(model, dataset=dataset)
        assert len(table.shards) == servers
        return np.concatenate([shard.numpy() for shard in table.shards])

    np.testing.assert_allclose(trained(2), trained(1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("clipping", ["clipnorm", "global_clipnorm", "clipvalue"])
@pytest.mark.parametrize("library", [optimizers, keras.optimizers])
@pytest.mark.parametrize("servers", [1, 2])
def test_rows_looked_up_twice_are_clipped_as_a_dense_gradient_is(
    monkeypatch, clipping, library, servers
):
    """Two lookups give two slices for a row, of which the optimizer is to see the sum."""
    monkeypatch.setattr("tfos.tables.embedding.number_of_servers", lambda: servers)
    keras.utils.set_random_seed(7)
    table = Embedding(3000, 2)
    table.build([None])
    weights = [*table.shards, keras.Variable([3.0, -4.0])]
    optimizer = library.SGD(1.0, **{clipping: 0.7})
    optimizer.build(weights)
    with tf.GradientTape() as tape:
        both = table(tf.constant([5, 5, 2999, 7])), table(tf.constant([5, 2999, 2999, 1]))
        loss = tf.reduce_sum(both[0] + 2 * both[1]) + tf.reduce_sum(weights[-1] ** 2) / 2
    gradients = tape.gradient(loss, weights)
    assert any(len(each.indices) > len(set(each.indices.numpy())) for each in gradients[:-1])
    dense = [tf.convert_to_tensor(gradient).numpy() for gradient in gradients]
    parts = [np.concatenate(dense[:-1]), dense[-1]]
    norms = [np.sqrt((part**2).sum()) for part in parts]
    if clipping == "global_clipnorm":
        norms = [np.sqrt(sum(norm**2 for norm in norms))] * 2
    clipped = [
        part.clip(-0.7, 0.7) if clipping == "clipvalue" else part * 0.7 / norm
        for part, norm in zip(parts, norms, strict=True)
    ]
    before = [np.concatenate([shard.numpy() for shard in table.shards]), weights[-1].numpy()]
    with tables_clipped():
        optimizer.apply(gradients, weights)
    after = [np.concatenate([shard.numpy() for shard in table.shards]), weights[-1].numpy()]
    for old, new, step in zip(before, after, clipped, strict=True):
        np.testing.assert_allclose(old - new, step, 1e-5, 1e-6)


class TestMakeAtomic:
    @pytest.mark.parametrize("make", [keras.optimizers.Adam, keras.optimizers.AdamW])
    @pytest.mark.parametrize("sparse", [False, True], ids=["dense", "IndexedSlices"])
    def test_fused_step_is_keras_step(self, make, sparse):
        start = np.arange(12, dtype="float32").reshape(4, 3) / 10
        weights = []
        for fused in (True, False):
            variable = keras.Variable(start, name="v")
            optimizer = make(0.05, beta_1=0.8, beta_2=0.95, epsilon=1e-5)
            optimizer.build([variable])
            if fused:
                make_atomic(optimizer, 2)
                assert "update_step" in vars(optimizer)
            for step in range(4):
                values = tf.constant(np.sin(np.arange(6.0) + step).reshape(2, 3), tf.float32)
                gradient = (
                    tf.IndexedSlices(values, tf.constant([2, step % 2]), tf.constant([4, 3]))
                    if sparse
                    else tf.concat([values, values * 3], 0)
                )
                optimizer.apply([gradient])
            weights.append(variable.numpy())
            assert int(optimizer.iterations) == 4
        np.testing.assert_allclose(*weights, rtol=1e-6, atol=1e-6)
        assert np.abs(weights[0] - start).max() > 0.05

    def test_repeated_rows_of_a_sparse_gradient_add_up(self):
        """As in the gradient's dense form; Keras's Adam squares them one by one."""
        rows = tf.constant([[1.0, 2.0], [3.0, -9.0], [0.5, 0.5]])
        sparse = tf.IndexedSlices(rows, tf.constant([1, 1, 0]), tf.constant([3, 2]))
        weights = []
        for fused, gradient in ((True, sparse), (False, tf.convert_to_tensor(sparse))):
            variable = keras.Variable(np.ones((3, 2), "float32"))
            optimizer = keras.optimizers.Adam(0.1)
            optimizer.build([variable])
            if fused:
                make_atomic(optimizer, 2)
            for _ in range(2):
                optimizer.apply([gradient])
            weights.append(variable.numpy())
        np.testing.assert_allclose(*weights, rtol=1e-6, atol=2e-6)

    def test_learning_rate_schedule_is_followed(self):
        weights = []
        for fused in (True, False):
            variable = keras.Variable(np.ones(3, "float32"))
            optimizer = keras.optimizers.Adam(
                keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.5)
            )
            optimizer.build([variable])
            if fused:
                make_atomic(optimizer, 2)
            for _ in range(3):
                optimizer.apply([tf.constant([1.0, -1.0, 0.3])])
            weights.append(variable.numpy())
        np.testing.assert_allclose(*weights, rtol=1e-6, atol=1e-6)

    UNSAFE = (
        lambda: keras.optimizers.RMSprop(),
        lambda: keras.optimizers.Adam(amsgrad=True),
        lambda: keras.optimizers.Nadam(),
        lambda: keras.optimizers.Ftrl(),
    )

    @pytest.mark.parametrize("make", UNSAFE)
    def test_others_are_refused_for_two_workers_and_taken_for_one(self, make):
        with pytest.raises(UsageError, match=r"2 asynchronous workers.*--num-workers 1") as caught:
            make_atomic(make(), 2)
        assert type(make()).__name__ in str(caught.value)
        optimizer = make()
        make_atomic(optimizer, 1)
        assert "update_step" not in vars(optimizer)

    @pytest.mark.parametrize("make", [keras.optimizers.SGD, keras.optimizers.Adagrad])
    def test_safe_ones_are_left_as_they_are(self, make):
        optimizer = make()
        make_atomic(optimizer, 8)
        assert "update_step" not in vars(optimizer)


class TestExport:
    def export(self, world, model, dataset):
        uri = export_model(model, ServedFeatures.of(dataset), world.lake, world.scratch, None)
        assert uri == world.lake.uri("model")
        return uri

    def test_signature_predicts_what_the_model_does(self, world):
        model = functional()
        world.fit(model, 1)
        uri = self.export(world, model, world.dataset())
        serve = tf.saved_model.load(uri).signatures["serving_default"]
        x = EVAL["x"]
        served = serve(x=tf.constant(x))["predictions"]
        np.testing.assert_allclose(served, model.predict({"x": x}, verbose=0), 1e-6, 1e-6)
        # any batch size
        assert serve(x=tf.constant(x[:1]))["predictions"].shape == (1, 1)

    def test_ragged_feature_is_two_inputs(self, world):
        model = ragged()
        dataset = world.dataset(features=["tags", "x"])
        world.fit(model, 1, dataset=dataset)
        uri = self.export(world, model, dataset)
        serve = tf.saved_model.load(uri).signatures["serving_default"]
        _, inputs = serve.structured_input_signature
        assert inputs == {
            "tags": tf.TensorSpec([None], tf.int32, name="tags"),
            "tags_row_splits": tf.TensorSpec([None], tf.int64, name="tags_row_splits"),
            "x": tf.TensorSpec([None, 3], tf.float32, name="x"),
        }
        tags = tf.ragged.constant(EVAL["tags"], dtype=tf.int32)
        served = serve(
            tags=tags.values,
            tags_row_splits=tf.cast(tags.row_splits, tf.int64),
            x=tf.constant(EVAL["x"]),
        )["predictions"]
        expected = model({"tags": tags, "x": tf.constant(EVAL["x"])}, training=False)
        np.testing.assert_allclose(served, expected, 1e-6, 1e-6)

    def test_outputs_of_a_dict_keep_their_names(self, world):
        inputs = {"x": keras.Input([3], name="x")}
        model = keras.Model(inputs, {"a": keras.layers.Dense(1)(inputs["x"]), "b": inputs["x"]})
        uri = self.export(world, model, world.dataset())
        serve = tf.saved_model.load(uri).signatures["serving_default"]
        assert set(serve(x=tf.constant(EVAL["x"]))) == {"a", "b"}

    def test_keras_file_is_there_and_loads(self, world):
        model = functional()
        world.fit(model, 1)
        uri = self.export(world, model, world.dataset())
        loaded = keras.saving.load_model(Path(uri, "model.keras"))
        assert_same_weights(loaded, model, 0)

    def test_is_committed_and_replaced_as_a_whole(self, world):
        model = functional()
        uri = self.export(world, model, world.dataset())
        first = world.lake.committed("model")
        assert {"saved_model.pb", "model.keras"} <= set(first["files"])
        assert Path(uri, COMMIT).is_file()
        model.layers[-1].bias.assign([9.0])
        self.export(world, model, world.dataset())
        second = world.lake.committed("model")
        assert second["files"]["model.keras"] != first["files"]["model.keras"]
