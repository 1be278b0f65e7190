"""The registry, against the embedded ZooKeeper server."""

from __future__ import annotations

import itertools
import os
import queue
import signal
import socket
import tempfile
import threading
import time
from pathlib import Path

import psutil
import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import ConnectionLoss, NodeExistsError
from kazoo.protocol.connection import _SESSION_EXPIRED

from tfos.errors import RegistryError
from tfos.runtime import keys, registry, zookeeper
from tfos.runtime.registry import Registry, RegistryAddress, prepare, read_public
from tfos.runtime.zookeeper import EmbeddedZooKeeper

pytest_plugins = ["zookeeper_fixtures"]
pytestmark = pytest.mark.serial
DEADLINE_SECS = 10.0
_numbers = itertools.count()


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

    def is_empty(self):
        return self._calls.empty()

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

    def test_sync_of_what_is_there_or_not(self, client, root):
        client.create(f"{root}/x")
        client.sync(f"{root}/x")
        client.sync(f"{root}/y")
        assert client.children(root) == ["x"]

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


class TestLostAnswer:
    """The connection breaks after a create was sent: it may have been made, or not."""

    @pytest.fixture
    def flaky(self, client, root, monkeypatch):
        """flaky(act): act(number of the call, create) for each create; a True loses its answer."""
        client.ensure(root)  # else kazoo would make it with calls of its own

        def flaky(act):
            begin = client._client.create_async
            calls = itertools.count()

            def create_async(*args, **options):
                answer = client._client.handler.async_result()

                def create():
                    begin(*args, **options).get(timeout=DEADLINE_SECS)

                try:
                    if act(next(calls), create):
                        answer.set_exception(ConnectionLoss())
                    else:
                        return begin(*args, **options)
                except NodeExistsError as error:
                    answer.set_exception(error)
                return answer

            monkeypatch.setattr(client._client, "create_async", create_async)

        return flaky

    @pytest.fixture
    def lose(self, flaky):
        """lose(before): of the first create, before which before(create) is called."""

        def lose(before):
            flaky(lambda call, create: not call and (before(create), True)[1])

        return lose

    @pytest.mark.parametrize("ephemeral", [False, True])
    def test_of_a_create_that_was_made(self, client, root, lose, ephemeral):
        lose(lambda create: create())
        assert client.create(f"{root}/x", "ours", ephemeral) is True
        assert client.get(f"{root}/x") == "ours"

    def test_of_a_create_that_was_not_made(self, client, root, lose):
        lose(lambda create: None)
        assert client.create(f"{root}/x", "ours") is True
        assert client.get(f"{root}/x") == "ours"

    @pytest.mark.parametrize("made_at", [0, 2, None])
    def test_again_and_again(self, client, root, flaky, made_at):
        def act(call, create):
            if call == made_at:
                create()
            return call < 4

        flaky(act)
        assert client.create(f"{root}/x", "ours") is True
        assert client.get(f"{root}/x") == "ours"

    def test_of_a_create_that_another_has_won(self, client, address, root, lose):
        with Registry(address) as other:
            lose(lambda create: other.create(f"{root}/x", "theirs"))
            assert client.create(f"{root}/x", "ours") is False
        assert client.get(f"{root}/x") == "theirs"


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


def owner(client, path):
    """The session that holds an ephemeral node; None when there is no node."""
    stat = client._client.retry(client._client.exists, path)
    return stat and stat.ephemeralOwner


def session_of(client):
    """(id, password) of the session; None while there is none."""
    return client._client.client_id


def close_session(server, session):
    """Ends a session at the server, as its time limit does: a client takes it over and closes it.

    The client that has it takes it back by and by, so this may have to be repeated.
    """
    other = KazooClient(server.hosts, client_id=session)
    other.start(timeout=DEADLINE_SECS)
    other.stop()
    other.close()


def expire(server, client):
    """Expires a registry's session; returns when it has another one."""
    before = session_of(client)

    def has_another():
        if session_of(client) in (before, None):
            close_session(server, before)
        return session_of(client) not in (before, None)

    eventually(has_another, "the session is replaced")


def eventually_owns(client, path):
    eventually(
        lambda: owner(client, path) == (session_of(client) or [None])[0],
        f"{path} is that of the new session",
    )


