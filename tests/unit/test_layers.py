"""tfos.layers.Embedding against NumPy, in shards as on several parameter servers and in one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfos import optimizers
from tfos.errors import UsageError
from tfos.fault.checkpoint import chunked
from tfos.fault.checkpoint.checkpointer import Checkpointer
from tfos.fault.checkpoint.resharding import trackable
from tfos.fault.checkpoint.store import CheckpointStore
from tfos.lake.run_directory import RunDirectory
from tfos.layers import Embedding
from tfos.tables import embedding
from tfos.tables.division import divide, initial_values, multiplier, shard_of
from tfos.training.patches import tables_clipped

ROWS, WIDTH = 5000, 3


@pytest.fixture
def servers(monkeypatch):
    """Makes layers that are built from now on divide their tables over so many servers."""

    def use(number: int) -> None:
        monkeypatch.setattr(embedding, "number_of_servers", lambda: number)

    return use


def table_of(layer: Embedding) -> np.ndarray:
    """The layer's vectors in the order of the rows."""
    return np.concatenate([shard.numpy() for shard in layer.shards])


def vectors(layer: Embedding, ids: Any) -> np.ndarray:
    """What the layer has for ids, one by one."""
    return table_of(layer)[layer.rows(tf.constant(ids)).numpy()]


