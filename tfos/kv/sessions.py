"""What a server remembers of its clients, so that what is sent again is applied once.

A client numbers its requests to a server from 1 on, and has one under way at a time: the number of
the last, and how many of its sections are done, is all that there is to remember.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict

# clients without a connection that are remembered; who comes back after so many others is told so
MOST_AWAY = 4096


class Forgotten(Exception):
    """What this client has done before is not known here, or was done to other rows."""


class Session:
    """Of one client; `lock` is held while a request of it is served."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.sequence = 0
        self.done = 0
        self.connections = 0
        self.away_since = 0.0
        # of the store, at this client's first request for rows
        self.reign: str | None = None

    def admit(self, reign: str) -> None:
        """Raises Forgotten where the rows of that time are gone, and so is their use."""
        if self.reign is None:
            self.reign = reign
        elif self.reign != reign:
            raise Forgotten("all rows have been replaced since: begin anew with a new client")

    def begin(self, sequence: int) -> int:
        """How many parts of the request are done already. Raises Forgotten.

        A request with another number than the last one or the next cannot come from a client that
        this server knows.
        """
        if sequence == self.sequence + 1:
            self.sequence, self.done = sequence, 0
        elif sequence != self.sequence or sequence == 0:
            raise Forgotten(
                f"request {sequence} of a client whose last one here was {self.sequence}"
            )
        return self.done


class Sessions:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[bytes, Session] = OrderedDict()

    def enter(self, client: bytes) -> Session:
        """A connection of the client begins."""
        with self._lock:
            session = self._known.setdefault(client, Session())
            self._known.move_to_end(client)
            session.connections += 1
            away = [name for name, other in self._known.items() if not other.connections]
            for name in away[: max(0, len(away) - MOST_AWAY)]:
                del self._known[name]
            return session

    def exit(self, session: Session) -> None:
        """A connection of it has ended."""
        with self._lock:
            session.connections -= 1
            session.away_since = time.monotonic()

    def away(self, secs: float) -> list[bytes]:
        """Clients that have had no connection for so long."""
        before = time.monotonic() - secs
        with self._lock:
            return [
                client
                for client, session in self._known.items()
                if not session.connections and session.away_since < before
            ]
