"""fit, evaluate, checkpoints and export in one process, against Keras's own."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import write_feed

from tfos.errors import UsageError
from tfos.fault.checkpoint import Checkpointer
from tfos.feeding.dataset import FeedDataset, serve_reads
from tfos.feeding.ledger import Ledger
from tfos.feeding.reader import FeedReader
from tfos.feeding.schema import Column
from tfos.lake import COMMIT, Lake
from tfos.runtime.strategies import SingleRunner
from tfos.training.atomic import make_atomic
from tfos.training.export import export_model
from tfos.training.loop import Trainer

ROWS, EVAL_ROWS, BATCH = 50, 21, 8
COLUMNS = [
    Column("x", "float32", 3),
    Column("tags", "int32", -1),
    Column("w", "float32"),
    Column("y", "float32"),
]


def make_values(rows, seed):
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, 3)).astype("float32")
    return {
        "x": x,
        "tags": [list(range(i % 3)) for i in range(rows)],
        "w": random.uniform(0.5, 2.0, rows).astype("float32"),
        "y": (x.sum(axis=1) + random.normal(size=rows) > 0).astype("float32"),
    }


TRAIN, EVAL = make_values(ROWS, 1), make_values(EVAL_ROWS, 2)


@pytest.fixture(scope="module", autouse=True)
def quick_tensorflow():
    """Without graph optimization: it costs these tiny models more than it gains them."""
    before = tf.config.optimizer.get_experimental_options()
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    yield
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False, **before})


@pytest.fixture(scope="module")
def feeds(tmp_path_factory):
    lake = Lake(str(tmp_path_factory.mktemp("feeds")), "run")
    for name, values, shards in (("train", TRAIN, [20, 30]), ("eval", EVAL, [EVAL_ROWS])):
        rows = {k: v if isinstance(v, list) else v.tolist() for k, v in values.items()}
        write_feed(lake, name, COLUMNS, rows, shards)
    return FeedReader(lake, str(tmp_path_factory.mktemp("cache")))


class Heard:
    """Reports that keep what they were told, in order: progress dicts, and "quiet", "loud"."""

    def __init__(self):
        self.all = []

    def progress(self, progress):
        self.all.append(progress)

    def moved(self):
        self.all.append("moved")

    @contextlib.contextmanager
    def quiet(self):
        self.all.append("quiet")
        yield
        self.all.append("loud")


class World:
    """One run's lake; each trainer() is a new process's beginning in it."""

    def __init__(self, reader, root):
        self.reader = reader
        self.lake = Lake(str(root / "lake"), "run")
        self.scratch = str(root)
        self.heard = Heard()

    def dataset(self, name="train", **options):
        options = {"features": ["x"], "label": "y", "shuffle": False, **options}
        return FeedDataset(self.reader.manifest(name), BATCH, **options)

    def checkpointer(self, every_secs=1e9, ledger=None):
        ledger = ledger or Ledger()
        shared = (ledger.as_json, ledger.restore)
        return Checkpointer(self.lake, self.scratch, every_secs, shared=shared)

    def trainer(self, every_secs=1e9, runner=None):
        self.ledger = Ledger()
        self.saver = self.checkpointer(every_secs, self.ledger)
        return Trainer(runner or SingleRunner(), self.saver, self.ledger, self.heard)

    @property
    def progress(self):
        return [item for item in self.heard.all if isinstance(item, dict)]

    @property
    def trained(self):
        return {feed: record["rows_trained"] for feed, record in self.ledger.as_json().items()}

    def fit(self, model, epochs=1, *, every_secs=1e9, validation=None, callbacks=(), **options):
        steps = options.pop("steps_per_execution", None)
        dataset = options.pop("dataset", None) or self.dataset(**options)
        trainer = self.trainer(every_secs)
        try:
            return trainer.fit(model, dataset, epochs, validation, callbacks, steps)
        finally:
            self.saver.wait()


@pytest.fixture
def world(feeds, tmp_path):
    serve_reads(feeds)
    return World(feeds, tmp_path)


def make_model(*extra, optimizer="adam", **compiled):
    """A small model of the dict {"x": ...}, with the same weights each time."""
    keras.utils.set_random_seed(7)
    inputs = {"x": keras.Input([3], name="x")}
    hidden = keras.layers.Dense(4, activation="tanh")(inputs["x"])
    for layer in extra:
        hidden = layer(hidden)
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(hidden))
    compiled.setdefault("metrics", [keras.metrics.AUC(name="auc"), "mae"])
    model.compile(optimizer=optimizer, loss="binary_crossentropy", **compiled)
    return model


def as_tf_data(values, *names):
    """The feed's batches, unshuffled, as Keras takes them."""
    columns = [values[name].reshape(len(values["y"]), -1) for name in names]
    return tf.data.Dataset.from_tensor_slices(({"x": values["x"]}, *columns)).batch(BATCH)


