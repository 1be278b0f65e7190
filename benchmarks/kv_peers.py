"""What benchmarks/kv.py has beside the store: a table as one would write it, and a bare socket."""

from __future__ import annotations

import operator
import socket
import struct
import threading

import numpy as np

from tfos.kv.spec import TableSpec

# of Adagrad
_RATE, _FIRST = 0.01, 0.1
# bytes that come, bytes that go back
_HEADER = struct.Struct("<QQ")


class DictTable:
    """The alternative: rows of two arrays, whose numbers a dict has, under one lock."""

    stripes = 1
    nbytes = 0

    def __init__(self, spec: TableSpec) -> None:
        self.spec, self.steps = spec, 0
        self._rows: dict[int, int] = {}
        self._weights = np.empty((0, spec.width), np.float32)
        self._sums = np.empty((0, spec.width), np.float32)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._rows)

    def pull(self, keys: np.ndarray, make: bool = False) -> np.ndarray:
        with self._lock:
            if make:
                self._make(keys)
            return self._weights[self._find(keys)]

    def push(self, keys: np.ndarray, gradients: np.ndarray, rate: float | None = None) -> None:
        with self._lock:
            rows = self._find(keys)
            sums = self._sums[rows] + gradients**2
            self._sums[rows] = sums
            self._weights[rows] -= _RATE * gradients / (np.sqrt(sums) + np.float32(1e-7))

    def expire(self) -> None:
        pass

    def _find(self, keys: np.ndarray) -> np.ndarray:
        return np.array(operator.itemgetter(*keys.tolist())(self._rows))

    def _make(self, keys: np.ndarray) -> None:
        for key in keys.tolist():
            self._rows.setdefault(key, len(self._rows))
        if len(self._rows) > len(self._weights):
            more = max(len(self._rows), 2 * len(self._weights)) - len(self._weights)
            random = np.random.default_rng(0).random((more, self.spec.width), np.float32)
            self._weights = np.concatenate([self._weights, 0.1 * random - np.float32(0.05)])
            first = np.full((more, self.spec.width), _FIRST, np.float32)
            self._sums = np.concatenate([self._sums, first])


class Echo:
    """What the bytes of a pull, and of a push, take there and back.

    most: bytes of the rows of a pull.
    """

    def __init__(self, address: tuple[str, int], most: int) -> None:
        self._socket = socket.create_connection(address)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._rows = np.empty(most, np.uint8)

    def pull(self, keys: np.ndarray) -> None:
        self._ask([keys], self._rows.nbytes)

    def push(self, keys: np.ndarray, gradients: np.ndarray) -> None:
        self._ask([keys, gradients.ravel()], 1)

    def close(self) -> None:
        self._socket.close()

    def _ask(self, parts: list[np.ndarray], answer: int) -> None:
        header = _HEADER.pack(sum(part.nbytes for part in parts), answer)
        for part in (header, *parts):
            self._socket.sendall(part)
        _fill(self._socket, memoryview(self._rows)[:answer])


def _fill(sock: socket.socket, view: memoryview) -> None:
    while len(view):
        got = sock.recv_into(view)
        if got == 0:
            raise EOFError
        view = view[got:]


def echo(sock: socket.socket) -> None:
    """The other side of an Echo, until it closes."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    header, room = bytearray(_HEADER.size), memoryview(bytearray(1 << 20))
    try:
        while True:
            _fill(sock, memoryview(header))
            size, answer = _HEADER.unpack(header)
            _fill(sock, room[:size])
            sock.sendall(room[:answer])
    except EOFError:
        sock.close()
