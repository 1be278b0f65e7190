"""What the readers of a feed see of its shards while it is being written."""

from __future__ import annotations

from collections import Counter

import pytest

from tfos.errors import LakeError
from tfos.feeding.arrived import BLOCK, ArrivedReader, ArrivedWriter
from tfos.feeding.schema import Column, Manifest, Shard
from tfos.lake.run_directory import RunDirectory, arrived_path, increment_path, is_arrival

OPENED = Manifest("train", (Column("x", "int64"),), (), complete=False)
SHARDS = tuple(Shard(f"feed/train/{number}.arrow", number, 100) for number in range(3 * BLOCK))


class Lake(RunDirectory):
    """Counts what is written and read, and fails where the test says."""

    def __init__(self, *where):
        super().__init__(*where)
        self.written, self.read_from = [], Counter()
        self.fails = lambda path: False

    def write(self, path, data, is_secret=False):
        super().write(path, data, is_secret)
        self.written.append((path, len(data)))
        if self.fails(path):
            raise LakeError(f"nobody knows whether {path} is there")

    def read(self, path):
        self.read_from[path] += 1
        return super().read(path)


@pytest.fixture
def lake(tmp_path):
    return Lake(str(tmp_path), "run")


@pytest.fixture
def writer(lake):
    writer = ArrivedWriter(lake, OPENED)
    writer.begin()
    return writer


def test_readers_see_them_in_the_order_in_which_they_came(lake, writer):
    reader = ArrivedReader(lake, "train")
    assert reader.look() == OPENED
    for count in (0, 3, 3, 4, 90):
        writer.tell(SHARDS[:count])
        for each in (reader, ArrivedReader(lake, "train")):
            found = each.look()
            assert (found.shards, found.columns) == (SHARDS[:count], OPENED.columns)
            assert not found.complete


def test_what_is_written_depends_on_what_is_new(lake, writer):
    for count in range(1, len(SHARDS) + 1):
        writer.tell(SHARDS[:count])
    assert len(set(lake.written)) == len(lake.written)  # no file twice
    one = lake.written[1][1]
    blocks = [size for path, size in lake.written if f"-{BLOCK}.json" in path]
    assert len(blocks) == 3 and max(blocks) < 1.1 * BLOCK * one
    assert sum(size for _, size in lake.written) < 2.5 * len(SHARDS) * one


def test_who_comes_late_reads_few_files_and_who_follows_each_once(lake, writer):
    reader = ArrivedReader(lake, "train")
    for count in range(1, len(SHARDS)):
        writer.tell(SHARDS[:count])
        reader.look()
    assert set(lake.read_from.values()) == {1}
    lake.read_from.clear()
    assert ArrivedReader(lake, "train").look().shards == SHARDS[:-1] == reader.look().shards
    assert sum(lake.read_from.values()) == 1 + 2 + BLOCK - 1


def test_file_that_shows_late_hides_those_behind_it(lake, writer):
    reader = ArrivedReader(lake, "train")
    for count in (1, 2, 3):
        writer.tell(SHARDS[:count])
    late = increment_path("train", 1, 1)
    data = lake.read(late)
    lake.remove(late)
    assert reader.look().shards == SHARDS[:1]
    lake.write(late, data)
    assert reader.look().shards == SHARDS[:3]


def test_file_that_may_have_been_read_is_written_as_it_was(lake, writer):
    """A storage may fail when the file is there, and somebody reads it before the next try."""
    reader = ArrivedReader(lake, "train")
    lake.fails = lambda path: True
    for count in (2, 5):
        with pytest.raises(LakeError):
            writer.tell(SHARDS[:count])
        assert reader.look().shards == SHARDS[:2]
    lake.fails = lambda path: False
    writer.tell(SHARDS[:5])
    assert reader.look().shards == ArrivedReader(lake, "train").look().shards == SHARDS[:5]


def test_block_that_fails_is_done_without(lake, writer):
    lake.fails = lambda path: f"-{BLOCK}.json" in path
    for count in range(1, BLOCK):
        writer.tell(SHARDS[:count])
    with pytest.raises(LakeError):
        writer.tell(SHARDS[:BLOCK])
    lake.remove(increment_path("train", 0, BLOCK))
    writer.tell(SHARDS[: BLOCK + 1])
    assert ArrivedReader(lake, "train").look().shards == SHARDS[: BLOCK + 1]


def test_files_are_told_from_shards():
    paths = [arrived_path("train"), increment_path("train", 7, 1), increment_path("train", 64, 64)]
    assert all(is_arrival(path.rpartition("/")[2]) for path in paths)
    assert not any(map(is_arrival, ["manifest.json", "arrived-1.arrow", "000001-0.arrow"]))


def test_feed_that_is_not_there(lake):
    with pytest.raises(LakeError, match="arrived"):
        ArrivedReader(lake, "train").look()