class TestHold:
    def test_is_ephemeral(self, client, address, root):
        with Registry(address) as other:
            other.hold(f"{root}/a", 1)
            assert client.get(f"{root}/a") == 1
        assert client.get(f"{root}/a") is None

    def test_value_may_change(self, client, root):
        client.hold(f"{root}/a", {"life": 1})
        client.hold(f"{root}/a", {"life": 2})
        assert client.get(f"{root}/a") == {"life": 2}

    def test_survives_an_expired_session(self, server, client, address, root):
        """With its newest value; what was only made is gone, as ephemeral nodes are."""
        calls = Calls()
        with Registry(address) as other:
            other.watch(f"{root}/a", calls)
            calls.until(None)
            client.create(f"{root}/only-made", 1, ephemeral=True)
            client.hold(f"{root}/a", {"life": 1})
            client.hold(f"{root}/a", {"life": 2})
            client.hold(f"{root}/b", 5)
            calls.until({"life": 2})
            expire(server, client)
            calls.until(None)
            calls.until({"life": 2})
            eventually(lambda: other.get(f"{root}/b") == 5, "the other node is there again")
            assert other.get(f"{root}/only-made") is None
            for name in "ab":
                assert owner(other, f"{root}/{name}") == session_of(client)[0]

    def test_survives_more_than_one(self, server, client, root):
        client.hold(f"{root}/a", 1)
        for _ in range(2):
            expire(server, client)
            eventually_owns(client, f"{root}/a")
        assert client.get(f"{root}/a") == 1

    @pytest.mark.parametrize("how", ["hold", "claim"])
    def test_does_not_go_with_an_old_session_that_ends_later(self, server, client, root, how):
        """We took the session for lost; the server finds out when its time is up."""
        getattr(client, how)(f"{root}/a", {"pid": 1})
        session = session_of(client)
        client._client._call(_SESSION_EXPIRED, client._client.handler.async_result())
        eventually(lambda: owner(client, f"{root}/a") not in (None, session[0]), "it is held anew")
        close_session(server, session)
        assert client.get(f"{root}/a") == {"pid": 1}
        assert owner(client, f"{root}/a") == session_of(client)[0]
        assert not client.taken

    def test_watches_survive_an_expired_session(self, server, client, address, root):
        values, names = Calls(), Calls()
        client.watch(f"{root}/x", values)
        client.watch_children(f"{root}/dir", names)
        expire(server, client)
        with Registry(address) as other:
            other.put(f"{root}/x", 7)
            other.create(f"{root}/dir/a")
            values.until(7)
            names.until(["a"])

    def test_newest_value_wins_over_one_that_is_being_made_again(self, client, root):
        """hold() in one thread while kazoo's makes all nodes anew."""
        for name in "ab":
            client.hold(f"{root}/{name}", 1)
        put = client._hold

        def meanwhile(path, value):
            put(path, value)
            if path == f"{root}/a":
                client.hold(f"{root}/b", 2)

        client._hold = meanwhile
        client._hold_again()
        assert client.get(f"{root}/b") == 2

    def test_connection_that_is_lost_in_the_middle(self, client, root, monkeypatch):
        """kazoo has no session's id while it is not connected."""
        client.hold(f"{root}/a", 1)
        session = session_of(client)
        ids = itertools.chain([None], itertools.repeat(session))
        monkeypatch.setattr(KazooClient, "client_id", property(lambda self: next(ids)))
        client.hold(f"{root}/a", 2)
        assert client.get(f"{root}/a") == 2


