"""fit that goes on from a checkpoint: it ends as if nothing had been."""

from __future__ import annotations

import logging

import keras
import pytest
import tensorflow as tf
from worlds import Halving, Interrupted, World, assert_same_history, assert_same_weights, interrupt
from zoo import ROWS, TRAIN, as_tf_data, functional, unsteady

from tfos.errors import UsageError
from tfos.feeding.reads import serve_reads

pytest_plugins = ["world_fixtures"]
pytestmark = pytest.mark.usefixtures("quick_tensorflow")


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
            world.fit(
                self.model(), 3, every_secs=0, callbacks=[callback, interrupt(on_epoch_begin=2)]
            )
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
    """What is left of an epoch is divided anew, with the batches that are wanted now."""

    def begin(self, world, epochs=2, **options):
        """Trains for ten steps, the last three in the second epoch, each with a checkpoint."""
        with pytest.raises(Interrupted):
            callbacks = [interrupt(on_train_batch_end=10)]
            world.fit(functional(), epochs, every_secs=0, callbacks=callbacks, **options)

    @pytest.mark.parametrize("batch_size", [5, 13, 50])
    def test_other_batch_size_in_the_middle_of_an_epoch(self, world, batch_size):
        self.begin(world)
        model, expected, steps = functional(), functional(), []
        watch = keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: steps.append(watch.params["steps"]),
            on_train_batch_begin=lambda batch, logs: steps.append(batch),
        )
        dataset = world.dataset(batch_size=batch_size)
        history = world.fit(model, 3, dataset=dataset, callbacks=[watch])
        assert world.trained == {"train": [ROWS] * 3}
        rows = as_tf_data(TRAIN)
        rest = rows.skip(3).unbatch().batch(batch_size)
        both, whole = [*rows.take(3), *rest], [*rows.unbatch().batch(batch_size)]
        epochs = [
            expected.fit(_dataset_of(each, rows), verbose=0).history
            for each in ([*rows], both, whole)
        ]
        assert_same_weights(model, expected, 1e-5)
        for name, values in history.history.items():
            assert values == pytest.approx([e[name][0] for e in epochs], abs=1e-5), name
        counts = len(both), len(whole)
        assert steps == [counts[0], *range(3, counts[0]), counts[1], *range(counts[1])]

    def test_at_the_end_of_an_epoch(self, world):
        model, expected = functional(metrics=[]), functional(metrics=[])
        with pytest.raises(Interrupted):
            world.fit(functional(metrics=[]), 2, callbacks=[interrupt(on_epoch_begin=1)])
        world.fit(model, 2, dataset=world.dataset(batch_size=5))
        expected.fit(as_tf_data(TRAIN), verbose=0)
        expected.fit(as_tf_data(TRAIN).rebatch(5), verbose=0)
        assert_same_weights(model, expected, 1e-5)
        assert world.trained == {"train": [ROWS, ROWS]}

    def test_epochs_of_so_many_steps_go_on_through_the_feed(self, world):
        """Ten steps are seven of the first epoch of the feed, and three of the second."""
        self.begin(world, 5, steps_per_epoch=4)
        history = world.fit(functional(), 4, dataset=world.dataset(batch_size=5), steps_per_epoch=4)
        assert history.epoch == [0, 1, 2, 3]
        assert world.trained == {"train": [ROWS, 24 + 6 * 5 - 4]}

    def test_another_number_of_steps_per_epoch(self, world):
        """An epoch without one ends with that of the feed."""
        self.begin(world, 5, steps_per_epoch=4)
        with pytest.raises(UsageError, match=r"2 steps into epoch 3.*is 2: use 3 or more"):
            world.fit(functional(), 5, steps_per_epoch=2)
        world.fit(functional(), 4)
        assert world.trained == {"train": [ROWS, ROWS, ROWS]}

    @pytest.mark.parametrize("options", [{"shuffle": True}, {"seed": 3}])
    def test_another_order_in_the_middle_of_an_epoch_is_refused(self, world, options):
        self.begin(world)
        with pytest.raises(UsageError, match=r"step 10.*'shuffle': False.*the same feed, shuffle"):
            world.fit(functional(), 2, dataset=world.dataset(**options))

    def test_another_part_for_validation_in_the_middle_of_an_epoch_is_refused(self, world):
        self.begin(world)
        with pytest.raises(UsageError, match=r"'part': None.*'part': \[0, 45\].*for validation"):
            world.fit(functional(), 2, validation=0.1)


def _dataset_of(batches, like):
    """Batches of several sizes as a tf.data.Dataset, of as many: Keras counts a step more else."""
    spec = like.element_spec
    dataset = tf.data.Dataset.from_generator(lambda: iter(batches), output_signature=spec)
    return dataset.apply(tf.data.experimental.assert_cardinality(len(batches)))
