"""Callbacks of fit, against what they do in Keras's own; and fit going on from a checkpoint."""

from __future__ import annotations

import csv
import logging
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from worlds import Interrupted, World, assert_same_history, assert_same_weights, interrupt
from zoo import EVAL, ROWS, TRAIN, as_tf_data, functional

from tfos.errors import UsageError
from tfos.feeding.dataset import serve_reads
from tfos.training.callbacks import called_in

pytest_plugins = ["world_fixtures"]
pytestmark = pytest.mark.usefixtures("quick_tensorflow")


def unsteady():
    """A model whose validation loss goes up and down; the best is that of the third epoch."""
    return functional(optimizer=keras.optimizers.SGD(2.0), metrics=["mae"])


class Halving(keras.callbacks.Callback):
    """A callback of one's own: reads logs, changes the model's optimizer and weights."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 4:
            self.model.optimizer.learning_rate = 0.5 * float(self.model.optimizer.learning_rate)

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(logs["loss"])
        self.model.layers[-1].bias.assign_add([0.1 * logs["val_mae"]])
        logs["seen"] = float(len(self.seen))


CALLBACKS = {
    "early stopping": lambda: [
        keras.callbacks.EarlyStopping(patience=2, min_delta=0.01, restore_best_weights=True)
    ],
    "reduced rate": lambda: [
        keras.callbacks.ReduceLROnPlateau(factor=0.3, patience=1, cooldown=1, min_delta=0.02)
    ],
    "schedule": lambda: [keras.callbacks.LearningRateScheduler(lambda e, rate: rate * 0.7**e)],
    "one's own": lambda: [Halving()],
    "several": lambda: [
        keras.callbacks.ReduceLROnPlateau(factor=0.5, patience=1),
        keras.callbacks.EarlyStopping("val_mae", patience=3, restore_best_weights=True),
        keras.callbacks.LearningRateScheduler(lambda e, rate: rate * 0.9),
    ],
}


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
            functional(metrics=[]), 2, validation=world.dataset("eval"), callbacks=[callback],
            steps_per_execution=3,
        )  # fmt: skip
        epoch = ["batch 2", "batch 5", "batch 6", ["loss", "val_loss"]]
        assert calls == ["begin", "epoch 0", *epoch, "epoch 1", *epoch, "end"]

    def test_stop_training_ends_after_the_epoch(self, world):
        model = functional(metrics=[])

        def stop(epoch, logs):
            model.stop_training = epoch == 1

        history = world.fit(model, 5, callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=stop)])
        assert history.epoch == [0, 1]
        assert len(history.history["loss"]) == 2
        assert world.trained == {"train": [ROWS, ROWS]}

    @pytest.mark.parametrize("name", CALLBACKS)
    def test_do_what_they_do_in_keras(self, world, name):
        ours, theirs = unsteady(), unsteady()
        options = {"epochs": 8, "steps_per_execution": 1}
        history = world.fit(ours, **options, validation="eval", callbacks=CALLBACKS[name]())
        expected = theirs.fit(
            as_tf_data(TRAIN),
            epochs=8,
            validation_data=as_tf_data(EVAL),
            callbacks=CALLBACKS[name](),
            verbose=0,
        )
        assert_same_history(history, expected, 1e-4)
        assert_same_weights(ours, theirs, 1e-4)
        assert float(ours.optimizer.learning_rate) == pytest.approx(
            float(theirs.optimizer.learning_rate)
        )
        assert ours.history is history
        assert (len(history.epoch) < 8) == (name == "early stopping")

    def test_terminate_on_nan_ends_at_once(self, world):
        batches = []

        def run(fit):
            batches.append([])
            model = functional(optimizer=keras.optimizers.SGD(1e38), metrics=[])
            seen = keras.callbacks.LambdaCallback(
                on_train_batch_end=lambda batch, logs: batches[-1].append(batch)
            )
            history = fit(model, [keras.callbacks.TerminateOnNaN(), seen])
            return model, history

        ours, history = run(
            lambda model, callbacks: world.fit(
                model, epochs=3, callbacks=callbacks, steps_per_execution=1
            )
        )
        theirs, expected = run(
            lambda model, callbacks: model.fit(
                as_tf_data(TRAIN), epochs=3, callbacks=callbacks, verbose=0
            )
        )
        assert batches[0] == batches[1]
        assert 0 < len(batches[0]) < 7
        assert history.epoch == expected.epoch == [0]
        assert world.trained == {"train": [8 * len(batches[0])]}
        assert int(ours.optimizer.iterations) == int(theirs.optimizer.iterations)

    def test_csv_logger(self, world, tmp_path):
        files = [str(tmp_path / name) for name in ("ours.csv", "theirs.csv")]
        model = functional(metrics=["mae"])
        world.fit(model, 2, validation="eval", callbacks=[keras.callbacks.CSVLogger(files[0])])
        functional(metrics=["mae"]).fit(
            as_tf_data(TRAIN),
            epochs=2,
            validation_data=as_tf_data(EVAL),
            callbacks=[keras.callbacks.CSVLogger(files[1])],
            verbose=0,
        )
        ours, theirs = (list(csv.reader(Path(file).read_text().splitlines())) for file in files)
        assert ours[0] == theirs[0] == ["epoch", "loss", "mae", "val_loss", "val_mae"]
        np.testing.assert_allclose(
            np.array(ours[1:], float), np.array(theirs[1:], float), 1e-5, 1e-5
        )

    def test_model_checkpoint_keeps_the_best(self, world, tmp_path):
        path = str(tmp_path / "new" / "best.keras")
        saver = keras.callbacks.ModelCheckpoint(path, "val_loss", save_best_only=True)
        stopping = keras.callbacks.EarlyStopping(patience=9, restore_best_weights=True)
        model = unsteady()
        history = world.fit(model, 6, validation="eval", callbacks=[saver, stopping])
        losses = history.history["val_loss"]
        assert losses.index(min(losses)) == 2
        assert_same_weights(keras.saving.load_model(path), model, 0)

    @pytest.mark.parametrize("freq", ["epoch", 1])
    def test_tensorboard_has_what_keras_writes(self, world, tmp_path, freq):
        def tags(name):
            found = {}
            for file in sorted((tmp_path / name).rglob("events*")):
                for record in tf.compat.v1.train.summary_iterator(str(file)):
                    for value in record.summary.value:
                        place = (file.parent.name, value.tag, record.step)
                        found[place] = found.get(place, 0) + 1
            return found

        def board(name):
            options = {"histogram_freq": 1, "write_images": True, "update_freq": freq}
            return keras.callbacks.TensorBoard(str(tmp_path / name), **options)

        model = functional(metrics=["mae"])
        world.fit(model, 2, validation="eval", callbacks=[board("ours")], steps_per_execution=1)
        functional(metrics=["mae"]).fit(
            as_tf_data(TRAIN),
            epochs=2,
            validation_data=as_tf_data(EVAL),
            callbacks=[board("theirs")],
            verbose=0,
        )
        ours, theirs = tags("ours"), tags("theirs")
        names = {(where, tag.split("/")[-1]) for where, tag, step in theirs}
        assert {
            ("train", "epoch_loss"),
            ("validation", "epoch_mae"),
            ("train", "histogram"),
        } < names
        assert sorted((w, t.split("/")[-1], s) for w, t, s in ours) == sorted(
            (w, t.split("/")[-1], s) for w, t, s in theirs
        )

    def test_backup_and_restore_is_left_out(self, world, tmp_path, caplog):
        backup = keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))
        with caplog.at_level(logging.WARNING):
            world.fit(functional(metrics=[]), callbacks=[backup])
        assert "BackupAndRestore is left out" in caplog.text
        assert not (tmp_path / "backup").exists()

    def test_only_the_chief_writes_files(self, tmp_path):
        writers = [
            keras.callbacks.CSVLogger(str(tmp_path / "log.csv")),
            keras.callbacks.ModelCheckpoint(str(tmp_path / "m.keras")),
            keras.callbacks.TensorBoard(str(tmp_path)),
        ]
        others = [keras.callbacks.EarlyStopping(), Halving()]
        assert called_in([*writers, *others], 0) == [*writers, *others]
        assert called_in([*writers, *others], 1) == others


class TestResume:
    @pytest.fixture(scope="class")
    def uninterrupted(self, feeds, tmp_path_factory):
        serve_reads(feeds)
        world = World(feeds, tmp_path_factory.mktemp("whole"))
        model = self.model()
        history = world.fit(model, 3, dataset=world.dataset(shuffle=True))
        return model, history, world.trained

    def model(self):
        return functional(keras.layers.BatchNormalization(), metrics=["mae"])

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
                self.model(),
                3,
                every_secs=every_secs,
                dataset=world.dataset(shuffle=True),
                callbacks=[interrupt(**when)],
            )
        resumed = self.model()
        again = world.fit(resumed, 3, dataset=world.dataset(shuffle=True))
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
            return functional(keras.layers.Dropout(0.3, seed=5), metrics=[])

        with pytest.raises(Interrupted):
            world.fit(make(), 2, callbacks=[interrupt(on_epoch_begin=1)])
        resumed, whole = make(), make()
        world.fit(resumed, 2)
        whole.fit(as_tf_data(TRAIN), epochs=2, verbose=0)
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
        whole.fit(as_tf_data(TRAIN), epochs=2, verbose=0)
        assert_same_weights(resumed, whole, 1e-5)

    def test_second_fit_of_a_run_is_restored_too(self, world):
        def run(*callbacks):
            context = world.context()
            first = context.fit(functional(metrics=[]), world.dataset())
            second = context.fit(functional(metrics=[]), world.dataset(), 2, callbacks=callbacks)
            return first, second

        with pytest.raises(Interrupted):
            run(interrupt(on_epoch_begin=1))
        world.saver.wait()
        assert world.trained == {"train": [2 * ROWS]}
        first, second = run()
        assert (first.epoch, second.epoch) == ([0], [0, 1])
        assert first.history["loss"] == second.history["loss"][:1]
        assert world.trained == {"train": [2 * ROWS, ROWS]}


class TestResumedCallbacks:
    """Their state is the checkpoint's."""

    def callbacks(self, **stopping):
        stopping = {"patience": 3, "restore_best_weights": True, "min_delta": 0.02, **stopping}
        return [
            keras.callbacks.ReduceLROnPlateau(factor=0.5, patience=1, min_delta=0.02),
            keras.callbacks.EarlyStopping(**stopping),
            Halving(),
        ]

    def fit(self, world, *more, stopping=None, **options):
        model, callbacks = unsteady(), self.callbacks(**(stopping or {}))
        history = world.fit(model, 12, validation="eval", callbacks=[*callbacks, *more], **options)
        return model, history, callbacks

    @pytest.fixture(scope="class")
    def uninterrupted(self, feeds, tmp_path_factory):
        serve_reads(feeds)
        model, history, callbacks = self.fit(World(feeds, tmp_path_factory.mktemp("whole")))
        assert 4 < len(history.epoch) < 12
        assert len(set(history.history["learning_rate"])) > 2
        return model, history, callbacks

    @pytest.mark.parametrize(
        ("when", "every_secs"),
        [
            ({"on_epoch_begin": 1}, 1e9),
            ({"on_epoch_begin": 3}, 1e9),
            ({"on_train_batch_end": 25}, 0.0),
            ({"on_train_end": 0}, 1e9),
        ],
        ids=str,
    )
    def test_end_as_without_an_interruption(self, world, uninterrupted, when, every_secs):
        whole, history, expected = uninterrupted
        if "on_train_end" in when:  # the run had ended but for this
            self.fit(world)
        else:
            with pytest.raises(Interrupted):
                self.fit(world, interrupt(**when), every_secs=every_secs)
        resumed, again, callbacks = self.fit(world)
        assert_same_history(again, history, 1e-6)
        assert_same_weights(resumed, whole, 1e-6)
        for ours, theirs in zip(callbacks, expected, strict=True):
            for name in ("wait", "best", "best_epoch", "stopped_epoch", "seen", "cooldown_counter"):
                assert getattr(ours, name, None) == pytest.approx(getattr(theirs, name, None)), name

    def test_are_configured_anew(self, world, uninterrupted):
        """An interruption is an occasion to be more patient."""
        _, history, _ = uninterrupted
        with pytest.raises(Interrupted):
            self.fit(world, interrupt(on_epoch_begin=2))
        _, longer, (_, stopping, _) = self.fit(world, stopping={"patience": 20})
        assert stopping.patience == 20
        assert len(longer.epoch) == 12 > len(history.epoch)

    def test_that_are_new_begin_anew(self, world, caplog):
        with pytest.raises(Interrupted):
            world.fit(
                unsteady(), 3, validation="eval", callbacks=[Halving(), interrupt(on_epoch_begin=2)]
            )
        new = keras.callbacks.EarlyStopping("loss", patience=9)
        with caplog.at_level(logging.WARNING):
            world.fit(unsteady(), 3, callbacks=[new])
        assert "state of callback Halving.0, which fit() is not given" in caplog.text
        assert new.best is not None


