"""From DataFrames to committed feeds, with a DataFrame that is a list of Arrow batches."""

from __future__ import annotations

import contextlib
import decimal
import threading
import time

import pyarrow as pa
import pytest
from helpers import Frame
from spark_types import VECTOR, VECTOR_TYPE, array, map_of

from tfos.errors import FeedError, LakeError
from tfos.feeding.arrived import ArrivedReader
from tfos.feeding.convert import inspect
from tfos.feeding.feed import Feed
from tfos.feeding.reader import FeedReader, View
from tfos.feeding.schema import Column, Manifest
from tfos.feeding.writer import can_stream, open_feed, stream_feed, write_feeds
from tfos.lake.run_directory import RunDirectory, manifest_path


@pytest.fixture
def lake(tmp_path):
    lake = RunDirectory(str(tmp_path / "lake"), "run")
    lake.write_json("spec.json", {})
    return lake


@pytest.fixture
def write(lake):
    """Writes feeds; returns their manifests."""
    records = {}

    def publish(feed, partition, record):
        return records.setdefault(feed, {}).setdefault(partition, record) is record

    def written(**feeds):
        return write_feeds(
            feeds,
            lake,
            lambda: contextlib.nullcontext(publish),
            lambda name: records.get(name, {}),
        )

    return written


def dense(*values):
    return {"type": 1, "size": None, "indices": None, "values": list(values)}


def sparse(size, **values):
    indices = [int(name[1:]) for name in values]
    return {"type": 0, "size": size, "indices": indices, "values": list(values.values())}


LONG, TEXT = ("long", pa.int64()), ("string", pa.string())
LONGS = (array("long"), pa.list_(pa.int64()))


class TestFeeds:
    def test_rows_are_those_of_all_partitions(self, lake, write, tmp_path):
        rows = [{"x": i, "s": f"s{i}"} for i in range(7)]
        frame = Frame({"x": LONG, "s": TEXT}, rows[:5], [], rows[5:])
        manifest = write(train=Feed(frame))["train"]
        assert manifest.rows == 7
        assert manifest.columns == (Column("x", "int64"), Column("s", "string"))
        read = FeedReader(lake, str(tmp_path)).read(View("train", ("s", "x"), False, 0), 0, 0, 7)
        assert [array.tolist() for array in read] == [
            [row["s"].encode() for row in rows],
            [row["x"] for row in rows],
        ]

    def test_rows_are_collected_while_a_shard_is_on_its_way(self, lake, write, monkeypatch):
        monkeypatch.setattr("tfos.feeding.partition.SHARD_BYTES", 1)
        collected, put = threading.Event(), lake.write

        def slow(path, data, is_secret=False):
            if path.endswith("-0.arrow"):
                assert collected.wait(20)
            put(path, data)

        def note(batch, layout):
            if batch.column(0)[0].as_py() == 3:
                collected.set()
            return inspect(batch, layout)

        monkeypatch.setattr(lake, "write", slow)
        monkeypatch.setattr("tfos.feeding.partition.inspect", note)
        manifest = write(train=Feed(Frame({"x": LONG}, [{"x": i} for i in range(1, 8)])))["train"]
        assert [shard.rows for shard in manifest.shards] == [2, 2, 2, 1]
        assert all(lake.exists(shard.path) for shard in manifest.shards)

    @pytest.mark.parametrize("number", [0, 1, 3])
    def test_shard_that_cannot_be_written(self, lake, write, monkeypatch, number):
        monkeypatch.setattr("tfos.feeding.partition.SHARD_BYTES", 1)
        put = lake.write

        def full(path, data, is_secret=False):
            if path.endswith(f"-{number}.arrow"):
                raise LakeError("no space")
            put(path, data)

        monkeypatch.setattr(lake, "write", full)
        with pytest.raises(LakeError, match="no space"):
            write(train=Feed(Frame({"x": LONG}, [{"x": i} for i in range(7)])))
        assert lake.list("feed/train") == []

    def test_lengths_are_decided_over_all_feeds(self, write):
        fields = {"same": LONGS, "differ": LONGS}
        train = Frame(fields, [{"same": [1, 2], "differ": [1]}], [{"same": [3, 4], "differ": [2]}])
        other = Frame(fields, [{"same": [5, 6], "differ": [1, 2]}])
        for manifest in write(train=Feed(train), eval=Feed(other)).values():
            assert [column.shape for column in manifest.columns] == [(2,), (-1,)]

    def test_inner_lengths_are_decided_over_all_partitions(self, write):
        fields = {"x": (array(array("long")), pa.list_(pa.list_(pa.int64())))}
        rows = [{"x": [[1, 2, 3], [4, 5, 6]]}, {"x": [[7, 8, 9], [1, 2, 3]]}]
        (column,) = write(train=Feed(Frame(fields, rows, rows[:1])))["train"].columns
        assert column == Column("x", "int64", 2, 3)
        (column,) = write(other=Feed(Frame(fields, rows, [{"x": [[1], [2]]}])))["other"].columns
        assert column == Column("x", "int64", -1, -1)

    def test_sparse_vectors(self, lake, write, tmp_path):
        rows = [{"v": sparse(9, i3=1.0)}, {"v": dense(*[0.0] * 8, 5.0)}]
        frame = Frame({"v": (VECTOR, VECTOR_TYPE)}, rows)
        manifest = write(train=Feed(frame, sparse=["v"]))["train"]
        assert manifest.columns == (Column("v", "float64", 9, sparse=True),)
        read = FeedReader(lake, str(tmp_path)).read(View("train", ("v",), False, 0), 0, 0, 2)
        assert [a.tolist() for a in read] == [[[0, 3], [1, 8]], [1.0, 5.0], [2, 9]]

    def test_fills(self, lake, write, tmp_path):
        frame = Frame({"x": LONG, "l": LONGS}, [{"x": None, "l": [1]}, {"x": 2, "l": None}])
        write(train=Feed(frame, fill={"x": -1, "l": []}))
        read = FeedReader(lake, str(tmp_path)).read(View("train", ("x", "l"), False, 0), 0, 0, 2)
        assert [array.tolist() for array in read] == [[-1, 2], [1], [0, 1, 1]]


