"""A client's way to a server: connected, and the request sent, again until there is a reply."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from tfos.errors import StoreError
from tfos.kv import frames
from tfos.kv.connection import Connection, SecretError
from tfos.kv.frames import FrameError

T = TypeVar("T")
_CONNECT_SECS = 10.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 1.0


class Link:
    """Used by one thread at a time. Methods raise StoreError when the server cannot be reached for
    `retry_secs`, or refuses; ValueError for a request that is wrong.

    addresses: read before each connection.
    """

    def __init__(
        self,
        server: str,
        addresses: Mapping[str, tuple[str, int]],
        client: bytes,
        secret: bytes,
        retry_secs: float,
        stall_secs: float,
    ) -> None:
        self._server, self._addresses = server, addresses
        self._client, self._secret = client, secret
        self.retry_secs, self._stall_secs = retry_secs, stall_secs
        self._connection: Connection | None = None
        self._life: str | None = None
        self._sequence = 0
        self._is_pending = False
        self._request: tuple[int, list[Any], int] = (0, [], 0)

    def send(self, kind: int, parts: list[Any], is_counted: bool = False) -> None:
        """Begins a request. is_counted: it has a number, and is done once however often it is sent.

        A failure shows in reply().
        """
        if self._is_pending:  # somebody was interrupted; its reply is none to this one
            self._drop()
        self._is_pending = True
        if is_counted:
            self._sequence += 1
        self._request = (kind, parts, self._sequence if is_counted else 0)
        if self._connection is not None:
            try:
                self._connection.send(*self._request)
            except OSError:
                self._drop()

    def reply(self) -> Any:
        """Of the request that send() has begun: uint8 [n] for VALUES, or a dict."""
        return self._tried(self._reply)

    def rows(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """The reply to SCAN."""
        return self._tried(self._rows)

    def close(self) -> None:
        self._drop()

    def _reply(self, connection: Connection) -> Any:
        header, payload = connection.receive()
        if header.kind == frames.ERROR:
            facts = frames.unpack_facts(payload)
            if facts.get("error") == "usage":
                raise ValueError(facts.get("message"))
            raise self._error(facts.get("message"))
        if header.sequence != self._request[2]:
            raise FrameError(f"the reply to request {header.sequence}, not {self._request[2]}")
        if header.kind == frames.VALUES:
            return payload
        if header.kind == frames.ROWS:
            return frames.unpack_rows(payload)
        return frames.unpack_facts(payload)

    def _rows(self, connection: Connection) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        found = []
        while len((part := self._reply(connection))[0]):
            found.append(part)
        return [*found, part]

    def _tried(self, read: Callable[[Connection], T]) -> T:
        pause, until = 0.0, time.monotonic() + self.retry_secs
        while True:
            try:
                if self._connection is None:
                    self._connect()
                assert self._connection is not None
                found = read(self._connection)
                self._is_pending = False
                return found
            except (StoreError, ValueError):
                self._is_pending = False
                raise
            except (SecretError, FrameError) as error:
                self._drop()
                raise self._error(str(error)) from None
            except (OSError, EOFError) as error:
                self._drop()
                if time.monotonic() + pause > until:
                    raise self._error(
                        f"cannot be reached for {self.retry_secs:g} s:"
                        f" {str(error) or type(error).__name__}"
                    ) from error
                time.sleep(pause)
                pause = min(max(2 * pause, _FIRST_PAUSE), _LONGEST_PAUSE)

    def _connect(self) -> None:
        """Connects, and sends the request that has no reply yet."""
        address = self._addresses[self._server]
        connection = Connection(socket.create_connection(address, _CONNECT_SECS), self._stall_secs)
        try:
            facts = connection.greet(self._client, self._secret)
            if facts.get("server") != self._server:
                raise self._error(f"is {facts.get('server')}, another server of the store")
            if self._life not in (None, facts.get("life")):
                raise self._error(
                    "has been replaced by one that does not have its rows: begin anew with a new"
                    " client, from the newest snapshot"
                )
            connection.send(*self._request)
        except BaseException:
            connection.close()
            raise
        self._life, self._connection = facts.get("life"), connection

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _error(self, what: Any) -> StoreError:
        host, port = self._addresses[self._server]
        return StoreError(f"server {self._server} of the store, at {host}:{port}: {what}")
