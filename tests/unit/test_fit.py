"""fit, evaluate and predict in one process, against Keras's own on the same rows."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
from helpers import arrive, write_feed
from worlds import Interrupted, World, assert_same_history, assert_same_weights, interrupt
from zoo import (
    BATCH,
    CASES,
    COLUMNS,
    EVAL,
    EVAL_ROWS,
    ROWS,
    TRAIN,
    as_lists,
    as_tf_data,
    functional,
)

from tfos.errors import FeedError, UsageError
from tfos.fault.checkpoint.checkpointer import Checkpointer
from tfos.feeding.arrival import Arrival
from tfos.feeding.reader import FeedReader
from tfos.feeding.reads import serve_reads
from tfos.lake.run_directory import RunDirectory
from tfos.training.single import SingleRunner

pytest_plugins = ["world_fixtures"]
pytestmark = pytest.mark.usefixtures("quick_tensorflow")


class TestFit:
    def test_is_keras_fit(self, world):
        """Same batches in the same order: the same weights, metrics and validation metrics."""
        ours, theirs = functional(), functional()
        history = world.fit(ours, 3, validation=world.dataset("eval"))
        expected = theirs.fit(
            as_tf_data(TRAIN), epochs=3, validation_data=as_tf_data(EVAL), verbose=0
        )
        assert_same_weights(ours, theirs, 1e-5)
        assert_same_history(history, expected)
        assert set(history.history) == {"loss", "auc", "mae", "val_loss", "val_auc", "val_mae"}
        assert int(ours.optimizer.iterations) == int(theirs.optimizer.iterations) == 3 * 7

    def test_sample_weights_count_as_in_keras(self, world):
        metrics = {"metrics": [], "weighted_metrics": ["mae"]}
        ours, theirs = functional(**metrics), functional(**metrics)
        history = world.fit(ours, 2, dataset=world.dataset(weight="w"))
        expected = theirs.fit(as_tf_data(TRAIN, weight="w"), epochs=2, verbose=0)
        assert_same_weights(ours, theirs, 1e-5)
        assert_same_history(history, expected)

    def test_what_layers_keep_is_written_back(self, world):
        """Moving averages of BatchNormalization, the seed of Dropout."""

        def make():
            layers = [keras.layers.BatchNormalization(), keras.layers.Dropout(0.5, seed=3)]
            return functional(*layers)

        ours, theirs = make(), make()
        before = [v.numpy() for v in ours.non_trainable_variables]
        history = world.fit(ours, 2)
        expected = theirs.fit(as_tf_data(TRAIN), epochs=2, verbose=0)
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
        model, expected = functional(metrics=[]), functional(metrics=[])
        world.fit(model, 1, steps_per_execution=steps)
        expected.fit(as_tf_data(TRAIN), verbose=0)
        assert_same_weights(model, expected, 1e-5)

    def test_processes_in_step_make_the_longest_unit_that_one_of_them_wants(
        self, world, monkeypatch
    ):
        """One that waits for another's callbacks takes the wait for slow steps."""
        monkeypatch.setattr(SingleRunner, "gather", lambda self, value: [value, min(value, 1)])
        units = []
        callback = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda n, logs: units.append(n)
        )
        world.fit(functional(), callbacks=[callback], steps_per_execution=None)
        assert units == [3, 6]

    def test_more_calls_of_fit_go_on(self, world):
        model, expected = functional(metrics=[]), functional(metrics=[])
        context = world.context()
        for _ in range(2):
            history = context.fit(model, world.dataset())
            assert len(history.history["loss"]) == 1
        expected.fit(as_tf_data(TRAIN), epochs=2, verbose=0)
        assert_same_weights(model, expected, 1e-5)
        assert world.trained == {"train": [2 * ROWS]}

    def test_no_epochs_train_nothing(self, world):
        model, fresh = functional(), functional()
        assert world.fit(model, 0).history == {}
        assert_same_weights(model, fresh, 0)

    def test_rows_trained_are_counted(self, world):
        world.fit(functional(metrics=[]), 2, validation=world.dataset("eval"))
        assert world.trained == {"train": [ROWS, ROWS]}

    @pytest.mark.parametrize(("is_cheap", "saved"), [(True, 3), (False, 1)])
    def test_ends_of_epochs_are_saved_where_that_is_cheap_and_the_last_one_always(
        self, world, monkeypatch, is_cheap, saved
    ):
        monkeypatch.setattr(Checkpointer, "affordable", lambda self: is_cheap)
        world.fit(functional(metrics=[]), 3)
        assert (world.saver.stats["saved"], world.saver.stats["step"]) == (saved, 3 * 7)

    def test_evaluation_and_saving_may_be_quiet_and_nothing_else(self, world):
        """What a process may be silent in without being taken for hung."""
        callback = keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: world.heard.all.append("epoch begins"),
            on_train_batch_end=lambda batch, logs: world.heard.all.append("batch"),
            on_epoch_end=lambda epoch, logs: world.heard.all.append("epoch ends"),
        )
        world.fit(
            functional(metrics=[]), 2, validation=world.dataset("eval"), callbacks=[callback],
            steps_per_execution=4,
        )  # fmt: skip
        words = [word for word in world.heard.all if isinstance(word, str)]
        words = words[words.index("epoch begins") :]
        validation = save = ["quiet", "loud"]
        epoch = ["epoch begins", "batch", "batch", *validation, "epoch ends", *save]
        assert words == 2 * epoch

    def test_progress_is_reported_at_the_end_of_each_epoch(self, world):
        world.fit(functional(metrics=[]), 2)
        ends = [p for p in world.progress if p["rows_done"] == ROWS]
        assert [(p["phase"], p["epoch"], p["epochs"], p["rows"]) for p in ends] == [
            ("train", 1, 2, ROWS),
            ("train", 2, 2, ROWS),
        ]
        json.dumps(ends)


