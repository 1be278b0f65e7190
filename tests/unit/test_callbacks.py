"""Callbacks of fit, against what they do in Keras's own."""

from __future__ import annotations

import csv
import logging
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from worlds import Halving, assert_same_history, assert_same_weights
from zoo import EVAL, ROWS, TRAIN, as_tf_data, functional, unsteady

from tfos.training.callbacks import called_in

pytest_plugins = ["world_fixtures"]
pytestmark = pytest.mark.usefixtures("quick_tensorflow")


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

    def test_stop_training_ends_in_the_epoch_when_a_checkpoint_is_due_as_well(self, world):
        model = functional()

        def stop(batch, logs):
            model.stop_training = batch == 1

        callback = keras.callbacks.LambdaCallback(on_train_batch_end=stop)
        history = world.fit(model, 3, every_secs=0.0, callbacks=[callback])
        assert history.epoch == [0]
        assert world.saver.stats["step"] == 2

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
