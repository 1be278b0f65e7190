"""Servers of the store in this process; a proxy that cuts connections at random bytes."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections.abc import Iterator
from typing import Any

from tfos.kv.client import Client
from tfos.kv.server import Server
from tfos.kv.store import Store

SECRET = b"the run's"


@contextlib.contextmanager
def servers(count: int = 1, staleness: int | None = None, **options: Any) -> Iterator[list[Server]]:
    started = []
    try:
        for number in range(count):
            listener = socket.create_server(("127.0.0.1", 0))
            server = Server(listener, SECRET, Store(staleness), f"ps-{number}", **options)
            server.start()
            started.append(server)
        yield started
    finally:
        for server in started:
            server.close()


def addresses(started: list[Server]) -> dict[str, tuple[str, int]]:
    return {f"ps-{number}": server.address for number, server in enumerate(started)}


def client(started: list[Server], **options: Any) -> Client:
    return Client(addresses(started), SECRET, **{"retry_secs": 20.0, "stall_secs": 20.0, **options})


class CuttingProxy:
    """Passes bytes on to `target` and back, and cuts a connection after some number of them.

    seed: of how many. most: of them, in both directions together. cuts: how many there were.
    """

    def __init__(self, target: tuple[str, int], seed: int, most: int) -> None:
        self._target, self._random, self._most = target, random.Random(seed), most
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()[:2]
        self.cuts, self._lock = 0, threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(self._target)
            left = [self._random.randrange(self._most)]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pass, args=(source, sink, left), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, left: list[int]) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                with self._lock:
                    part, left[0] = data[: max(left[0], 0)], left[0] - len(data)
                    is_cut = left[0] <= 0
                    self.cuts += is_cut
                sink.sendall(part)
                if is_cut:
                    break
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