class TestEpochs:
    """Which rows an epoch has, and what is validated when."""

    @pytest.mark.parametrize("steps", [3, 10])
    def test_steps_per_epoch_go_on_through_the_data(self, world, steps):
        ours, theirs = functional(), functional()
        history = world.fit(ours, 4, steps_per_epoch=steps, steps_per_execution=2)
        repeated = as_tf_data(TRAIN).repeat()
        expected = theirs.fit(repeated, epochs=4, steps_per_epoch=steps, verbose=0)
        assert_same_weights(ours, theirs, 1e-5)
        assert_same_history(history, expected)
        whole, rest = divmod(4 * steps, 7)
        assert world.trained == {"train": [ROWS] * whole + [8 * rest] * (rest > 0)}

    def test_shuffled_epoch_is_the_same_however_it_is_divided(self, world):
        one, other = functional(metrics=[]), functional(metrics=[])
        world.fit(one, 2, dataset=world.dataset(shuffle=True))
        another = World(world.reader, world.root / "another")
        another.fit(other, 7, dataset=another.dataset(shuffle=True), steps_per_epoch=2)
        assert_same_weights(one, other, 1e-6)

    def test_initial_epoch(self, world):
        ours, theirs = functional(), functional()
        history = world.fit(ours, 5, initial_epoch=3)
        expected = theirs.fit(as_tf_data(TRAIN), epochs=5, initial_epoch=3, verbose=0)
        assert_same_history(history, expected)
        assert history.epoch == [3, 4]

    @pytest.mark.parametrize(
        ("word", "validation"),
        [
            *(("validation", "eval"), ("validation", "dataset"), ("validation", 0.3)),
            *(("validation_data", "eval"), ("validation_data", "dataset")),
            ("validation_split", 0.3),
        ],
    )
    def test_validation(self, world, word, validation):
        ours, theirs = functional(), functional()
        given = world.dataset("eval", shuffle=True) if validation == "dataset" else validation
        history = world.fit(ours, 2, **{word: given})
        if validation == 0.3:
            expected = theirs.fit(
                {"x": TRAIN["x"]}, TRAIN["y"], 8, 2, validation_split=0.3, shuffle=False, verbose=0
            )
            assert world.trained == {"train": [35, 35]}
        else:
            expected = theirs.fit(
                as_tf_data(TRAIN), epochs=2, validation_data=as_tf_data(EVAL), verbose=0
            )
        assert_same_weights(ours, theirs, 1e-5)
        assert_same_history(history, expected, 1e-6)

    @pytest.mark.parametrize(
        ("options", "told"),
        [
            (
                {"validation": "eval", "validation_data": "test"},
                r"validation='eval' and validation_data='test'",
            ),
            ({"validation_data": "eval", "validation_split": 0.1}, "and validation_split=0.1"),
            ({"validation": 0.2, "validation_split": 0.1}, "and validation_split=0.1"),
            ({"validation_data": 0.2}, "validation_data=0.2: give"),
            ({"validation_data": (1, 2)}, "validation_data=tuple: give"),
            ({"validation_split": "eval"}, "validation_split='eval': give"),
            ({"validation_split": 1.5}, "1.5 of the 50 rows"),
            ({"verbose": "yes"}, "verbose is 'yes': use 0, 1, 2"),
            ({"verbose": 3}, "verbose is 3"),
        ],
    )
    def test_what_is_not_clear_is_refused(self, world, options, told):
        with pytest.raises(UsageError, match=told):
            world.fit(functional(), **options)

    def test_split_of_nothing_is_none(self, world):
        history = world.fit(functional(), validation="eval", validation_split=0.0)
        assert "val_loss" in history.history

    @pytest.mark.parametrize("fraction", [0.0, 1.0, 1, 0.001])
    def test_fraction_that_leaves_nothing_is_refused(self, world, fraction):
        with pytest.raises(UsageError, match="of the 50 rows"):
            world.fit(functional(), validation=fraction)

    @pytest.mark.parametrize(
        ("freq", "validated"),
        [(1, [1, 2, 3, 4]), (2, [2, 4]), ([1, 4], [1, 4]), ([9], [])],
        ids=str,
    )
    def test_validation_freq(self, world, freq, validated):
        seen = []
        callback = keras.callbacks.LambdaCallback(on_epoch_end=lambda e, logs: seen.append(logs))
        history = world.fit(
            functional(metrics=[]), 4, validation="eval", validation_freq=freq, callbacks=[callback]
        )
        assert [epoch + 1 for epoch, logs in enumerate(seen) if "val_loss" in logs] == validated
        assert len(history.history.get("val_loss", [])) == len(validated)

    @pytest.mark.parametrize(
        ("verbose", "words"), [(0, []), (1, ["7/7"]), ("auto", ["7/7"]), (2, ["7/7", "loss"])]
    )
    def test_verbose(self, world, capsys, verbose, words):
        world.fit(functional(metrics=[]), verbose=verbose)
        printed = capsys.readouterr().out
        assert all(word in printed for word in words) and bool(printed) == bool(words)

    def test_steps_per_execution_of_compile(self, world):
        batches = []
        callback = keras.callbacks.LambdaCallback(
            on_train_batch_begin=lambda batch, logs: batches.append(f"{batch} begins"),
            on_train_batch_end=lambda batch, logs: batches.append(f"{batch} ends"),
        )
        model = functional(metrics=[], steps_per_execution=3)
        world.fit(model, callbacks=[callback], steps_per_execution=None)
        ours = batches.copy()
        batches.clear()
        rows = as_tf_data(TRAIN).take(6)  # of a last execution Keras names steps that are not there
        functional(metrics=[], steps_per_execution=3).fit(rows, callbacks=[callback], verbose=0)
        assert ours == [*batches, "6 begins", "6 ends"]
        assert len(batches) == 4


