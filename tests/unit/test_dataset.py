"""A feed as tf.data, served by this process."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import write_feed

from tfos.errors import FeedError, UsageError
from tfos.feeding.dataset import FeedDataset
from tfos.feeding.reader import FeedReader, View
from tfos.feeding.reads import serve_reads
from tfos.feeding.schema import Column
from tfos.lake.run_directory import RunDirectory

ROWS = 23
COLUMNS = [
    Column("id", "int64"),
    Column("x", "float32"),
    Column("text", "string"),
    Column("pair", "int32", 2),
    Column("tags", "string", -1),
    Column("ok", "bool"),
    Column("y", "float32"),
    Column("w", "float64"),
]
VALUES = {
    "id": list(range(ROWS)),
    "x": [i / 2 for i in range(ROWS)],
    "text": [f"t{i}" for i in range(ROWS)],
    "pair": [[i, -i] for i in range(ROWS)],
    "tags": [[f"{i}/{k}" for k in range(i % 3)] for i in range(ROWS)],
    "ok": [i % 2 == 0 for i in range(ROWS)],
    "y": [float(i % 2) for i in range(ROWS)],
    "w": [i * 0.1 for i in range(ROWS)],
}


@pytest.fixture(scope="module")
def feed(tmp_path_factory):
    """(reader, manifest) of a feed of several shards."""
    lake = RunDirectory(str(tmp_path_factory.mktemp("lake")), "run")
    write_feed(lake, "train", COLUMNS, VALUES, [7, 0, 11, 5])
    reader = FeedReader(lake, str(tmp_path_factory.mktemp("cache")))
    return reader, reader.manifest("train")


@pytest.fixture
def make(feed):
    reader, manifest = feed
    serve_reads(reader)
    return lambda batch_size=4, **options: FeedDataset(manifest, batch_size, **options)


def ids(batches):
    return [int(i) for batch in batches for i in batch["id"]]


class TestTypes:
    def test_element_spec_is_that_of_the_columns(self, make):
        features, label, weight = make(label="y", weight="w").element_spec
        assert features == {
            "id": tf.TensorSpec([None], tf.int64),
            "x": tf.TensorSpec([None], tf.float32),
            "text": tf.TensorSpec([None], tf.string),
            "pair": tf.TensorSpec([None, 2], tf.int32),
            "tags": tf.RaggedTensorSpec([None, None], tf.string, 1, tf.int64),
            "ok": tf.TensorSpec([None], tf.bool),
        }
        assert label == tf.TensorSpec([None], tf.float32)
        assert weight == tf.TensorSpec([None], tf.float64)
        given = make(label="y", weight="w").positions(0, ROWS, 0).element_spec
        assert given == (features, label, weight)

    def test_values_of_a_batch(self, make):
        features, label, weight = next(iter(make(label="y", weight="w", shuffle=False)))
        assert features["id"].numpy().tolist() == [0, 1, 2, 3]
        assert features["x"].numpy().tolist() == [0.0, 0.5, 1.0, 1.5]
        assert features["text"].numpy().tolist() == [b"t0", b"t1", b"t2", b"t3"]
        assert features["pair"].numpy().tolist() == [[0, 0], [1, -1], [2, -2], [3, -3]]
        assert features["ok"].numpy().tolist() == [True, False, True, False]
        assert label.numpy().tolist() == [0.0, 1.0, 0.0, 1.0]
        np.testing.assert_allclose(weight, [0.0, 0.1, 0.2, 0.3])

    def test_ragged_column_is_a_ragged_tensor(self, make):
        for features in make(5, features=["id", "tags"]):
            assert isinstance(features["tags"], tf.RaggedTensor)
            assert features["tags"].to_list() == [
                [tag.encode() for tag in VALUES["tags"][i]] for i in features["id"].numpy()
            ]

    def test_without_a_label_an_element_is_the_features(self, make):
        element = next(iter(make(features=["id", "x"])))
        assert list(element) == ["id", "x"]

    def test_all_but_label_and_weight_are_features(self, make):
        features, _ = next(iter(make(label="y")))
        assert list(features) == ["id", "x", "text", "pair", "tags", "ok", "w"]

    def test_features_subset_keeps_its_order(self, make):
        dataset = make(features=["x", "id"], label="y")
        assert list(dataset.element_spec[0]) == ["x", "id"]
        assert [column.name for column in dataset.feature_columns] == ["x", "id"]

    def test_label_may_be_a_feature_too(self, make):
        features, label = next(iter(make(features=["y"], label="y")))
        assert features["y"].numpy().tolist() == label.numpy().tolist()


class TestEpochs:
    def test_one_iteration_gives_every_row_once(self, make):
        batches = list(make(4))
        assert sorted(ids(batches)) == list(range(ROWS))
        assert [len(batch["id"]) for batch in batches] == [4, 4, 4, 4, 4, 3]
        assert make(4).steps_per_epoch == len(batches)

    def test_next_iteration_is_a_new_order(self, make):
        dataset = make(4)
        first, second = ids(dataset), ids(dataset)
        assert sorted(first) == sorted(second)
        assert first != second
        again = make(4)
        assert [ids(again), ids(again)] == [first, second]

    def test_another_seed_is_another_order(self, make):
        assert ids(make(seed=1)) != ids(make(seed=2))

    def test_unshuffled_is_the_order_of_the_feed(self, make):
        dataset = make(4, shuffle=False)
        assert ids(dataset) == ids(dataset) == list(range(ROWS))

    def test_positions_are_any_rows_of_any_epoch(self, make):
        dataset = make(4)
        epochs = [ids(dataset), ids(dataset)]
        for start, stop in [(0, 0), (3, 4), (5, 17), (20, ROWS)]:
            assert ids(dataset.positions(start, stop, 1)) == epochs[1][start:stop]

    def test_positions_inside_a_function(self, make):
        dataset = make(4, shuffle=False)

        @tf.function(input_signature=[tf.TensorSpec([], tf.int64)] * 2)
        def total(start, stop):
            result = tf.constant(0, tf.int64)
            for batch in dataset.positions(start, stop, 0):
                result += tf.reduce_sum(batch["id"])
            return result

        assert int(total(3, 18)) == sum(range(3, 18))

    @pytest.mark.parametrize("columns", [["id", "pair"], ["id", "tags"], ["id", "text"]])
    @pytest.mark.parametrize("at_a_time", [1, 2, 3, 100])
    def test_batches_that_are_read_together(self, make, monkeypatch, columns, at_a_time):
        monkeypatch.setattr("tfos.feeding.selection._READ_VALUES", 8 * at_a_time)
        dataset = make(features=columns, label="y")
        whole = ids(features for features, _ in dataset.positions(0, ROWS, 3))
        for start in (0, 3, 8):
            for stop in (start, start + 3, 16, ROWS):
                batches = [features["id"] for features, _ in dataset.positions(start, stop, 3)]
                full, left = divmod(stop - start, 4)
                assert [len(batch) for batch in batches] == [4] * full + [left] * (left > 0)
                assert [int(i) for batch in batches for i in batch] == whole[start:stop]

    def test_rows_given_out_are_counted_never_ahead_of_the_loop(self, make):
        counted = []
        dataset = make(10, on_rows=lambda *given: counted.append(given))
        for number, _ in enumerate(dataset):
            assert len(counted) == number
        assert counted == [("train", 0, 10), ("train", 0, 10), ("train", 0, 3)]
        next(iter(dataset))
        assert len(counted) == 3


@pytest.mark.parametrize("shuffle", [True, False])
def test_what_is_computed_of_a_part_of_a_batch_does_not_change_the_feed(tmp_path, shuffle):
    """TensorFlow computes in the memory of a slice when it believes that nobody else has it."""
    lake, rows = RunDirectory(str(tmp_path / "lake"), "run"), 4096
    values = {"x": [row / rows for row in range(rows)]}
    manifest = write_feed(lake, "train", [Column("x", "float32")], values, [rows], rows)
    serve_reads(FeedReader(lake, str(tmp_path / "cache")))
    dataset = FeedDataset(manifest, 1024, shuffle=shuffle)

    @tf.function
    def total():
        batches = iter(dataset.positions(0, rows, 0))
        return tf.reduce_sum(tf.exp(next(batches)["x"][:512]))

    assert float(total()) == float(total()) == float(total())


class TestManyColumns:
    """Columns of one dtype are read, shuffled and cut as one array, and are given out by name."""

    COUNT = 40

    @pytest.fixture
    def wide(self, tmp_path):
        kinds = ["float32", "int64", "bool"]
        columns = [Column("tags", "int64", -1), Column("word", "string")]
        columns += [Column(f"{kind}{n}", kind) for n in range(self.COUNT) for kind in kinds]
        values = {
            "tags": [list(range(row % 3)) for row in range(ROWS)],
            "word": [f"w{row}" for row in range(ROWS)],
            **{f"float32{n}": [row + n / 64 for row in range(ROWS)] for n in range(self.COUNT)},
            **{f"int64{n}": [row * 100 + n for row in range(ROWS)] for n in range(self.COUNT)},
            **{f"bool{n}": [(row + n) % 3 == 0 for row in range(ROWS)] for n in range(self.COUNT)},
        }
        lake = RunDirectory(str(tmp_path / "wide"), "run")
        manifest = write_feed(lake, "train", columns, values, [9, ROWS - 9])
        return FeedReader(lake, str(tmp_path / "cache")), manifest, values

    @pytest.mark.parametrize("mapped", [False, True])
    def test_an_iterator_gives_a_block_as_one_component(self, wide, mapped):
        """Else each unit of steps takes as long to begin as hundreds of steps; map() wants all."""
        reader, manifest, values = wide
        serve_reads(reader)
        names = [name for name in values if name.startswith("float32")]
        dataset = FeedDataset(manifest, 5, names, "word", shuffle=False)
        if mapped:
            dataset = dataset.map(lambda features, label: (features, label))
        packed = dataset.positions(0, ROWS, 0, packed=True)
        components = len(tf.nest.flatten(packed.element_spec))
        assert components == (self.COUNT + 1 if mapped else 2)
        for batch, whole in zip(packed, dataset.positions(0, ROWS, 0), strict=True):
            unpacked = dataset.unpacked(batch)
            tf.nest.assert_same_structure(unpacked, whole)
            tf.nest.map_structure(np.testing.assert_array_equal, unpacked, whole)

    @pytest.mark.parametrize("others", [["tags", "word"], []], ids=["with others", "alone"])
    def test_values_are_those_of_the_feed(self, wide, others):
        reader, manifest, values = wide
        serve_reads(reader)
        names = [n for n in values if n not in ("tags", "word", "int640")]
        dataset = FeedDataset(manifest, 5, [*names, *others], "int640")
        doubled = dataset.map(lambda f, y: (f | {"twice": 2 * f["float320"]}, y))
        rows = []
        for features, label in doubled.positions(0, ROWS, 0):
            for at, y in enumerate(label.numpy()):
                row = int(y) // 100
                rows.append(row)
                assert all(features[name][at].numpy() == values[name][row] for name in names)
                assert features["twice"][at] == 2 * row
                if others:
                    assert features["tags"][at].numpy().tolist() == values["tags"][row]
                    assert features["word"][at] == values["word"][row]
        assert sorted(rows) == list(range(ROWS)) != rows

    def test_a_read_gives_an_array_for_each_dtype(self, wide):
        reader, _, values = wide
        names = tuple(name for name in values if name not in ("tags", "word"))
        wide = View("train", names, True, 0)
        assert [array.shape for array in reader.read(wide, 0, 2, 7)] == [(5, self.COUNT)] * 3
        few = View("train", names[:9], True, 0)
        assert [array.shape for array in reader.read(few, 0, 2, 7)] == [(5,)] * 9


class TestMap:
    def test_function_is_applied_to_features_and_label(self, make):
        dataset = make(label="y", shuffle=False).map(lambda f, y: ({"z": f["x"] * 2}, y + 1))
        assert list(dataset.element_spec[0]) == ["z"]
        features, label = next(iter(dataset))
        assert features["z"].numpy().tolist() == [0.0, 1.0, 2.0, 3.0]
        assert label.numpy().tolist() == [1.0, 2.0, 1.0, 2.0]

    def test_maps_follow_each_other_and_leave_the_first_dataset(self, make):
        dataset = make(features=["x"], shuffle=False)
        mapped = dataset.map(lambda f: {"x": f["x"] + 1}).map(lambda f: {"x": f["x"] * 10})
        assert next(iter(mapped))["x"].numpy().tolist() == [10.0, 15.0, 20.0, 25.0]
        assert next(iter(dataset))["x"].numpy().tolist() == [0.0, 0.5, 1.0, 1.5]


class TestInStep:
    """Processes that train in step: each iterates its own dataset."""

    @pytest.mark.parametrize("replicas", [2, 3, 30])
    @pytest.mark.parametrize("shuffle", [False, True])
    def test_every_row_is_given_to_one_of_them_in_as_many_batches(self, make, replicas, shuffle):
        given = []
        for replica in range(replicas):
            dataset = make(4, shuffle=shuffle, replica=replica, replicas=replicas)
            given.append([batch["id"].numpy().tolist() for batch in dataset])
            assert len(given[-1]) == dataset.steps_per_epoch == -(-ROWS // (4 * replicas))
        every = sorted(i for batches in given for batch in batches for i in batch)
        assert every == list(range(ROWS))

    @pytest.mark.parametrize("shuffle", [False, True])
    def test_whole_gives_all_rows_to_each_of_them(self, make, shuffle):
        expected = [batch["id"].numpy().tolist() for batch in make(4, shuffle=shuffle)]
        counted = []
        for replica in range(3):
            dataset = make(
                4, shuffle=shuffle, replica=replica, replicas=3,
                on_rows=lambda *given: counted.append(given),
            ).map(lambda batch: batch["id"])  # fmt: skip
            assert [batch.numpy().tolist() for batch in dataset.whole()] == expected
            assert sum(rows for *_, rows in counted) == ROWS * (replica + 1)
            assert sum(len(batch) for batch in dataset) < ROWS
            del counted[-dataset.steps_per_epoch :]

    def test_whole_is_divided_where_steps_are_made(self, make):
        dataset = make(4, replica=1, replicas=2)
        assert dataset.whole().steps_per_epoch == dataset.steps_per_epoch

    def test_padded_batch_has_a_row_where_there_is_none(self, make):
        one = tf.constant(0, tf.int64)
        for replica in range(30):
            dataset = make(4, shuffle=False, replica=replica, replicas=30)
            (batch,) = dataset.positions(one, tf.constant(ROWS, tf.int64), 0, padded=True)
            assert len(batch["id"]) == 1

    def test_rows_are_counted_for_all_of_them(self, make):
        counted = []
        dataset = make(4, replica=1, replicas=2, on_rows=lambda *given: counted.append(given))
        for _ in dataset:
            pass
        assert counted == [("train", 0, 8), ("train", 0, 8), ("train", 0, 7)]


class TestPerWorker:
    """What ClusterCoordinator.create_per_worker_dataset makes of it, in one process at a time."""

    def test_repeats_epoch_after_epoch(self, make):
        dataset = make(5)
        epochs = [ids(dataset), ids(dataset)]
        batches = list(dataset().take(2 * dataset.steps_per_epoch))
        assert [ids(batches[:5]), ids(batches[5:])] == epochs

    def test_workers_share_every_epoch(self, feed):
        seen = []
        for index in range(3):
            serve_reads(feed[0], index, 3)
            rows = ROWS * (index + 1) // 3 - ROWS * index // 3
            seen += ids(FeedDataset(feed[1], 4)().take(-(-rows // 4)))
        assert sorted(seen) == list(range(ROWS))


class TestErrors:
    @pytest.mark.parametrize("use", ["fit", "evaluate", "predict"])
    def test_keras_own_loops_name_those_of_the_context(self, make, use):
        inputs = keras.Input([], dtype="int64")
        model = keras.Model(inputs, inputs + 1)
        model.compile(loss="mse")
        with pytest.raises(UsageError, match=rf"ctx.{use}\(model, dataset\)"):
            getattr(model, use)(make(features="id", label="y"))

    @pytest.mark.parametrize(
        ("use", "remedy"),
        [
            (lambda d: d.take(1), "`for batch in dataset:` and break"),
            (lambda d: d.batch(8), r"ctx.dataset\(..., batch_size=...\)"),
            (lambda d: d.shuffle(100), "shuffle=True, seed=..."),
            (lambda d: d.repeat(3), "epochs=..."),
            (lambda d: d.prefetch(2), "leave it out"),
            (lambda d: d.cache(), "leave it out"),
            (lambda d: d.skip(2), "pre_train"),
            (lambda d: d.filter(bool), "pre_train"),
            (lambda d: d.as_numpy_iterator(), "`for batch in dataset:`"),
        ],
    )
    def test_methods_of_tf_data_name_what_takes_their_place(self, make, use, remedy):
        with pytest.raises(UsageError, match=f"is no tf.data.Dataset: .*{remedy}"):
            use(make())

    def test_what_nobody_has_is_an_attribute_error_of_pythons(self, make):
        with pytest.raises(AttributeError, match="'FeedDataset' object has no attribute 'tkae'"):
            _ = make().tkae
        assert not hasattr(make(), "take")

    @pytest.mark.parametrize(
        "options", [{"features": ["nope"]}, {"label": "nope"}, {"label": "y", "weight": "nope"}]
    )
    def test_unknown_column_lists_those_there_are(self, make, options):
        with pytest.raises(FeedError, match=r"'train'.*'nope'.*'tags'"):
            make(**options)

    @pytest.mark.parametrize("size", [0, -4])
    def test_batch_size_below_1(self, make, size):
        with pytest.raises(FeedError, match=f"batch_size is {size}"):
            make(size)

    def test_weight_without_label(self, make):
        with pytest.raises(FeedError, match=r"weight='w'.*label"):
            make(weight="w")
