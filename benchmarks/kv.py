"""The store: python benchmarks/kv.py [--quick] [--large] [--rows N]

Requests: one client pulls and pushes 4,096 random keys of a table of 10,000,000 x 16 with Adagrad
(200,000 with --quick; --rows), in a server process of its own over loopback, alone, and while
another client does the same as fast as it can. Beside it, over the same wire, a table as one
would write it, a dict of keys and NumPy's arrays; and a bare socket, whose server reads as many
bytes, and sends as many back, and does nothing with them. They take turns; medians of the turns'
p50 and p99.

Memory: a table x 8 with Adagrad in this process grows to 1,000,000 and 10,000,000 rows (and to
100,000,000 with --large, which takes 11 GB): what a key takes of resident memory, rows made and
pulled a second, the longest that a pull of 512 keys took while it grew, and the longest that a
stripe is locked to be copied.
"""

from __future__ import annotations

import argparse
import multiprocessing
import socket
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import numpy as np
import psutil
from kv_peers import DictTable, Echo, echo

import tfos.kv.store
from tfos.kv.client import Client
from tfos.kv.optimizers import Adagrad
from tfos.kv.server import Server
from tfos.kv.spec import TableSpec, Uniform
from tfos.kv.store import Store
from tfos.kv.table import Table

SECRET = b"benchmark"
BATCH, WIDTH, NARROW = 4096, 16, 8
RATE, FIRST = 0.01, 0.1


BARE = "bare socket"
TABLES: dict[str, Callable[..., Any]] = {"tfos.kv": Table, "dict and NumPy": DictTable}


def serve(name: str, port: Any) -> None:
    sys.setswitchinterval(0.0005)
    if name == BARE:
        listener = socket.create_server(("127.0.0.1", 0))
        port.send(listener.getsockname()[1])
        while True:
            threading.Thread(target=echo, args=(listener.accept()[0],), daemon=True).start()
    tfos.kv.store.Table = TABLES[name]  # type: ignore[misc,assignment]
    server = Server(socket.create_server(("127.0.0.1", 0)), SECRET, Store())
    server.start()
    port.send(server.address[1])
    threading.Event().wait()


def work(name: str, address: tuple[str, int], rows: int, seed: int, pipe: Any) -> None:
    """A client: pulls and pushes until it is told to end."""
    with opened(name, address) as table:
        batches = make_batches(rows, seed)
        pipe.send("ready")
        while not pipe.poll():
            for keys, gradients in batches:
                table.pull(keys)
                table.push(keys, gradients)


@contextmanager
def opened(name: str, address: tuple[str, int]) -> Iterator[Any]:
    if name == BARE:
        with closing(Echo(address, BATCH * WIDTH * 4)) as bare:
            yield bare
        return
    with Client({"ps-0": address}, SECRET) as client:
        yield client.table("t", WIDTH, Adagrad(RATE, FIRST), Uniform())


