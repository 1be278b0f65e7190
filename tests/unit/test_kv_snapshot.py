"""Snapshots: the same rows on any number of servers, deltas, damage."""

from __future__ import annotations

import numpy as np
import pyarrow.dataset as ds
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfos.errors import DamagedError
from tfos.kv import snapshot
from tfos.kv.hashing import hashes
from tfos.kv.optimizers import SGD, Adagrad, Adam
from tfos.kv.ring import BUCKET_BITS, Ring
from tfos.kv.snapshot import commit, restore, save
from tfos.kv.spec import TableSpec, Uniform
from tfos.kv.store import Store
from tfos.kv.table import Rows, Table, now_ms
from tfos.lake.storage import Storage

pytestmark = pytest.mark.timeout(60)
SPEC = TableSpec("t/1", 3, Adam(0.1), Uniform(), seed=4)
PLAIN = TableSpec("plain", 2, SGD(1.0))


def names(count):
    return [f"ps-{number}" for number in range(count)]


class Cluster:
    """Stores of servers that share the keys as their ring says."""

    def __init__(self, count):
        self.ring, self.stores = Ring(names(count)), [Store() for _ in range(count)]
        self.parts = [None] * count
        self.make(SPEC)
        self.make(PLAIN)

    def make(self, spec):
        for store in self.stores:
            store.table(spec)

    def push(self, number, keys, value):
        owners = np.array(self.ring.owners)[hashes(keys) >> np.uint64(64 - BUCKET_BITS)]
        for server, store in enumerate(self.stores):
            mine, table = keys[owners == server], store.at(number)
            table.push(mine, np.full((len(mine), table.spec.width), value, np.float32))

    def save(self, storage, path, is_delta=False):
        bases = self.parts if is_delta else [None] * len(self.stores)
        self.parts = [
            save(store, storage, path, server, base)
            for store, server, base in zip(self.stores, self.ring.servers, bases, strict=True)
        ]
        commit(storage, path, self.parts)

    def restore(self, storage, *paths):
        return [
            restore(store, storage, paths, self.ring, server)
            for store, server in zip(self.stores, self.ring.servers, strict=True)
        ]

    def everything(self):
        found = {}
        for store in self.stores:
            for table in store.tables:
                rows = [r for part in table.scans(slots=True) for r in zip(*part, strict=True)]
                for key, changed, values in rows:
                    assert (table.spec.name, key) not in found
                    found[table.spec.name, int(key)] = int(changed), values.tolist()
        return found


@pytest.fixture
def storage(tmp_path):
    return Storage(str(tmp_path))


@settings(max_examples=5, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 400))
def test_any_number_of_servers(before, after, rows):
    storage = Storage(f"memory://kv-{before}-{after}-{rows}")
    keys = hashes(np.arange(rows)).view(np.int64)
    one, two = Cluster(before), Cluster(after)
    one.push(0, keys, 0.5)
    one.push(1, keys[::2], 2)
    one.save(storage, "snap")
    held = two.restore(storage, "snap")
    assert two.everything() == one.everything()
    assert sum(h["t/1"] for h in held) == rows
    # and they go on alike, Adam's correction of the bias too
    for cluster in (one, two):
        cluster.push(0, keys, -0.3)
    values = [{k: v for k, (_, v) in c.everything().items()} for c in (one, two)]
    assert values[0] == values[1]


def test_deltas_have_what_was_changed_since(storage):
    one = Cluster(2)
    one.push(0, np.arange(600), 1)
    one.save(storage, "full")
    one.push(0, np.arange(590, 610), 1)
    one.save(storage, "delta-1", is_delta=True)
    one.push(1, np.arange(5), 1)
    one.save(storage, "delta-2", is_delta=True)
    sizes = [
        sum(f["rows"] for p in storage.read_json(f"{path}/snapshot.json")["parts"]
            for t in p["tables"] for f in t["files"].values())
        for path in ("full", "delta-1", "delta-2")
    ]  # fmt: skip
    # those of the millisecond in which the one before was taken are in both
    assert sizes[0] == 600 and 20 <= sizes[1] <= 620 and 5 <= sizes[2] <= 625
    two = Cluster(3)
    two.restore(storage, "full", "delta-1", "delta-2")
    assert two.everything() == one.everything()


