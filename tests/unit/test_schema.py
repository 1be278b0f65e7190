"""Which arrays of a feed are dense, and the manifest."""

from __future__ import annotations

import json

import pytest

from tfos.errors import FeedError
from tfos.feeding.schema import Column, Manifest, Shard, resolve_lengths
from tfos.lake.run_directory import manifest_path


class TestResolveLengths:
    RAGGED = Column("x", "float32", -1)

    def resolve(self, *spans, column=RAGGED):
        """The shapes of column x of feeds f0, f1, ... whose arrays have the given spans."""
        feeds = {f"f{i}": (column,) for i in range(len(spans))}
        seen = {f"f{i}": {"x": span} if span else {} for i, span in enumerate(spans)}
        return [columns[0].shape for columns in resolve_lengths(feeds, seen).values()]

    def test_one_length_everywhere_is_dense(self):
        assert self.resolve([(3, 3)]) == [(3,)]
        assert self.resolve([(3, 3)], [(3, 3)]) == [(3,), (3,)]

    def test_lengths_that_differ_inside_a_feed_are_ragged(self):
        assert self.resolve([(2, 3)]) == [(-1,)]

    def test_lengths_that_differ_between_feeds_are_ragged_in_both(self):
        assert self.resolve([(3, 3)], [(4, 4)]) == [(-1,), (-1,)]

    def test_one_ragged_feed_makes_the_others_ragged(self):
        assert self.resolve([(3, 3)], [(0, 3)]) == [(-1,), (-1,)]

    def test_only_empty_arrays_are_ragged(self):
        assert self.resolve([(0, 0)]) == [(-1,)]

    def test_feed_without_rows_has_no_say(self):
        assert self.resolve([(3, 3)], None) == [(3,), (3,)]

    @pytest.mark.parametrize(
        ("spans", "shape"),
        [
            ([[(2, 2), (3, 3)]], (2, 3)),
            ([[(2, 2), (3, 3)], [(2, 2), (3, 3)]], (2, 3)),
            ([[(1, 2), (3, 3)]], (-1, -1)),
            ([[(2, 2), (3, 4)]], (-1, -1)),
            ([[(2, 2), (3, 3)], [(2, 2), (4, 4)]], (-1, -1)),
            ([[(2, 2), (0, 0)]], (-1, -1)),
            ([[(0, 0)]], (-1, -1)),
            ([[(2, 2), (3, 3)], [(0, 0)]], (-1, -1)),
        ],
    )
    def test_arrays_of_arrays_are_dense_when_both_lengths_are_fixed(self, spans, shape):
        column = Column("x", "float32", -1, -1)
        assert self.resolve(*spans, column=column) == [shape] * len(spans)

    def test_a_sparse_vector_stays_sparse(self):
        column = Column("x", "float64", -1, sparse=True)
        resolved = resolve_lengths({"f": (column,)}, {"f": {"x": [(9, 9)]}})
        assert resolved["f"] == (Column("x", "float64", 9, sparse=True),)

    def test_feed_without_the_column_has_no_say(self):
        other = Column("y", "int64")
        resolved = resolve_lengths(
            {"train": (self.RAGGED,), "eval": (other,)}, {"train": {"x": [(2, 2)]}, "eval": {}}
        )
        assert resolved == {"train": (Column("x", "float32", 2),), "eval": (other,)}

    def test_scalar_column_stays_scalar(self):
        scalar = Column("x", "int64")
        resolved = resolve_lengths(
            {"a": (scalar,), "b": (self.RAGGED,)}, {"a": {}, "b": {"x": [(2, 2)]}}
        )
        assert resolved["a"] == (scalar,)
        assert resolved["b"][0].length == 2


class TestManifest:
    MANIFEST = Manifest(
        "train",
        (
            Column("id", "int64"),
            Column("tags", "string", -1),
            Column("v", "float32", 4),
            Column("grid", "int8", 2, 3),
            Column("wide", "float64", 1000, sparse=True),
        ),
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
