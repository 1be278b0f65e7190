"""How long training stands for a snapshot of the store: python benchmarks/kv_snapshot.py

One server, in a process of its own, with N rows of 16 weights and 16 slots; a client pulls and
pushes 4,096 of them at a time, of one row in a hundred. For a full snapshot, and a delta:

  stands    milliseconds until begin_save() returns, in which nobody may push
  written   seconds until the snapshot is in the lake, a local directory; what training would stand
            for, were it not written by a copy of the server
  during    median and 99th percentile of a step, pull and push, while it is written; quiet: before
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable

import numpy as np

from tfos.kv.client import Client
from tfos.kv.optimizers import Adagrad
from tfos.kv.spec import Uniform

KEYS, WIDTH, STEPS = 4096, 16, 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory(prefix="bench-kv-") as lake:
        server = subprocess.Popen(
            [sys.executable, "-m", "tfos.kv", "--lake", lake],
            env={**os.environ, "TFOS_KV_SECRET": "s"}, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )  # fmt: skip
        assert server.stdout is not None
        try:
            addresses = {"ps-0": ("127.0.0.1", int(server.stdout.readline()))}
            with Client(addresses, b"s") as one, Client(addresses, b"s", stall_secs=3600) as two:
                measure(one, two, rows)
        finally:
            server.kill()
            server.communicate()


def measure(client: Client, saver: Client, rows: int) -> None:
    table = client.table("t", WIDTH, Adagrad(0.05), Uniform())
    for begin in range(0, rows, 100_000):
        keys = np.arange(begin, min(begin + 100_000, rows))
        table.push(keys, np.full((len(keys), WIDTH), 0.1, np.float32))
    size = client.status()["ps-0"]["tables"]["t"]["bytes"]
    print(f"{rows:,} rows of {WIDTH} weights and {WIDTH} slots, {size / 1e9:.2f} GB")
    gradients = np.full((KEYS, WIDTH), 0.1, np.float32)
    random = np.random.default_rng(0)

    def step() -> float:
        keys = 100 * random.integers(0, rows // 100, KEYS)
        begun = time.perf_counter()
        table.pull(keys)
        table.push(keys, gradients)
        return 1000 * (time.perf_counter() - begun)

    show("quiet", [step() for _ in range(STEPS)])
    parts = snapshot(saver, "full", [], step)
    snapshot(saver, "delta", parts, step)


def snapshot(saver: Client, path: str, bases: list, step: Callable[[], float]) -> list:
    begun = time.perf_counter()
    saver.begin_save(path, bases)
    stands = time.perf_counter() - begun
    ended: list[float] = []
    parts: list = []

    def finish() -> None:
        parts.extend(saver.finish_save(path))
        ended.append(time.perf_counter() - begun)

    thread = threading.Thread(target=finish)
    thread.start()
    steps = []
    while thread.is_alive():
        steps.append(step())
    written = ended[0]
    print(f"{path}: stands {1000 * stands:.1f} ms, written in {written:.2f} s", end="")
    print(f", {written / stands:,.0f} times as long")
    show(f"during {path}", steps)
    return parts


def show(when: str, millis: list[float]) -> None:
    high = statistics.quantiles(millis, n=100)[98] if len(millis) > 1 else millis[0]
    print(f"  {when}: a step {statistics.median(millis):.2f} ms, 99% within {high:.2f} ms")


if __name__ == "__main__":
    main()
