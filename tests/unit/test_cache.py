"""Shards on local disk: fetched once and whole, in a bounded directory, ahead of their use."""

from __future__ import annotations

import mmap
import random
import secrets
import threading
import time
from pathlib import Path

import pytest

from tfos.errors import LakeError
from tfos.feeding.cache import CACHE_BYTES, ShardCache
from tfos.lake.run_directory import RunDirectory

SIZE = 1000
DEADLINE_SECS = 20


def content(name):
    return name.encode() * SIZE


@pytest.fixture
def lake():
    lake = RunDirectory(f"memory://{secrets.token_hex(4)}", "run")
    for name in "abcdef":
        lake.write(f"feed/{name}", content(name))
    yield lake
    lake.remove("")


@pytest.fixture
def fetched(monkeypatch):
    """The names of the shards that were downloaded."""
    names = []
    download = RunDirectory.download

    def record(self, path, target):
        names.append(path[-1])
        download(self, path, target)

    monkeypatch.setattr(RunDirectory, "download", record)
    return names


@pytest.fixture
def make(lake, tmp_path):
    return lambda shards=3: ShardCache(lake, str(tmp_path / "cache"), shards * SIZE)


def read(cache, name):
    with cache.open(f"feed/{name}") as path:
        return Path(path).read_bytes()


def kept(tmp_path):
    return "".join(sorted(f.name for f in (tmp_path / "cache").rglob("*") if f.is_file()))


def settle(cache):
    deadline = time.monotonic() + DEADLINE_SECS
    while cache._threads and time.monotonic() < deadline:
        time.sleep(0.005)
    assert not cache._threads


def test_local_lake_is_read_where_it_is(tmp_path, fetched):
    lake = RunDirectory(str(tmp_path / "lake"), "run")
    lake.write("feed/a", b"1")
    cache = ShardCache(lake, str(tmp_path / "cache"))
    cache.ahead(["feed/a"])
    with cache.open("feed/a") as path:
        assert path == lake.path("feed/a")
    assert not fetched
    assert not (tmp_path / "cache").exists()
    assert CACHE_BYTES == 4 * 2**30


def test_fetched_once(make, fetched):
    cache = make()
    for _ in range(3):
        assert read(cache, "a") == content("a")
    assert fetched == ["a"]


def test_least_recently_used_goes(make, fetched, tmp_path):
    cache = make(3)
    for name in "abc":
        read(cache, name)
    read(cache, "a")
    read(cache, "d")
    assert kept(tmp_path) == "acd"
    read(cache, "b")
    assert kept(tmp_path) == "abd"
    assert fetched == list("abcdb")


def test_shard_above_the_limit_is_read(make, lake, tmp_path):
    cache = make(0.5)
    assert read(cache, "a") == content("a")
    assert read(cache, "b") == content("b")
    assert kept(tmp_path) == "b"


def test_mapped_shard_is_read_after_it_went(make, tmp_path):
    cache = make(1)
    with cache.open("feed/a") as path, open(path, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    read(cache, "b")
    assert kept(tmp_path) == "b"
    assert mapped[:] == content("a")


def test_open_shard_stays(make, tmp_path):
    cache = make(1)
    with cache.open("feed/a") as path:
        read(cache, "b")
        assert Path(path).read_bytes() == content("a")
        assert kept(tmp_path) == "ab"
    read(cache, "c")
    assert kept(tmp_path) == "c"


def test_two_at_once_fetch_once(make, fetched, monkeypatch):
    cache, gate = make(), threading.Event()
    download = RunDirectory.download
    monkeypatch.setattr(
        RunDirectory, "download", lambda *args: (gate.wait(DEADLINE_SECS), download(*args))
    )
    found = []
    threads = [threading.Thread(target=lambda: found.append(read(cache, "a"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    cache.ahead(["feed/a"])
    gate.set()
    for thread in threads:
        thread.join(DEADLINE_SECS)
    settle(cache)
    assert found == [content("a")] * 4
    assert fetched.count("a") == 1


def test_ahead_is_there_before_it_is_opened(make, fetched, tmp_path):
    cache = make(6)
    cache.ahead(f"feed/{name}" for name in "abcdef")
    settle(cache)
    assert kept(tmp_path) == "abcdef"
    assert all(read(cache, name) == content(name) for name in "abcdef")
    assert sorted(fetched) == list("abcdef")


def test_failed_fetch_ahead_is_made_again_by_open(make, fetched, monkeypatch, caplog, tmp_path):
    cache, failing = make(), threading.Event()
    failing.set()
    download = RunDirectory.download

    def half(self, path, target):
        if failing.is_set():
            Path(target).write_bytes(b"half")
            raise LakeError("the connection was lost")
        download(self, path, target)

    monkeypatch.setattr(RunDirectory, "download", half)
    cache.ahead(["feed/a", "feed/b"])
    settle(cache)
    assert caplog.text.count("the connection was lost") == 2
    with pytest.raises(LakeError, match="the connection was lost"):
        read(cache, "a")
    assert kept(tmp_path) == ""
    failing.clear()
    assert read(cache, "a") == content("a")


def test_missing_shard_is_a_lake_error(make):
    with pytest.raises(LakeError, match="feed/x"):
        read(make(), "x")


def test_many_threads(make, tmp_path):
    """What is open is whole, whoever else fetches and evicts; in the end the limit holds."""
    seed = random.randrange(2**32)
    print("seed", seed)
    cache, wrong = make(2), []

    def work(number):
        choose = random.Random(seed + number)
        for _ in range(150):
            cache.ahead(f"feed/{name}" for name in choose.sample("abcdef", 2))
            name = choose.choice("abcdef")
            if read(cache, name) != content(name):
                wrong.append(name)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_SECS)
        assert not thread.is_alive()
    settle(cache)
    assert not wrong
    read(cache, "a")
    assert len(kept(tmp_path)) <= 2
    assert sum(cache._sizes.values()) == len(kept(tmp_path)) * SIZE
