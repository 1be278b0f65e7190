"""The chief's side of the units: they wait here until a worker asks, and come back as results.

A unit whose worker is gone is given to another one. What that worker had pushed already stays
pushed: its rows are counted by the store, see repeated_rows().

A chief that takes another one's place is asked by the same workers, which are in the section that
they were in; it comes to that one past those that are over.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import socket
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tfos.errors import UsageError
from tfos.kv.connection import Connection, SecretError
from tfos.kv.frames import ERROR, FrameError, pack_facts
from tfos.training.stored.orders import Order
from tfos.training.stored.wire import ASK, BEGUN, MOST_BYTES, OVER, UNIT, WAIT, Unit, pack, unpack

_log = logging.getLogger(__name__)
# programs whose rows the store counts
COUNTED = ("train", "epoch")
# of a section: JSON, and arrays
Result = tuple[Mapping[str, Any], Sequence[np.ndarray]]
# a worker that waits asks again after so long, so that one that is gone is noticed
_WAIT_SECS = 1.0
_STALL_SECS = 60.0


class _Pending:
    """The result of a unit, when a worker has brought it."""

    def __init__(self, unit: Unit, rows: int) -> None:
        self.unit, self.rows = unit, rows
        self._value: list[np.ndarray] | None = None
        self._is_there = threading.Event()
        self.given = 0

    def bring(self, value: list[np.ndarray]) -> None:
        self._value = value
        self._is_there.set()

    @property
    def is_done(self) -> bool:
        return self._is_there.is_set()

    def fetch(self) -> list[np.ndarray]:
        while not self._is_there.wait(1.0):  # so that signals are handled
            pass
        assert self._value is not None
        return self._value


class Coordinator:
    """Serves workers on a listening socket, in threads of its own, until close().

    submit(), begin() and section() are called from one thread.

    chief: a name that no other chief of the run has.
    """

    def __init__(self, listener: socket.socket, secret: bytes, chief: str = "") -> None:
        self._listener, self._secret = listener, secret
        # chiefs whose workers may ask here: this one, and those whose place it has taken
        self._chief, self._chiefs = chief, {chief}
        self._asking: set[str] = set()
        self._changed, self._closing = threading.Condition(), threading.Event()
        self._waiting: deque[_Pending] = deque()
        self._again: list[_Pending] = []
        self._section, self._what = -1, ""
        self._begun: Mapping[str, Any] | None = None
        self._results: list[Result] = []
        self._connections: dict[str, Connection] = {}
        # the last section whose end each worker has heard of
        self._told: dict[str, int] = {}
        self._numbers = itertools.count(1)
        threading.Thread(target=self._accept, name="coordinator", daemon=True).start()

    def begin(
        self,
        step: int,
        sections: Mapping[str, Any] | None,
        chiefs: Sequence[str] = (),
        results: Sequence[Result] = (),
    ) -> None:
        """Tells workers what the run continues from: the state of sections, as JSON, None for
        nothing. Before any section.

        chiefs: whose place this one has taken. results: of the sections that were over then.
        """
        with self._changed:
            self._results, self._chiefs = list(results), {self._chief, *chiefs}
            self._begun = {"step": step, "sections": sections, "chief": self._chief}
            self._changed.notify_all()

    def wait_asking(self, workers: int) -> None:
        """Until so many workers ask, so that they have ended what another chief gave them."""
        with self._changed:
            while not self._changed.wait_for(lambda: len(self._asking) >= workers, 1.0):
                pass  # so that signals are handled

    @property
    def next_result(self) -> Result | None:
        """What the next section has given, where that is known already."""
        at = self._section + 1
        return self._results[at] if at < len(self._results) else None

    def skip(self, what: str) -> None:
        """The next section is over, see next_result."""
        with self._changed:
            self._section += 1
            self._what = what

    def section(
        self,
        what: str,
        lead: Callable[[], Any],
        told: Callable[[Any], Result],
        on_end: Callable[[int, Result], None] = lambda number, result: None,
    ) -> Any:
        """Runs lead(), whose units workers take meanwhile; then they go on with what told() says.

        what: is done in it: workers are to do the same. told: of what lead() has returned.
        on_end: called with the section's number and that, before workers hear of it.
        """
        with self._changed:
            self._section += 1
            self._what = what
            self._changed.notify_all()
        try:
            found = lead()
            if self._section < len(self._results):
                return found
            result = told(found)
            _check_size(result[1])
            on_end(self._section, result)
        except BaseException as error:
            self._end(({"error": f"{type(error).__name__}: {error}"}, []))
            raise
        self._end(result)
        return found

    def _end(self, result: Result) -> None:
        with self._changed:
            self._waiting.clear()
            self._results.append(result)
            self._changed.notify_all()

    def submit(
        self,
        program: str,
        takes: Sequence[Sequence[int]],
        bounds: Sequence[int],
        order: Order,
        state: Sequence[np.ndarray] = (),
    ) -> _Pending:
        unit = Unit(next(self._numbers), self._section, program, takes, bounds, order, state)
        pending = _Pending(unit, bounds[2] - bounds[1])
        with self._changed:
            self._waiting.append(pending)
            self._changed.notify_all()
        return pending

    def given_again(self) -> list[tuple[int, int]]:
        """The units, done by now, that more than one worker has had since the last call: the number
        of their order, and their rows.
        """
        with self._changed:
            found = [each for each in self._again if each.is_done]
            self._again = [each for each in self._again if not each.is_done]
            return [(each.unit.order.number, each.rows) for each in found]

    @property
    def unsettled(self) -> list[tuple[int, int]]:
        """What given_again() will say, and those that are not done yet."""
        with self._changed:
            return [(each.unit.order.number, each.rows) for each in self._again]

    def wait_told(self, workers: int, secs: float) -> None:
        """Until so many workers have been told how the last section ended, at most `secs`."""
        last = len(self._results) - 1
        with self._changed:
            self._changed.wait_for(
                lambda: sum(at == last for at in self._told.values()) >= workers, secs
            )

    def close(self) -> None:
        self._closing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in list(self._connections.values()):
            connection.close()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError as error:
                if self._closing.wait(0.1):  # too many open files may pass
                    return
                _log.warning("the chief could not accept a connection: %s", error)
                continue
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        connection = Connection(sock, _STALL_SECS)
        mine: _Pending | None = None
        name = ""
        try:
            name = connection.welcome(self._secret, {"server": "chief-0"}).hex()
            self._connections[name] = connection
            while True:
                header, payload = connection.receive(waits=True, most=MOST_BYTES)
                if header.kind == BEGUN:
                    with self._changed:
                        self._asks(name)
                        self._changed.wait_for(lambda: self._begun is not None, _WAIT_SECS)
                        begun = self._begun
                    connection.send(WAIT if begun is None else BEGUN, pack(begun or {}))
                    continue
                if header.kind != ASK:
                    raise FrameError(f"there is no question of kind {header.kind}")
                facts, arrays = unpack(payload)
                with self._changed:
                    self._asks(name)
                    self._changed.wait_for(lambda: self._begun is not None, _WAIT_SECS)
                    if self._begun is not None and facts.get("chief") not in self._chiefs:
                        raise FrameError("this chief has begun anew, and so is its worker to")
                if mine is not None and facts.get("number") == mine.unit.number:
                    mine.bring(arrays)
                    mine = None
                at = int(facts["section"])
                with self._changed:
                    # who asks for the next one has heard of the one before
                    self._told[name] = max(at - 1, self._told.get(name, -1))
                    self._changed.notify_all()
                    is_over = at < len(self._results)
                    if at == self._section and not is_over and facts.get("what") != self._what:
                        raise FrameError(
                            f"its train() comes to {facts.get('what')}, the chief's to {self._what}"
                        )
                    self._changed.wait_for(functools.partial(self._has, at), _WAIT_SECS)
                    if at < len(self._results):
                        kind, parts = OVER, pack(*self._results[at])
                        self._told[name] = at
                    elif self._waiting and self._waiting[0].unit.section == at:
                        mine = self._give()
                        kind, parts = UNIT, pack(mine.unit.facts(), mine.unit.state)
                    else:
                        kind, parts = WAIT, pack({})
                connection.send(kind, parts)
        except (OSError, EOFError):
            pass
        except (FrameError, SecretError, ValueError, KeyError) as error:
            _log.warning("the chief gives up a worker's connection: %s", error)
            with contextlib.suppress(OSError):
                connection.send(ERROR, [pack_facts({"error": "protocol", "message": str(error)})])
        finally:
            connection.close()
            self._connections.pop(name, None)
            with self._changed:
                self._asking.discard(name)
            if mine is not None:
                self._take_back(mine)

    def _asks(self, name: str) -> None:
        self._asking.add(name)
        self._changed.notify_all()

    def _has(self, section: int) -> bool:
        return section < len(self._results) or bool(
            self._waiting and self._waiting[0].unit.section == section
        )

    def _give(self) -> _Pending:
        pending = self._waiting.popleft()
        pending.given += 1
        if pending.given == 2 and pending.unit.program in COUNTED:
            self._again.append(pending)
        return pending

    def _take_back(self, pending: _Pending) -> None:
        with self._changed:
            self._waiting.appendleft(pending)
            self._changed.notify_all()


def _check_size(arrays: Sequence[np.ndarray]) -> None:
    size = sum(array.nbytes for array in arrays)
    if size > MOST_BYTES - (1 << 20):
        raise UsageError(
            f"ctx.predict() has {size >> 20:,} MiB of outputs, of {MOST_BYTES >> 20:,} at most"
            " under --strategy kv: export the model, and use tfos.predict()"
        )
