"""The registry, against the embedded ZooKeeper server."""

from __future__ import annotations

import itertools
import os
import queue
import socket
import tempfile
import threading
import time
from pathlib import Path

import psutil
import pytest
from kazoo.client import KazooClient

from tfos.errors import RegistryError
from tfos.runtime import keys, registry
from tfos.runtime.registry import Registry, RegistryAddress, prepare
from tfos.runtime.zookeeper import EmbeddedZooKeeper

DEADLINE_SECS = 10.0
_numbers = itertools.count()


@pytest.fixture(scope="module")
def server():
    server = EmbeddedZooKeeper("127.0.0.1")
    server.wait()
    try:
        prepare(server.hosts)
        yield server
    finally:
        server.stop()


@pytest.fixture
def run_id():
    return f"run-{next(_numbers)}"


@pytest.fixture
def address(server, run_id):
    return RegistryAddress.new(server.hosts, run_id)


@pytest.fixture
def client(address):
    with Registry(address) as client:
        yield client


@pytest.fixture
def root(run_id):
    return keys.run(run_id)


def eventually(condition, what):
    deadline = time.monotonic() + DEADLINE_SECS
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE_SECS:g} s: {what}"
        time.sleep(0.02)


class Calls:
    """A callback that keeps what it was called with."""

    def __init__(self, deadline_secs=DEADLINE_SECS):
        self._calls = queue.Queue()
        self._deadline_secs = deadline_secs

    def __call__(self, value=None):
        self._calls.put(value)

    def next(self):
        return self._calls.get(timeout=self._deadline_secs)

    def until(self, wanted):
        deadline = time.monotonic() + DEADLINE_SECS
        while (got := self.next()) != wanted:
            assert time.monotonic() < deadline, f"last call was {got!r}, not {wanted!r}"