class TestClaim:
    def test_is_one_owners(self, client, address, root):
        assert client.claim(f"{root}/driver", {"pid": 1}) is True
        with Registry(address) as other:
            assert other.claim(f"{root}/driver", {"pid": 2}) is False
        assert client.get(f"{root}/driver") == {"pid": 1}
        client.check_taken()

    def test_is_free_when_its_owner_ends(self, client, address, root):
        with Registry(address) as other:
            assert other.claim(f"{root}/driver", {"pid": 1})
        assert client.claim(f"{root}/driver", {"pid": 2}) is True

    def test_refused_one_is_not_held(self, server, client, address, root):
        with Registry(address) as other:
            other.claim(f"{root}/driver", {"pid": 1})
            assert not client.claim(f"{root}/driver", {"pid": 2})
        client.hold(f"{root}/mark", 1)
        expire(server, client)
        eventually_owns(client, f"{root}/mark")
        assert client.get(f"{root}/driver") is None

    def test_is_made_again_after_an_expired_session(self, server, client, root):
        client.claim(f"{root}/driver", {"pid": 1})
        expire(server, client)
        eventually_owns(client, f"{root}/driver")
        assert client.get(f"{root}/driver") == {"pid": 1}
        assert not client.taken

    def test_is_not_stolen_back(self, server, client, address, root):
        """Another driver came while our session was lost."""
        assert client.claim(f"{root}/driver", {"pid": 1})
        client.hold(f"{root}/zz", 1)
        hold_again = client._hold_again
        with Registry(address) as other:

            def too_late():
                assert other.claim(f"{root}/driver", {"pid": 2})
                hold_again()

            client._hold_again = too_late
            expire(server, client)
            eventually(lambda: client.taken == f"{root}/driver", "the loss is noticed")
            with pytest.raises(RegistryError, match=r"taken over the run .*/driver"):
                client.check_taken()
            assert other.get(f"{root}/driver") == {"pid": 2}
            assert owner(other, f"{root}/driver") == session_of(other)[0]
            assert not other.taken


class TestPublish:
    def test_is_readable_without_the_credential(self, server, client, root):
        client.publish(f"{root}/lake", "s3://bucket/runs")
        assert read_public(server.hosts, f"{root}/lake") == "s3://bucket/runs"
        assert client.get(f"{root}/lake") == "s3://bucket/runs"

    def test_is_the_runs_all_the_same(self, server, client, root, run_id):
        client.publish(f"{root}/lake", "mine")
        with Registry(RegistryAddress.new(server.hosts, run_id)) as stranger:
            assert stranger.get(f"{root}/lake") == "mine"
            with pytest.raises(RegistryError, match="belongs to another run"):
                stranger.put(f"{root}/lake", "theirs")
        client.put(f"{root}/lake", "still mine")
        assert read_public(server.hosts, f"{root}/lake") == "still mine"

    def test_nothing_else_of_the_run_becomes_public(self, server, client, root):
        client.publish(f"{root}/lake", 1)
        client.create(f"{root}/secret", 2)
        with pytest.raises(RegistryError, match=f"{root}/secret"):
            read_public(server.hosts, f"{root}/secret")

    def test_again_is_no_error(self, server, client, root):
        client.publish(f"{root}/lake", 1)
        client.publish(f"{root}/lake", 1)
        assert read_public(server.hosts, f"{root}/lake") == 1

    def test_no_node_is_none(self, server, root):
        assert read_public(server.hosts, f"{root}/lake") is None


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
        [
            prepare,
            lambda hosts: Registry(RegistryAddress.new(hosts, "run")),
            lambda hosts: read_public(hosts, "/tfos/run/lake"),
        ],
        ids=["prepare", "Registry", "read_public"],
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


def java_of(server):
    """The server's process."""
    (found,) = [
        child
        for child in psutil.Process().children()
        if "org.apache.zookeeper.server.ZooKeeperServerMain" in (line := child.cmdline())
        and server._scratch in " ".join(line)
    ]
    return found


