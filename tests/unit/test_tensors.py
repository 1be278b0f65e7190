"""Columns of every shape as tensors: in a dataset, in a Keras model, in the serving signature."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from helpers import write_feed

from tfos.feeding.dataset import FeedDataset
from tfos.feeding.reader import FeedReader
from tfos.feeding.reads import serve_reads
from tfos.feeding.schema import Column
from tfos.lake.run_directory import RunDirectory
from tfos.training.export import export_model
from tfos.training.serving import ServedFeatures, serving_specs

ROWS, WIDE = 11, 1_000_000
COLUMNS = [
    Column("a.id", "int64"),
    Column("vector", "float64", 3),
    Column("grid", "float32", 2, 3),
    Column("names", "string", 1, 2),
    Column("m.keys", "string", -1),
    Column("m.values", "float32", -1),
    Column("deep", "int32", -1, -1),
    Column("deep_text", "string", -1, -1),
    Column("sparse", "float64", WIDE, sparse=True),
]


def deep(i, item):
    return [[item(i, j, k) for k in range((i + j) % 3)] for j in range(i % 4)]


VALUES = {
    "a.id": list(range(ROWS)),
    "vector": [[i, -i, 0.5] for i in range(ROWS)],
    "grid": [[[i, 1, 2], [3, 4, -i]] for i in range(ROWS)],
    "names": [[[f"a{i}", ""]] for i in range(ROWS)],
    "m.keys": [[f"k{k}" for k in range(i % 3)] for i in range(ROWS)],
    "m.values": [[i + k for k in range(i % 3)] for i in range(ROWS)],
    "deep": [deep(i, lambda *ijk: sum(ijk)) for i in range(ROWS)],
    "deep_text": [deep(i, lambda i, j, k: f"{i}{j}{k}") for i in range(ROWS)],
    "sparse": [
        {"size": WIDE, "indices": [i, WIDE - 1][: i % 3], "values": [1.0 * i, 2.0][: i % 3]}
        for i in range(ROWS)
    ],
}


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    lake = RunDirectory(str(tmp_path_factory.mktemp("lake")), "run")
    manifest = write_feed(lake, "train", COLUMNS, VALUES, [4, 0, 7])
    serve_reads(FeedReader(lake, str(tmp_path_factory.mktemp("cache"))))
    return lambda size=4, **options: FeedDataset(manifest, size, **options)


def rows_of(tensor):
    """A batch's rows as Python values; a sparse row as {index: value}."""
    if isinstance(tensor, tf.SparseTensor):
        rows = [{} for _ in range(tensor.dense_shape[0])]
        for (row, index), value in zip(tensor.indices.numpy(), tensor.values.numpy(), strict=True):
            rows[row][int(index)] = float(value)
        return rows
    return tensor.to_list() if isinstance(tensor, tf.RaggedTensor) else tensor.numpy().tolist()


def expected(name, i):
    def encoded(value):
        if isinstance(value, dict):
            return dict(zip(value["indices"], value["values"], strict=True))
        if isinstance(value, list):
            return [encoded(item) for item in value]
        return value.encode() if isinstance(value, str) else value

    return encoded(VALUES[name][i])


class TestDataset:
    def test_element_spec(self, make):
        assert make().element_spec == {
            "a.id": tf.TensorSpec([None], tf.int64),
            "vector": tf.TensorSpec([None, 3], tf.float64),
            "grid": tf.TensorSpec([None, 2, 3], tf.float32),
            "names": tf.TensorSpec([None, 1, 2], tf.string),
            "m.keys": tf.RaggedTensorSpec([None, None], tf.string, 1, tf.int64),
            "m.values": tf.RaggedTensorSpec([None, None], tf.float32, 1, tf.int64),
            "deep": tf.RaggedTensorSpec([None, None, None], tf.int32, 2, tf.int64),
            "deep_text": tf.RaggedTensorSpec([None, None, None], tf.string, 2, tf.int64),
            "sparse": tf.SparseTensorSpec([None, WIDE], tf.float64),
        }
        assert make().positions(0, ROWS, 0).element_spec == make().element_spec

    @pytest.mark.parametrize("shuffle", [True, False])
    @pytest.mark.parametrize("size", [1, 4, ROWS])
    def test_rows_of_every_column_belong_together(self, make, shuffle, size):
        seen = []
        for batch in make(size, shuffle=shuffle):
            ids = batch["a.id"].numpy().tolist()
            seen += ids
            for name, tensor in batch.items():
                assert rows_of(tensor) == [expected(name, i) for i in ids], name
        assert sorted(seen) == list(range(ROWS))

    def test_keys_and_values_of_a_map_have_the_same_splits(self, make):
        for batch in make():
            keys, values = batch["m.keys"], batch["m.values"]
            assert keys.row_splits.numpy().tolist() == values.row_splits.numpy().tolist()

    def test_a_sparse_batch_is_in_tensorflows_order(self, make):
        for batch in make():
            sparse = batch["sparse"]
            assert sparse.dense_shape.numpy().tolist() == [len(batch["a.id"]), WIDE]
            tf.debugging.assert_equal(tf.sparse.reorder(sparse).indices, sparse.indices)