def make_batches(rows: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    random = np.random.default_rng(seed)
    keys = [random.integers(0, rows, BATCH) for _ in range(16)]
    return [(k, random.normal(size=(BATCH, WIDTH)).astype(np.float32)) for k in keys]


@contextmanager
def process(target: Callable[..., None], *arguments: Any) -> Iterator[tuple[Any, Any]]:
    """What the process sends first, and the process; it is ended, clients that are told to end."""
    context = multiprocessing.get_context("spawn")
    near, far = context.Pipe()
    started = context.Process(target=target, args=(*arguments, far), daemon=True)
    started.start()
    try:
        yield near.recv(), started
    finally:
        near.send("end")
        if target is serve:
            started.terminate()
        started.join(30)


def requests(rows: int, turns: int, secs: float) -> None:
    found: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    with ExitStack() as stack:
        addresses, clients = {}, {}
        for name in (*TABLES, BARE):
            port, server = stack.enter_context(process(serve, name))
            addresses[name] = "127.0.0.1", port
            clients[name] = stack.enter_context(opened(name, addresses[name]))
            if name == BARE:
                continue
            begun = time.monotonic()
            for begin in range(0, rows, 100_000):
                clients[name].pull(np.arange(begin, min(begin + 100_000, rows)), make=True)
            rate = rows / (time.monotonic() - begun)
            memory = psutil.Process(server.pid).memory_info().rss / 1e9
            print(f"{name}: {rows:,} rows of {WIDTH} made, {rate:,.0f} rows/s; {memory:.2f} GB")
        for turn in range(turns + 1):
            for name, table in clients.items():
                for load in ("alone", "with another client"):
                    with ExitStack() as other:
                        if load != "alone":
                            other.enter_context(process(work, name, addresses[name], rows, 1))
                        for action, times in measured(table, rows, secs).items():
                            if turn:  # the first does not count
                                p50, p99 = np.percentile(times, [50, 99])
                                found.setdefault((name, action, load), []).append((p50, p99))
    print(f"{BATCH:,} keys x {WIDTH} of {rows:,}, medians of {turns} turns:")
    for (name, action, load), turns_of in found.items():
        p50, p99 = (1000 * statistics.median(values) for values in zip(*turns_of, strict=True))
        print(f"  {name:15s} {action} {load:20s} p50 {p50:6.2f} ms  p99 {p99:6.2f} ms")


def measured(table: Any, rows: int, secs: float) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {"pull": [], "push": []}
    batches, until = make_batches(rows, 0), time.monotonic() + secs
    while time.monotonic() < until:
        for keys, gradients in batches:
            begun = time.perf_counter()
            table.pull(keys)
            times["pull"].append(time.perf_counter() - begun)
            begun = time.perf_counter()
            table.push(keys, gradients)
            times["push"].append(time.perf_counter() - begun)
    return times


def memory(sizes: list[int]) -> None:
    table = Table(TableSpec("t", NARROW, Adagrad(RATE, FIRST), Uniform()))
    floats = 4 * table.floats
    before, made = psutil.Process().memory_info().rss, 0
    random = np.random.default_rng(0)
    print(f"a table x {NARROW} with Adagrad, {floats} bytes of floats a row:")
    for size in sizes:
        worst, is_full = [0.0], threading.Event()

        def watch(worst: list[float] = worst, is_full: threading.Event = is_full) -> None:
            keys = np.arange(512)
            while not is_full.is_set():
                begun = time.perf_counter()
                table.pull(keys)
                worst[0] = max(worst[0], time.perf_counter() - begun)

        watcher = threading.Thread(target=watch)
        watcher.start()
        begun = time.monotonic()
        for begin in range(made, size, 50_000):
            table.pull(np.arange(begin, min(begin + 50_000, size)), make=True)
        grown = (size - made) / (time.monotonic() - begun)
        is_full.set()
        watcher.join()
        made = size
        each = (psutil.Process().memory_info().rss - before) / size
        batches = [random.integers(0, size, BATCH) for _ in range(200)]
        begun = time.monotonic()
        for keys in batches:
            table.pull(keys)
        pulled = 200 * BATCH / (time.monotonic() - begun)
        copies = []
        for stripe in range(table.stripes):
            begun = time.monotonic()
            table.scan(stripe, slots=True)
            copies.append(time.monotonic() - begun)
        print(
            f"  {size:11,} rows: {each:5.1f} bytes a key ({table.nbytes / size:.1f} reserved;"
            f" the target is {1.35 * floats + 16:.1f}), {grown:,.0f} rows/s made beside a reader"
            f" whose longest pull took {1000 * worst[0]:.0f} ms, {pulled:,.0f} rows/s pulled,"
            f" a stripe is copied in {1000 * max(copies):.0f} ms"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small tables, fewer turns")
    parser.add_argument("--large", action="store_true", help="also a table of 100,000,000 rows")
    parser.add_argument("--rows", type=int, help="of the table of the requests")
    options = parser.parse_args()
    rows = options.rows or (200_000 if options.quick else 10_000_000)
    requests(rows, *((3, 0.5) if options.quick else (3, 3.0)))
    sizes = [100_000] if options.quick else [1_000_000, 10_000_000]
    memory(sizes + [100_000_000] * options.large)


if __name__ == "__main__":
    main()