class TestErrors:
    def refused(self, lake, write, **feeds):
        with pytest.raises(FeedError) as caught:
            write(**feeds)
        assert not lake.exists("feed/train/manifest.json")
        return str(caught.value)

    def test_nulls_of_all_partitions_are_counted(self, lake, write):
        rows = [{"x": None, "l": [1, None]}, {"x": 1, "l": None}]
        frame = Frame({"x": LONG, "l": LONGS}, rows, rows, [{"x": 1, "l": [1]}])
        message = self.refused(lake, write, train=Feed(frame))
        for part in (
            "'train'", "'x' has 2", "'l' has 2", "elements of 'l' have 2", "dropna",
            "tfos.Feed(df, fill={'l': ..., 'x': ...})", "isNotNull",
        ):  # fmt: skip
            assert part in message

    def test_null_map_is_named_as_fill_has_it(self, lake, write):
        frame = Frame(
            {"m": (map_of("string", "long"), pa.map_(pa.string(), pa.int64()))}, [{"m": None}]
        )
        message = self.refused(lake, write, train=Feed(frame))
        assert "'m' has 1;" in message
        assert "isNotNull" not in message

    def test_decimal_that_does_not_fit_is_no_failure_of_the_task(self, lake, write):
        frame = Frame(
            {"n": ("decimal(38,0)", pa.decimal128(38, 0))}, [{"n": decimal.Decimal(10) ** 20}]
        )
        message = self.refused(lake, write, train=Feed(frame, decimal={"n": "int64"}))
        for part in ("'n'", "'train'", "int64"):
            assert part in message

    @pytest.mark.parametrize("declared", [{}, {"sparse": ["v"]}])
    def test_vectors_of_several_sizes(self, lake, write, declared):
        fields = {"v": (VECTOR, VECTOR_TYPE)}
        frame = Frame(fields, [{"v": dense(1.0, 2.0)}], [{"v": sparse(3)}])
        with pytest.raises(FeedError, match=r"'v' of feed 'train'.* 2 to 3 dimensions"):
            write(train=Feed(frame, **declared))
        assert not lake.exists("feed/train/manifest.json")

    def test_partition_that_the_registry_does_not_know(self, lake):
        """Its shards are not thrown away as those of a killed task."""
        known = {}

        def publish(feed, partition, record):
            known.update({partition: record} if partition != 1 else {})
            return True

        frame = Frame({"x": LONG}, [{"x": 1}], [{"x": 2}], [{"x": 3}])
        with pytest.raises(FeedError, match=r"has 3 partitions.* those numbered \[1\]"):
            write_feeds(
                {"train": Feed(frame)},
                lake,
                lambda: contextlib.nullcontext(publish),
                lambda name: known,
            )
        assert [file[:8] for file in lake.list("feed/train")] == [f"00000{n}-{n}" for n in range(3)]

    def test_feed_without_rows(self, lake, write):
        with pytest.raises(FeedError, match="'train' has no rows"):
            write(train=Feed(Frame({"v": (VECTOR, VECTOR_TYPE)}, [], [])))

    def test_all_declarations_are_checked_before_the_first_job(self, lake, write):
        good, bad = Frame({"x": LONG}, [{"x": 1}]), Frame({"x": LONG}, [{"x": 1}])
        message = self.refused(lake, write, train=Feed(good), eval=Feed(bad, sparse=["x"]))
        assert "'eval'" in message and "sparse=" in message