def make_model():
    import keras

    class Model(keras.Model):
        """The sparse vector times a matrix, and sums of the ragged features."""

        def __init__(self):
            super().__init__()
            self.kernel = self.add_weight(shape=(WIDE, 2), initializer="ones")

        def call(self, features):
            product = tf.sparse.sparse_dense_matmul(features["sparse"], self.kernel)
            deep = tf.reduce_sum(tf.cast(features["deep"], tf.float32), axis=[1, 2])
            values = tf.reduce_sum(features["m.values"], axis=1)
            grid = tf.reduce_sum(features["grid"], axis=[1, 2])
            return product + tf.stack(
                [deep + tf.cast(features["a.id"], tf.float32), values + grid], 1
            )

    return Model()


FEATURES = ["a.id", "grid", "m.values", "deep", "sparse"]


def predictions(i):
    product = sum(expected("sparse", i).values())
    return [
        product + sum(map(sum, VALUES["deep"][i])) + i,
        product + sum(VALUES["m.values"][i]) + 7 + 3,
    ]


class TestKeras:
    def test_a_model_takes_them(self, make):
        model, dataset = make_model(), make(ROWS, features=FEATURES, shuffle=False)
        for batch in dataset:
            wanted = [predictions(i) for i in range(ROWS)]
            np.testing.assert_allclose(model(batch), wanted, rtol=1e-6)

    def test_the_exported_model_takes_their_components(self, make, tmp_path):
        model, dataset = make_model(), make(ROWS, features=FEATURES, shuffle=False)
        (batch,) = dataset
        model(batch)
        uri = export_model(
            model,
            ServedFeatures.of(dataset),
            RunDirectory(str(tmp_path), "run"),
            str(tmp_path),
            None,
        )
        serve = tf.saved_model.load(uri).signatures["serving_default"]
        _, inputs = serve.structured_input_signature
        assert {name: spec.shape.as_list() for name, spec in inputs.items()} == {
            "a_id": [None],
            "grid": [None, 2, 3],
            "m_values": [None],
            "m_values_row_splits": [None],
            "deep": [None],
            "deep_row_splits": [None],
            "deep_inner_row_splits": [None],
            "sparse_indices": [None, 2],
            "sparse_values": [None],
            "sparse_dense_shape": [2],
        }
        outer, inner = batch["deep"].nested_row_splits
        served = serve(
            a_id=batch["a.id"],
            grid=batch["grid"],
            m_values=batch["m.values"].values,
            m_values_row_splits=batch["m.values"].row_splits,
            deep=batch["deep"].flat_values,
            deep_row_splits=outer,
            deep_inner_row_splits=inner,
            sparse_indices=batch["sparse"].indices,
            sparse_values=batch["sparse"].values,
            sparse_dense_shape=batch["sparse"].dense_shape,
        )["predictions"]
        np.testing.assert_allclose(served, model(batch), rtol=1e-6)


class TestServingNames:
    def test_signs_become_underscores(self):
        names = ["a.b", "with space", "_1", "2nd", "größe", "plain_name"]
        columns = [Column(name, "float32") for name in names]
        assert list(serving_specs(columns)) == [
            "a_b", "with_space", "arg__1", "arg_2nd", "gr__e", "plain_name"
        ]  # fmt: skip
