"""Column types of a feed, which arrays are dense, and the manifest."""

from __future__ import annotations

import json

import pytest

from tfos.errors import FeedError
from tfos.feeding.schema import (
    Column,
    Manifest,
    Shard,
    columns_of,
    manifest_path,
    resolve_lengths,
)

SCALARS = {
    "tinyint": "int8",
    "smallint": "int16",
    "int": "int32",
    "bigint": "int64",
    "float": "float32",
    "double": "float64",
    "boolean": "bool",
    "string": "string",
}


class TestColumnsOf:
    @pytest.mark.parametrize(("spark_type", "dtype"), SCALARS.items())
    def test_scalar_types(self, spark_type, dtype):
        assert columns_of("train", [("x", spark_type)]) == (Column("x", dtype, None),)

    @pytest.mark.parametrize(("spark_type", "dtype"), SCALARS.items())
    def test_arrays_are_ragged_until_the_data_is_seen(self, spark_type, dtype):
        (column,) = columns_of("train", [("x", f"array<{spark_type}>")])
        assert column == Column("x", dtype, -1)
        assert column.is_ragged

    def test_order_is_kept(self):
        names = [c.name for c in columns_of("t", [("b", "int"), ("a", "int"), ("c", "string")])]
        assert names == ["b", "a", "c"]

    @pytest.mark.parametrize(
        "spark_type",
        ["date", "timestamp", "decimal(10,2)", "binary", "map<string,int>", "struct<a:int>"],
    )
    @pytest.mark.parametrize("shape", ["{}", "array<{}>"])
    def test_unsupported_type_is_named_with_column_feed_and_remedy(self, spark_type, shape):
        spark_type = shape.format(spark_type)
        with pytest.raises(FeedError) as caught:
            columns_of("eval", [("good", "int"), ("bad", spark_type)])
        message = str(caught.value)
        for part in ("'bad'", "'eval'", spark_type, "cast", "bigint"):
            assert part in message

    def test_array_of_arrays_is_refused(self):
        with pytest.raises(FeedError, match="array<array<int>>"):
            columns_of("train", [("x", "array<array<int>>")])

    def test_two_columns_of_one_name_are_refused(self):
        with pytest.raises(FeedError, match=r"two columns named 'id'.*rename"):
            columns_of("train", [("id", "int"), ("x", "int"), ("id", "string")])

    def test_no_columns_are_refused(self):
        with pytest.raises(FeedError, match="'train' has no columns"):
            columns_of("train", [])


class TestResolveLengths:
    RAGGED = Column("x", "float32", -1)

    def resolve(self, *spans):
        """The column x of feeds f0, f1, ... whose arrays span the given lengths."""
        feeds = {f"f{i}": (self.RAGGED,) for i in range(len(spans))}
        lengths = {f"f{i}": {"x": span} if span else {} for i, span in enumerate(spans)}
        return [columns[0].length for columns in resolve_lengths(feeds, lengths).values()]

    def test_one_length_everywhere_is_dense(self):
        assert self.resolve((3, 3)) == [3]
        assert self.resolve((3, 3), (3, 3)) == [3, 3]

    def test_lengths_that_differ_inside_a_feed_are_ragged(self):
        assert self.resolve((2, 3)) == [-1]

    def test_lengths_that_differ_between_feeds_are_ragged_in_both(self):
        assert self.resolve((3, 3), (4, 4)) == [-1, -1]

    def test_one_ragged_feed_makes_the_others_ragged(self):
        assert self.resolve((3, 3), (0, 3)) == [-1, -1]

    def test_only_empty_arrays_are_ragged(self):
        assert self.resolve((0, 0)) == [-1]

    def test_feed_without_rows_has_no_say(self):
        assert self.resolve((3, 3), None) == [3, 3]

    def test_feed_without_the_column_has_no_say(self):
        other = Column("y", "int64")
        resolved = resolve_lengths(
            {"train": (self.RAGGED,), "eval": (other,)}, {"train": {"x": (2, 2)}, "eval": {}}
        )
        assert resolved == {"train": (Column("x", "float32", 2),), "eval": (other,)}

    def test_scalar_column_stays_scalar(self):
        scalar = Column("x", "int64")
        resolved = resolve_lengths(
            {"a": (scalar,), "b": (self.RAGGED,)}, {"a": {}, "b": {"x": (2, 2)}}
        )
        assert resolved["a"] == (scalar,)
        assert resolved["b"][0].length == 2


class TestManifest:
    MANIFEST = Manifest(
        "train",
        (Column("id", "int64"), Column("tags", "string", -1), Column("v", "float32", 4)),
        (Shard("feed/train/0.arrow", 10, 800), Shard("feed/train/1.arrow", 0, 0)),
    )

    def test_json_round_trip(self):
        record = json.loads(json.dumps(self.MANIFEST.as_json()))
        assert Manifest.from_json(record) == self.MANIFEST

    def test_rows_and_bytes_are_those_of_all_shards(self):
        two = Manifest("f", (), (Shard("a", 10, 800), Shard("b", 5, 7)))
        assert (two.rows, two.bytes) == (15, 807)

    def test_column_by_name(self):
        assert self.MANIFEST.column("tags").is_ragged
        assert not self.MANIFEST.column("v").is_ragged

    def test_unknown_column_lists_those_there_are(self):
        with pytest.raises(FeedError) as caught:
            self.MANIFEST.column("nope")
        for part in ("'train'", "'nope'", "'id'", "'tags'"):
            assert part in str(caught.value)

    def test_lies_beside_its_shards(self):
        assert manifest_path("eval") == "feed/eval/manifest.json"