@pytest.mark.parametrize("rows", [1, 1023, 1024, 1025, 5000, 100_000, 2_000_001])
@pytest.mark.parametrize("servers", [1, 2, 3, 7, 100])
def test_division(rows, servers):
    bounds = divide(rows, servers)
    sizes = np.diff(bounds)
    assert bounds[0] == 0
    assert bounds[-1] == rows
    assert sizes.min() > 0
    assert sizes.max() - sizes.min() < 2 * 1024
    assert len(sizes) == min(servers, -(-rows // 1024))
    owners = shard_of(np.arange(rows), rows, len(sizes))
    np.testing.assert_array_equal(np.bincount(owners), sizes)
    assert (np.diff(owners) >= 0).all()


@pytest.mark.parametrize("rows", [1, 2, 3, 10, 1000, 65_536, 99_991])
def test_ids_are_permuted(rows):
    found = np.arange(rows) * multiplier(rows) % rows
    assert len(np.unique(found)) == rows


def test_frequent_ids_are_spread_evenly():
    """The thousand first ids are the most frequent ones in a vocabulary by frequency."""
    rows = 1_000_000
    found = np.arange(1000) * multiplier(rows) % rows
    counts = np.bincount(shard_of(found, rows, 10), minlength=10)
    assert counts.min() >= 90
    assert counts.max() <= 110


def test_products_of_the_largest_ids_fit():
    assert 2_999_999_999 * multiplier(2_999_999_999) < 2**63


@pytest.mark.parametrize("number", [1, 4])
def test_vectors_of_ids(servers, number):
    servers(number)
    layer = Embedding(ROWS, WIDTH)
    ids = np.array([[4999, 0, 7], [7, 7, 1234]], np.int32)
    found = layer(ids)
    assert len(layer.shards) == number
    assert found.shape == (2, 3, WIDTH)
    np.testing.assert_array_equal(found, vectors(layer, ids))
    assert len(np.unique(layer.rows(tf.range(ROWS)))) == ROWS


@pytest.mark.parametrize("number", [1, 4])
def test_ragged_ids_give_ragged_vectors(servers, number):
    servers(number)
    layer = Embedding(ROWS, WIDTH)
    ids = tf.ragged.constant([[1, 2, 4000], [], [2]], dtype=tf.int64)
    found = layer(ids)
    assert found.row_lengths().numpy().tolist() == [3, 0, 1]
    np.testing.assert_array_equal(found.values, vectors(layer, [1, 2, 4000, 2]))


def combined(kind: str, rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The definition, for one bag."""
    total = (rows * weights[:, None]).sum(axis=0)
    if kind == "sum":
        return total
    norm = weights.sum() if kind == "mean" else np.sqrt((weights**2).sum())
    return total / norm if norm else total


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", ["sum", "mean", "sqrtn"])
@pytest.mark.parametrize("form", ["ragged", "ragged twice", "dense"])
def test_bags(servers, kind, form, weighted):
    servers(3)
    layer = Embedding(ROWS, WIDTH, combiner=kind)
    bags = [[3, 3, 4000], [], [17], [9, 1]] if form != "dense" else [[3, 3], [4000, 9], [17, 17]]
    weights = [[0.5 + 0.25 * id for id in range(len(bag))] for bag in bags]
    ids = np.array(bags) if form == "dense" else tf.ragged.constant(bags, dtype=tf.int32)
    factors: Any = np.array(weights, np.float32) if form == "dense" else tf.ragged.constant(weights)
    if form == "ragged twice":
        ids, factors = (tf.RaggedTensor.from_row_lengths(each, [1, 3]) for each in (ids, factors))
    found = layer(ids, weights=factors) if weighted else layer(ids)
    if form == "ragged twice":
        assert found.row_lengths().numpy().tolist() == [1, 3]
        found = found.values
    expected = [
        combined(
            kind,
            vectors(layer, np.array(bag, np.int64)),
            np.array(w if weighted else np.ones(len(bag))),
        )
        for bag, w in zip(bags, weights, strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_bags_of_several_features():
    layer = Embedding(100, WIDTH, combiner="sum")
    ids = np.arange(24).reshape(2, 4, 3)
    np.testing.assert_allclose(layer(ids), vectors(layer, ids).sum(axis=2), rtol=1e-5)


@pytest.mark.parametrize("in_graph", [False, True])
@pytest.mark.parametrize("weighted", ["no weights", "dense bags", "ragged bags"])
@pytest.mark.parametrize("kind", ["sum", "mean", "sqrtn"])
def test_lists_of_bags_of_one_size(servers, kind, weighted, in_graph):
    """A ragged axis outside, and bags that are dense; weights may say the same another way."""
    servers(2)
    bag = Embedding(ROWS, WIDTH, combiner=kind)
    bags, lengths = [[1, 2, 2], [3, 4000, 5], [5, 6, 7]], [1, 0, 2]
    factors = np.array([[1, 2, 3], [0.5, 1, 4], [2, 2, 2]], np.float32)
    ids = tf.RaggedTensor.from_row_lengths(bags, lengths)
    weights = None
    if weighted != "no weights":
        weights = tf.RaggedTensor.from_row_lengths(
            factors if weighted == "dense bags" else tf.RaggedTensor.from_tensor(factors), lengths
        )
    bag.build()

    def call(ids: Any, weights: Any) -> Any:
        return bag(ids, weights=weights)

    found = (tf.function(call) if in_graph else call)(ids, weights)
    assert found.row_lengths().numpy().tolist() == lengths
    expected = [
        combined(kind, vectors(bag, row), np.ones(3) if weights is None else factor)
        for row, factor in zip(bags, factors, strict=True)
    ]
    np.testing.assert_allclose(found.values, expected, rtol=1e-5)


@pytest.mark.parametrize("lengths", [[2, 0, 1], [1, 2]])
def test_weights_of_lists_of_other_lengths(lengths):
    bag = Embedding(ROWS, WIDTH, combiner="sum")
    bags = [[1, 2], [3, 4], [5, 6]]
    ids = tf.RaggedTensor.from_row_lengths(bags, [1, 0, 2])
    weights = tf.RaggedTensor.from_row_lengths(np.array(bags, np.float32), lengths)
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match="row splits"):
        bag(ids, weights=weights)


def test_lists_of_rows_of_ids(servers):
    """A ragged axis outside, a dense one inside, and no combiner."""
    servers(2)
    layer = Embedding(ROWS, WIDTH)
    rows = [[1, 2, 2], [3, 4000, 5], [5, 6, 7]]
    found = layer(tf.RaggedTensor.from_row_lengths(rows, [1, 0, 2]))
    assert found.row_lengths().numpy().tolist() == [1, 0, 2]
    np.testing.assert_array_equal(found.values, vectors(layer, rows))


@pytest.mark.parametrize("form", ["dense", "ragged", "bags"])
@pytest.mark.parametrize("number", [1, 3])
def test_a_batch_without_ids(servers, form, number):
    servers(number)
    layer = Embedding(ROWS, WIDTH, combiner="mean" if form == "bags" else None)
    ids = tf.zeros([0, 4], tf.int32) if form == "dense" else tf.ragged.constant([[], []], tf.int32)
    found = layer(ids)
    assert found.shape[0] == (0 if form == "dense" else 2)
    assert not tf.size(found.values if form == "ragged" else found) or not found.numpy().any()


@pytest.mark.parametrize("number", [1, 4])
def test_gradient_has_each_row_once(servers, number):
    servers(number)
    layer = Embedding(ROWS, WIDTH)
    ids = tf.constant([5, 6, 5, 4000, 5])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(ids) * tf.constant([[1.0], [2], [3], [4], [5]]))
    shards = [shard.value for shard in layer.shards]
    gradients = tape.gradient(loss, shards)
    total = np.zeros((ROWS, WIDTH))
    seen = 0
    for gradient, begin in zip(gradients, divide(ROWS, number), strict=False):
        assert isinstance(gradient, tf.IndexedSlices)
        assert gradient.is_distinct
        seen += len(gradient.indices)
        total[gradient.indices.numpy() + begin] += gradient.values.numpy()
    assert seen == 3
    rows = layer.rows(tf.constant([5, 6, 4000])).numpy()
    expected = np.zeros((ROWS, WIDTH))
    expected[rows] = [[9.0], [2.0], [4.0]]
    np.testing.assert_allclose(total, expected)


def test_gradient_of_a_layer_that_is_used_twice():
    """Its parts are put together by TensorFlow, and a row may be in both."""
    layer = Embedding(ROWS, WIDTH)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(tf.constant([1, 2]))) + tf.reduce_sum(layer(tf.constant([2])))
    (gradient,) = tape.gradient(loss, [layer.shards[0].value])
    assert not hasattr(gradient, "is_distinct")
    optimizer = optimizers.Adagrad(1.0, initial_accumulator_value=0.0, epsilon=0.0)
    before = table_of(layer)
    optimizer.apply([gradient], layer.weights)
    rows = layer.rows(tf.constant([1, 2])).numpy()
    # the steps of Adagrad's first update have the length of the rate, whatever the gradient
    np.testing.assert_allclose(before[rows] - table_of(layer)[rows], np.ones((2, WIDTH)), 1e-5)


@pytest.mark.parametrize("in_graph", [False, True])
def test_gradient_stays_distinct_on_its_way_to_the_optimizer(in_graph):
    layer = Embedding(ROWS, WIDTH)
    layer.build()
    seen = []

    class Watched(optimizers.Adagrad):
        def _prepared(self, gradient: Any) -> Any:
            seen.append(getattr(gradient, "is_distinct", False))
            return super()._prepared(gradient)

    made = keras.Sequential([keras.Input([2], dtype="int64"), layer, keras.layers.Flatten()])
    made.compile(Watched(), "mse", run_eagerly=not in_graph)
    made.train_on_batch(np.array([[1, 2]]), np.zeros((1, 2 * WIDTH)))
    assert set(seen) == {True}


def in_function(look: Any) -> Any:
    return tf.function(look)()


def in_cond(look: Any) -> Any:
    return tf.cond(tf.constant(True), look, lambda: tf.constant(0.0))


def in_loop(look: Any) -> Any:
    return tf.while_loop(lambda n, _: n < 1, lambda n, _: (n + 1, look()), (0, 0.0))[1]


@pytest.mark.parametrize("around", [lambda look: look(), in_function, in_cond, in_loop])
@pytest.mark.parametrize("in_graph", [False, True])
def test_gradient_comes_through_control_flow(around, in_graph):
    layer = Embedding(ROWS, WIDTH)
    layer.build()
    table = layer.shards[0].value
    ids = tf.constant([7, 3, 7])

    def step() -> Any:
        with tf.GradientTape() as tape:
            loss = around(lambda: tf.reduce_sum(layer(ids) ** 2))
        return tf.convert_to_tensor(tape.gradient(loss, table))

    found = (tf.function(step) if in_graph else step)().numpy()
    expected = np.zeros_like(found)
    np.add.at(expected, layer.rows(ids).numpy(), 2 * vectors(layer, ids))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_two_replicas_in_one_process():
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        layer = Embedding(ROWS, WIDTH)
        layer.build()
    ids = tf.constant([7, 3])
    found = strategy.run(tf.function(lambda: layer(ids)))
    for replica in strategy.experimental_local_results(found):
        np.testing.assert_array_equal(replica, vectors(layer, [7, 3]))


@pytest.mark.parametrize("bad", [[-1], [ROWS], [3, ROWS + 7, -2]])
def test_id_out_of_range_is_named(bad):
    layer = Embedding(ROWS, WIDTH, name="films")
    with pytest.raises(tf.errors.InvalidArgumentError) as raised:
        layer(np.array(bad))
    assert "films" in str(raised.value)
    assert f"input_dim={ROWS}" in str(raised.value)
    assert str(next(id for id in bad if not 0 <= id < ROWS)) in str(raised.value)
    assert "out_of_range" in str(raised.value)


def test_ids_out_of_range_may_share_a_row():
    layer = Embedding(ROWS, WIDTH, out_of_range="bucket")
    found = layer.rows(tf.constant([-5, ROWS, 2**31 - 1, 4]))
    assert layer(np.array([0])).shape == (1, WIDTH)
    assert sum(len(shard.numpy()) for shard in layer.shards) == ROWS + 1
    assert found.numpy()[:3].tolist() == [ROWS] * 3
    assert found.numpy()[3] < ROWS


def test_modulo():
    layer = Embedding(ROWS, WIDTH, ids="modulo")
    found = layer.rows(tf.constant([3, ROWS + 3, 3 - ROWS, 4], tf.int64)).numpy()
    assert found[0] == found[1] == found[2] != found[3]


@pytest.mark.parametrize(
    "ids",
    [
        np.arange(100_000, dtype=np.int64) * 1000,
        np.arange(100_000, dtype=np.int32),
        np.array([f"user {n}" for n in range(100_000)]),
    ],
)
def test_hashed_ids_are_spread_evenly(ids):
    layer = Embedding(100, WIDTH, ids="hash")
    rows = layer.rows(tf.constant(ids)).numpy()
    counts = np.bincount(rows, minlength=100)
    assert len(counts) == 100
    # chi squared with 99 degrees of freedom: beyond these in one of 10^5
    assert 44 < ((counts - 1000) ** 2 / 1000).sum() < 173


def test_hashes_do_not_change():
    """A model would look up other rows with another hash."""
    layer = Embedding(1_000_000, WIDTH, ids="hash")
    assert layer.rows(tf.constant([0, 1, -1], tf.int64)).numpy().tolist() == [
        int(_splitmix(id) >> 1) % 1_000_000 for id in (0, 1, -1)
    ]
    strings = layer.rows(tf.constant(["", "a", "user 7"])).numpy().tolist()
    assert strings == [621456, 588132, 745765]


def _splitmix(id: int) -> int:
    mask = (1 << 64) - 1
    z = (id + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


@pytest.mark.parametrize(
    "initializer",
    [
        keras.initializers.RandomUniform(-1, 3, seed=5),
        keras.initializers.RandomNormal(1.0, 2.0, seed=5),
        keras.initializers.TruncatedNormal(1.0, 2.0, seed=5),
        keras.initializers.Constant(0.25),
    ],
    ids=lambda each: type(each).__name__,
)
@pytest.mark.parametrize("width", [1, 3, 16])
def test_initial_values_do_not_depend_on_the_shards(initializer, width):
    rows = 100_000
    whole = initial_values(initializer, (rows, width), "float32", 0).numpy()
    for begin, end in ((1024, 2048), (50 * 1024, 90 * 1024), (97 * 1024, rows)):
        part = initial_values(initializer, (end - begin, width), "float32", begin).numpy()
        np.testing.assert_array_equal(part, whole[begin:end])


@pytest.mark.parametrize(
    ("initializer", "mean", "deviation"),
    [
        (keras.initializers.RandomUniform(-1, 3, seed=5), 1, 4 / np.sqrt(12)),
        (keras.initializers.RandomNormal(1.0, 2.0, seed=5), 1, 2),
        (keras.initializers.TruncatedNormal(1.0, 2.0, seed=5), 1, 2 * 0.8796),
    ],
    ids=lambda each: type(each).__name__,
)
def test_initial_values_are_as_keras_has_them(initializer, mean, deviation):
    found = initial_values(initializer, (100_000, 4), "float32", 0).numpy()
    kerass = keras.ops.convert_to_numpy(initializer((100_000, 4)))
    for values in (found, kerass):
        assert values.mean() == pytest.approx(mean, abs=0.03)
        assert values.std() == pytest.approx(deviation, rel=0.02)
    if not isinstance(initializer, keras.initializers.RandomNormal):  # it has no bounds
        assert found.min() == pytest.approx(kerass.min(), abs=0.01)
        assert found.max() == pytest.approx(kerass.max(), abs=0.01)


def test_initializer_that_needs_the_whole_table():
    with pytest.raises(ValueError, match=r"GlorotUniform.*use one of RandomUniform"):
        Embedding(ROWS, WIDTH, embeddings_initializer="glorot_uniform")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"input_dim": 0}, "input_dim is 0"),
        ({"input_dim": 3_000_000_000}, "input_dim is 3000000000"),
        ({"output_dim": 0}, "output_dim 0"),
        ({"combiner": "max"}, "combiner is 'max'"),
        ({"ids": "crc"}, "ids is 'crc'"),
        ({"out_of_range": "zero"}, "out_of_range is 'zero'"),
        ({"admit_after": 0}, "admit_after is 0: use an integer from 1 to 255"),
        ({"expire_secs": -1.0}, r"expire_secs is -1\.0"),
        ({"expire_below": "small"}, "expire_below is 'small'"),
    ],
)
def test_arguments_out_of_range(options, words):
    with pytest.raises(ValueError, match=words):
        Embedding(**{"input_dim": ROWS, "output_dim": WIDTH, **options})


def test_inputs_that_cannot_be_looked_up():
    layer = Embedding(ROWS, WIDTH)
    with pytest.raises(TypeError, match="dtype float32"):
        layer(np.array([1.0], np.float32))
    with pytest.raises(TypeError, match="cannot be hashed"):
        Embedding(ROWS, WIDTH, ids="hash")(np.array([1.0], np.float32))
    with pytest.raises(ValueError, match="has no combiner"):
        layer(np.array([[1]]), weights=np.array([[1.0]]))
    with pytest.raises(TypeError, match=r"RaggedTensor.from_sparse"):
        layer(tf.sparse.from_dense([[1]]))
    bag = Embedding(ROWS, WIDTH, combiner="sum")
    with pytest.raises(TypeError, match="both ids and weights ragged"):
        bag(tf.ragged.constant([[1]]), weights=np.array([[1.0]], np.float32))


@pytest.mark.parametrize(
    ("ids", "weights"),
    [
        ([[1, 2]], [[1.0]]),
        ([[1, 2], [3, 4]], [1.0, 2.0]),
        ([[1, 2, 3], [4, 5, 6]], [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]),
    ],
)
@pytest.mark.parametrize("in_graph", [False, True])
def test_weights_of_another_shape(ids, weights, in_graph):
    bag = Embedding(ROWS, WIDTH, combiner="sum")
    call = tf.function(bag) if in_graph else bag
    with pytest.raises(ValueError, match="ids and weights of different shapes"):
        call(tf.constant(ids), weights=tf.constant(weights))


def test_weights_of_another_shape_that_is_not_known_before():
    bag = Embedding(ROWS, WIDTH, combiner="sum")
    unknown = [tf.TensorSpec([None, None], dtype) for dtype in (tf.int32, tf.float32)]
    call = tf.function(lambda ids, weights: bag(ids, weights=weights), input_signature=unknown)
    with pytest.raises(tf.errors.InvalidArgumentError, match="ids and weights of different shapes"):
        call([[1, 2, 3], [4, 5, 6]], [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])


def test_weights_of_another_raggedness():
    bag = Embedding(ROWS, WIDTH, combiner="sum")
    ids = tf.ragged.constant([[1, 2], [3]])
    errors = tf.errors.InvalidArgumentError, ValueError
    for wrong, error in zip(([[1.0], [2.0, 3.0]], [[1.0, 2.0], [3.0], []]), errors, strict=True):
        with pytest.raises(error, match="of different shapes or row"):
            bag(ids, weights=tf.ragged.constant(wrong))
    short = tf.ragged.constant([[1.0, 2.0], [3.0]], row_splits_dtype=tf.int32)
    expected = [vectors(bag, [1, 2]).T @ [1, 2], 3 * vectors(bag, [3])[0]]
    np.testing.assert_allclose(bag(ids, weights=short), expected, rtol=1e-6)


def model(name: str | None = None) -> keras.Model:
    keras.utils.set_random_seed(3)
    ids = keras.Input([2], dtype="int64", name="ids")
    layers = [Embedding(ROWS, WIDTH, name=name and f"{name}{n}", combiner="mean") for n in range(2)]
    outputs = keras.layers.Dense(1)(keras.layers.Concatenate()([layer(ids) for layer in layers]))
    made = keras.Model(ids, outputs)
    made.compile(optimizers.Adam(0.1), "mse")
    return made


def trained(made: keras.Model, steps: int = 3) -> keras.Model:
    made.optimizer.build(made.trainable_variables)
    random = np.random.default_rng(5)
    for _ in range(steps):
        made.train_on_batch(random.integers(0, ROWS, (64, 2)), random.normal(size=(64, 1)))
    return made


def predictions(made: keras.Model) -> np.ndarray:
    return np.asarray(made(np.arange(ROWS).reshape(-1, 2)))


def test_training_does_not_depend_on_the_shards(servers):
    whole = predictions(trained(model()))
    servers(4)
    divided = trained(model())
    assert sum("embeddings" in weight.path for weight in divided.weights) == 8
    np.testing.assert_allclose(predictions(divided), whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("clipping", ["clipnorm", "global_clipnorm", "clipvalue"])
@pytest.mark.parametrize("library", [optimizers, keras.optimizers])
def test_clipping_does_not_depend_on_the_shards(servers, library, clipping):
    """It sees the sum of all slices of the whole table, as of a layer that is used twice."""
    random = np.random.default_rng(5)
    steps = [random.integers(0, ROWS, (2, 64)) for _ in range(3)]
    for ids in steps:
        ids[1, :8] = ids[0, :8]
    factors = random.normal(size=(2, 64, WIDTH)).astype("float32")
    most = 0.5 if clipping == "clipvalue" else 3.0

    def train(number: int) -> list[np.ndarray]:
        servers(number)
        keras.utils.set_random_seed(3)
        layers = [Embedding(ROWS, WIDTH) for _ in range(2)]
        for layer in layers:
            layer.build()
        assert len(layers[0].shards) == number
        weights = [weight for layer in layers for weight in layer.trainable_weights]
        optimizer = library.SGD(0.5, **{clipping: most})
        optimizer.build(weights)

        @tf.function
        def step(ids: Any) -> None:
            with tf.GradientTape() as tape:
                once, twice, other = layers[0](ids[0]), layers[0](ids[1]), layers[1](ids[1])
                loss = tf.reduce_sum(once * factors[0] + (twice + 2 * other) * factors[1])
            gradients = tape.gradient(loss, [weight.value for weight in weights])
            with tables_clipped():
                optimizer.apply(gradients, [weight.value for weight in weights])

        begun = [table_of(layer) for layer in layers]
        for ids in steps:
            step(tf.constant(ids))
        rows = [[layers[0].rows(tf.constant(part)).numpy() for part in ids] for ids in steps]
        expected = [table.astype("float64") for table in begun]
        for once, twice in rows:
            gradients = [np.zeros((ROWS, WIDTH)), np.zeros((ROWS, WIDTH))]
            np.add.at(gradients[0], once, factors[0])
            np.add.at(gradients[0], twice, factors[1])
            np.add.at(gradients[1], twice, 2 * factors[1])
            norms = [np.sqrt((gradient**2).sum()) for gradient in gradients]
            if clipping == "global_clipnorm":
                norms = [np.sqrt((np.array(norms) ** 2).sum())] * 2
            for table, gradient, norm in zip(expected, gradients, norms, strict=True):
                is_value = clipping == "clipvalue"
                clipped = gradient.clip(-most, most) if is_value else gradient * most / norm
                table -= 0.5 * clipped
        found = [table_of(layer) for layer in layers]
        for table, right in zip(found, expected, strict=True):
            np.testing.assert_allclose(table, right, rtol=0, atol=1e-6)
        return found

    for whole, divided in zip(train(1), train(2), strict=True):
        np.testing.assert_allclose(divided, whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1), (4, 2), (2, 5), (3, 3)])
@pytest.mark.parametrize("kind", ["adam", "group_ftrl", "keras adam"])
def test_checkpoint_is_restored_in_other_shards(servers, tmp_path, before, after, kind):
    def make() -> keras.Model:
        made = model("e")
        made.compile(
            {
                "adam": lambda: optimizers.Adam(0.1),
                "group_ftrl": lambda: optimizers.GroupFTRL(0.1),
                "keras adam": lambda: keras.optimizers.Adam(0.1),
            }[kind](),
            "mse",
        )
        return made

    servers(before)
    saved = trained(make())
    prefix = str(tmp_path / "weights")

    def checkpoint(made: keras.Model) -> tf.train.Checkpoint:
        return tf.train.Checkpoint(m=trackable(made), o=trackable(made.optimizer))

    checkpoint(saved).write(prefix)
    servers(after)
    restored = make()
    restored.optimizer.build(restored.trainable_variables)
    assert not np.allclose(predictions(restored), predictions(saved))
    checkpoint(restored).read(prefix).assert_existing_objects_matched().assert_consumed()
    np.testing.assert_array_equal(predictions(restored), predictions(saved))
    # slots and the count of iterations are there if the next steps are the same
    np.testing.assert_allclose(
        predictions(trained(restored)), predictions(trained(saved)), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize(("before", "after"), [(1, 3), (4, 2), (1, 1)])
def test_large_tables_are_saved_and_restored_in_pieces(
    servers, tmp_path, monkeypatch, before, after
):
    monkeypatch.setattr(chunked, "PIECE_BYTES", 9000)

    def life(number: int) -> tuple[keras.Model, Checkpointer]:
        servers(number)
        made = model("e")
        made.compile(optimizers.Adam(0.1), "mse")
        made.optimizer.build(made.trainable_variables)
        saver = Checkpointer(
            CheckpointStore(RunDirectory(str(tmp_path), "run")), str(tmp_path), 0.0
        )
        saver.restore(m=made, o=made.optimizer)
        return made, saver

    saved, saver = life(before)
    trained(saved)
    saver.save(1)
    saver.wait()
    files = list((tmp_path / "run").glob("checkpoints/*/*.data-*"))
    assert len(files) > 5
    assert max(file.stat().st_size for file in files) < 9000 + 500
    restored, saver = life(after)
    saver.close()
    np.testing.assert_array_equal(predictions(restored), predictions(saved))
    np.testing.assert_allclose(
        predictions(trained(restored)), predictions(trained(saved)), rtol=1e-4, atol=1e-6
    )


def test_large_table_of_another_shape_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(chunked, "PIECE_BYTES", 9000)

    def saver() -> Checkpointer:
        return Checkpointer(CheckpointStore(RunDirectory(str(tmp_path), "run")), str(tmp_path), 0.0)

    first = saver()
    first.restore(table=tf.Variable(tf.zeros([3000, 2])))
    first.save(1)
    first.wait()
    for other in (tf.zeros([3001, 2]), tf.zeros([3000, 2], tf.float64)):
        second = saver()
        with pytest.raises(UsageError, match=r"no user.table of shape \[300., 2\] \(.*--run-id"):
            second.restore(table=tf.Variable(other))
        second.close()


@pytest.mark.parametrize("inside", [lambda t: t, lambda t: [t], lambda t: {"user": t}])
def test_layer_by_itself_is_restored_in_other_shards(servers, tmp_path, inside):
    prefix, tables = str(tmp_path / "weights"), []
    for number, seed in [(3, 1), (2, 2)]:
        servers(number)
        table = Embedding(
            ROWS, WIDTH, embeddings_initializer=keras.initializers.RandomNormal(seed=seed)
        )
        table.build()
        tables.append(table)
    saved, restored = tables
    tf.train.Checkpoint(tables=trackable(inside(saved))).write(prefix)
    status = tf.train.Checkpoint(tables=trackable(inside(restored))).read(prefix)
    status.assert_existing_objects_matched().assert_consumed()
    np.testing.assert_array_equal(table_of(restored), table_of(saved))


@pytest.mark.parametrize("make", [lambda: keras.layers.Dense(2), lambda: {"a": [Embedding(3, 2)]}])
def test_layer_that_is_not_built_is_refused(make):
    with pytest.raises(UsageError, match="is not built, so its weights would be in no checkpoint"):
        trackable(make())


def test_optimizer_that_is_not_built_is_refused():
    with pytest.raises(UsageError, match=r"optimizer.build\(model.trainable_variables\) first"):
        trackable(optimizers.Adam())


def test_tables_of_one_name_are_refused_when_divided(servers):
    one = model("same")
    alone = optimizers.Adam()
    alone.build([*one.trainable_variables, *model("same").trainable_variables])
    assert len(trackable(alone)) == len(alone.variables)
    servers(2)
    first, second = model("same"), model("same")
    for each in (first, second):
        each(np.zeros((1, 2)))
    optimizer = optimizers.Adam()
    optimizer.build([*first.trainable_variables, *second.trainable_variables])
    with pytest.raises(UsageError, match="same0/embeddings_0: give the layers different names"):
        trackable(optimizer)


@pytest.mark.parametrize(("before", "after"), [(1, 1), (4, 1), (1, 4), (3, 2)])
def test_keras_file_is_loaded_in_other_shards(servers, tmp_path, before, after):
    servers(before)
    saved = trained(model())
    path = str(tmp_path / "model.keras")
    saved.save(path)
    servers(after)
    loaded = keras.saving.load_model(path, compile=False)
    np.testing.assert_array_equal(predictions(loaded), predictions(saved))


def test_keras_file_of_another_table(tmp_path):
    layer = Embedding(ROWS, WIDTH)
    layer.build()
    other = Embedding(ROWS + 1, WIDTH)
    other.build()
    store: dict[str, Any] = {}
    layer.save_own_variables(store)
    with pytest.raises(ValueError, match=f"has {ROWS + 1} rows of {WIDTH}"):
        other.load_own_variables(store)


def test_saved_model(servers, tmp_path):
    servers(3)
    made = trained(model())
    made.export(str(tmp_path / "saved"), verbose=False)
    served = tf.saved_model.load(str(tmp_path / "saved"))
    ids = np.arange(20).reshape(-1, 2)
    np.testing.assert_allclose(served.serve(ids), made(ids), rtol=1e-5)


def test_mixed_precision():
    layer = Embedding(ROWS, WIDTH, combiner="mean", dtype="mixed_bfloat16")
    found = layer(np.array([[1, 2]]))
    assert found.dtype == tf.bfloat16
    assert layer.shards[0].dtype == "float32"
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(np.array([[1, 2]])))
    # the table is not cast as a whole
    (gradient,) = tape.gradient(loss, [layer.shards[0].value])
    assert isinstance(gradient, tf.IndexedSlices)
    assert gradient.values.dtype == tf.float32


def test_inside_a_layer_that_is_built_by_being_called(tmp_path: Path):
    class Tower(keras.layers.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = Embedding(ROWS, WIDTH, combiner="sum")

        def call(self, ids: Any) -> Any:
            return self.embedding(ids)

    ids = keras.Input([2], dtype="int64")
    made = keras.Model(ids, Tower()(ids))
    layer = made.layers[-1].embedding
    np.testing.assert_allclose(
        made(np.array([[1, 2]])), vectors(layer, [[1, 2]]).sum(axis=1), rtol=1e-5
    )