def assert_same_weights(one, other, tolerance):
    assert len(one.weights) == len(other.weights) > 0
    for a, b in zip(one.weights, other.weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance, err_msg=a.path)


def assert_same_history(one, other, tolerance=1e-5):
    assert set(one.history) == set(other.history)
    assert one.epoch == other.epoch
    for name, values in one.history.items():
        np.testing.assert_allclose(values, other.history[name], tolerance, tolerance, err_msg=name)


class TestFit:
    def test_is_keras_fit(self, world):
        """Same batches in the same order: the same weights, metrics and validation metrics."""
        ours, theirs = make_model(), make_model()
        history = world.fit(ours, 3, validation=world.dataset("eval"))
        expected = theirs.fit(
            as_tf_data(TRAIN, "y"), epochs=3, validation_data=as_tf_data(EVAL, "y"), verbose=0
        )
        assert_same_weights(ours, theirs, 1e-5)
        assert_same_history(history, expected)
        assert set(history.history) == {"loss", "auc", "mae", "val_loss", "val_auc", "val_mae"}
        assert int(ours.optimizer.iterations) == int(theirs.optimizer.iterations) == 3 * 7

    def test_sample_weights_count_as_in_keras(self, world):
        metrics = {"metrics": [], "weighted_metrics": ["mae"]}
        ours, theirs = make_model(**metrics), make_model(**metrics)
        history = world.fit(ours, 2, weight="w")
        expected = theirs.fit(as_tf_data(TRAIN, "y", "w"), epochs=2, verbose=0)
        assert_same_weights(ours, theirs, 1e-5)
        assert_same_history(history, expected)

    def test_what_layers_keep_is_written_back(self, world):
        """Moving averages of BatchNormalization, the seed of Dropout."""

        def make():
            layers = [keras.layers.BatchNormalization(), keras.layers.Dropout(0.5, seed=3)]
            return make_model(*layers)

        ours, theirs = make(), make()
        before = [v.numpy() for v in ours.non_trainable_variables]
        history = world.fit(ours, 2)
        expected = theirs.fit(as_tf_data(TRAIN, "y"), epochs=2, verbose=0)
        assert_same_weights(ours, theirs, 1e-5)
        assert_same_history(history, expected)
        states = zip(ours.non_trainable_variables, theirs.non_trainable_variables, strict=True)
        kept = [(a, b) for a, b in states if "moving" in a.path or "seed" in a.path]
        assert len(kept) == 3
        for a, b in kept:
            np.testing.assert_allclose(a, b, 1e-5, 1e-5, err_msg=a.path)
        after = [v.numpy() for v in ours.non_trainable_variables]
        assert sum(not np.array_equal(a, b) for a, b in zip(before, after, strict=True)) >= 3

    @pytest.mark.parametrize("steps", [3, 64])
    def test_steps_per_execution_changes_nothing(self, world, steps):
        model, expected = make_model(metrics=[]), make_model(metrics=[])
        world.fit(model, 1, steps_per_execution=steps)
        expected.fit(as_tf_data(TRAIN, "y"), verbose=0)
        assert_same_weights(model, expected, 1e-5)

    def test_more_calls_of_fit_go_on(self, world):
        model, expected = make_model(metrics=[]), make_model(metrics=[])
        trainer = world.trainer()
        for _ in range(2):
            history = trainer.fit(model, world.dataset(), 1, None, (), None)
            assert len(history.history["loss"]) == 1
        expected.fit(as_tf_data(TRAIN, "y"), epochs=2, verbose=0)
        assert_same_weights(model, expected, 1e-5)
        assert world.trained == {"train": [2 * ROWS]}

    def test_no_epochs_train_nothing(self, world):
        model, fresh = make_model(), make_model()
        assert world.fit(model, 0).history == {}
        assert_same_weights(model, fresh, 0)

    def test_model_that_is_not_compiled_is_refused(self, world):
        model = keras.Sequential([keras.Input([3]), keras.layers.Dense(1)], name="plain")
        with pytest.raises(UsageError, match=r"'plain'.*compile"):
            world.fit(model)

    def test_rows_trained_are_counted(self, world):
        world.fit(make_model(metrics=[]), 2, validation=world.dataset("eval"))
        assert world.trained == {"train": [ROWS, ROWS]}

    def test_evaluation_and_saving_may_be_quiet_and_nothing_else(self, world):
        """What a process may be silent in without being taken for hung."""
        callback = keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: world.heard.all.append("epoch begins"),
            on_train_batch_end=lambda batch, logs: world.heard.all.append("batch"),
            on_epoch_end=lambda epoch, logs: world.heard.all.append("epoch ends"),
        )
        world.fit(
            make_model(metrics=[]), 2, validation=world.dataset("eval"), callbacks=[callback],
            steps_per_execution=4,
        )  # fmt: skip
        words = [word for word in world.heard.all if isinstance(word, str)]
        validation = save = ["quiet", "loud"]
        epoch = ["epoch begins", "batch", "batch", *validation, "epoch ends", *save]
        assert words == 2 * epoch

    def test_progress_is_reported_at_the_end_of_each_epoch(self, world):
        world.fit(make_model(metrics=[]), 2)
        ends = [p for p in world.progress if p["rows_done"] == ROWS]
        assert [(p["phase"], p["epoch"], p["epochs"], p["rows"]) for p in ends] == [
            ("train", 1, 2, ROWS),
            ("train", 2, 2, ROWS),
        ]
        json.dumps(ends)