class TestClassWeight:
    def fit(self, world, make, weights, by_row, **columns):
        """Fits with class weights, and by Keras with the weight of each row."""
        ours, theirs = make(), make()
        history = world.fit(ours, 2, dataset=world.dataset(**columns), class_weight=weights)
        columns = {"features": ["x"], "label": "y", **columns, "weight": by_row}
        expected = theirs.fit(as_tf_data(TRAIN, **columns), epochs=2, verbose=0)
        assert_same_weights(ours, theirs, 1e-5)
        assert_same_history(history, expected, 1e-5)

    def test_of_labels_of_two_classes_with_weights_of_rows(self, world):
        def make():
            return functional(metrics=[], weighted_metrics=["mae"])

        by_row = np.where(TRAIN["y"] == 1, 3.0, 0.5).astype("float32")
        self.fit(world, make, {0: 0.5, 1: 3.0}, by_row)
        self.fit(
            World(world.reader, world.root / "w"),
            make,
            {0: 0.5, 1: 3.0},
            by_row * TRAIN["w"],
            weight="w",
        )

    @pytest.mark.parametrize("label", ["kind", "hot"])
    def test_of_several_classes(self, world, label):
        """Class numbers, and one-hot; classes without a weight have weight 1."""
        loss = {"hot": "categorical_crossentropy", "kind": "sparse_categorical_crossentropy"}

        def make():
            keras.utils.set_random_seed(7)
            layers = [keras.Input([3]), keras.layers.Dense(3, activation="softmax")]
            model = keras.Sequential(layers)
            model.compile("sgd", loss[label], weighted_metrics=["accuracy"])
            return model

        weights = {np.int64(1): 5.0, np.int64(0): 0.1}
        by_row = np.array([0.1, 5.0, 1.0], "float32")[TRAIN["kind"]]
        self.fit(world, make, weights, by_row, features="x", label=label)

    def test_is_not_for_the_validation(self, world):
        model = functional()
        history = world.fit(model, validation="eval", class_weight={0: 9.0, 1: 0.0})
        expected = model.evaluate(as_tf_data(EVAL), verbose=0)[0]
        assert history.history["val_loss"] == pytest.approx([expected], abs=1e-6)

    @pytest.mark.parametrize("label", [["y", "kind"], "tags", None])
    def test_needs_one_label(self, world, label):
        dataset = world.dataset(features=["w"], label=label)
        with pytest.raises(UsageError, match="class_weight needs one label"):
            world.fit(functional(), dataset=dataset, class_weight={0: 1.0})

    @pytest.mark.parametrize("weights", [{}, {"a": 1.0}, {-1: 1.0}, {0.5: 1.0}])
    def test_needs_class_numbers(self, world, weights):
        with pytest.raises(UsageError, match="class numbers"):
            world.fit(functional(), class_weight=weights)


