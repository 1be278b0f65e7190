"""Shares of a feed without TensorFlow: every row once, as many batches in each, and positions."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers import write_feed
from hypothesis import given
from hypothesis import strategies as st

from tfos.errors import FeedError, UsageError
from tfos.feeding.arrival import Arrival
from tfos.feeding.ledger import Ledger
from tfos.feeding.plan import batches
from tfos.feeding.reader import FeedReader
from tfos.feeding.schema import Column
from tfos.feeding.share_dataset import Positions, ShareDataset
from tfos.lake.run_directory import RunDirectory

ROWS = 53
COLUMNS = [
    Column("id", "int64"),
    Column("x", "float32", 2),
    Column("text", "string"),
    Column("ragged", "int32", -1),
    Column("sparse", "float64", 5, sparse=True),
]
VALUES = {
    "id": list(range(ROWS)),
    "x": [[i, -i] for i in range(ROWS)],
    "text": [f"t{i}" for i in range(ROWS)],
    "ragged": [[i] * (i % 3) for i in range(ROWS)],
    "sparse": [{"size": 5, "indices": [i % 5], "values": [float(i)]} for i in range(ROWS)],
}
counts = {"rows": st.integers(1, 80), "size": st.integers(1, 5), "batch": st.integers(1, 9)}


class Rank:
    """One process of a gang, with what it saves."""

    def __init__(self, lake, scratch, rank, size, saved=None):
        self.reader = FeedReader(lake, str(scratch))
        self.rank, self.size = rank, size
        self.positions, self.ledger = Positions(), Ledger()
        self.given = []
        if saved is not None:
            positions, ledger = json.loads(saved)
            self.positions.restore(positions)
            self.ledger.restore(ledger)

    def save(self):
        return json.dumps([self.positions.as_json(), self.ledger.as_json()])

    def dataset(self, batch_size=4, features=None, label=None, weight=None, shuffle=True, seed=3):
        return ShareDataset(
            self.reader, Arrival(self.reader.arrived("train")), batch_size, features, label,
            weight, shuffle, seed, rank=self.rank, size=self.size, positions=self.positions,
            on_given=self.on_given,
        )  # fmt: skip

    def on_given(self, given):
        self.given.append(given)
        if given.trains:
            self.ledger.add(given.feed, given.epoch, given.rows, given.due)
        else:
            self.ledger.read(given.feed, given.epoch, given.rows)


@pytest.fixture
def lake(tmp_path):
    lake = RunDirectory(str(tmp_path / "lake"), "run")
    write_feed(lake, "train", COLUMNS, VALUES, [10, 0, 1, 25, 17])
    write_feed(lake, "one", [COLUMNS[0]], {"id": [7]}, [1])
    return lake


@pytest.fixture
def gang(lake, tmp_path):
    def gang(size, saved=None):
        return [Rank(lake, tmp_path, rank, size, saved) for rank in range(size)]

    return gang


def ids(batches):
    return [batch.tolist() for batch in batches]


class TestBatches:
    @given(**counts)
    def test_are_as_many_in_each_and_all_rows_once(self, rows, size, batch):
        found = [batches(rows, rank, size, batch) for rank in range(size)]
        assert len({len(each) for each in found}) == 1
        assert sorted(r for each in found for a, b in each for r in range(a, b)) == list(
            range(rows)
        )
        for each in found:
            assert all(b - a == batch for a, b in each[:-1])
            assert each[-1][1] - each[-1][0] <= batch + 1
            if rows >= size:
                assert each[-1][0] < each[-1][1]

    @given(**counts, steps=st.integers(1, 9))
    def test_from_a_step_on_are_the_rest(self, rows, size, batch, steps):
        whole = batches(rows, 0, size, batch)
        start = min(steps, len(whole) - 1) * size * batch
        for rank in range(size):
            every = batches(rows, rank, size, batch)
            assert batches(rows, rank, size, batch, start) == every[start // (size * batch) :]


class TestEpoch:
    @pytest.mark.parametrize("size", [1, 2, 3, 5])
    @pytest.mark.parametrize("batch_size", [1, 4, 16, None])
    def test_has_each_row_once(self, gang, size, batch_size):
        ranks = gang(size)
        datasets = [rank.dataset(batch_size, "id") for rank in ranks]
        for epoch in range(2):
            found = [ids(dataset.numpy()) for dataset in datasets]
            assert len({len(each) for each in found}) == 1
            assert sorted(i for each in found for b in each for i in b) == list(range(ROWS))
            assert len(found[0]) == datasets[0].steps_per_epoch
            assert all(dataset.epoch == epoch + 1 for dataset in datasets)
        for rank in ranks:
            assert rank.ledger.as_json()["train"]["rows_trained"] == [ROWS, ROWS]
            assert rank.given[-1].done == ROWS

    def test_is_newly_shuffled_and_the_same_for_the_same_seed(self, gang):
        (rank,), (other,) = gang(1), gang(1)
        dataset, again = rank.dataset(ROWS, "id"), other.dataset(ROWS, "id")
        first, second = ids(dataset.numpy()), ids(dataset.numpy())
        assert first != second
        assert [ids(again.numpy()), ids(again.numpy())] == [first, second]
        assert ids(gang(1)[0].dataset(ROWS, "id", shuffle=False).numpy()) == [list(range(ROWS))]

    def test_goes_on_after_a_break(self, gang):
        (rank,) = gang(1)
        dataset = rank.dataset(4, "id")
        seen = []
        for batch in dataset.numpy():
            seen += batch.tolist()
            if len(seen) == 12:
                break
        assert dataset.epoch == 0
        seen += [i for batch in dataset.numpy() for i in batch.tolist()]
        assert sorted(seen) == list(range(ROWS))
        assert dataset.epoch == 1

    @pytest.mark.parametrize("then", [1, 2, 3])
    @pytest.mark.parametrize("batch_size", [3, 5])
    def test_goes_on_from_a_checkpoint_with_any_number_of_processes(self, gang, then, batch_size):
        ranks = gang(2)
        seen = []
        for rank in ranks:
            batches = rank.dataset(5, "id").numpy()
            seen += [i for _ in range(3) for i in next(batches).tolist()]
        saved = ranks[0].save()
        assert saved == ranks[1].save()
        ranks = gang(then, saved)
        found = [ids(rank.dataset(batch_size, "id").numpy()) for rank in ranks]
        assert len({len(each) for each in found}) == 1
        assert sorted(seen + [i for e in found for b in e for i in b]) == list(range(ROWS))
        assert ranks[0].ledger.as_json()["train"]["rows_trained"] == [ROWS]

    def test_in_another_order_is_refused_in_the_middle_of_one(self, gang):
        (rank,) = gang(1)
        next(rank.dataset(4, "id").numpy())
        (again,) = gang(1, rank.save())
        with pytest.raises(UsageError, match=r"was begun with .*'seed': 3.* cannot go on"):
            next(again.dataset(4, "id", seed=4).numpy())
        assert len(ids(again.dataset(4, "id").numpy())) == 13
        assert len(ids(again.dataset(4, "id", seed=4).numpy())) == 14

    def test_of_fewer_rows_than_processes_is_refused(self, lake, tmp_path):
        rank = Rank(lake, tmp_path, 0, 2)
        dataset = ShareDataset(
            rank.reader, Arrival(rank.reader.arrived("one")), 4, "id", None, None, True, 0,
            rank=0, size=2, positions=rank.positions, on_given=rank.on_given,
        )  # fmt: skip
        with pytest.raises(FeedError, match="1 rows for 2 processes"):
            next(dataset.numpy())

    def test_whose_batches_have_no_rows_is_refused(self, gang):
        with pytest.raises(FeedError, match="batch_size is 0"):
            gang(1)[0].dataset(0)


class TestLooking:
    def test_counts_as_read_and_moves_nothing(self, gang):
        ranks = gang(2)
        for rank in ranks:
            dataset = rank.dataset(8, "id")
            next(dataset.numpy())
            before = rank.positions.as_json()
            assert [i for b in ids(dataset.whole().numpy()) for i in b] == list(range(ROWS))
            assert rank.positions.as_json() == before
            assert dataset.whole().epoch == 0
        found = [ids(rank.dataset(8, "id").in_order().numpy()) for rank in ranks]
        assert [i for each in found for b in each for i in b] == list(range(ROWS))
        assert ranks[0].ledger.as_json()["train"]["rows_read"] == [2 * ROWS]
        assert ranks[0].ledger.as_json()["train"]["rows_trained"] == [16]

    def test_all_at_once(self, gang):
        (batch,) = gang(2)[1].dataset(None, "id").whole().numpy()
        assert batch.tolist() == list(range(ROWS))


class TestForms:
    def test_numpy(self, gang):
        dataset = gang(1)[0].dataset(5, ["x", "text", "ragged", "sparse"], "id", shuffle=False)
        features, label = next(dataset.numpy())
        assert label.tolist() == [0, 1, 2, 3, 4]
        assert features["x"].dtype == np.float32
        assert features["x"].tolist() == [[i, -i] for i in range(5)]
        assert features["text"].tolist() == [b"t0", b"t1", b"t2", b"t3", b"t4"]
        values, splits = features["ragged"]
        assert values.tolist() == [1, 2, 2, 4]
        assert splits.tolist() == [0, 0, 1, 3, 3, 4]
        indices, values, shape = features["sparse"]
        assert indices.tolist() == [[i, i] for i in range(5)]
        assert values.tolist() == [0, 1, 2, 3, 4]
        assert shape.tolist() == [5, 5]

    def test_numpy_batches_share_no_memory(self, gang):
        batches = gang(1)[0].dataset(4, "x", shuffle=False).numpy()
        next(batches)[:] = -1
        assert next(batches).tolist() == [[i, -i] for i in range(4, 8)]
        again = gang(1)[0].dataset(4, "x", shuffle=False).numpy()
        assert next(again).tolist() == [[i, -i] for i in range(4)]

    @pytest.mark.parametrize("shuffle", [False, True])
    def test_arrow_has_the_rows_of_numpy(self, gang, shuffle):
        one, other = (gang(2)[1].dataset(7, shuffle=shuffle) for _ in range(2))
        for table, features in zip(one.arrow(), other.numpy(), strict=True):
            rows = table.to_pydict()
            assert rows["id"] == features["id"].tolist()
            assert rows["x"] == features["x"].tolist()
            assert rows["text"] == [text.decode() for text in features["text"]]
            assert [len(each) for each in rows["ragged"]] == np.diff(features["ragged"][1]).tolist()
        assert table.column_names == [column.name for column in COLUMNS]

    def test_arrow_of_a_checkpoint_within_an_epoch(self, gang):
        (rank,) = gang(1)
        first = next(rank.dataset(10, "id").arrow())["id"].to_pylist()
        ranks = gang(2, rank.save())
        rest = [i for r in ranks for t in r.dataset(10, "id").arrow() for i in t["id"].to_pylist()]
        assert sorted(first + rest) == list(range(ROWS))

    def test_many_columns_that_are_read_together(self, lake, tmp_path):
        columns = [Column(f"c{i}", "int64") for i in range(40)]
        rows = {f"c{i}": [100 * i + row for row in range(6)] for i in range(40)}
        write_feed(lake, "wide", columns, rows, [6])
        rank = Rank(lake, tmp_path, 0, 1)
        dataset = ShareDataset(
            rank.reader, Arrival(rank.reader.arrived("wide")), 4, None, "c39", None, False, 0,
            rank=0, size=1, positions=rank.positions, on_given=rank.on_given,
        )  # fmt: skip
        _, (features, label) = dataset.numpy()
        assert label.tolist() == [3904, 3905]
        assert features["c7"].tolist() == [704, 705]

    def test_torch(self, gang):
        torch = pytest.importorskip("torch", reason="torch is not installed: tfos[torch]")
        dataset = gang(1)[0].dataset(5, ["x", "ragged"], "id", shuffle=False)
        features, label = next(dataset.torch())
        assert label.dtype == torch.int64
        assert features["x"].tolist() == [[i, -i] for i in range(5)]
        assert features["ragged"][1].tolist() == [0, 0, 1, 3, 3, 4]

    def test_torch_has_no_text(self, gang):
        pytest.importorskip("torch", reason="torch is not installed: tfos[torch]")
        with pytest.raises(FeedError, match=r"\['text'\] of feed 'train' are text"):
            gang(1)[0].dataset(5).torch()
