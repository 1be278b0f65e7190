"""Shards read back: every type, every cut, every row once."""

from __future__ import annotations

import itertools
import threading
from dataclasses import replace

import numpy as np
import pytest
from helpers import arrive, write_feed

from tfos.errors import FeedError, LakeError
from tfos.feeding.reader import FeedReader, View
from tfos.feeding.schema import Column
from tfos.lake.run_directory import (
    RunDirectory,
    arrived_path,
    increment_path,
    manifest_path,
)
from tfos.spec.times import TIMES

ROWS = 53
SHARDS = [10, 0, 1, 25, 17]
WINDOW = 8
NUMBERS = ["int8", "int16", "int32", "int64", "float32", "float64"]
COLUMNS = [
    Column("id", "int64"),
    *[Column(f"n_{dtype}", dtype) for dtype in NUMBERS],
    Column("flag", "bool"),
    Column("text", "string"),
    Column("dense", "float32", 3),
    Column("dense_flag", "bool", 2),
    Column("dense_text", "string", 2),
    Column("ragged", "int32", -1),
    Column("ragged_text", "string", -1),
    Column("ragged_flag", "bool", -1),
]


def length(i):
    """The length of row i's ragged arrays: several are empty, the first and last among them."""
    return 0 if i in (0, ROWS - 1) else i % 4


VALUES = {
    "id": list(range(ROWS)),
    **{f"n_{dtype}": [i - 20 for i in range(ROWS)] for dtype in NUMBERS},
    "flag": [i % 3 == 0 for i in range(ROWS)],
    "text": ["" if i == 4 else f"zeile-{i} é" for i in range(ROWS)],
    "dense": [[i, i + 0.5, -i] for i in range(ROWS)],
    "dense_flag": [[i % 2 == 0, i % 5 == 0] for i in range(ROWS)],
    "dense_text": [[f"a{i}", "ü" * (i % 3)] for i in range(ROWS)],
    "ragged": [[i * 10 + k for k in range(length(i))] for i in range(ROWS)],
    "ragged_text": [[f"{i}/{k}" for k in range(length(i + 1))] for i in range(ROWS)],
    "ragged_flag": [[(i + k) % 2 == 0 for k in range(length(i + 2))] for i in range(ROWS)],
}


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    lake = RunDirectory(str(tmp_path_factory.mktemp("lake")), "run")
    write_feed(lake, "train", COLUMNS, VALUES, SHARDS)
    return lake


@pytest.fixture(params=[1, 3], ids=["alone", "one of 3"])
def reader(lake, tmp_path, monkeypatch, request):
    # small windows: batches cross them, and windows cross shards
    monkeypatch.setattr("tfos.feeding.reader.window_rows", lambda rows, size: WINDOW)
    return FeedReader(lake, str(tmp_path), readers=request.param)


def view(*columns, shuffle=True, seed=0):
    return View("train", columns, shuffle, seed)


def plain(column, arrays):
    """The arrays that a read gives for one column, as a list of Python values, one per row."""
    if not column.is_ragged:
        values = arrays.pop(0)
        if column.dtype != "string":
            return values.tolist()
        decode = np.vectorize(bytes.decode, otypes=[object])
        return decode(values).tolist() if values.size else []
    values, splits = arrays.pop(0), arrays.pop(0)
    if column.dtype == "string":
        values = np.array([value.decode() for value in values], dtype=object)
    return [values[a:b].tolist() for a, b in itertools.pairwise(splits)]


def by_name(name):
    return next(column for column in COLUMNS if column.name == name)


