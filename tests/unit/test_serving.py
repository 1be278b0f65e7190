"""What an exported model takes and gives, as a served one: names, map(), and what is refused."""

from __future__ import annotations

import functools
import gc
import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from zoo import EVAL, EVAL_ROWS, TRAIN, WORDS, functional, two_towers

from tfos.errors import UsageError
from tfos.feeding.schema import Column
from tfos.inference.signature import SIGNATURE, Signature, input_names
from tfos.training.export import export_model
from tfos.training.serving import ServedFeatures, serving_function

pytest_plugins = ["world_fixtures"]
pytestmark = pytest.mark.usefixtures("quick_tensorflow")


def served(uri, **inputs):
    serve = tf.saved_model.load(uri).signatures["serving_default"]
    return {
        name: value.numpy()
        for name, value in serve(**{n: tf.constant(v) for n, v in inputs.items()}).items()
    }


class TestInputNames:
    def of(self, *names):
        return [each for (each,) in input_names([Column(name, "float32") for name in names])]

    def test_words_of_python_become_others(self):
        assert self.of("class", "from", "self", "None", "name") == [
            "arg_class", "arg_from", "arg_self", "arg_None", "name"
        ]  # fmt: skip

    def test_names_that_cannot_be_told_apart_get_numbers(self):
        assert self.of("价格", "年龄", "数量") == ["arg___", "arg____1", "arg____2"]
        assert self.of("a.b", "a-b", "a_b") == ["a_b_1", "a_b_2", "a_b"]

    def test_none_of_a_features_tensors_is_anothers(self):
        columns = [Column("x", "int64", -1), Column("x_row_splits", "int64")]
        assert input_names(columns) == [["x", "x_row_splits"], ["x_row_splits_1"]]


NAMES = ["class", "self", "价格", "年龄"]


def test_columns_with_any_names_are_exported(tmp_path, world):
    inputs = {name: keras.Input([1], name=f"i{n}") for n, name in enumerate(NAMES)}
    weighted = [10.0**n * inputs[name] for n, name in enumerate(NAMES)]
    model = keras.Model(inputs, keras.layers.Add()(weighted))
    features = ServedFeatures([Column(name, "float32") for name in NAMES])
    uri = export_model(model, features, world.lake, world.scratch, None)
    tensors = [name for (name,) in input_names(features.columns)]
    assert tensors == ["arg_class", "arg_self", "arg___", "arg____1"]
    found = served(uri, **{name: [float(n + 1)] for n, name in enumerate(tensors)})
    assert found["predictions"].ravel() == pytest.approx([4321.0])
    described = Signature.from_json(json.loads(Path(uri, SIGNATURE).read_text()))
    assert [column.name for column in described.inputs] == NAMES


class TestOutputs:
    def names(self, model):
        found = serving_function(model, ServedFeatures([Column("x", "float32", 3)]))
        return list(found.structured_outputs)

    def model(self, make):
        x = keras.Input([3], name="x")
        heads = [keras.layers.Dense(n + 1, name=f"head{n}")(x) for n in range(2)]
        return keras.Model({"x": x}, make(*heads))

    @pytest.mark.parametrize(
        ("make", "names"),
        [
            (lambda a, b: [a, b], ["head0", "head1"]),
            (lambda a, b: (a, b), ["head0", "head1"]),
            (lambda a, b: [a], ["predictions"]),
            (lambda a, b: {"a": a, "b": b}, ["a", "b"]),
            (lambda a, b: {"a": a, "more": [b, b]}, ["output_0", "output_1", "output_2"]),
        ],
        ids=["list", "tuple", "list of one", "dict", "nested, one twice"],
    )
    def test_have_names(self, make, names):
        assert self.names(self.model(make)) == names

    def test_of_a_model_with_call_are_numbered(self):
        class Model(keras.Model):
            def call(self, features):
                return features["x"], features["x"] + 1

        assert self.names(Model()) == ["output_0", "output_1"]

    def test_that_are_ragged_are_refused(self):
        class Model(keras.Model):
            def call(self, features):
                return tf.RaggedTensor.from_tensor(features["x"])

        with pytest.raises(UsageError, match=r"'predictions' .* RaggedTensor.*to_tensor"):
            self.names(Model())

    def test_of_a_model_that_cannot_be_called_are_refused(self):
        class Model(keras.Model):
            pass

        with pytest.raises(UsageError, match=r"has no call.*ctx.export"):
            self.names(Model(name="plain"))


def test_heads_in_a_list_are_trained_and_exported(world):
    model = two_towers()
    heads = keras.Model(model.input, [model.output[name] for name in ("y", "kind")])
    heads.compile("sgd", {"y": "binary_crossentropy", "kind": "sparse_categorical_crossentropy"})
    context = world.context()
    context.fit(heads, world.dataset(features=["x", "id"], label=["y", "kind"]))
    found = served(context.export(heads), x=EVAL["x"], id=EVAL["id"])
    y, kind = heads.predict({"x": EVAL["x"], "id": EVAL["id"]}, verbose=0)
    assert set(found) == {"y", "kind"}
    np.testing.assert_allclose(found["y"], y, 1e-5, 1e-5)
    np.testing.assert_allclose(found["kind"], kind, 1e-5, 1e-5)


class Summed(keras.Model):
    """The sum of each row, of one tensor."""

    def call(self, rows):
        return tf.reduce_sum(tf.cast(rows, tf.float32), axis=1)


