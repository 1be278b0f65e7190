"""A worker's side of the units: it asks for them, one after the other, until a section is over."""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tfos.errors import StoreError
from tfos.kv.connection import CLIENT_BYTES, Connection
from tfos.kv.frames import ERROR, unpack_facts
from tfos.training.stored.wire import ASK, BEGUN, MOST_BYTES, OVER, UNIT, Unit, pack, unpack

_CONNECT_SECS = 10.0
_PAUSE_SECS = 0.1
# the chief answers within a few seconds, if only to say that there is nothing yet
_STALL_SECS = 60.0


class Worker:
    """Used by one thread. Raises StoreError when the chief cannot be reached for retry_secs."""

    def __init__(self, address: tuple[str, int], secret: bytes, retry_secs: float = 60.0) -> None:
        self._address, self._secret, self._retry_secs = address, secret, retry_secs
        self._name = secrets.token_bytes(CLIENT_BYTES)
        self._connection: Connection | None = None
        self._section = -1
        self._chief = ""

    def begun(self) -> tuple[int, dict[str, Any] | None]:
        """What the run continues from, as the chief has it: step and sections of a checkpoint."""
        while True:
            kind, facts, _ = self._ask({}, [], BEGUN)
            if kind == BEGUN:
                self._chief = facts["chief"]
                return facts["step"], facts["sections"]

    def section(
        self, what: str, make: Callable[[Unit], Sequence[Any]], moved: Callable[[], None]
    ) -> tuple[dict[str, Any], list[np.ndarray]]:
        """Makes units of the next section until it is over: what it gave.

        what: is done in it: the chief is to do the same.
        moved: called with each sign of life of the chief.
        """
        self._section += 1
        done, left = 0, []  # type: ignore[var-annotated]
        while True:
            asked = {
                "chief": self._chief, "section": self._section, "what": what, "number": done,
            }  # fmt: skip
            kind, facts, arrays = self._ask(asked, left)
            moved()
            done, left = 0, []
            if kind == OVER:
                if "error" in facts:
                    raise StoreError(f"the chief has not come to the end: {facts['error']}")
                return facts, arrays
            if kind == UNIT:
                unit = Unit.of(facts, arrays)
                left = [np.asarray(each) for each in make(unit)]
                done = unit.number

    def wait_for_more(self) -> None:
        """Asks on, after the last section here; raises StoreError when the chief has another."""
        self.section("end", lambda unit: [], lambda: None)
        raise StoreError("the chief's train() comes to more than the one here")

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def _ask(
        self, facts: dict[str, Any], arrays: list[np.ndarray], kind: int = ASK
    ) -> tuple[int, dict[str, Any], list[np.ndarray]]:
        until = time.monotonic() + self._retry_secs
        while True:
            try:
                if self._connection is None:
                    sock = socket.create_connection(self._address, _CONNECT_SECS)
                    self._connection = Connection(sock, _STALL_SECS)
                    self._connection.greet(self._name, self._secret)
                self._connection.send(kind, pack(facts, arrays))
                header, payload = self._connection.receive(most=MOST_BYTES)
                if header.kind == ERROR:
                    raise StoreError(f"the chief: {unpack_facts(payload).get('message')}")
                return header.kind, *unpack(payload)
            except (OSError, EOFError) as error:
                # the chief has given the unit of a lost connection to another worker
                self.close()
                self._connection, facts, arrays = None, {**facts, "number": 0}, []
                if time.monotonic() > until:
                    host, port = self._address
                    raise StoreError(
                        f"the chief at {host}:{port} cannot be reached for {self._retry_secs:g} s:"
                        f" {str(error) or type(error).__name__}"
                    ) from error
                time.sleep(_PAUSE_SECS)