class TestModels:
    @pytest.mark.parametrize("name", CASES)
    def test_is_trained_evaluated_and_predicted_as_by_keras(self, world, name):
        case = CASES[name]
        ours, theirs = case.make(), case.make()
        context = world.context()
        history = context.fit(ours, world.dataset(**case.columns), 2, "eval")
        expected = theirs.fit(
            as_tf_data(TRAIN, **case.columns),
            epochs=2,
            validation_data=as_tf_data(EVAL, **case.columns),
            verbose=0,
        )
        assert_same_weights(ours, theirs, 1e-5)
        assert_same_history(history, expected, 1e-5)
        optimizers = zip(ours.optimizer.variables, theirs.optimizer.variables, strict=True)
        for a, b in optimizers:
            np.testing.assert_allclose(a, b, 1e-5, 1e-5, err_msg=a.path)
        found = context.evaluate(ours, world.dataset("eval", **case.columns))
        logs = ours.evaluate(as_tf_data(EVAL, **case.columns), verbose=0, return_dict=True)
        assert set(found) == set(logs)
        for metric, value in logs.items():
            np.testing.assert_allclose(found[metric], value, 1e-6, 1e-6, err_msg=metric)
        predicted = context.predict(ours, world.dataset("eval", **case.columns, shuffle=True))
        outputs = ours.predict(as_tf_data(EVAL, **case.columns), verbose=0)
        keras.tree.assert_same_structure(predicted, outputs)
        for a, b in zip(keras.tree.flatten(predicted), keras.tree.flatten(outputs), strict=True):
            assert len(a) == EVAL_ROWS
            np.testing.assert_allclose(a, b, 1e-6, 1e-6)

    def test_evaluation_and_prediction_change_nothing(self, world):
        model, fresh = functional(), functional()
        context = world.context()
        context.evaluate(model, world.dataset("eval"))
        context.predict(model, world.dataset("eval"))
        assert_same_weights(model, fresh, 0)
        assert int(model.optimizer.iterations) == 0
        assert world.ledger.as_json() == {}

    def test_prediction_needs_no_compiled_model_and_no_label(self, world):
        keras.utils.set_random_seed(7)
        model = keras.Sequential([keras.Input([3]), keras.layers.Dense(2)])
        predicted = world.context().predict(model, world.dataset(features="x", label=None))
        np.testing.assert_allclose(predicted, model.predict(TRAIN["x"], verbose=0), 1e-6, 1e-6)


