"""Servers and clients of the store over sockets: values, errors, broken connections, clocks."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest
from kv_servers import SECRET, CuttingProxy, addresses, client, servers

from tfos.errors import StoreError
from tfos.kv.client import Client
from tfos.kv.hashing import hashes
from tfos.kv.optimizers import SGD, Adagrad, Adam, GroupFTRL
from tfos.kv.ring import BUCKET_BITS, Ring
from tfos.kv.spec import Constant, Normal, Uniform

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(autouse=True)
def nothing_is_left():
    """Sockets and threads of the store are gone after each test."""
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        if thread.name.startswith("store"):
            thread.join(10)
            assert not thread.is_alive(), thread.name
    assert not [c for c in psutil.Process().net_connections("tcp") if c.status == "LISTEN"]


def full(keys, value, width=2):
    return np.full((len(keys), width), value, np.float32)


class TestTables:
    @pytest.mark.parametrize("count", [1, 3])
    def test_rows_are_the_same_on_any_number_of_servers(self, count):
        keys = np.concatenate([np.arange(-300, 300), [2**63 - 1, -(2**63)]])
        with servers(count) as started, client(started) as one, client(started) as two:
            table = one.table("t", 2, Adagrad(0.1), Normal(1, 2), seed=5)
            first = table.pull(keys)
            assert sum(s["tables"]["t"]["rows"] for s in one.status().values()) == 0
            table.pull(keys[::2], make=True)
            table.push(keys, full(keys, 1))
            found = two.table("t", 2, Adagrad(0.1), Normal(1, 2), seed=5).pull(keys)
        expected = first - np.float32(0.1) / (np.sqrt(np.float32(1.1)) + np.float32(1e-7))
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
        with servers(2) as other, client(other) as third:
            again = third.table("t", 2, Adagrad(0.1), Normal(1, 2), seed=5)
            np.testing.assert_array_equal(again.pull(keys), first)

    def test_rows_lie_where_the_ring_says(self):
        keys = np.arange(1000)
        with servers(3) as started, client(started) as one:
            table = one.table("t", 2, SGD(1.0), admit_after=1)
            table.put(keys, full(keys, 3))
            owners = np.array(Ring(["ps-0", "ps-1", "ps-2"]).owners)
            expected = owners[hashes(keys) >> np.uint64(64 - BUCKET_BITS)]
            for number, server in enumerate(started):
                (held,) = server.store.tables
                found = np.concatenate([part.keys for part in held.scans()])
                assert sorted(found.tolist()) == keys[expected == number].tolist()

    def test_one_exchange_for_all_tables(self):
        with servers(2) as started, client(started) as one:
            users, items = one.table("users", 2, SGD(1.0)), one.table("items", 3, SGD(2.0))
            keys = np.arange(50)
            found = one.exchange(
                [
                    users.pushing(keys, full(keys, 1)),
                    items.pushing(keys[:0], full([], 1, 3)),
                    items.adding([7, 7, 8], full([7, 7, 8], 1, 3)),
                    users.pulling(keys[::-1]),
                    items.pulling([8, 7, 6, 7]),
                ]
            )
        assert found[:3] == [None] * 3
        np.testing.assert_array_equal(found[3], full(keys, -1))
        np.testing.assert_array_equal(found[4][:, 0], [1, 2, 0, 2])

    def test_duplicates_of_a_push_are_one_update(self):
        with servers() as started, client(started) as one:
            table = one.table("t", 1, Adagrad(1.0, initial_accumulator_value=0.0))
            table.push([5, 6, 5], np.array([[3], [0], [1]], np.float32))
            np.testing.assert_allclose(table.pull([5]), [[-1]])  # two updates: -1 - 3 / 10**0.5

    def test_steps_count_on_all_servers(self):
        """Adam corrects its bias by them, also where a push has no key for a server."""
        with servers(3) as started, client(started) as one:
            table = one.table("t", 1, Adam())
            for key in range(7):
                table.push([key], full([key], 1, 1))
            assert [s["tables"]["t"]["steps"] for s in one.status().values()] == [7, 7, 7]

    def test_learning_rate_of_a_push(self):
        with servers(2) as started, client(started) as one:
            table = one.table("t", 1, SGD(1.0))
            table.push(range(9), full(range(9), 1, 1), learning_rate=0.25)
            np.testing.assert_array_equal(table.pull(range(9)), full(range(9), -0.25, 1))

    def test_scan_reads_every_row_once(self):
        keys = np.arange(5000)
        with servers(2) as started, client(started) as one:
            table = one.table("t", 2, Adagrad(), Uniform())
            assert not list(table.scan())
            weights = table.pull(keys, make=True)
            parts = list(table.scan(slots=True))
            found = np.concatenate([part.keys for part in parts])
            values = np.concatenate([part.values for part in parts])
            order = np.argsort(found)
            np.testing.assert_array_equal(found[order], keys)
            np.testing.assert_array_equal(values[order, :2], weights)
            np.testing.assert_array_equal(values[:, 2:], np.float32(0.1))
            newest = max(part.changed.max() for part in parts)
            assert not list(table.scan(since=int(newest) + 1))

    def test_dense_variables(self):
        random = np.random.default_rng(0)
        with servers(2) as started, client(started) as one, client(started) as two:
            initial = random.normal(size=(70, 11)).astype(np.float32)
            first = one.dense("kernel", initial, SGD(0.5))
            second = two.dense("kernel", np.zeros_like(initial), SGD(0.5))  # it is there already
            gradient = random.normal(size=(70, 11)).astype(np.float32)
            second.push(gradient)
            bias = one.dense("bias", np.float32(4), SGD(0.5))
            found = one.exchange([bias.pushing(1.0), first.pulling(), bias.pulling()])
            np.testing.assert_allclose(first.value(found[1]), initial - 0.5 * gradient, rtol=1e-6)
            np.testing.assert_array_equal(first.pull(), second.pull())
            assert bias.value(found[2]) == 3.5 and bias.shape == ()

    def test_workers_at_once(self):
        keys = np.arange(400)
        with servers(2) as started:

            def work(number):
                with client(started) as one:
                    table = one.table("t", 2, SGD(1.0))
                    for _ in range(30):
                        table.push(keys, full(keys, -1))
                        assert (np.diff(table.pull(keys)) == 0).all()  # no half rows

            with ThreadPoolExecutor(4) as pool:
                list(pool.map(work, range(4)))
            with client(started) as one:
                np.testing.assert_array_equal(
                    one.table("t", 2, SGD(1.0)).pull(keys), full(keys, 120)
                )


class TestErrors:
    @pytest.mark.parametrize(
        ("act", "message"),
        [
            (lambda c, t: t.push([1], full([1], 1, 3)), r"values are \[1, 3\] for 1 keys"),
            (lambda c, t: t.push([1], full([1], 1), learning_rate=-1), "learning_rate is -1"),
            (lambda c, t: c.table("t", 3, SGD(1.0)), r"table 't' is there .* width is 2, not 3"),
            (lambda c, t: c.table("t", 2, SGD(2.0)), r"other arguments: optimizer is .*1.0.*2.0"),
            (lambda c, t: c.table("", 2), "name is '': use a text"),
            (lambda c, t: c.table("u", 0), "width is 0: use an integer from 1"),
            (lambda c, t: c.table("u", 2, expire_secs=-1.0), "expire_secs is -1.0"),
            (lambda c, t: c.table("u", 2, initializer=Uniform(2, 1)), "Uniform's minval is 2"),
            (lambda c, t: c.dense("u", np.zeros((0, 3)), SGD()), "'u' has no elements"),
            (lambda c, t: c.dense("u", np.zeros(3), GroupFTRL()), "whose blocks are no groups"),
            (lambda c, t: c.dense("u", np.zeros(3), SGD()).push([1, 2]), r"an array of \[2\] for"),
            (lambda c, t: c.table("u", 2, admit_after=256), r"admit_after is 256: use .* to 255"),
        ],
    )
    def test_wrong_arguments_change_nothing(self, act, message):
        with servers(2) as started, client(started) as one:
            table = one.table("t", 2, SGD(1.0), Constant(5))
            with pytest.raises(ValueError, match=message):
                act(one, table)
            # and the next request is served, on all servers
            table.push(range(40), full(range(40), 1))
            np.testing.assert_array_equal(table.pull(range(40)), full(range(40), 4))
            assert {s["tables"]["t"]["rows"] > 0 for s in one.status().values()} == {True}

    @pytest.mark.parametrize(("width", "message"), [(1, "bytes for one"), (9, "bytes of rows")])
    def test_too_much_at_once(self, monkeypatch, width, message):
        monkeypatch.setattr("tfos.kv.frames.MOST_BYTES", 4096)
        with servers() as started, client(started) as one:
            table = one.table("t", width, SGD(1.0))
            with pytest.raises(ValueError, match=f"{message} .*4,096 at most: use fewer keys"):
                table.pull(range(600 if width == 1 else 200))
            assert table.pull(range(100)).shape == (100, width)

    def test_another_runs_secret(self):
        with servers() as started:
            wrong = Client(addresses(started), b"another's", retry_secs=20)
            with pytest.raises(StoreError, match="server does not have this run's secret"):
                wrong.table("t", 1)
            with client(started) as one:
                assert one.status()["ps-0"]["tables"] == {}

    def test_nobody_there(self):
        with socket.create_server(("127.0.0.1", 0)) as free:
            address = free.getsockname()
        with (
            Client({"ps-0": address}, SECRET, retry_secs=0.1) as one,
            pytest.raises(StoreError, match=r"server ps-0 .* at 127.0.0.1:\d+: cannot be reached"),
        ):
            one.table("t", 1)

    def test_a_server_in_the_place_of_another(self):
        with servers(2) as started:
            swapped = {"ps-0": started[1].address, "ps-1": started[0].address}
            with (
                Client(swapped, SECRET) as one,
                pytest.raises(StoreError, match=r"server ps-0 .* is ps-1, another server"),
            ):
                one.table("t", 1)

    def test_a_server_that_was_replaced_is_told(self):
        with servers() as started:
            places = dict(addresses(started))
            with Client(places, SECRET, retry_secs=10) as one:
                table = one.table("t", 1, SGD(1.0))
                table.push([1], full([1], 1, 1))
                started[0].close()
                with servers() as others:
                    places.update(addresses(others))
                    with pytest.raises(StoreError, match="replaced by one that does not have"):
                        table.push([1], full([1], 1, 1))


class TestBrokenConnections:
    @pytest.mark.parametrize("seed", range(4))
    def test_every_push_counts_once(self, seed):
        """Adds, and pushes that count steps, through proxies that cut at random bytes."""
        keys, turns, clients = np.arange(200), 40, 2
        with servers(2, stall_secs=10.0) as started:
            proxies = [
                CuttingProxy(s.address, 10 * seed + n, 20_000) for n, s in enumerate(started)
            ]
            places = {f"ps-{n}": proxy.address for n, proxy in enumerate(proxies)}
            try:

                def work(number):
                    with Client(places, SECRET, retry_secs=30, stall_secs=10) as one:
                        table = one.table("t", 2, SGD(1.0))
                        for turn in range(turns):
                            found = one.exchange(
                                [
                                    table.pushing(keys, full(keys, -1)),
                                    table.adding(keys[: turn + 1], full(keys[: turn + 1], 1000)),
                                    table.pulling(keys),
                                ]
                            )
                            assert (found[2][turn] % 1000 >= turn + 1).all()

                with ThreadPoolExecutor(clients) as pool:
                    list(pool.map(work, range(clients)))
            finally:
                for proxy in proxies:
                    proxy.close()
            assert sum(proxy.cuts for proxy in proxies) > 15
            with client(started) as one:
                found = one.table("t", 2, SGD(1.0)).pull(keys)
                steps = [s["tables"]["t"]["steps"] for s in one.status().values()]
        adds = np.clip(turns - keys, 0, None)[:, None]
        np.testing.assert_array_equal(found, clients * (turns + 1000 * adds) * np.ones((1, 2)))
        assert steps == [clients * turns] * 2

    def test_clocks_tick_once(self):
        with servers(staleness=1) as started:
            proxy = CuttingProxy(started[0].address, 3, 700)
            places = {"ps-0": proxy.address}
            try:

                def work(number):
                    with Client(places, SECRET, retry_secs=30) as one:
                        return [one.clock(timeout=40) for _ in range(30)]

                with ThreadPoolExecutor(2) as pool:
                    clocks = list(pool.map(work, range(2)))
                # who joined later began beside the other
                assert all(c == [*range(c[0], c[0] + 30)] for c in clocks)
                assert min(clocks)[0] == 1
            finally:
                proxy.close()
            assert proxy.cuts > 5


class TestClocks:
    @pytest.mark.parametrize("staleness", [0, 2])
    def test_nobody_is_further_ahead(self, staleness):
        done, worst, lock = [0, 0, 0], [0], threading.Lock()
        ready = threading.Barrier(3)
        with servers(2, staleness) as started:

            def work(number):
                with client(started) as one:
                    one.join()
                    ready.wait(30)
                    for _ in range(40):
                        one.clock(timeout=30)
                        with lock:
                            done[number] += 1
                            worst[0] = max(worst[0], max(done) - min(done))

            with ThreadPoolExecutor(3) as pool:
                list(pool.map(work, range(3)))
        assert done == [40, 40, 40] and worst[0] <= staleness + 1

    def test_one_that_is_behind_is_waited_for_until_it_is_gone(self):
        with servers(1, 0, away_secs=0.2) as started, client(started) as one:
            two = client(started)
            one.join()
            two.join()
            with ThreadPoolExecutor(2) as pool:
                assert [f.result(30) for f in [pool.submit(c.clock) for c in (one, two)]] == [1, 1]
            with pytest.raises(TimeoutError, match="others are still behind step 2"):
                one.clock(timeout=0)
            for link in two._links:
                link.close()  # it dies, and says nothing
            assert one.clock(timeout=30) == 3
            assert one.status()["ps-0"]["clocks"].keys() == {one.name.hex()}

    def test_asynchronous(self):
        with servers() as started, client(started) as one, client(started) as two:
            two.clock()
            assert [one.clock(timeout=0) for _ in range(20)] == [*range(2, 22)]


class TestExpiry:
    def test_the_server_removes_rows_by_itself(self):
        with servers(sweep_secs=0.05) as started, client(started) as one:
            table = one.table("t", 1, SGD(1.0), expire_secs=0.2)
            table.push([1, 2], full([1, 2], 1, 1))
            wait = threading.Event()
            for _ in range(400):
                if one.status()["ps-0"]["tables"]["t"]["rows"] == 0:
                    break
                wait.wait(0.05)
            assert (table.pull([1, 2]) == 0).all() and not list(table.scan())


class TestProcess:
    def test_it_serves_until_its_input_ends(self):
        with started_process() as (process, port):
            with Client({"ps-0": ("127.0.0.1", port)}, SECRET) as one:
                one.table("t", 2, SGD(1.0)).push([1], full([1], 1))
            process.stdin.close()
            assert process.wait(20) == 0

    def test_clients_of_one_that_is_killed_are_told(self):
        with (
            started_process() as (process, port),
            Client({"ps-0": ("127.0.0.1", port)}, SECRET, retry_secs=0.5) as one,
        ):
            table = one.table("t", 2, SGD(1.0))
            process.send_signal(signal.SIGKILL)
            process.wait(20)
            with pytest.raises(StoreError, match=r"cannot be reached for 0.5 s"):
                table.push([1], full([1], 1))

    def test_it_wants_a_secret(self):
        command = [sys.executable, "-m", "tfos.kv"]
        environment = {k: v for k, v in os.environ.items() if k != "TFOS_KV_SECRET"}
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=50)
        assert ended.returncode == 2 and "TFOS_KV_SECRET is not set" in ended.stderr


def test_too_many_connections_are_refused(monkeypatch):
    monkeypatch.setattr("tfos.kv.server.MOST_CONNECTIONS", 1)
    with servers() as started, client(started) as one:
        one.status()
        with (
            client(started, retry_secs=0.1) as two,
            pytest.raises(StoreError, match="cannot be reached"),
        ):
            two.status()
        assert one.status()["ps-0"]["server"] == "ps-0"


class started_process:  # noqa: N801
    """`python -m tfos.kv`, and its port."""

    def __enter__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tfos.kv"],
            env={**os.environ, "TFOS_KV_SECRET": SECRET.decode()},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        return self.process, int(self.process.stdout.readline())

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait(20)
        self.process.stdout.close()
        if not self.process.stdin.closed:
            self.process.stdin.close()