class TestTypes:
    @pytest.mark.parametrize("column", COLUMNS, ids=lambda c: c.name)
    @pytest.mark.parametrize("cut", [(0, ROWS), (5, 31), (9, 10), (ROWS - 1, ROWS)])
    def test_unshuffled_values_are_those_written(self, reader, column, cut):
        arrays = reader.read(view(column.name, shuffle=False), 0, *cut)
        assert plain(column, arrays) == VALUES[column.name][slice(*cut)]
        assert not arrays

    @pytest.mark.parametrize("column", COLUMNS[1:], ids=lambda c: c.name)
    def test_shuffled_values_stay_with_their_row(self, reader, column):
        arrays = reader.read(view("id", column.name), 3, 2, 49)
        ids = arrays.pop(0).tolist()
        assert plain(column, arrays) == [VALUES[column.name][i] for i in ids]

    @pytest.mark.parametrize("shuffle", [True, False])
    def test_dtypes_and_shapes(self, reader, shuffle):
        for column in COLUMNS:
            first, *rest = reader.read(view(column.name, shuffle=shuffle), 0, 3, 20)
            wanted = object if column.dtype == "string" else column.dtype
            assert first.dtype == np.dtype(wanted), column
            if column.is_ragged:
                (splits,) = rest
                assert (splits.dtype, splits.shape, splits[0]) == (np.int64, (18,), 0)
                assert splits[-1] == len(first)
            else:
                assert not rest
                assert first.shape == ((17,) if column.length is None else (17, column.length))

    def test_strings_are_bytes(self, reader):
        (texts,) = reader.read(view("text", shuffle=False), 0, 3, 5)
        assert texts.tolist() == ["zeile-3 é".encode(), b""]

    def test_columns_come_in_the_order_of_the_view(self, reader):
        ragged_first = reader.read(view("ragged", "id", "n_int8", shuffle=False), 0, 1, 4)
        assert [array.tolist() for array in ragged_first] == [
            [10, 20, 21, 30, 31, 32],
            [0, 1, 3, 6],
            [1, 2, 3],
            [-19, -18, -17],
        ]

    @pytest.mark.parametrize("shuffle", [True, False])
    @pytest.mark.parametrize("at", [0, 5, WINDOW, ROWS])
    def test_no_rows_at_all(self, reader, shuffle, at):
        for column in COLUMNS:
            first, *rest = reader.read(view(column.name, shuffle=shuffle), 0, at, at)
            assert first.dtype == np.dtype(object if column.dtype == "string" else column.dtype)
            assert len(first) == 0
            assert [splits.tolist() for splits in rest] == [[0]] * column.is_ragged

    def test_batch_of_empty_arrays_only(self, reader):
        values, splits = reader.read(view("ragged", shuffle=False), 0, 0, 1)
        assert (values.dtype, values.tolist(), splits.tolist()) == (np.int32, [], [0, 0])

    @pytest.mark.parametrize("shuffle", [True, False])
    @pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.name)
    def test_memory_is_the_callers(self, reader, shuffle, column):
        """TensorFlow computes in the memory of a batch of which it has the only slice."""
        for start, stop in [(0, WINDOW), (3, WINDOW + 5), (2, 6)]:
            arrays = reader.read(view(column.name, shuffle=shuffle), 0, start, stop)
            found = plain(column, list(arrays))
            for array in arrays:
                array[...] = np.zeros((), array.dtype)
            again = reader.read(view(column.name, shuffle=shuffle), 0, start, stop)
            assert plain(column, again) == found


