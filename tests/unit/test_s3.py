"""The lake on an S3 server: files, committed directories, checkpoints, shards, bad moments."""

from __future__ import annotations

import logging
import time

import pytest
import tenacity
import tensorflow as tf
from helpers import write_feed

from tfos.errors import DamagedError, LakeError
from tfos.fault.checkpoint.checkpointer import Checkpointer
from tfos.fault.checkpoint.store import CheckpointStore
from tfos.feeding.reader import FeedReader, View
from tfos.feeding.schema import Column
from tfos.lake import storage
from tfos.lake.run_directory import RunDirectory
from tfos.lake.storage import COMMIT
from tfos.spec.times import TIMES

pytest_plugins = ["s3"]


@pytest.fixture
def lake(s3):
    return RunDirectory(f"s3://{s3.bucket}/runs", "run-1")


@pytest.fixture
def impatient(monkeypatch):
    """The storage's client makes one attempt, and the lake's next one comes at once."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(storage, "_BACKOFF", tenacity.wait_none())


@pytest.fixture
def source(tmp_path):
    (tmp_path / "source/deep").mkdir(parents=True)
    (tmp_path / "source/weights").write_bytes(bytes(range(256)) * 100)
    (tmp_path / "source/deep/empty").write_bytes(b"")
    return str(tmp_path / "source")


def test_files(lake, s3, tmp_path):
    assert not lake.is_local
    assert lake.uri("a") == f"s3://{s3.bucket}/runs/run-1/a"
    marker = lake.check_writable()
    assert lake.exists(marker)
    lake.remove(marker)
    assert not lake.exists(marker)
    lake.write("dir/a", b"one")
    lake.write("dir/a", b"two")
    lake.write("dir/b", b"three")
    (tmp_path / "up").write_bytes(b"four")
    lake.upload(str(tmp_path / "up"), "dir/deep/c")
    lake.download("dir/deep/c", str(tmp_path / "down"))
    assert (tmp_path / "down").read_bytes() == b"four"
    assert lake.list("dir") == ["a", "b", "deep"]
    assert lake.list("nothing") == []
    assert (lake.read("dir/a"), lake.read("dir/b")) == (b"two", b"three")
    lake.remove("dir")
    lake.remove("dir")
    assert lake.list("") == []


def test_what_others_did_is_seen(lake, s3):
    """s3fs keeps the listings that it got; the other processes of a run write behind its back."""
    other, root = s3.client(), f"{s3.bucket}/runs/run-1/dir"
    lake.write("dir/a", b"")
    assert lake.list("dir") == ["a"]
    lake._fs.find(root)  # as remove() does: the listing is remembered
    other.pipe_file(f"{root}/b", b"")
    assert lake.exists("dir/b")
    assert lake.list("dir") == ["a", "b"]
    other.rm_file(f"{root}/a")
    assert not lake.exists("dir/a")
    assert lake.list("dir") == ["b"]
    other.pipe_file(f"{root}/c", b"")
    lake.remove("dir")
    assert not other.exists(root)


def test_committed_directory(lake, source, tmp_path):
    assert lake.committed("model") is None
    lake.commit_dir(source, "model", {"step": 7})
    marker = lake.fetch_dir("model", str(tmp_path / "out"))
    assert marker == lake.committed("model")
    assert (marker["step"], sorted(marker["files"])) == (7, ["deep/empty", "weights"])
    assert (tmp_path / "out/weights").read_bytes() == (tmp_path / "source/weights").read_bytes()
    lake.remove("model/weights")
    with pytest.raises(DamagedError, match="weights is missing"):
        lake.fetch_dir("model", str(tmp_path / "again"))
    lake.remove("model")
    assert lake.committed("model") is None


def test_checkpoints(lake, tmp_path):
    one = Checkpointer(CheckpointStore(lake), str(tmp_path), 60)
    variable = tf.Variable(0.0)
    assert one.restore(v=variable) is None
    for step in range(1, 6):
        variable.assign(float(step))
        one.save(step, {"seen": step})
    one.wait()
    assert len(lake.list("checkpoints")) == 3
    lake.write("checkpoints/000000000005/state.json", b"{}")
    other = tf.Variable(0.0)
    two = Checkpointer(CheckpointStore(lake), str(tmp_path), 60)
    assert two.restore(v=other) == {"seen": 4}
    assert (two.step, float(other)) == (4, 4.0)


def test_feed_larger_than_the_cache(lake, s3, tmp_path, monkeypatch):
    monkeypatch.setattr("tfos.feeding.reader.window_rows", lambda rows, size: 40)
    monkeypatch.setattr("tfos.feeding.reader._SHARDS_OPEN", 1)
    rows = 400
    columns = [Column("id", "int64"), Column("text", "string")]
    values = {"id": list(range(rows)), "text": [f"row {i}" for i in range(rows)]}
    write_feed(lake, "train", columns, values, [25] * 16, batch_rows=25)
    size = lake._fs.du(lake.path("feed/train"))
    cache = tmp_path / "cache"
    reader = FeedReader(lake, str(cache), cache_bytes=size // 4)
    view = View("train", ("id", "text"), shuffle=True, seed=3)
    for epoch in range(2):
        ids, texts = reader.read(view, epoch, 0, rows)
        assert sorted(ids.tolist()) == values["id"]
        assert [t.decode() for t in texts] == [f"row {i}" for i in ids]
    deadline = time.monotonic() + 10
    while reader._cache._threads and time.monotonic() < deadline:  # background fetches
        time.sleep(0.01)
    assert 0 < sum(f.stat().st_size for f in cache.rglob("*.arrow")) <= size // 4
    assert not list(cache.rglob("*.part"))


class TestBadMoments:
    def test_errors_of_the_server_are_survived(self, lake, s3, source, tmp_path, impatient, caplog):
        def failing(act):
            caplog.clear()
            s3.fail = 3
            with caplog.at_level(logging.WARNING):
                value = act()
            assert s3.fail == 0
            assert "trying again: OSError" in caplog.text
            return value

        failing(lambda: lake.write("a", b"one"))
        assert failing(lambda: lake.read("a")) == b"one"
        assert failing(lambda: lake.exists("a"))
        assert failing(lambda: lake.list("")) == ["a"]
        failing(lambda: lake.commit_dir(source, "model", {}))
        failing(lambda: lake.fetch_dir("model", str(tmp_path / "out")))
        failing(lambda: lake.remove("model"))
        assert lake.list("") == ["a"]

    def test_clients_own_retries_are_not_in_the_way(self, lake, s3):
        s3.fail = 2
        lake.write("a", b"one")
        assert lake.read("a") == b"one"

    def test_error_that_stays_ends_in_a_lake_error(self, lake, s3, impatient, monkeypatch):
        lake.write("a", b"zero")  # the client takes its time to come up
        monkeypatch.setattr(TIMES, "lake_retry_secs", 1.0)
        s3.fail = 1_000_000
        with pytest.raises(LakeError, match=r"cannot write s3://.*/a: OSError: .*tried \d+ times"):
            lake.write("a", b"one")
        # not a no: for want of an answer a checkpoint would be taken for unfinished
        with pytest.raises(LakeError, match=f"cannot look for s3://.*{COMMIT}"):
            lake.committed("model")

    def test_upload_of_a_checkpoint_that_fails_is_told(
        self, lake, s3, impatient, tmp_path, monkeypatch
    ):
        checkpointer = Checkpointer(CheckpointStore(lake), str(tmp_path), 60)
        checkpointer.restore(v=tf.Variable(1.0))
        checkpointer.save(1)
        checkpointer.wait()
        monkeypatch.setattr(TIMES, "lake_retry_secs", 0.2)
        s3.fail = 1_000_000
        checkpointer.save(2)
        with pytest.raises(LakeError, match="checkpoints/000000000002"):
            checkpointer.wait()
        s3.fail = 0
        assert Checkpointer(CheckpointStore(lake), str(tmp_path), 60).step == 1

    @pytest.mark.parametrize("what", ["no bucket", "no server"])
    def test_wrong_lake_is_an_error_at_once(self, s3, impatient, what):
        if what == "no server":
            s3.end()
        begun = time.monotonic()
        with pytest.raises(LakeError, match="--lake"):
            RunDirectory("s3://nosuchbucket/runs", "run-1").check_writable()
        assert time.monotonic() - begun < 5