class TestResumedDivision:
    """The batches of an epoch that was begun are those of its begin."""

    def test_other_batch_size_in_the_middle_of_an_epoch_is_refused(self, world):
        with pytest.raises(Interrupted):
            world.fit(
                functional(metrics=[]), 2, callbacks=[interrupt(on_train_batch_end=9)], every_secs=0
            )
        with pytest.raises(
            UsageError, match=r"steps into epoch 2.*'batch_size': 8.*'batch_size': 5"
        ):
            world.fit(functional(metrics=[]), 2, dataset=world.dataset(batch_size=5))

    def test_at_the_end_of_an_epoch_it_is_taken(self, world):
        model, expected = functional(metrics=[]), functional(metrics=[])
        with pytest.raises(Interrupted):
            world.fit(functional(metrics=[]), 2, callbacks=[interrupt(on_epoch_begin=1)])
        world.fit(model, 2, dataset=world.dataset(batch_size=5))
        expected.fit(as_tf_data(TRAIN), verbose=0)
        expected.fit(as_tf_data(TRAIN).rebatch(5), verbose=0)
        assert_same_weights(model, expected, 1e-5)
        assert world.trained == {"train": [ROWS, ROWS]}

    def test_epochs_of_own_length_keep_it(self, world):
        with pytest.raises(Interrupted):
            world.fit(
                functional(metrics=[]),
                3,
                steps_per_epoch=3,
                callbacks=[interrupt(on_epoch_begin=1)],
            )
        with pytest.raises(UsageError, match=r"'steps_per_epoch': 3.*'steps_per_epoch': 7"):
            world.fit(functional(metrics=[]), 3)
        world.fit(functional(metrics=[]), 3, steps_per_epoch=3)
        assert world.trained == {"train": [ROWS, 16]}
