"""The HTTP key-value store of a gang: where its processes find each other. Rank 0 serves it.

It is what Horovod's C++ side calls its rendezvous (horovod/common/gloo/http_store.cc): PUT and GET
of /SCOPE/KEY, 404 where there is no such key yet, and DELETE of /SCOPE/RANK by each rank that has
met the others. A process of tfos leaves its own keys in the scope "tfos".
"""

from __future__ import annotations

import contextlib
import http.client
import math
import socket
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_SCOPE = "tfos"
_REQUEST_SECS = 10.0
# from one to the other, doubled each time: many processes may wait for rank 0 for long
_POLL_SECS, _MOST_POLL_SECS = 0.02, 0.32


class _Keys:
    """What the store holds, by scope and key. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._scopes: dict[str, dict[str, bytes]] = {}
        self._done: dict[str, set[str]] = {}

    def put(self, scope: str, key: str, value: bytes) -> None:
        with self._lock:
            self._scopes.setdefault(scope, {})[key] = value

    def get(self, scope: str, key: str) -> bytes | None:
        with self._lock:
            return self._scopes.get(scope, {}).get(key)

    def finish(self, scope: str, rank: str) -> None:
        """A rank needs the scope no more; it is gone with the last one.

        Not what a rank has left there with that rank: another one may not have read it yet.
        """
        with self._lock:
            done = self._done.setdefault(scope, set())
            done.add(rank)
            if done >= {key for key in self._scopes.get(scope, {}) if key.isdigit()}:
                self._scopes.pop(scope, None)
                del self._done[scope]


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _REQUEST_SECS

    def do_GET(self) -> None:
        where = self._where()
        value = self.server.keys.get(*where) if where else None
        self._answer(200 if value is not None else 404, value or b"")

    def do_PUT(self) -> None:
        where = self._where()
        value = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if where:
            self.server.keys.put(*where, value)
        self._answer(200 if where else 400)

    def do_DELETE(self) -> None:
        where = self._where()
        if where:
            self.server.keys.finish(*where)
        self._answer(200 if where else 400)

    def _where(self) -> tuple[str, str] | None:
        scope, _, key = self.path.lstrip("/").partition("/")
        return (scope, key) if scope and key else None

    def _answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Not each request in the log of the role."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, address: tuple[str, int]) -> None:
        self.keys = _Keys()
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # the supervisor holds the port; HTTPServer's own would look for this host's name besides
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self.socket.bind(self.server_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # who asked may be gone
            super().handle_error(request, client_address)


@contextlib.contextmanager
def serving(address: str) -> Iterator[None]:
    """Serves a store at "host:port", which another process holds with SO_REUSEPORT."""
    host, _, port = address.rpartition(":")
    server = _Server((host, int(port)))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


class Store:
    """The keys of tfos in the store at "host:port".

    Raises ConnectionError when nobody listens there, and when a key does not come in time. One that
    is slow to answer is waited for: whether its process hangs its supervisor knows.
    """

    def __init__(self, address: str) -> None:
        self._address = address

    def put(self, key: str, value: str) -> None:
        self._ask("PUT", key, value.encode())

    def get(self, key: str) -> str | None:
        status, body = self._ask("GET", key)
        return body.decode() if status == 200 else None

    def wait(self, key: str, secs: float | None = None, up: bool = True) -> str:
        """The value of `key`, as soon as it is there.

        secs: how long it is waited for; for ever when not given. up: whether the store is known to
        be served; else it may come up in this time, too.
        """
        deadline = math.inf if secs is None else time.monotonic() + secs
        pause = _POLL_SECS
        while True:
            value = None
            try:
                value = self.get(key)
                up = True
            except ConnectionError:
                if up:
                    raise
            if value is not None:
                return value
            if time.monotonic() > deadline:
                raise ConnectionError(f"{key!r} did not come from rank 0 within {secs:g} s")
            time.sleep(pause)
            pause = min(2 * pause, _MOST_POLL_SECS)

    def _ask(self, method: str, key: str, body: bytes | None = None) -> tuple[int, bytes]:
        while True:
            connection = http.client.HTTPConnection(self._address, timeout=_REQUEST_SECS)
            with contextlib.closing(connection):
                try:
                    connection.request(method, f"/{_SCOPE}/{key}", body)
                    answer = connection.getresponse()
                    return answer.status, answer.read()
                except TimeoutError:  # rank 0's train() may hold Python's lock for long
                    continue
                except (OSError, http.client.HTTPException) as error:
                    words = f"rank 0 at {self._address} does not answer: {error}"
                    raise ConnectionError(words) from error
