"""What one server of the store holds: its tables, and the clocks of its clients."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfos.kv import frames
from tfos.kv.clocks import Clocks
from tfos.kv.frames import Section
from tfos.kv.sessions import Session
from tfos.kv.spec import TableSpec
from tfos.kv.table import Table
from tfos.kv.visits import ADD, MAKE, PUSH


class Store:
    """Any thread may call any method. ValueError is what a client's request has brought about."""

    def __init__(self, staleness: int | None = None) -> None:
        # a client sees by it that another store, with other rows, is in the place of this one
        self.life = secrets.token_hex(8)
        # another one when all rows have been replaced
        self.origin = self.life
        # changes when clients that have used what was there are to be refused
        self.reign = self.life
        # what clients have left for others, by number; they go with the rows
        self.notes: dict[int, bytes] = {}
        self._tables: list[Table] = []
        self._names: dict[str, int] = {}
        self._making = threading.Lock()
        self._clocks, self._ticked = Clocks(staleness), threading.Condition()

    @property
    def tables(self) -> list[Table]:
        return list(self._tables)

    def table(self, spec: TableSpec) -> int:
        """The number of the table, made if there is none. Raises ValueError if it differs."""
        with self._making:
            number = self._names.get(spec.name)
            if number is None:
                self._tables.append(Table(spec))
                number = self._names[spec.name] = len(self._tables) - 1
            found = self._tables[number].spec
        if found != spec:
            before, asked = found.to_json(), spec.to_json()
            parts = [name for name in asked if asked[name] != before[name]]
            raise ValueError(
                f"table {spec.name!r} is there with other arguments: "
                + ", ".join(f"{name} is {before[name]!r}, not {asked[name]!r}" for name in parts)
            )
        return number

    def forget_rows(self, refuses: bool = False) -> None:
        """Tables are as when they were made. Requests under way may still see what was there, and
        change it.

        refuses: clients that have used what was there.
        """
        with self._making:
            self.origin = secrets.token_hex(8)
            if refuses:
                self.reign = self.origin  # first: see exchange()
            self._tables = [Table(table.spec) for table in self._tables]
            self.notes = {}

    def at(self, number: Any) -> Table:
        if not isinstance(number, int) or not 0 <= number < len(self._tables):
            raise ValueError(f"there is no table {number!r}: ask for it by its spec first")
        return self._tables[number]

    def exchange(
        self, session: Session, sequence: int, sections: Sequence[Section]
    ) -> list[np.ndarray]:
        """Does what all sections say, in order: what those that read have found.

        Those of a request that came before and write are not done again. All are checked before
        the first is done. The caller holds the session's lock. Raises sessions.Forgotten as well.
        """
        done, found = session.begin(sequence), []
        tables = [self._checked(section) for section in sections]
        # when these are the new tables of forget_rows() there is a new reign, too
        session.admit(self.reign)
        size = sum(
            4 * len(section.keys) * table.spec.width
            for table, section in zip(tables, sections, strict=True)
            if section.reads
        )
        if size > frames.MOST_BYTES:
            raise ValueError(
                f"{size:,} bytes of rows are asked for, of {frames.MOST_BYTES:,} at most: use"
                " fewer keys at a time"
            )
        for number, (table, section) in enumerate(zip(tables, sections, strict=True)):
            if section.reads:
                found.append(table.pull(section.keys, make=section.operation == MAKE))
            elif number >= done:
                _write(table, section)
                session.done = number + 1
        return found

    def _checked(self, section: Section) -> Table:
        table = self.at(section.table)
        if section.values is not None and section.values.shape[1] != table.spec.width:
            raise ValueError(
                f"values are {section.values.shape[1]} wide, rows of table {table.spec.name!r}"
                f" {table.spec.width}"
            )
        if section.rate is not None and not 0 <= section.rate < float("inf"):
            raise ValueError(f"learning_rate is {section.rate}: use 0 or more")
        return table

    def tick(self, session: Session, sequence: int, client: str) -> int:
        """The client has finished a step, its first if it is not known: its clock.

        The caller holds the session's lock.
        """
        with self._ticked:
            is_new = session.begin(sequence) == 0
            self._clocks.join(client)
            if is_new:
                self._clocks.tick(client)
                session.done = 1
            self._ticked.notify_all()
            return self._clocks.clocks[client]

    def join(self, client: str) -> None:
        with self._ticked:
            self._clocks.join(client)

    def leave(self, client: str) -> None:
        """The client is waited for no more."""
        with self._ticked:
            self._clocks.leave(client)
            self._ticked.notify_all()

    def may_begin(self, client: str, secs: float) -> bool:
        """Whether the client may begin its next step, or may within so many seconds."""
        until = time.monotonic() + secs
        with self._ticked:
            self._clocks.join(client)  # it was given up, and is back
            while not self._clocks.may_begin(client):
                left = until - time.monotonic()
                if left <= 0 or not self._ticked.wait(left):
                    return client in self._clocks.clocks and self._clocks.may_begin(client)
                self._clocks.join(client)
            return True

    def facts(self) -> dict[str, Any]:
        """What there is, as JSON."""
        with self._ticked:
            clocks = self._clocks.clocks
        tables = {
            table.spec.name: {
                "rows": len(table),
                "bytes": table.nbytes,
                "steps": table.steps,
                "spec": table.spec.to_json(),
            }
            for table in self.tables
        }
        return {"tables": tables, "clocks": clocks}


def _write(table: Table, section: Section) -> None:
    values = section.values
    assert values is not None
    if section.operation == PUSH:
        table.push(section.keys, values, section.rate)
    elif section.operation == ADD:
        table.add(section.keys, values)
    else:
        table.put(section.keys, values)