class TestServerDies:
    @pytest.fixture
    def server(self, monkeypatch):
        """One of the test's own, that stays away for a second when it is killed."""
        monkeypatch.setattr(zookeeper, "_RESTART_PAUSE_SECS", 1.0)
        server = EmbeddedZooKeeper("127.0.0.1")
        try:
            server.wait()
            prepare(server.hosts)
            yield server
        finally:
            server.stop()

    def kill(self, server):
        before = java_of(server)
        before.send_signal(signal.SIGKILL)
        return before

    def test_comes_back_on_its_port_with_its_nodes(self, server, client, root):
        hosts = server.hosts
        client.create(f"{root}/x", {"kept": True})
        before = self.kill(server)
        # begun while there is no server: it waits for it
        eventually(lambda: client.connected_secs() == 0, "the loss is noticed")
        assert client.get(f"{root}/x") == {"kept": True}
        assert client.connected_secs() > 0
        assert server.hosts == hosts
        assert java_of(server).pid != before.pid

    @pytest.mark.parametrize(
        "operation",
        [
            lambda client, path: client.put(path, "new"),
            lambda client, path: client.create(f"{path}-other", "new"),
            lambda client, path: client.hold(path + "-held", "new"),
            lambda client, path: client.remove(path),
        ],
        ids=["put", "create", "hold", "remove"],
    )
    def test_operations_wait_for_it(self, server, client, address, root, operation):
        client.put(f"{root}/x", "old")
        self.kill(server)
        eventually(lambda: client.connected_secs() == 0, "the loss is noticed")
        operation(client, f"{root}/x")
        with Registry(address) as other:
            found = {name: other.get(f"{root}/{name}") for name in other.children(root)}
        assert found in (
            {"x": "new"}, {"x": "old", "x-other": "new"}, {"x": "old", "x-held": "new"}, {},
        )  # fmt: skip

    def test_sessions_live_on_with_what_they_hold_and_watch(self, server, client, address, root):
        values, names = Calls(), Calls()
        with Registry(address) as other:
            assert other.claim(f"{root}/driver", {"pid": 1})
            other.hold(f"{root}/members/ps-0", 1)
            client.watch(f"{root}/driver", values)
            client.watch_children(f"{root}/members", names)
            values.until({"pid": 1})
            names.until(["ps-0"])
            sessions = [session_of(c) for c in (client, other)]
            for _ in range(2):
                self.kill(server)
                eventually(lambda: client.connected_secs() == 0, "the loss is noticed")
                assert client.get(f"{root}/driver") == {"pid": 1}
                assert other.get(f"{root}/driver") == {"pid": 1}
            assert [session_of(c) for c in (client, other)] == sessions
            assert not other.taken
            other.hold(f"{root}/members/ps-1", 1)
            names.until(["ps-0", "ps-1"])
            other.hold(f"{root}/driver", {"pid": 1, "more": True})
            values.until({"pid": 1, "more": True})
        values.until(None)
        names.until([])

    def test_creates_under_way_are_each_made_and_won_once(self, server, client, root):
        """The answer to one gets lost with the connection: it may have been made or not."""
        won, errors, killed = [], [], threading.Event()

        def create():
            number = 0
            try:
                while not (killed.is_set() and client.connected_secs() > 0.3):
                    won.append(client.create(f"{root}/n/{number}", number))
                    number += 1
            except RegistryError as error:
                errors.append(error)

        thread = threading.Thread(target=create)
        thread.start()
        eventually(lambda: len(won) > 50, "it is at work")
        self.kill(server)
        eventually(lambda: client.connected_secs() == 0, "the loss is noticed")
        killed.set()
        thread.join(DEADLINE_SECS)
        assert not thread.is_alive()
        assert not errors
        assert all(won)
        assert sorted(map(int, client.children(f"{root}/n"))) == list(range(len(won)))

    @pytest.mark.parametrize(
        "operation",
        [
            lambda client, path: client.get(path),
            lambda client, path: client.put(path, 1),
            lambda client, path: client.hold(path, 1),
            lambda client, path: client.children(path),
            lambda client, path: client.remove(path),
            lambda client, path: client.watch(path, lambda value: None),
        ],
        ids=["get", "put", "hold", "children", "remove", "watch"],
    )
    def test_that_stays_away_is_waited_for_no_longer_than_asked(self, server, root, operation):
        """kazoo itself would wait for ever: nothing fails while it connects."""
        with Registry(RegistryAddress.new(server.hosts, "run"), answer_secs=0.3) as client:
            server.stop()
            eventually(lambda: client.lost_secs() > 0, "the loss is noticed")
            begun = time.monotonic()
            with pytest.raises(RegistryError, match=r"gave no answer for 0\.3 s") as caught:
                operation(client, f"{root}/x")
            assert time.monotonic() - begun < 3
            assert server.hosts in str(caught.value)
            assert client.connected_secs() == 0

    def test_stop_while_it_is_away_is_the_end(self, server, client):
        before = {p.pid for p in psutil.Process().children()}
        self.kill(server)
        eventually(lambda: client.connected_secs() == 0, "the loss is noticed")
        server.stop()
        assert not Path(server._scratch).exists()
        # it would be back by now
        deadline = time.monotonic() + 2.0
        while time.monotonic() < deadline:
            assert {p.pid for p in psutil.Process().children()} <= before
            time.sleep(0.05)

    def test_stop_after_it_came_back_leaves_nothing(self, server, client, root):
        self.kill(server)
        eventually(lambda: client.connected_secs() == 0, "the loss is noticed")
        client.put(f"{root}/x", 1)
        java = java_of(server)
        server.stop()
        eventually(lambda: not java.is_running(), "its process is gone")
        assert not Path(server._scratch).exists()
