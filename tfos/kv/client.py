"""A client of the store: tables whose rows lie on many servers, all asked at once."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tfos.errors import StoreError
from tfos.kv import frames
from tfos.kv.connection import CLIENT_BYTES
from tfos.kv.frames import Section
from tfos.kv.hashing import hashes
from tfos.kv.link import Link
from tfos.kv.optimizers import SGD, Optimizer
from tfos.kv.remote import DenseVariable, RemoteTable, Request
from tfos.kv.ring import BUCKET_BITS, Ring
from tfos.kv.spec import Constant, Initializer, TableSpec, table_from_json
from tfos.kv.table import Rows
from tfos.kv.visits import PUSH

_LEAVE_SECS = 1.0
MOST_NOTE_BYTES = 64 << 20
# a server is asked so often whether a step may begin
_WAIT_SECS = 10.0


class Client:
    """Used by one thread at a time; a process may have any number of clients.

    servers: where each server of the ring is; all clients of a run name the same servers.
    retry_secs: how long a server that cannot be reached is tried. A connection that breaks is made
    again, and what was sent over it is done once. stall_secs: how long a reply may be silent.
    Methods raise StoreError when a server cannot be reached or refuses, ValueError and TypeError
    for arguments that are wrong. After a StoreError a step may be applied on some servers only.
    """

    def __init__(
        self,
        servers: Mapping[str, tuple[str, int]],
        secret: bytes,
        retry_secs: float = 60.0,
        stall_secs: float = 60.0,
    ) -> None:
        self.name = secrets.token_bytes(CLIENT_BYTES)
        self._ring = Ring(sorted(servers))
        self._owners = np.array(self._ring.owners, np.int64)
        self._links = [
            Link(server, servers, self.name, secret, retry_secs, stall_secs)
            for server in self._ring.servers
        ]
        self._has_joined, self._wait_secs = False, min(_WAIT_SECS, stall_secs / 2)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connections; nobody waits for this client any more."""
        try:
            if self._has_joined:
                self._links[0].retry_secs = _LEAVE_SECS
                self._ask(self._links[:1], frames.LEAVE, {})
        except StoreError:
            pass  # the server notices after its away_secs, if it is there
        finally:
            for link in self._links:
                link.close()

    def table(
        self,
        name: str,
        width: int,
        optimizer: Optimizer = SGD(),  # noqa: B008, it is frozen
        initializer: Initializer = Constant(),  # noqa: B008
        seed: int = 0,
        admit_after: int = 1,
        expire_secs: float | None = None,
        expire_below: float | None = None,
        sketch_bytes: int = 16 << 20,
    ) -> RemoteTable:
        """The table of that name, made where there is none; the arguments are TableSpec's.

        Raises ValueError where it is there with other arguments.
        """
        spec = TableSpec(
            name, width, optimizer, initializer, seed, admit_after, sketch_bytes, expire_secs,
            expire_below,
        )  # fmt: skip
        return self._made(spec)

    def dense(self, name: str, initial: np.ndarray, optimizer: Optimizer) -> DenseVariable:
        """A variable of the shape of `initial`, which it begins with if it is not there yet."""
        initial = np.asarray(initial, np.float32)
        table = self._made(DenseVariable.spec(name, initial.size, optimizer))
        variable = DenseVariable(table, initial.shape)
        self.exchange([variable.putting(initial)])
        return variable

    def exchange(self, requests: Sequence[Request]) -> list[np.ndarray | None]:
        """One exchange with all servers: what each request reads, float32 [n, width], or None.

        Requests are done in order on each server. A push is a step of its table on all servers.
        """
        places = [self._split(request.keys) for request in requests]
        frames_parts = []
        for number in range(len(self._links)):
            sections = [
                _section(request, number, place[number])
                for request, place in zip(requests, places, strict=True)
            ]
            wanted = [s for s in sections if len(s.keys) or s.operation == PUSH]
            parts = frames.pack_sections(wanted)
            size = sum(len(part) for part in parts)
            if size > frames.MOST_BYTES:
                raise ValueError(
                    f"{size:,} bytes for one server, of {frames.MOST_BYTES:,} at most: use fewer"
                    " keys at a time"
                )
            frames_parts.append(parts)
        for link, parts in zip(self._links, frames_parts, strict=True):
            link.send(frames.EXCHANGE, parts, is_counted=True)
        rests = [payload.view(np.float32) for payload in _replies(self._links)]
        found: list[np.ndarray | None] = []
        for request, place in zip(requests, places, strict=True):
            if not request.reads:
                found.append(None)
                continue
            width = request.table.spec.width
            if len(rests) == 1:  # all is in order, and need not be copied
                count = len(request.keys)
                found.append(rests[0][: count * width].reshape(count, width))
                rests[0] = rests[0][count * width :]
                continue
            values = np.empty((len(request.keys), width), np.float32)
            for number, here in enumerate(place):
                count = len(values[here])
                values[here] = rests[number][: count * width].reshape(count, width)
                rests[number] = rests[number][count * width :]
            found.append(values)
        return found

    def join(self) -> None:
        """From now on others wait for this client, which begins beside the slowest."""
        self._has_joined = True
        self._ask(self._links[:1], frames.JOIN, {})

    def clock(self, timeout: float | None = None) -> int:
        """Says that this client has finished a step, and waits until it may begin the next one.

        Returns how many steps it has finished. timeout: seconds; TimeoutError is raised after it,
        and the step is counted. A client that has not joined does so.
        """
        until = None if timeout is None else time.monotonic() + timeout
        self._has_joined = True
        (ticked,) = self._ask(self._links[:1], frames.TICK, {}, is_counted=True)
        while True:
            left = self._wait_secs if until is None else max(until - time.monotonic(), 0.0)
            wait = {"secs": min(left, self._wait_secs)}
            if self._ask(self._links[:1], frames.WAIT, wait)[0]["go"]:
                return int(ticked["clock"])
            if left == 0:
                raise TimeoutError(f"others are still behind step {ticked['clock']}")

    def leave(self) -> None:
        """Nobody waits for this client any more, until it joins again."""
        self._has_joined = False
        self._ask(self._links[:1], frames.LEAVE, {})

    def save(self, path: str) -> list[dict[str, Any]]:
        """Each server writes its part of a snapshot, see tfos.kv.snapshot: what commit() takes.

        Nobody may push meanwhile.
        """
        self.begin_save(path)
        return self.finish_save(path)

    def begin_save(self, path: str, bases: Sequence[Mapping[str, Any]] = ()) -> None:
        """Each server begins to write its part: of the rows as they are when this returns.

        bases: the parts of the snapshot that this is a delta to; none for a full one. Nobody may
        push until this returns, so that all servers' rows are of one moment.
        """
        by_server = {part["server"]: part for part in bases}
        for link, server in zip(self._links, self._ring.servers, strict=True):
            base = by_server.get(server)
            known = base and {name: base[name] for name in ("origin", "taken", "swept")}
            link.send(frames.SAVE, [frames.pack_facts({"path": path, "base": known})])
        _replies(self._links)

    def finish_save(self, path: str) -> list[dict[str, Any]]:
        """The parts of a snapshot that was begun, when all are written."""
        return self._ask(self._links, frames.SAVED, {"path": path})

    def load(self, paths: Sequence[str], refuses: bool = False) -> None:
        """Each server loads its rows of a snapshot and the deltas to it; what it had is gone.

        refuses: clients that have used what it had get StoreError, also for what is on its way.
        """
        facts = {"paths": list(paths), "servers": self._ring.servers, "refuses": refuses}
        self._ask(self._links, frames.LOAD, facts)

    def note(self, number: int, parts: Sequence[bytes]) -> None:
        """Leaves a text with the first server, for whoever asks, in place of the last one of this
        number; it goes with the rows, at the next load().
        """
        size = sum(len(part) for part in parts)
        if size > MOST_NOTE_BYTES:
            raise ValueError(f"a note of {size:,} bytes, of {MOST_NOTE_BYTES:,} at most")
        self._links[0].send(frames.NOTE, frames.pack_note(number, parts))
        self._links[0].reply()

    def noted(self, number: int) -> np.ndarray | None:
        """What was left under a number, uint8 [n]; None for nothing."""
        self._links[0].send(frames.NOTED, frames.pack_note(number))
        found: np.ndarray = self._links[0].reply()
        return found if len(found) else None

    def status(self) -> dict[str, Any]:
        """What each server says of itself, by name."""
        found = self._ask(self._links, frames.STATUS, {})
        return dict(zip(self._ring.servers, found, strict=True))

    def spec(self, name: str) -> TableSpec | None:
        """Of the table of that name; None where there is none."""
        (facts,) = self._ask(self._links[:1], frames.STATUS, {})
        found = facts["tables"].get(name)
        return table_from_json(found["spec"]) if found else None

    def scan(self, table: RemoteTable, slots: bool, since: int) -> Iterator[Rows]:
        """See RemoteTable.scan()."""
        for number, link in enumerate(self._links):
            facts = {"table": table.numbers[number], "slots": slots, "since": since}
            for stripe in range(table.stripes[number]):
                link.send(frames.SCAN, [frames.pack_facts({**facts, "stripe": stripe})])
                for rows in link.rows():
                    if len(rows[0]):
                        yield Rows(*rows)

    def _made(self, spec: TableSpec) -> RemoteTable:
        found = self._ask(self._links, frames.TABLE, spec.to_json())
        numbers, stripes = ([facts[name] for facts in found] for name in ("table", "stripes"))
        return RemoteTable(self, spec, numbers, stripes)

    def _ask(
        self, links: Sequence[Link], kind: int, facts: Any, is_counted: bool = False
    ) -> list[Any]:
        for link in links:
            link.send(kind, [frames.pack_facts(facts)], is_counted)
        return _replies(links)

    def _split(self, keys: np.ndarray) -> list[Any]:
        """For each server the places of its keys, as an index."""
        if len(self._links) == 1:
            return [slice(None)]
        bucket = hashes(keys) >> np.uint64(64 - BUCKET_BITS)
        owner = self._owners[bucket.view(np.int64)]
        order = np.argsort(owner, kind="stable")
        return np.split(order, np.searchsorted(owner[order], np.arange(1, len(self._links))))


def _section(request: Request, number: int, place: Any) -> Section:
    """A request's part for one server."""
    values = None if request.values is None else request.values[place]
    table = request.table.numbers[number]
    return Section(table, request.operation, request.keys[place], values, request.rate)


def _replies(links: Sequence[Link]) -> list[Any]:
    """Of all of them, so that none is left for the next request; raises the first one's error."""
    found: list[Any] = []
    errors: list[Exception] = []
    for link in links:
        try:
            found.append(link.reply())
        except (StoreError, ValueError) as error:
            errors.append(error)
    if errors:
        raise errors[0]
    return found