class TestArriving:
    """fit on a feed that is still being written."""

    @pytest.fixture
    def growing(self, tmp_path, monkeypatch):
        """Makes contexts on a feed of which more arrives each time that somebody waits for it."""
        monkeypatch.setattr("tfos.feeding.epochs.ARRIVAL_SECS", 0.0)
        monkeypatch.setattr("tfos.feeding.arrival.ARRIVAL_SECS", 0.0)
        lake = RunDirectory(str(tmp_path / "growing"), "run")
        manifest = write_feed(lake, "train", COLUMNS, as_lists(TRAIN), [0, 9, 0, 13, 28])

        def begin(name, *shards):
            (tmp_path / name).mkdir(exist_ok=True)
            reader = FeedReader(lake, str(tmp_path))
            serve_reads(reader)
            world = World(reader, tmp_path / name)
            more = iter(shards)
            arrive(lake, manifest, next(more))
            world.heard.moved = lambda: arrive(lake, manifest, next(more, 5))
            return world, world.context(0.0)

        return begin

    def fit(self, world, context, model, epochs, batch_size=BATCH, **options):
        dataset = context.dataset("train", batch_size, ["x"], "y")
        try:
            return context.fit(model, dataset, epochs, steps_per_execution=1, **options)
        finally:
            world.saver.wait()

    def test_is_as_if_all_had_been_there(self, growing):
        one, two = functional(), functional()
        world, context = growing("growing", 0, 1, 1, 3, 4, 5)
        history = self.fit(world, context, one, 3)
        assert world.trained == {"train": [ROWS] * 3}
        assert world.saver.stats["step"] == 3 * 7
        expected = self.fit(*growing("whole", 5), two, 3)
        assert_same_weights(one, two, 1e-6)
        assert_same_history(history, expected)

    @pytest.mark.parametrize("options", [{"shuffle": False}, {"split": 0.2}])
    def test_others_wait_until_all_is_there(self, growing, monkeypatch, options):
        world, context = growing("growing", 1, 2, 5)
        monkeypatch.setattr("tfos.feeding.arrival.time.sleep", lambda secs: world.heard.moved())
        monkeypatch.setattr("tfos.training.fit.GrowingEpoch", None)
        shuffle = options.get("shuffle", True)
        dataset = context.dataset("train", BATCH, ["x"], "y", shuffle=shuffle)
        context.fit(functional(), dataset, validation=options.get("split"))
        world.saver.wait()
        assert world.trained["train"] == [ROWS - int(ROWS * options.get("split", 0))]

    @pytest.mark.parametrize("at", [2, 4], ids=["before all is there", "after it"])
    @pytest.mark.parametrize("then", [(1, 2, 3, 4, 5), (5,)], ids=["more to come", "complete"])
    def test_goes_on_from_a_checkpoint_of_its_first_epoch(self, growing, at, then):
        world, context = growing("growing", 1, 5)
        with pytest.raises(Interrupted):
            self.fit(world, context, functional(), 2, callbacks=[interrupt(on_train_batch_end=at)])
        world.saver.wait()
        newest = world.lake.newest_checkpoint()
        assert int(newest.partition("-")[0]) == at
        state = world.lake.read_json(f"checkpoints/{newest}/state.json")["sections"]["fit0"]
        assert (state["data_epoch"], state["takes"]) == (0, [[1, at * BATCH]])
        one, two = functional(), functional()
        again, context = growing("growing", *then)
        history = self.fit(again, context, one, 2)
        assert again.trained == {"train": [ROWS] * 2}
        assert again.ledger.as_json()["train"]["rows_due"] == [ROWS] * 2
        expected = self.fit(*growing("whole", 5), two, 2)
        assert_same_weights(one, two, 1e-5)
        assert_same_history(history, expected, 1e-5)

    @pytest.mark.parametrize("then", [(1, 2, 5), (5,)], ids=["more to come", "complete"])
    def test_goes_on_with_other_batches(self, growing, then):
        world, context = growing("growing", 1, 5)
        with pytest.raises(Interrupted):
            self.fit(world, context, functional(), 2, callbacks=[interrupt(on_train_batch_end=2)])
        world, context = growing("growing", *then)
        model, expected = functional(), functional()
        history = self.fit(world, context, model, 2, batch_size=5)
        assert world.trained == {"train": [ROWS] * 2}
        assert world.saver.stats["step"] == 2 + 7 + 10
        eights, fives = (context.dataset("train", size, ["x"], "y") for size in (BATCH, 5))
        first = [*eights.positions(0, 16, 0), *fives.positions(16, ROWS, 0)]
        losses = []
        for rows in (first, fives.positions(0, ROWS, 1)):
            found = [(expected.train_on_batch(x, y)[0], len(y)) for x, y in rows]
            losses.append(sum(loss * size for loss, size in found) / ROWS)
        assert_same_weights(model, expected, 1e-5)
        assert history.history["loss"] == pytest.approx(losses, abs=1e-5)

    def test_is_saved_between_arrivals_too(self, growing):
        """Of units as long as what has come there is none in between."""
        world, context = growing("growing", 1, 1, 1, 5)
        steps = []
        arrive_more = world.heard.moved

        def moved():
            world.saver.wait()
            steps.append(world.saver.stats["step"])
            arrive_more()

        world.heard.moved = moved
        context.fit(functional(), context.dataset("train", BATCH, ["x"], "y"), 1)
        world.saver.wait()
        assert steps[-1] == 3

    def test_all_rows_are_there_before_that_is_known(self, growing):
        """The end of the epoch is then a checkpoint of its own all the same."""
        world, context = growing("growing", 1, 4, 4, 5)
        self.fit(world, context, functional(), 1, batch_size=10)
        assert world.trained == {"train": [ROWS]}
        assert world.saver.stats["step"] == 5

    def test_is_saved_while_it_waits(self, growing):
        """Somebody is about to be ended, and nothing comes."""
        world, context = growing("growing", 3, 3, 3, 5)
        world.saver._every_secs = 1e9
        arrive_more, saved = world.heard.moved, []

        def moved():
            world.saver.wait()
            saved.append(world.saver.stats["step"])
            world.saver.hurry()
            arrive_more()

        world.heard.moved = moved
        self.fit(world, context, functional(), 1)
        assert saved == [0, 5, 5]

    def test_callback_that_asks_for_all_rows_loses_none(self, growing, monkeypatch):
        world, context = growing("growing", 2, 5)
        monkeypatch.setattr("tfos.feeding.arrival.time.sleep", lambda secs: world.heard.moved())
        dataset = context.dataset("train", BATCH, ["x"], "y")
        asked = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: dataset.wait_complete()
        )
        context.fit(functional(), dataset, 1, callbacks=[asked])
        world.saver.wait()
        assert world.trained == {"train": [ROWS]}

    def test_is_stopped_by_a_callback_and_waits_for_no_more_rows(self, growing, monkeypatch):
        world, context = growing("growing", 1, 2, 5)
        monkeypatch.setattr(Arrival, "wait_complete", None)
        world.heard.moved = None
        model = functional(metrics=[])

        def stop(batch, logs):
            model.stop_training = True

        callback = keras.callbacks.LambdaCallback(on_train_batch_end=stop)
        history = self.fit(world, context, model, 3, callbacks=[callback])
        assert len(history.epoch) == 1
        assert world.saver.stats["step"] == 1
        record = world.ledger.as_json()["train"]
        assert (record["rows_trained"], record["rows_due"]) == ([BATCH], [None])
        # who finds the run so has nothing to do, and nothing to wait for
        again, context = growing("growing", 1, 2, 5)
        again.heard.moved = None
        assert self.fit(again, context, functional(metrics=[]), 3).epoch == [0]

    def test_what_needs_all_rows_waits_for_them(self, growing, monkeypatch):
        world, context = growing("growing", 1, 2, 5)
        monkeypatch.setattr("tfos.feeding.arrival.time.sleep", lambda secs: world.heard.moved())
        train = context.dataset("train", BATCH, ["x"], "y")
        for ask in (lambda: train.rows, lambda: train.steps_per_epoch, lambda: train.split(0.2)):
            with pytest.raises(FeedError, match=r"28 so far.*wait_complete\(\).*--overlap off"):
                ask()
        assert not train.is_complete
        assert sum(len(label) for _, label in train) == ROWS
        assert train.is_complete
        assert (train.rows, train.steps_per_epoch) == (ROWS, 7)