class TestCallbacks:
    def test_are_called_in_order(self, world):
        calls = []
        callback = keras.callbacks.LambdaCallback(
            on_train_begin=lambda logs: calls.append("begin"),
            on_epoch_begin=lambda epoch, logs: calls.append(f"epoch {epoch}"),
            on_train_batch_end=lambda batch, logs: calls.append(f"batch {batch}"),
            on_epoch_end=lambda epoch, logs: calls.append(sorted(logs)),
            on_train_end=lambda logs: calls.append("end"),
        )
        world.fit(
            make_model(metrics=[]), 2, validation=world.dataset("eval"), callbacks=[callback],
            steps_per_execution=3,
        )  # fmt: skip
        epoch = ["batch 2", "batch 5", "batch 6", ["loss", "val_loss"]]
        assert calls == ["begin", "epoch 0", *epoch, "epoch 1", *epoch, "end"]

    def test_stop_training_ends_after_the_epoch(self, world):
        model = make_model(metrics=[])

        def stop(epoch, logs):
            model.stop_training = epoch == 1

        history = world.fit(model, 5, callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=stop)])
        assert history.epoch == [0, 1]
        assert len(history.history["loss"]) == 2
        assert world.trained == {"train": [ROWS, ROWS]}

    def test_early_stopping_of_keras_works(self, world):
        model = make_model(metrics=[])
        stopping = keras.callbacks.EarlyStopping("loss", patience=0, min_delta=10.0)
        assert len(world.fit(model, 5, callbacks=[stopping]).epoch) == 2


class Interrupted(Exception):
    """Raised by the tests' callbacks in place of a crash."""


def interrupt(**when):
    """A callback that raises in `when`: on_epoch_begin=1, on_train_batch_end=4."""
    ((hook, number),) = when.items()
    calls = iter(range(number + 1))

    def raising(index, logs):
        if next(calls) == number:
            raise Interrupted

    return keras.callbacks.LambdaCallback(**{hook: raising})