class TestEpochs:
    @pytest.mark.parametrize("shuffle", [True, False])
    @pytest.mark.parametrize("batch", [1, 7, WINDOW, 20, ROWS])
    def test_every_row_exactly_once(self, reader, shuffle, batch):
        seen = []
        for start in range(0, ROWS, batch):
            (ids,) = reader.read(view("id", shuffle=shuffle), 1, start, min(start + batch, ROWS))
            seen.extend(ids.tolist())
        assert sorted(seen) == list(range(ROWS))
        assert (seen == list(range(ROWS))) is not shuffle

    def test_orders_differ_by_epoch_and_seed_and_repeat(self, reader, lake, tmp_path):
        def ids(of, epoch, seed):
            return tuple(of.read(view("id", seed=seed), epoch, 0, ROWS)[0])

        orders = {(e, s): ids(reader, e, s) for e in range(3) for s in range(2)}
        assert len(set(orders.values())) == 6
        for readers in (1, 3):
            again = FeedReader(lake, str(tmp_path), readers=readers)
            assert all(ids(again, e, s) == order for (e, s), order in orders.items())

    def test_unshuffled_epochs_are_alike(self, reader):
        first, second = (reader.read(view("id", shuffle=False), e, 0, ROWS)[0] for e in (0, 1))
        assert first.tolist() == second.tolist()

    @pytest.mark.parametrize("name", ["id", "dense", "ragged"])
    def test_read_from_every_position_gives_the_rest(self, reader, name):
        """What google/grain's testing does: restore at each step, compare all that follows."""
        column = by_name(name)
        whole = plain(column, reader.read(view(name, seed=4), 2, 0, ROWS))
        for start in range(ROWS):
            rest = []
            for at in range(start, ROWS, 6):
                rest += plain(column, reader.read(view(name, seed=4), 2, at, min(at + 6, ROWS)))
            assert rest == whole[start:], start

    @pytest.mark.parametrize("shuffle", [True, False])
    def test_what_is_left_of_an_epoch_is_a_sequence(self, reader, shuffle):
        left = ((2, 9), (11, 12), (WINDOW + 3, 3 * WINDOW), (ROWS - 1, ROWS))
        whole = reader.read(view("id", shuffle=shuffle), 1, 0, ROWS)[0].tolist()
        expected = [row for start, stop in left for row in whole[start:stop]]
        rest = replace(view("id", shuffle=shuffle), left=left)
        for step in (1, 5, 40):
            seen = []
            for at in range(0, len(expected), step):
                stop = min(at + step, len(expected))
                seen += reader.read(rest, 1, at, stop)[0].tolist()
            assert seen == expected
        assert reader.read(rest, 1, 4, 4)[0].tolist() == []
        with pytest.raises(ValueError, match="that are left of an epoch"):
            reader.read(rest, 1, 0, len(expected) + 1)

    def test_two_views_at_once_do_not_disturb_each_other(self, reader):
        a, b = view("id", seed=1), view("n_int32", shuffle=False)
        alone = [reader.read(a, 0, i, i + 4)[0].tolist() for i in range(0, 40, 4)]
        mixed = []
        for i in range(0, 40, 4):
            mixed.append(reader.read(a, 0, i, i + 4)[0].tolist())
            assert reader.read(b, 0, i, i + 4)[0].tolist() == [k - 20 for k in range(i, i + 4)]
        assert mixed == alone

    def test_each_window_is_loaded_once(self, reader, monkeypatch):
        loaded: list[tuple[View, int]] = []
        load = FeedReader._load

        def counted(self, view, order, window):
            loaded.append((view, window))
            return load(self, view, order, window)

        monkeypatch.setattr(FeedReader, "_load", counted)
        views = view("id", seed=1), view("id", seed=2), view("n_int32", shuffle=False)
        for start in range(0, ROWS, 4):
            for each in views:
                reader.read(each, 0, start, min(start + 4, ROWS))
        assert len(loaded) == len(set(loaded)) == 3 * -(-ROWS // WINDOW)


class TestArriving:
    """A feed that is read while it is being written."""

    @pytest.fixture
    def growing(self, tmp_path):
        lake = RunDirectory(str(tmp_path / "growing"), "run")
        return lake, write_feed(lake, "train", COLUMNS, VALUES, SHARDS)

    @pytest.fixture
    def fresh(self, growing, tmp_path, monkeypatch):
        monkeypatch.setattr("tfos.feeding.reader.window_rows", lambda rows, size: WINDOW)
        return lambda readers=1: FeedReader(growing[0], str(tmp_path), readers=readers)

    @pytest.mark.parametrize("readers", [1, 3])
    def test_first_epoch_is_the_same_whenever_it_is_read(self, growing, fresh, readers):
        arrive(*growing, 1)
        reader, seen = fresh(readers), []
        for shards, start, stop in [(1, 0, 6), (1, 6, 17), (2, 17, 30), (5, 30, ROWS)]:
            arrive(*growing, shards)
            seen += reader.read(view("id"), 0, start, stop)[0].tolist()
        assert sorted(seen) == list(range(ROWS))
        assert sorted(seen[:17]) == list(range(ROWS - 17, ROWS))  # the last shard came first
        assert fresh().read(view("id"), 0, 0, ROWS)[0].tolist() == seen

    @pytest.mark.parametrize("readers", [1, 3])
    def test_all_else_is_as_in_any_other_feed(self, growing, fresh, reader, readers):
        arrive(*growing, 5)
        streamed, part = fresh(readers), (40, ROWS)
        streamed.read(view("id"), 0, 0, ROWS)
        for each, epoch in [
            (view("id"), 1),
            (view("id", shuffle=False), 0),
            (View("train", ("id",), True, 0, part), 0),
        ]:
            stop = ROWS if each.part is None else ROWS - 40
            found, expected = (r.read(each, epoch, 0, stop)[0].tolist() for r in (streamed, reader))
            assert found == expected

    def test_rows_that_have_not_arrived(self, growing, fresh, monkeypatch):
        monkeypatch.setattr(TIMES, "lake_retry_secs", 0.0)
        arrive(*growing, 2)
        reader = fresh()
        with pytest.raises(FeedError, match=r"rows up to 43 of epoch 1 .*, and 42 have arrived"):
            reader.read(view("id"), 0, 5, 43)
        with pytest.raises(FeedError, match="epoch 2"):
            reader.read(view("id"), 1, 0, 2)
        with pytest.raises(FeedError, match="epoch 1"):
            reader.read(view("id", shuffle=False), 0, 0, 2)

    def test_what_is_there_is_asked_for_until_all_is(self, growing, fresh):
        arrive(*growing, 1)
        reader = fresh()
        assert (reader.arrived("train").rows, reader.arrived("train").complete) == (17, False)
        arrive(*growing, 5)
        assert reader.manifest("train").rows == 17
        assert (reader.arrived("train").rows, reader.manifest("train").rows) == (ROWS, ROWS)

    @pytest.mark.parametrize("shards", [3, 5])
    def test_rows_that_this_process_is_the_last_to_see(self, growing, fresh, monkeypatch, shards):
        arrive(*growing, 2)
        reader = fresh()
        sleeps = []

        def sleep(secs):
            sleeps.append(secs)
            arrive(*growing, min(shards, 1 + len(sleeps)))

        monkeypatch.setattr("tenacity.nap.time.sleep", sleep)
        epoch, stop = (0, 43) if shards == 3 else (1, ROWS)
        assert len(reader.read(view("id"), epoch, 0, stop)[0]) == stop
        assert len(sleeps) == shards - 1

    @pytest.mark.parametrize("path", [arrived_path("train"), increment_path("train", 1, 1)])
    @pytest.mark.parametrize("knows", [True, False])
    def test_file_that_is_being_written(self, growing, fresh, monkeypatch, knows, path):
        arrive(*growing, 1)
        reader = fresh()
        if knows:
            assert reader.arrived("train").rows == 17
        growing[0].write(path, b'{"sha')
        monkeypatch.setattr("tenacity.nap.time.sleep", lambda secs: arrive(*growing, 2))
        if knows and path == arrived_path("train"):
            arrive(*growing, 2)  # nobody reads it a second time
        assert reader.arrived("train").rows == 42

    def test_file_that_is_damaged(self, growing, fresh, monkeypatch):
        arrive(*growing, 1)
        reader = fresh()
        reader.arrived("train")
        monkeypatch.setattr(TIMES, "lake_retry_secs", 0.0)
        growing[0].write(manifest_path("train"), b'{"feed": "tr')
        with pytest.raises(LakeError, match=r"manifest\.json"):
            reader.arrived("train")


class TestManifestAndErrors:
    def test_unknown_feed(self, reader):
        with pytest.raises(LakeError, match=r"feed/nope/manifest\.json"):
            reader.manifest("nope")

    def test_unknown_column(self, reader):
        with pytest.raises((FeedError, KeyError), match="nope"):
            reader.read(view("nope"), 0, 0, 1)

    @pytest.mark.parametrize("left", [None, (), ((2, 5), (9, 11))])
    def test_view_travels_as_text(self, left):
        before = View("train", ("a", "b"), False, 7, (1, 40), left)
        assert View.from_text(before.to_text()) == before


class TestRemoteLake:
    @pytest.fixture
    def remote(self, tmp_path):
        lake = RunDirectory(f"memory://reader-{tmp_path.name}", "run")
        write_feed(lake, "train", COLUMNS, VALUES, SHARDS)
        yield lake
        lake.remove("feed")

    def test_shards_are_fetched_once_and_read(self, remote, tmp_path, monkeypatch):
        fetched = []
        download = RunDirectory.download
        monkeypatch.setattr(
            RunDirectory,
            "download",
            lambda self, path, to: (fetched.append(path), download(self, path, to))[1],
        )
        reader = FeedReader(remote, str(tmp_path))
        for epoch in range(2):
            (ids,) = reader.read(view("id"), epoch, 0, ROWS)
            assert sorted(ids.tolist()) == list(range(ROWS))
        assert len(fetched) == len(set(fetched)) == sum(rows > 0 for rows in SHARDS)

    def test_fetch_that_broke_off_is_made_again(self, remote, tmp_path, monkeypatch):
        download = RunDirectory.download

        def broken(self, path, target):
            with open(target, "wb") as file:
                file.write(b"ARROW1")
            raise LakeError("the connection was lost")

        reader = FeedReader(remote, str(tmp_path))
        monkeypatch.setattr(RunDirectory, "download", broken)
        with pytest.raises(LakeError):
            reader.read(view("id"), 0, 0, ROWS)
        monkeypatch.setattr(RunDirectory, "download", download)
        (ids,) = reader.read(view("id"), 0, 0, ROWS)
        assert sorted(ids.tolist()) == list(range(ROWS))

    def test_window_that_could_not_be_read_ahead_is_read_when_it_is_due(
        self, remote, tmp_path, monkeypatch
    ):
        monkeypatch.setattr("tfos.feeding.reader.window_rows", lambda rows, size: 40)
        download = RunDirectory.download
        ahead_failed = threading.Event()

        def flaky(self, path, target):
            if threading.current_thread().name == "window":
                ahead_failed.set()
                raise LakeError("the connection was lost")
            download(self, path, target)

        monkeypatch.setattr(RunDirectory, "download", flaky)
        monkeypatch.setattr("tfos.feeding.cache.ShardCache.ahead", lambda self, paths: None)
        reader = FeedReader(remote, str(tmp_path))
        first = reader.read(view("id"), 0, 0, 40)[0].tolist()
        assert ahead_failed.wait(20)
        rest = reader.read(view("id"), 0, 40, ROWS)[0].tolist()
        assert sorted(first + rest) == list(range(ROWS))