class TestNodes:
    @pytest.mark.parametrize("value", [None, True, 0, "é", [1, {"a": None}], {"k": 0.5}])
    def test_value_round_trip(self, client, root, value):
        assert client.create(f"{root}/x", value)
        assert client.get(f"{root}/x") == value

    def test_first_create_wins(self, client, address, root):
        assert client.create(f"{root}/deep/x", "first") is True
        with Registry(address) as other:
            assert other.create(f"{root}/deep/x", "second") is False
        assert client.get(f"{root}/deep/x") == "first"

    def test_of_many_at_once_one_wins(self, client, root):
        barrier, won = threading.Barrier(8), []

        def create(number):
            barrier.wait()
            if client.create(f"{root}/x", number):
                won.append(number)

        threads = [threading.Thread(target=create, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert won == [client.get(f"{root}/x")]

    def test_put_makes_and_replaces(self, client, root):
        client.put(f"{root}/x", 1)
        client.put(f"{root}/x", 2)
        assert client.get(f"{root}/x") == 2

    def test_nothing_there(self, client, root):
        assert client.get(f"{root}/x") is None
        assert client.children(f"{root}/x") == []
        client.remove(f"{root}/x")

    def test_children_are_sorted(self, client, root):
        for name in ("b", "c", "a"):
            client.create(f"{root}/dir/{name}")
        assert client.children(f"{root}/dir") == ["a", "b", "c"]

    def test_remove_takes_all_below(self, client, root):
        client.create(f"{root}/a/b/c", 1)
        client.remove(f"{root}/a")
        assert client.children(root) == []

    def test_ephemeral_node_vanishes_with_its_session_and_others_stay(self, client, address, root):
        with Registry(address) as other:
            other.create(f"{root}/members/ps-0", {"port": 1}, ephemeral=True)
            other.create(f"{root}/stays", 1)
            assert client.children(f"{root}/members") == ["ps-0"]
        assert client.children(f"{root}/members") == []
        assert client.get(f"{root}/stays") == 1


class TestWatch:
    def test_value_now_and_at_each_change(self, client, address, root):
        calls = Calls()
        client.watch(f"{root}/x", calls)
        assert calls.next() is None
        with Registry(address) as other:
            other.put(f"{root}/x", {"n": 1})
            assert calls.next() == {"n": 1}
            other.put(f"{root}/x", {"n": 2})
            assert calls.next() == {"n": 2}
            other.remove(f"{root}/x")
            assert calls.next() is None
            other.put(f"{root}/x", {"n": 3})
            assert calls.next() == {"n": 3}

    def test_owners_death_is_seen(self, client, address, root):
        calls = Calls()
        with Registry(address) as other:
            other.create(f"{root}/driver", 7, ephemeral=True)
            client.watch(f"{root}/driver", calls)
            assert calls.next() == 7
        assert calls.next() is None

    def test_children_now_and_at_each_change(self, client, address, root):
        calls = Calls()
        client.watch_children(f"{root}/members", calls)
        assert calls.next() == []
        with Registry(address) as other:
            other.create(f"{root}/members/b", ephemeral=True)
            calls.until(["b"])
            other.create(f"{root}/members/a", ephemeral=True)
            calls.until(["a", "b"])
        calls.until([])

    def test_callback_that_returns_false_is_called_again(self, client, root):
        """kazoo takes a False from its own callbacks as the end of the watch; ours must not."""
        values, names = Calls(), Calls(3.0)
        client.watch(f"{root}/x", lambda value: (values(value), False)[1])
        client.watch_children(f"{root}/dir", lambda value: (names(value), False)[1])
        client.put(f"{root}/x", 1)
        client.create(f"{root}/dir/a")
        values.until(1)
        names.until(["a"])


class TestErrors:
    def test_another_credential_is_refused(self, client, server, root, run_id):
        client.create(f"{root}/x", 1)
        with Registry(RegistryAddress.new(server.hosts, run_id)) as stranger:
            for attempt in (
                lambda: stranger.get(f"{root}/x"),
                lambda: stranger.put(f"{root}/x", 2),
                lambda: stranger.children(root),
                lambda: stranger.remove(f"{root}/x"),
                lambda: stranger.create(f"{root}/y", 1),
            ):
                with pytest.raises(RegistryError, match="belongs to another run") as caught:
                    attempt()
                assert server.hosts in str(caught.value)
                assert root in str(caught.value)
        assert client.get(f"{root}/x") == 1

    def test_two_addresses_have_different_passwords(self, server):
        one, two = (RegistryAddress.new(server.hosts, "r") for _ in range(2))
        assert one.password != two.password

    def test_use_after_close_is_a_registry_error(self, address, root):
        client = Registry(address)
        client.close()
        with pytest.raises(RegistryError):
            client.get(root)

    @pytest.fixture
    def impatient(self, monkeypatch):
        """Half a second instead of CONNECT_TIMEOUT_SECS, whoever asks for a connection."""
        assert registry.CONNECT_TIMEOUT_SECS < 15
        start = KazooClient.start
        monkeypatch.setattr(KazooClient, "start", lambda self, timeout: start(self, 0.5))

    @pytest.mark.parametrize(
        "connect",
        [prepare, lambda hosts: Registry(RegistryAddress.new(hosts, "run"))],
        ids=["prepare", "Registry"],
    )
    def test_nobody_answers(self, connect, impatient):
        with socket.socket() as held:  # bound, but it does not listen
            held.bind(("127.0.0.1", 0))
            hosts = f"127.0.0.1:{held.getsockname()[1]}"
            begun = time.monotonic()
            with pytest.raises(RegistryError) as caught:
                connect(hosts)
            assert time.monotonic() - begun < 5
        assert hosts in str(caught.value)
        assert "--zookeeper" in str(caught.value)

    @pytest.mark.parametrize("hosts", ["127.0.0.1:port", "no such host:2181"])
    def test_address_that_is_none(self, impatient, hosts):
        with pytest.raises(RegistryError) as caught:
            prepare(hosts)
        assert hosts in str(caught.value)
        assert "--zookeeper" in str(caught.value)


class TestChroot:
    def test_is_made_and_keeps_runs_apart(self, server, client, root, run_id):
        hosts = f"{server.hosts}/some/chroot"
        prepare(hosts)
        prepare(hosts)
        client.create(f"{root}/x", "outside")
        with Registry(RegistryAddress.new(hosts, run_id)) as inside:
            assert inside.get(f"{root}/x") is None
            assert inside.create(f"{root}/x", "inside")
            assert inside.get(f"{root}/x") == "inside"
        assert client.get(f"{root}/x") == "outside"

    def test_that_is_empty_is_none(self, server, client, root, run_id):
        prepare(f"{server.hosts}/")
        address = RegistryAddress(f"{server.hosts}/", run_id, client.address.password)
        client.create(f"{root}/x", 1)
        with Registry(address) as same:
            assert same.get(f"{root}/x") == 1


class TestFirstServer:
    @pytest.mark.parametrize(
        ("hosts", "expected"),
        [
            ("a:1", ("a", 1)),
            ("a:1,b:2/c/d", ("a", 1)),
            ("zk.example.com", ("zk.example.com", 2181)),
            ("zk/root", ("zk", 2181)),
        ],
    )
    def test_host_and_port(self, hosts, expected):
        assert RegistryAddress(hosts, "u", "p").first_server() == expected


class TestEmbeddedServer:
    def test_stop_leaves_neither_process_port_nor_directory(self, monkeypatch, tmp_path):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        before = set(psutil.Process().children())
        server = EmbeddedZooKeeper("127.0.0.1")
        server.wait()
        started = set(psutil.Process().children()) - before
        try:
            prepare(server.hosts)
            assert len(os.listdir(tmp_path)) == 1
            assert any("ZooKeeperServerMain" in " ".join(p.cmdline()) for p in started)
        finally:
            server.stop()
        eventually(lambda: not any(p.is_running() for p in started), "its processes are gone")
        host, _, port = server.hosts.partition(":")
        with pytest.raises(OSError):
            socket.create_connection((host, int(port)), timeout=1.0)
        assert list(Path(tmp_path).iterdir()) == []

    def test_host_that_is_not_ours_is_refused(self):
        with pytest.raises(RegistryError, match=r"203\.0\.113\.1.*--zookeeper"):
            EmbeddedZooKeeper("203.0.113.1")
