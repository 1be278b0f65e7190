"""Which snapshots of the store are full ones, and which are kept."""

from __future__ import annotations

import numpy as np
import pytest
from kv_servers import client, servers

from tfos.errors import FencedError
from tfos.fault.checkpoint.store import CheckpointStore
from tfos.kv.optimizers import SGD
from tfos.kv.snapshot import MARKER
from tfos.lake.run_directory import RunDirectory
from tfos.training.runner import SECTION
from tfos.training.stored.snapshots import MOST_DELTAS, Chain, Snapshots

pytestmark = pytest.mark.timeout(60)


def parts(rows):
    return [{"server": "ps-0", "tables": [{"files": {"f": {"rows": rows}}}]}]


class TestChain:
    def test_first_is_full(self):
        assert not Chain().goes_on

    def test_deltas_until_they_have_as_many_rows(self):
        chain = Chain().followed_by("full", parts(10))
        for number in range(3):
            assert chain.goes_on
            chain = chain.followed_by(str(number), parts(4))
        assert chain.paths == ("full", "0", "1", "2") and not chain.goes_on
        assert chain.followed_by("next", parts(11)) == Chain(("next",), parts(11), 11)

    def test_no_more_than_so_many(self):
        chain = Chain().followed_by("full", parts(10))
        for number in range(MOST_DELTAS):
            assert chain.goes_on
            chain = chain.followed_by(str(number), parts(0))
        assert not chain.goes_on

    def test_of_nothing_is_full_again(self):
        assert not Chain().followed_by("full", parts(0)).goes_on


def test_what_checkpoints_name_stays_and_what_another_process_writes(tmp_path):
    lake = RunDirectory(str(tmp_path), "run")
    store = CheckpointStore(lake, writer="1.1")
    with servers(1, storage=lake) as started, client(started) as one:
        snapshots = Snapshots(one, lake, "1.1", lambda: None)
        for step in (1, 2):  # empty ones, each of which is full
            section, finish = snapshots.save()
            finish()
            if step == 1:
                local = tmp_path / "local"
                local.mkdir()
                store.write_state(str(local), step, {SECTION: section}, None)
                store.commit(str(local), step)
                (named,) = section["paths"]
        lake.write("store/000001-000002-000001/part", b"of the one that has taken its place")
        section, finish = snapshots.save()
        finish()
        (newest,) = section["paths"]
        names = [path.partition("/")[2] for path in (named, newest)]
        assert sorted(lake.list("store")) == [*names, "000001-000002-000001"]


def test_a_process_that_was_replaced_commits_nothing(tmp_path):
    lake, replaced = RunDirectory(str(tmp_path), "run"), []

    def fence() -> None:
        if replaced:
            raise FencedError("another chief has taken its place")

    with servers(1, storage=lake) as started, client(started) as one:
        snapshots = Snapshots(one, lake, "1.1", fence)
        section, finish = snapshots.save()
        replaced.append(True)
        with pytest.raises(FencedError):
            finish()
        assert not lake.exists(f"{section['paths'][0]}/{MARKER}")
        with pytest.raises(FencedError):
            snapshots.save()


def test_what_no_checkpoint_can_name_is_removed(tmp_path):
    lake = RunDirectory(str(tmp_path), "run")
    with servers(2, storage=lake) as started, client(started) as one, client(started) as two:
        table = two.table("t", 2, SGD(1.0))
        table.push(np.arange(100), np.ones((100, 2)))
        snapshots = Snapshots(one, lake, "1.1", lambda: None)
        names = []
        for number in range(4):
            section, finish = snapshots.save()
            table.push(np.arange(number * 30), np.ones((number * 30, 2)))
            finish()
            names.append([path.partition("/")[2] for path in section["paths"]])
            assert sorted(lake.list("store")) == names[-1]
        # 100 rows, a delta of 0, one of 30, and so on
        assert [len(paths) for paths in names] == [1, 2, 3, 4]
        table.push(np.arange(100), np.ones((100, 2)))
        for _ in range(2):  # a delta, after which there are as many rows in deltas
            section, finish = snapshots.save()
            finish()
        assert len(section["paths"]) == 1 and len(lake.list("store")) == 1