class TestStream:
    @pytest.fixture
    def stream(self, lake):
        """Writes a feed that can be read as it comes; returns what there was of it, and its end."""
        records = {}

        def run(frame, at_each=lambda: None):
            def publish(feed, partition, record):
                records.setdefault(feed, {})[partition] = record
                at_each()
                return True

            feed = Feed(frame)
            assert can_stream(feed.layout("train"))
            opened = open_feed(lake, feed.layout("train"))
            return stream_feed(
                feed, opened, lake, lambda: contextlib.nullcontext(publish),
                lambda name: dict(records.get(name, {})), lambda: False,
            )  # fmt: skip

        return run

    def test_shards_can_be_read_as_they_come(self, lake, stream, monkeypatch):
        monkeypatch.setattr("tfos.feeding.writer._TELL_SECS", 0.01)
        here = []

        def wait_until_told():
            deadline = time.monotonic() + 20
            wanted = len(here) + 1
            while len(ArrivedReader(lake, "train").look().shards) < wanted:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            here.append(FeedReader(lake, "").arrived("train"))

        frame = Frame({"x": LONG}, [{"x": 1}, {"x": 2}], [{"x": 3}])
        manifest = stream(frame, wait_until_told)
        assert [(each.rows, each.complete) for each in here] == [(2, False), (3, False)]
        assert (manifest.rows, manifest.complete, manifest.arrival) == (3, True, (0, 1))
        assert Manifest.from_json(lake.read_json(manifest_path("train"))) == manifest
        assert manifest.shards == here[-1].shards

    @pytest.mark.parametrize(
        ("partitions", "words"), [([[]], "has no rows"), ([[{"x": 1}], [{"x": None}]], "nulls")]
    )
    def test_errors_leave_no_complete_feed(self, lake, stream, partitions, words):
        with pytest.raises(FeedError, match=words):
            stream(Frame({"x": LONG}, *partitions))
        assert not lake.exists(manifest_path("train"))

    @pytest.mark.parametrize("kind", [LONGS, (VECTOR, VECTOR_TYPE)])
    def test_columns_whose_shape_is_a_fact_of_the_data_cannot_stream(self, kind):
        assert not can_stream(Feed(Frame({"x": LONG, "y": kind})).layout("train"))