def test_rows_that_have_expired_since_do_not_come_back(storage):
    one = Cluster(2)
    one.make(TableSpec("near", 1, SGD(1.0), expire_below=0.1))
    one.push(2, np.arange(100), -1)
    one.push(0, np.arange(100), 1)
    one.save(storage, "full")
    one.push(2, np.arange(50), 1)  # to zero
    assert sum(store.at(2).expire() for store in one.stores) == 50
    one.save(storage, "delta-1", is_delta=True)
    one.push(2, np.array([99]), -1)
    one.save(storage, "delta-2", is_delta=True)
    for paths in (["full", "delta-1"], ["full", "delta-1", "delta-2"]):
        two = Cluster(3)
        two.restore(storage, *paths)
        found = two.everything()
        assert sorted(k for name, k in found if name == "near") == list(range(50, 100))
        assert len([name for name, _ in found if name == "t/1"]) == 100
    assert found == one.everything()


def test_rows_do_not_get_older_while_nobody_trains(storage, monkeypatch):
    """A run that failed is resumed a month later: what would have expired in a week is there."""
    week, month = 7 * 86_400_000, 30 * 86_400_000
    one, two = Cluster(1), Cluster(1)
    one.make(TableSpec("fading", 1, SGD(1.0), expire_secs=week / 1000))
    one.push(2, np.arange(3), 1)
    one.push(0, np.arange(3), 1)
    one.save(storage, "snap")
    then = now_ms()
    monkeypatch.setattr(snapshot, "now_ms", lambda: then + month)
    two.restore(storage, "snap")
    before, after = one.everything(), two.everything()
    for (name, key), (changed, values) in after.items():
        old_changed, old_values = before[name, key]
        assert values == old_values
        pause = changed - old_changed
        assert month <= pause < month + 60_000 if name == "fading" else pause == 0


def test_no_delta_to_rows_that_were_replaced(storage):
    one = Cluster(1)
    one.push(0, np.arange(5), 1)
    one.save(storage, "full")
    (store,) = one.stores
    store.forget_rows()
    one.restore(storage, "full")
    with pytest.raises(ValueError, match="has begun anew"):
        one.save(storage, "delta", is_delta=True)


def test_what_changes_after_a_copy_is_never_older_than_it():
    """Also by a push that took the time before the copy did: else the next delta lacks it."""
    table, now = Table(PLAIN), now_ms() + 1_000_000
    with table.held(now):
        pass
    table.push(np.arange(9), np.ones((9, 2), np.float32))
    assert sum(len(part.keys) for part in table.scans(since=now)) == 9


def test_a_row_that_changes_is_newer_than_it_was():
    """Also on a machine whose clock is behind that of the one which it comes from."""
    table = Table(PLAIN)
    late = now_ms() + 1_000_000
    table.load(Rows(np.array([1]), np.array([late]), np.ones((1, 2), np.float32)))
    table.push(np.array([1]), np.ones((1, 2), np.float32))
    assert [part.changed.tolist() for part in table.scans() if len(part.keys)] == [[late + 1]]


def test_what_is_written_can_be_read_by_others(storage, tmp_path):
    one = Cluster(1)
    one.make(TableSpec("u", 2, Adagrad()))
    one.push(2, np.arange(1000), 1)
    one.save(storage, "snap")
    found = ds.dataset(tmp_path / "snap" / "u", partitioning="hive").to_table()
    assert found.column_names == ["bucket", "key", "changed", "weights", "slots", "stripe"]
    assert sorted(found["key"].to_pylist()) == list(range(1000))
    assert found["weights"][0].as_py() == pytest.approx([-0.01 / 1.1**0.5] * 2)
    assert found["slots"][0].as_py() == pytest.approx([1.1, 1.1])
    buckets = np.array(found["bucket"])
    assert (buckets // 256 == np.array(found["stripe"])).all()


def test_what_is_not_whole_is_no_snapshot(storage, tmp_path):
    one = Cluster(1)
    one.push(0, np.arange(100), 1)
    save(one.stores[0], storage, "half", "ps-0")
    with pytest.raises(DamagedError, match=r"half is no snapshot: it has no snapshot.json"):
        Cluster(1).restore(storage, "half")
    one.save(storage, "snap")
    file = next((tmp_path / "snap").rglob("*.parquet"))
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DamagedError, match="is not the file of"):
        Cluster(1).restore(storage, "snap")


def test_a_delta_to_another_lifes_snapshot_is_refused(storage):
    one, two = Cluster(1), Cluster(1)
    one.save(storage, "snap")
    with pytest.raises(ValueError, match=r"ps-0 has begun anew .* write a full one first"):
        save(two.stores[0], storage, "delta", "ps-0", one.parts[0])


def test_a_table_that_is_there_with_other_arguments(storage):
    one, two = Cluster(1), Store()
    one.save(storage, "snap")
    two.table(TableSpec("plain", 2, SGD(2.0)))
    with pytest.raises(ValueError, match="table 'plain' is there with other arguments"):
        restore(two, storage, ["snap"], one.ring, "ps-0")
