"""Snapshots of one moment, by a copy of a server that serves on; deltas; copies that die."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import numpy as np
import psutil
import pytest
from conftest import poll

from tfos.errors import StoreError
from tfos.kv import snapshot
from tfos.kv.client import Client
from tfos.kv.optimizers import SGD, Adagrad
from tfos.kv.ring import Ring
from tfos.kv.store import Store
from tfos.lake.storage import Storage

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("no_leaks")]
KEYS = np.arange(5_000)
WIDE = 256  # far more than a pipe holds: a copy waits for its server, which writes files


@contextlib.contextmanager
def server(name: str, lake: str) -> Iterator[tuple[subprocess.Popen, int]]:
    """A server's process, and its port."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tfos.kv", "--name", name, "--lake", lake],
        env={**os.environ, "TFOS_KV_SECRET": "s"}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process, int(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def two(tmp_path):
    """Two servers and a client of them."""
    with contextlib.ExitStack() as stack:
        started = {
            name: stack.enter_context(server(name, str(tmp_path))) for name in ("ps-0", "ps-1")
        }
        addresses = {name: ("127.0.0.1", port) for name, (_, port) in started.items()}
        client = stack.enter_context(Client(addresses, b"s"))
        yield client, [process for process, _ in started.values()]


def client_addresses(processes) -> list[tuple[str, int]]:
    return [
        ("127.0.0.1", each.laddr.port)
        for process in processes
        for each in psutil.Process(process.pid).net_connections()
        if each.status == psutil.CONN_LISTEN
    ]


def copies(processes) -> list[psutil.Process]:
    return [copy for process in processes for copy in psutil.Process(process.pid).children()]


def has_ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def restored(tmp_path, *paths) -> dict[str, dict[int, list[float]]]:
    """What a store has that loads these: weights by key, by table."""
    store = Store()
    snapshot.restore(store, Storage(str(tmp_path)), paths, Ring(["ps-0"]), "ps-0")
    return {
        table.spec.name: {
            int(key): values.tolist()
            for part in table.scans()
            for key, values in zip(part.keys, part.values, strict=True)
        }
        for table in store.tables
    }


def test_rows_are_of_the_moment_of_the_begin(two, tmp_path):
    client, processes = two
    counts = client.table("counts", WIDE, SGD(1.0))
    counts.add(KEYS, np.ones((len(KEYS), WIDE)))
    client.begin_save("full")
    first, second = copies(processes)
    for copy in (first, second):
        poll(lambda copy=copy: "tfos.kv.moment" in " ".join(copy.cmdline()), 10, "it has a name")
        poll(lambda copy=copy: not copy.net_connections(), 10, "it holds no port")
    client.begin_save("full")  # as when the connection broke: the same one
    # they serve on, and what is pushed now is not in it
    counts.add(KEYS, np.ones((len(KEYS), WIDE)))
    counts.add(KEYS + 1_000_000, np.ones((len(KEYS), WIDE)))
    parts = client.finish_save("full")
    snapshot.commit(Storage(str(tmp_path)), "full", parts)
    assert snapshot.rows_of(parts) == len(KEYS)
    assert restored(tmp_path, "full")["counts"] == {key: [1.0] * WIDE for key in KEYS.tolist()}
    assert not copies(processes)

    counts.add([5], np.ones((1, WIDE)))
    client.begin_save("delta", parts)
    counts.add([5], np.ones((1, WIDE)))
    delta = client.finish_save("delta")
    snapshot.commit(Storage(str(tmp_path)), "delta", delta)
    found = restored(tmp_path, "full", "delta")["counts"]
    assert len(found) == 2 * len(KEYS) and found[5] == [3.0] * WIDE
    assert (counts.pull([5])[0] == 4).all()


def test_what_is_pushed_all_the_while_is_in_a_snapshot_or_in_the_next_delta(two, tmp_path):
    """And a row is whole: its weights and slots are of one push."""
    client, processes = two
    name = "t", 8, Adagrad(1.0, initial_accumulator_value=0.0, epsilon=0.0)
    keys, ends = np.arange(500), threading.Event()
    table = client.table(*name)
    addresses = {f"ps-{n}": address for n, address in enumerate(client_addresses(processes))}

    def push() -> None:
        with Client(addresses, b"s") as other:
            pushed = other.table(*name)
            while not ends.is_set():
                pushed.push(keys, -np.ones((len(keys), 8)))

    thread = threading.Thread(target=push)
    thread.start()
    try:
        paths, parts = [], []
        for number in range(6):
            paths.append(f"s{number}")
            client.begin_save(paths[-1], parts)
            parts = client.finish_save(paths[-1])
            snapshot.commit(Storage(str(tmp_path)), paths[-1], parts)
    finally:
        ends.set()
        thread.join()
    client.begin_save("last", parts)
    snapshot.commit(Storage(str(tmp_path)), "last", client.finish_save("last"))
    found = restored(tmp_path, *paths, "last")["t"]
    live = table.pull(keys)
    assert [found[key] for key in keys.tolist()] == live.tolist()
    # after n pushes of 1 a slot is n, and a weight the sum of 1 / sqrt(1 to n)
    store = Store()
    snapshot.restore(store, Storage(str(tmp_path)), paths, Ring(["ps-0"]), "ps-0")
    for part in store.tables[0].scans(slots=True):
        for values in part.values:
            (pushes,) = set(values[8:].tolist())
            expected = (1 / np.sqrt(np.arange(1, pushes + 1))).sum()
            np.testing.assert_allclose(values[:8], expected, 1e-3)


def test_copy_that_dies_is_told_of_and_its_server_serves_on(two):
    client, processes = two
    counts = client.table("counts", WIDE, SGD(1.0))
    counts.add(KEYS, np.ones((len(KEYS), WIDE)))
    client.begin_save("full")
    for copy in copies(processes):
        copy.kill()
    with pytest.raises(StoreError, match="ended before it had sent them"):
        client.finish_save("full")
    assert (counts.pull([1, 2]) == 1).all()
    assert not copies(processes)
    assert snapshot.rows_of(client.save("again")) == len(KEYS)


def test_server_that_dies_takes_its_copy_along(two):
    client, processes = two
    client.table("counts", WIDE, SGD(1.0)).add(KEYS, np.ones((len(KEYS), WIDE)))
    client.begin_save("full")
    left = copies(processes)
    assert len(left) == 2
    for process in processes:
        process.kill()
    poll(lambda: all(map(has_ended, left)), 10, "the copies have ended")


def test_what_was_not_begun_or_begun_by_another(tmp_path):
    with (
        server("ps-0", str(tmp_path)) as (_, port),
        Client({"ps-0": ("127.0.0.1", port)}, b"s") as client,
    ):
        with pytest.raises(ValueError, match="no snapshot 'x' was begun"):
            client.finish_save("x")
        bases = [{"server": "ps-0", "origin": "another", "taken": 0, "swept": {}}]
        with pytest.raises(ValueError, match="has begun anew"):
            client.begin_save("x", bases)
