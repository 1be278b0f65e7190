"""What runs in the processes: a server in each peer, a loop over units of rows in the chief."""

from __future__ import annotations

import contextlib
import json
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tfos.fault.failures import FailureKind
from tfos.feeding.reader import FeedReader, View
from tfos.runtime.backend import Trained
from tfos.runtime.host import Host

UNIT_ROWS = 64
SAVE_EVERY = 20
RATE = 0.05
VIEW = View("train", ("x", "y"), shuffle=True, seed=3)


def gradient(weights: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Of the mean squared error of weights[0] * x + weights[1]."""
    error = weights[0] * x + weights[1] - y
    return 2 * np.array([np.mean(error * x), np.mean(error)])


class SocketsBackend:
    def preload(self, role: str) -> None:
        """NumPy is here already."""

    def run(self, host: Host) -> Trained:
        if not host.is_chief:
            serve(host)
        context = Context(host)
        host.ready()
        host.reports.progress({"phase": "train() begins"})
        return Trained(host.app().train(context) or {})

    def failure_kind(self, error: BaseException) -> FailureKind:
        return FailureKind.PEER if isinstance(error, ConnectionError) else FailureKind.EXCEPTION


def serve(host: Host) -> None:
    """A peer: reads rows where it is, and answers with their gradient. Does not return."""
    place, _, port = host.addresses["peer"][host.task.index].rpartition(":")
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        server.bind((place, int(port)))
        server.listen()
        host.ready()
        reader = host.reader(turns=len(host.addresses["peer"]))
        while True:
            connection, _ = server.accept()
            with contextlib.suppress(ConnectionError):  # the next chief connects in its turn
                _answer(connection, reader)


def _answer(connection: socket.socket, reader: FeedReader) -> None:
    """All that one chief asks for."""
    with connection, connection.makefile("rw") as lines:
        for line in lines:
            asked = json.loads(line)
            x, y = reader.read(VIEW, *asked["rows"])
            answer = gradient(np.array(asked["weights"]), x, y)
            lines.write(json.dumps(answer.tolist()) + "\n")
            lines.flush()


class Context:
    """What train() is given."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._wanted = threading.Event()
        self._step, self._epoch, self._at = 0, 0, 0
        self._weights = np.zeros(2)
        found = host.store.fetch_newest(host.scratch)
        if found is not None:
            directory, state = found
            self._step = state["step"]
            self._epoch, self._at = state["sections"]["loop"]
            self._weights = np.load(Path(directory, "weights.npy"))
            host.ledger.restore(state["shared"])
            host.reports.saved(host.store.stats)
        host.save_on_demand(self._hurry)

    def fit(self, is_over: Callable[[int], bool]) -> dict[str, Any]:
        """Epoch after epoch, until `is_over(epochs done)`; returns the weights."""
        rows = self._host.reader().manifest("train").rows
        while not is_over(self._epoch):
            while self._at < rows:
                stop = min(self._at + UNIT_ROWS, rows)
                self._weights -= RATE * self._gradient(self._at, stop)
                self._host.ledger.add("train", self._epoch, stop - self._at, rows)
                self._step, self._at = self._step + 1, stop
                if self._wanted.is_set() or self._step % SAVE_EVERY == 0:
                    self._save()
                self._report(rows)
            self._epoch, self._at = self._epoch + 1, 0
        return {"weights": self._weights, "epochs": self._epoch}

    def _gradient(self, start: int, stop: int) -> np.ndarray:
        """From any peer that answers; one that has died is being replaced."""
        peers = self._host.addresses["peer"]
        asked = {"rows": [self._epoch, start, stop], "weights": self._weights.tolist()}
        number = self._step
        while True:
            place, _, port = peers[number % len(peers)].rpartition(":")
            number += 1
            with (
                contextlib.suppress(OSError, ValueError),
                socket.create_connection((place, int(port)), 5) as connection,
                connection.makefile("rw") as lines,
            ):
                lines.write(json.dumps(asked) + "\n")
                lines.flush()
                return np.array(json.loads(lines.readline()))
            self._host.reports.moved()
            time.sleep(0.05)

    def _report(self, rows: int) -> None:
        self._host.reports.progress(
            {
                "phase": "train", "epoch": self._epoch + 1, "epochs": 0, "rows_done": self._at,
                "rows": rows, "rows_per_sec": 0, "metrics": {},
            }
        )  # fmt: skip

    def _hurry(self) -> Callable[[], bool]:
        before = self._host.store.newest
        self._wanted.set()
        return lambda: self._host.store.newest > before

    def _save(self) -> None:
        self._wanted.clear()
        store = self._host.store
        with tempfile.TemporaryDirectory(dir=self._host.scratch) as local:
            np.save(Path(local, "weights.npy"), self._weights)
            state = {"loop": [self._epoch, self._at]}
            store.write_state(local, self._step, state, self._host.ledger.as_json())
            store.commit(local, self._step)
        store.prune()
        self._host.reports.saved(store.stats)