class TestMap:
    def export(self, world, model, dataset):
        return export_model(model, ServedFeatures.of(dataset), world.lake, world.scratch, None)

    def test_what_it_does_to_features_is_served(self, world):
        """And so is what the model predicts, in the order of the feed."""
        dataset = world.dataset(weight="w").map(lambda f, y, w: ({"x": f["x"] / 1000}, y, w))
        dataset = dataset.map(lambda f, y, w: ({"x": f["x"] + 1}, 2 * y, w * y))
        model, context = functional(), world.context()
        context.fit(model, dataset)
        predicted = context.predict(model, dataset)
        found = served(context.export(model), x=TRAIN["x"])["predictions"]
        np.testing.assert_allclose(found, predicted, 1e-5, 1e-5)
        assert np.abs(found - model.predict({"x": TRAIN["x"]}, verbose=0)).max() > 0.01

    def test_features_may_be_joined_and_padded(self, world):
        def joined(f, y):
            return tf.concat([f["x"], tf.cast(f["tags"].to_tensor(), tf.float32)], axis=1), y

        dataset = world.dataset(features=["x", "tags"], label=["y", "kind"]).map(joined)
        uri = self.export(world, Summed(), dataset)
        tags = tf.ragged.constant(EVAL["tags"], dtype=tf.int32)
        splits = tf.cast(tags.row_splits, tf.int64)
        found = served(uri, x=EVAL["x"], tags=tags.values, tags_row_splits=splits)
        expected = EVAL["x"].sum(axis=1) + [sum(each) for each in EVAL["tags"]]
        np.testing.assert_allclose(found["predictions"], expected, 1e-5, 1e-5)

    def test_bare_features_are_given_as_they_are_trained_on(self, world):
        uri = self.export(world, Summed(), world.dataset(features="x"))
        found = served(uri, x=EVAL["x"])["predictions"]
        np.testing.assert_allclose(found, EVAL["x"].sum(axis=1), 1e-5, 1e-5)

    def test_conditions_and_functions_of_tensorflow_are_taken(self, world):
        @tf.function
        def clipped(f, y):
            tf.debugging.assert_all_finite(f["x"], "finite")
            if tf.reduce_max(f["x"]) > 0:  # Python's own, which AutoGraph makes TensorFlow's
                return f["x"] * 2, y
            return f["x"], y

        uri = self.export(world, Summed(), world.dataset(label=["y", "hot"]).map(clipped))
        found = served(uri, x=EVAL["x"])["predictions"]
        np.testing.assert_allclose(found, 2 * EVAL["x"].sum(axis=1), 1e-5, 1e-5)

    def test_lookup_that_it_refers_to_is_saved(self, world):
        words = keras.layers.StringLookup(vocabulary=WORDS)

        def looked_up(table, f, y):
            return table(f["word"])[:, tf.newaxis], y

        dataset = world.dataset(features=["word"]).map(functools.partial(looked_up, words))
        uri = self.export(world, Summed(), dataset)
        del dataset
        found = served(uri, word=EVAL["word"])["predictions"]
        assert found.tolist() == [1 + WORDS.index(w) if w in WORDS else 0 for w in EVAL["word"]]

    @pytest.mark.parametrize("label", ["y", "tags", ["y", "hot", "word"]], ids=str)
    @pytest.mark.parametrize("rows", [1, EVAL_ROWS])
    def test_labels_of_any_kind_may_be_changed_on_the_way(self, world, label, rows):
        def changed(f, y):
            return f["x"], tf.nest.map_structure(lambda each: each[:, tf.newaxis], y)

        uri = self.export(world, Summed(), world.dataset(label=label).map(changed))
        found = served(uri, x=EVAL["x"][:rows])["predictions"]
        np.testing.assert_allclose(found, EVAL["x"][:rows].sum(axis=1), 1e-5, 1e-5)

    def test_features_that_depend_on_the_label_are_refused(self, world):
        dataset = world.dataset().map(lambda f, y: (f["x"] - tf.reduce_mean(y), y))
        with pytest.raises(UsageError, match=r"depends on the label.*export\(model, dataset=...\)"):
            self.export(world, Summed(), dataset)

    @pytest.mark.parametrize(
        "noise", [tf.random.normal, lambda shape: tf.random.stateless_uniform(shape, [1, 2])]
    )
    def test_features_that_are_random_are_refused_and_others_may_be_given(self, world, noise):
        plain = world.dataset(features="x")
        model, context = Summed(), world.context()
        model.compile(loss="mse")
        dataset = plain.map(lambda x, y: (x + noise(tf.shape(x)), y))
        context.evaluate(model, dataset)
        with pytest.raises(UsageError, match=r"is random .*export\(model, dataset=...\)"):
            context.export(model)
        assert served(context.export(model, plain), x=EVAL["x"])["predictions"].shape == (21,)


class TestWarning:
    def test_of_a_model_that_cannot_be_exported_comes_before_the_first_step(self, world, caplog):
        seen = []
        begin = keras.callbacks.LambdaCallback(on_train_begin=lambda logs: seen.append(caplog.text))
        model, context = functional(), world.context()
        dataset = world.dataset().map(lambda f, y: ({"x": f["x"] * y[:, tf.newaxis]}, y))
        context.fit(model, dataset, callbacks=[begin])
        assert "ctx.export() of this model will fail: what map() makes of the features" in seen[0]
        with pytest.raises(UsageError, match="depends on the label"):
            context.export(model)

    def test_is_not_given_of_others(self, world, caplog):
        world.fit(functional())
        assert "ctx.export()" not in caplog.text


def test_dataset_of_a_model_that_is_gone_is_not_taken_for_anothers(world):
    context = world.context()
    for _ in range(3):  # so that one has the place in memory that another had
        context.fit(functional(), world.dataset(), 0)
        gc.collect()
        with pytest.raises(UsageError, match="pass dataset="):
            context.export(functional())
