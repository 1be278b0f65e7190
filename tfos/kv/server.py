"""A server of the store: a thread for each connection, which waits while kernels compute."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import numpy as np

from tfos.kv import frames, snapshot
from tfos.kv.connection import Connection, SecretError
from tfos.kv.frames import FrameError, Header
from tfos.kv.ring import Ring
from tfos.kv.sessions import Forgotten, Session, Sessions
from tfos.kv.spec import table_from_json
from tfos.kv.store import Store
from tfos.kv.table import Rows
from tfos.lake.storage import Storage

_log = logging.getLogger(__name__)

# after so long a client that waits for its clock asks again
MOST_WAIT_SECS = 10.0
# a thread each
MOST_CONNECTIONS = 1024
# of the rows of a stripe; a scan is many of them
_ROWS_BYTES = 32 << 20
Reply = tuple[int, list[Any]]


class Server:
    """Serves `store` on a listening socket, which becomes the server's, until close().

    name: on the ring. secret: of the run; who does not have it is sent away.
    away_secs: a client that has no connection for so long is waited for no more (clocks).
    sweep_secs: expired rows are removed so often.
    stall_secs: a client that is silent in the midst of a frame for so long is given up.
    storage: where snapshots are; without one the server neither saves nor loads any.
    copies_itself: snapshots are written by a copy of the process while this one goes on, which is
        for a process of the store's own; else SAVE is answered when the snapshot is written.
    """

    def __init__(
        self,
        listener: socket.socket,
        secret: bytes,
        store: Store,
        name: str = "ps-0",
        away_secs: float = 30.0,
        sweep_secs: float = 30.0,
        stall_secs: float = 60.0,
        storage: Storage | None = None,
        copies_itself: bool = False,
    ) -> None:
        self.store, self._storage, self._copies_itself = store, storage, copies_itself
        # the newest snapshot's part, by path
        self._saves: dict[str, Future[Any]] = {}
        self._saving = threading.Lock()
        self._listener, self._secret, self._stall_secs = listener, secret, stall_secs
        self._facts = {"server": name, "life": store.life}
        self._sessions = Sessions()
        self._away_secs, self._sweep_secs = away_secs, sweep_secs
        self._open: set[Connection] = set()
        self._lock, self._closing = threading.Lock(), threading.Event()
        self._handlers: dict[int, Callable[[bytes, Session, Header, np.ndarray], Any]] = {
            frames.EXCHANGE: self._exchange,
            frames.TABLE: self._table,
            frames.JOIN: self._join,
            frames.TICK: self._tick,
            frames.WAIT: self._wait,
            frames.LEAVE: self._leave,
            frames.STATUS: self._status,
            frames.SAVE: self._save,
            frames.SAVED: self._saved,
            frames.LOAD: self._load,
            frames.NOTE: self._note,
            frames.NOTED: self._noted,
        }

    @property
    def address(self) -> tuple[str, int]:
        return self._listener.getsockname()[:2]

    def start(self) -> None:
        """Serves in threads that do not keep the process alive."""
        for act in (self._accept, self._keep_house):
            threading.Thread(target=act, name=f"store {act.__name__}", daemon=True).start()

    def close(self) -> None:
        """Ends all connections. What was being applied is applied to its end."""
        self._closing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            connection.close()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError as error:
                if self._closing.wait(0.1):  # too many open files may pass
                    return
                _log.warning("the store could not accept a connection: %s", error)
                continue
            with self._lock:
                is_full = len(self._open) >= MOST_CONNECTIONS
            if is_full:
                _log.warning("the store has %d connections, and refuses one", MOST_CONNECTIONS)
                sock.close()
                continue
            threading.Thread(target=self.serve, args=(sock,), name="store", daemon=True).start()

    def _keep_house(self) -> None:
        while not self._closing.wait(min(self._sweep_secs, self._away_secs / 3)):
            for client in self._sessions.away(self._away_secs):
                self.store.leave(client.hex())
            for table in self.store.tables:
                table.expire()

    def serve(self, sock: socket.socket) -> None:
        """Serves one connection until it ends, whatever comes over it; closes it."""
        session: Session | None = None
        connection: Connection | None = None
        try:
            connection = Connection(sock, self._stall_secs)
            with self._lock:
                self._open.add(connection)
            client = connection.welcome(self._secret, self._facts)
            session = self._sessions.enter(client)
            while not self._closing.is_set():
                self._serve_one(connection, client, session)
        except (OSError, EOFError):
            pass
        except (FrameError, SecretError) as error:
            _log.warning("the store gives up a connection: %s", error)
            with contextlib.suppress(OSError):
                assert connection is not None
                connection.send(*_error("protocol", str(error)))
        finally:
            if session is not None:
                self._sessions.exit(session)
            if connection is not None:
                with self._lock:
                    self._open.discard(connection)
                connection.close()
            sock.close()

    def _serve_one(self, connection: Connection, client: bytes, session: Session) -> None:
        header, payload = connection.receive(waits=True)
        try:
            if header.kind == frames.SCAN:
                self._scan(connection, payload)
                return
            if header.kind not in self._handlers:
                raise FrameError(f"there is no request of kind {header.kind}")
            found = self._handlers[header.kind](client, session, header, payload)
            reply = found if isinstance(found, tuple) else _facts(found)
        except (FrameError, OSError, EOFError):
            raise
        except (ValueError, TypeError) as error:
            reply = _error("usage", str(error))
        except Forgotten as error:
            reply = _error("forgotten", str(error))
        except MemoryError as error:
            reply = _error("memory", f"out of memory: {error}")
        except Exception as error:  # one client's request must not end the others' server
            _log.exception("a request to the store failed")
            reply = _error("failed", f"{type(error).__name__}: {error}")
        # the lock of the session is free by now: a client that has come back may go on while
        # nobody reads here
        kind, parts = reply
        connection.send(kind, parts, header.sequence)

    def _exchange(self, client: bytes, session: Session, header: Header, payload: Any) -> Reply:
        sections = frames.unpack_sections(payload)
        with session.lock:
            found = self.store.exchange(session, header.sequence, sections)
        return frames.VALUES, [part.data.cast("B") for part in found if part.size]

    def _table(self, client: bytes, session: Session, header: Header, payload: Any) -> Any:
        session.admit(self.store.reign)
        number = self.store.table(table_from_json(frames.unpack_facts(payload)))
        return {"table": number, "stripes": self.store.at(number).stripes}

    def _join(self, client: bytes, session: Session, header: Header, payload: Any) -> Any:
        self.store.join(client.hex())
        return {}

    def _tick(self, client: bytes, session: Session, header: Header, payload: Any) -> Any:
        with session.lock:
            return {"clock": self.store.tick(session, header.sequence, client.hex())}

    def _wait(self, client: bytes, session: Session, header: Header, payload: Any) -> Any:
        secs = frames.unpack_facts(payload).get("secs")
        if not isinstance(secs, (int, float)) or not 0 <= secs <= MOST_WAIT_SECS:
            raise ValueError(f"secs is {secs!r}: use 0 to {MOST_WAIT_SECS:g}")
        return {"go": self.store.may_begin(client.hex(), secs)}

    def _leave(self, client: bytes, session: Session, header: Header, payload: Any) -> Any:
        self.store.leave(client.hex())
        return {}

    def _status(self, client: bytes, session: Session, header: Header, payload: Any) -> Any:
        return {**self.store.facts(), **self._facts}

    def _save(self, client: bytes, session: Session, header: Header, payload: Any) -> Any:
        """A request that comes again finds what it has begun."""
        facts = frames.unpack_facts(payload)
        path, base = str(facts.get("path")), facts.get("base")
        if base is not None and not isinstance(base, dict):
            raise ValueError(f"base is {base!r}: use a part of a snapshot, or null")
        with self._saving:
            if path not in self._saves:
                write = self._writing(path, base)
                future: Future[Any] = Future()
                self._saves = {path: future}
                threading.Thread(target=_finish, args=(future, write), daemon=True).start()
        return {}

    def _writing(self, path: str, base: Any) -> Callable[[], Any]:
        """What writes the rows as they are now."""
        to = (self.store, self._lake(), path, self._facts["server"], base)
        if self._copies_itself:
            try:
                return snapshot.begin(*to)
            except OSError as error:
                _log.warning(
                    "this server cannot copy itself (%s), for want of memory or of processes:"
                    " training stands until its part of %s is written", error, path
                )  # fmt: skip
        part = snapshot.save(*to)
        return lambda: part

    def _saved(self, client: bytes, session: Session, header: Header, payload: Any) -> Any:
        path = str(frames.unpack_facts(payload).get("path"))
        with self._saving:
            future = self._saves.get(path)
        if future is None:
            raise ValueError(f"no snapshot {path!r} was begun, or another one since")
        try:
            return future.result()
        except OSError as error:  # of this connection, it would seem
            raise RuntimeError(f"snapshot {path}: {error}") from error

    def _load(self, client: bytes, session: Session, header: Header, payload: Any) -> Any:
        facts = frames.unpack_facts(payload)
        ring = Ring(facts.get("servers") or [])
        self.store.forget_rows(refuses=bool(facts.get("refuses")))
        return snapshot.restore(
            self.store, self._lake(), facts.get("paths") or [], ring, self._facts["server"]
        )

    def _note(self, client: bytes, session: Session, header: Header, payload: Any) -> Any:
        number, text = frames.unpack_note(payload)
        self.store.notes[number] = text
        return {}

    def _noted(self, client: bytes, session: Session, header: Header, payload: Any) -> Reply:
        number, _ = frames.unpack_note(payload)
        text = self.store.notes.get(number)
        return frames.VALUES, [text] if text else []

    def _lake(self) -> Storage:
        if self._storage is None:
            raise ValueError("this server has no storage for snapshots")
        return self._storage

    def _scan(self, connection: Connection, payload: Any) -> None:
        """The rows of one stripe, in frames of which one without rows is the last."""
        facts = frames.unpack_facts(payload)
        table = self.store.at(facts.get("table"))
        stripe, since, slots = facts.get("stripe"), facts.get("since"), facts.get("slots")
        if not (isinstance(stripe, int) and 0 <= stripe < table.stripes and type(since) is int):
            raise ValueError(f"{facts}: there are stripes 0 to {table.stripes - 1}")
        found = table.scan(stripe, bool(slots), since)
        size = max(1, _ROWS_BYTES // (16 + 4 * found.values.shape[1]))
        for begin in range(0, len(found.keys), size):
            part = Rows(*(array[begin : begin + size] for array in found))
            connection.send(frames.ROWS, frames.pack_rows(*part))
        connection.send(frames.ROWS, frames.pack_rows(*(array[:0] for array in found)))


def _finish(future: Future[Any], write: Callable[[], Any]) -> None:
    try:
        future.set_result(write())
    except Exception as error:  # the one who asks is told
        future.set_exception(error)


def _facts(facts: Any) -> Reply:
    return frames.FACTS, [frames.pack_facts(facts)]


def _error(kind: str, message: str) -> Reply:
    return frames.ERROR, [frames.pack_facts({"error": kind, "message": message[:2000]})]