class TestResume:
    @pytest.fixture(scope="class")
    def uninterrupted(self, feeds, tmp_path_factory):
        serve_reads(feeds)
        world = World(feeds, tmp_path_factory.mktemp("whole"))
        model = self.model()
        history = world.fit(model, 3, shuffle=True)
        return model, history, world.trained

    def model(self):
        return make_model(keras.layers.BatchNormalization(), metrics=["mae"])

    @pytest.mark.parametrize(
        ("when", "every_secs"),
        [
            ({"on_epoch_begin": 1}, 1e9),
            ({"on_train_batch_end": 10}, 1e9),  # in epoch 1, the checkpoint at its begin
            ({"on_train_batch_end": 10}, 0.0),  # a checkpoint after every unit
            ({"on_epoch_end": 0}, 1e9),  # before the first checkpoint
        ],
        ids=str,
    )
    def test_interrupted_run_ends_as_an_uninterrupted_one(
        self, world, uninterrupted, when, every_secs
    ):
        whole, history, rows = uninterrupted
        with pytest.raises(Interrupted):
            world.fit(
                self.model(), 3, every_secs=every_secs, shuffle=True, callbacks=[interrupt(**when)]
            )
        resumed = self.model()
        again = world.fit(resumed, 3, shuffle=True)
        assert_same_weights(resumed, whole, 1e-6)
        assert_same_history(again, history, 1e-6)
        assert world.trained == rows == {"train": [ROWS] * 3}

    def test_begins_where_it_stopped(self, world):
        epochs = []
        callback = keras.callbacks.LambdaCallback(on_epoch_begin=lambda e, logs: epochs.append(e))
        with pytest.raises(Interrupted):
            world.fit(self.model(), 3, callbacks=[callback, interrupt(on_epoch_begin=2)])
        world.fit(self.model(), 3, callbacks=[callback])
        assert epochs == [0, 1, 2, 2]

    def test_dropout_goes_on_with_its_random_numbers(self, world):
        """The seed's state is no weight, and TensorFlow's checkpoint does not see it by itself."""

        def make():
            return make_model(keras.layers.Dropout(0.3, seed=5), metrics=[])

        with pytest.raises(Interrupted):
            world.fit(make(), 2, callbacks=[interrupt(on_epoch_begin=1)])
        resumed, whole = make(), make()
        world.fit(resumed, 2)
        whole.fit(as_tf_data(TRAIN, "y"), epochs=2, verbose=0)
        assert_same_weights(resumed, whole, 1e-5)

    def test_finished_run_trains_no_more(self, world):
        first = self.model()
        history = world.fit(first, 2)
        second = self.model()
        assert_same_history(world.fit(second, 2), history)
        assert_same_weights(first, second, 0)

    def test_stopped_training_stays_stopped(self, world):
        model = self.model()
        stop = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: setattr(model, "stop_training", True)
        )
        world.fit(model, 3, callbacks=[stop])
        assert world.fit(self.model(), 3).epoch == [0]

    def test_goes_on_from_the_checkpoint_before_a_damaged_one(self, world):
        """And trains what was lost again: to the same step, where the damaged one lies."""
        world.fit(self.model(), 2)
        newest = world.lake.list("checkpoints")[-1]
        world.lake.write(f"checkpoints/{newest}/state.json", b"{}")
        resumed, whole = self.model(), self.model()
        world.fit(resumed, 2)
        whole.fit(as_tf_data(TRAIN, "y"), epochs=2, verbose=0)
        assert_same_weights(resumed, whole, 1e-5)

    def test_second_fit_of_a_run_is_restored_too(self, world):
        def run(*callbacks):
            trainer = world.trainer()
            first = trainer.fit(make_model(metrics=[]), world.dataset(), 1, None, (), None)
            second = trainer.fit(make_model(metrics=[]), world.dataset(), 2, None, callbacks, None)
            return first, second

        with pytest.raises(Interrupted):
            run(interrupt(on_epoch_begin=1))
        world.saver.wait()
        assert world.trained == {"train": [2 * ROWS]}
        first, second = run()
        assert (first.epoch, second.epoch) == ([0], [0, 1])
        assert first.history["loss"] == second.history["loss"][:1]
        assert world.trained == {"train": [2 * ROWS, ROWS]}


class TestHurriedSave:
    def test_is_made_at_the_next_moment_that_allows_one(self, world):
        """The chief is asked for a checkpoint when a process is about to be taken away."""
        trainer = world.trainer()

        def hurry(batch, logs):
            if batch == 2:
                world.saver.hurry()

        callbacks = [
            keras.callbacks.LambdaCallback(on_train_batch_end=hurry),
            interrupt(on_train_batch_end=5),
        ]
        with pytest.raises(Interrupted):
            trainer.fit(make_model(metrics=[]), world.dataset(), 1, None, callbacks, 1)
        world.saver.wait()
        assert world.saver.stats["saved"] == 1
        step = world.saver.stats["step"]
        assert 3 <= step <= 5
        trainer = world.trainer()
        assert world.trained == {"train": [step * BATCH]}


class TwiceRunner(SingleRunner):
    """Does some units a second time, as when a worker dies in one: counts steps, as under ps.

    again: the bounds (epoch, start, stop) to be done before the unit that holds them.
    """

    def __init__(self, *again):
        super().__init__()
        self.coordinator = object()
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
            trainer = world.trainer(every_secs, runner)
            runner.coordinator = None  # of use for the count alone: variables are here
            return trainer

        return make

    def repeated(self, world):
        return {feed: record["rows_repeated"] for feed, record in world.ledger.as_json().items()}

    def fit(self, trainer, world, epochs):
        model = make_model(metrics=[])
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
                make_model(metrics=[]), world.dataset(), 1, None,
                [interrupt(on_train_batch_end=1)], 2,
            )  # fmt: skip
        world.saver.wait()
        trainer((0, 16, 24), every_secs=0.0)  # a new process, with a count of its own
        saved = world.ledger.as_json()
        assert saved == {"train": {"rows_trained": [16], "rows_repeated": [16]}}

    def test_of_a_run_that_goes_on_are_added_to_what_was_restored(self, trainer, world):
        with pytest.raises(Interrupted):
            trainer((0, 0, 16), every_secs=0.0).fit(
                make_model(metrics=[]), world.dataset(), 1, None,
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
        one.evaluate(make_model(), world.dataset("eval"))
        self.fit(one, world, 1)
        assert self.repeated(world) == {"train": [0]}


class TestEvaluate:
    def test_is_keras_evaluate(self, world):
        model = make_model()
        world.fit(model, 1)
        found = world.trainer().evaluate(model, world.dataset("eval"))
        expected = model.evaluate(as_tf_data(EVAL, "y"), verbose=0, return_dict=True)
        assert set(found) == set(expected)
        for name, value in expected.items():
            assert found[name] == pytest.approx(value, abs=1e-5), name

    def test_changes_nothing(self, world):
        model, fresh = make_model(), make_model()
        world.trainer().evaluate(model, world.dataset("eval"))
        assert_same_weights(model, fresh, 0)
        assert int(model.optimizer.iterations) == 0
        assert world.ledger.as_json() == {}


class TestRunEpoch:
    def test_mean_loss_is_over_rows_and_each_row_is_seen_once(self, world):
        seen = tf.Variable(tf.zeros([0], tf.float32), shape=[None])

        def step(features, label):
            seen.assign(tf.concat([seen, features["x"][:, 0]], 0))
            return tf.reduce_mean(features["x"][:, 0])

        trainer = world.trainer()
        mean = trainer.run_epoch(step, world.dataset(), 0)
        assert mean == pytest.approx(float(TRAIN["x"][:, 0].mean()), abs=1e-6)
        np.testing.assert_array_equal(seen, TRAIN["x"][:, 0])
        trainer.run_epoch(step, world.dataset(), 1)
        assert world.trained == {"train": [ROWS, ROWS]}

    def test_step_that_returns_none_is_refused(self, world):
        with pytest.raises(UsageError, match="None"):
            world.trainer().run_epoch(lambda features, label: None, world.dataset(), 0)


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


@keras.saving.register_keras_serializable("tfos-tests")
class TagModel(keras.Model):
    """Sums the embeddings of a ragged feature, beside a dense one."""

    def __init__(self, **options):
        super().__init__(**options)
        self.embedding = keras.layers.Embedding(3, 2)
        self.dense = keras.layers.Dense(1)

    def build(self, shapes):
        self.embedding.build([None])
        self.dense.build([None, 5])

    def call(self, features):
        tags = features["tags"]
        embedded = tags.with_flat_values(self.embedding(tags.flat_values))
        summed = tf.reshape(tf.reduce_sum(embedded, axis=1), [-1, 2])
        return self.dense(tf.concat([summed, features["x"]], 1))


class TestExport:
    def export(self, world, model, dataset):
        uri = export_model(model, dataset.feature_columns, world.lake, world.scratch, None)
        assert uri == world.lake.uri("model")
        return uri

    def test_signature_predicts_what_the_model_does(self, world):
        model = make_model()
        world.fit(model, 1)
        uri = self.export(world, model, world.dataset())
        serve = tf.saved_model.load(uri).signatures["serving_default"]
        x = EVAL["x"]
        served = serve(x=tf.constant(x))["predictions"]
        np.testing.assert_allclose(served, model.predict({"x": x}, verbose=0), 1e-6, 1e-6)
        # any batch size
        assert serve(x=tf.constant(x[:1]))["predictions"].shape == (1, 1)

    def test_ragged_feature_is_two_inputs(self, world):
        keras.utils.set_random_seed(1)
        model = TagModel()
        model.compile("sgd", "mse")
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
        model = make_model()
        world.fit(model, 1)
        uri = self.export(world, model, world.dataset())
        loaded = keras.saving.load_model(Path(uri, "model.keras"))
        assert_same_weights(loaded, model, 0)

    def test_is_committed_and_replaced_as_a_whole(self, world):
        model = make_model()
        uri = self.export(world, model, world.dataset())
        first = world.lake.committed("model")
        assert {"saved_model.pb", "model.keras"} <= set(first["files"])
        assert Path(uri, COMMIT).is_file()
        model.layers[-1].bias.assign([9.0])
        self.export(world, model, world.dataset())
        second = world.lake.committed("model")
        assert second["files"]["model.keras"] != first["files"]["model.keras"]
