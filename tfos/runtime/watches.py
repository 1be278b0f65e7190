"""Watches: what a node of ZooKeeper holds is told now, and again at each change.

kazoo's DataWatch and ChildrenWatch wait for the server, with no limit, in whoever makes one and on
the thread that calls all watches. Here nothing waits: a read is begun, and kazoo calls when it is
done.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from typing import Any

from kazoo.client import KazooClient, KazooState
from kazoo.exceptions import KazooException, NoNodeError
from kazoo.protocol.states import EventType

from tfos.runtime.calls import LOST

_log = logging.getLogger(__name__)
_NEVER = object()


class Watch:
    """One watch, until stop(). It begins with the first read().

    begin: an asynchronous read of kazoo: (path, watch=called at the next change) -> IAsyncResult.
    understand: (what was read; None where there is no node) -> (what differs after a change, the
    value).
    tell: called with each new value, on kazoo's thread for what is done: while it runs no call of
    this client that makes a node can end, so it must not wait for one.

    A watch is lost with its connection. No change is missed all the same: every read sets the watch
    anew, and one is begun with every new connection. One that fails meanwhile was begun before its
    connection was lost, hence before the next one: so that next one begins another.
    """

    def __init__(
        self,
        client: KazooClient,
        path: str,
        begin: Callable[..., Any],
        understand: Callable[[Any], tuple[Any, Any]],
        tell: Callable[[Any], None],
    ) -> None:
        self._client = client
        self.path = path
        self._begin_read = begin
        self._understand = understand
        self._tell = tell
        self._lock = threading.RLock()
        self._is_reading = self._is_wanted = self._is_stopped = False
        # who waits for the read that is under way, and for the next one
        self._served: list[Any] = []
        self._waiting: list[Any] = []
        self._last: Any = _NEVER
        client.add_listener(self._on_state)

    def read(self) -> Any:
        """Begins a read; returns an IAsyncResult.

        When it is done, what was told last is no older than this call. One of LOST in it means that
        it should be called again.
        """
        answer = self._client.handler.async_result()
        with self._lock:
            self._waiting.append(answer)
            self._begin()
        return answer

    def stop(self) -> None:
        """Nothing is told any more; a call that is under way may end later."""
        self._is_stopped = True
        self._client.remove_listener(self._on_state)

    def _on_state(self, state: str) -> None:
        if state == KazooState.CONNECTED:
            self._begin()

    def _on_change(self, event: Any) -> None:
        if event.type != EventType.NONE:  # which says that the connection is lost
            self._begin()

    def _begin(self) -> None:
        """One read at a time: what is told comes in the order in which it happened."""
        with self._lock:
            if self._is_reading:
                self._is_wanted = True
                return
            if self._is_stopped:
                return
            self._is_reading, self._is_wanted = True, False
            self._served, self._waiting = self._waiting, []
            self._read()

    def _read(self) -> None:
        self._begin_read(self.path, watch=self._on_change).rawlink(self._on_read)

    def _on_read(self, result: Any) -> None:
        try:
            found = result.get_nowait()
        except NoNodeError:  # only this one tells when it is made
            looked = self._client.exists_async(self.path, watch=self._on_change)
            looked.rawlink(self._on_looked)
        except KazooException as error:
            self._end(error)
        else:
            self._end(None, found)

    def _on_looked(self, result: Any) -> None:
        try:
            is_there = result.get_nowait() is not None
        except KazooException as error:
            self._end(error)
            return
        if is_there:  # since a moment ago
            self._read()
        else:
            self._end(None)

    def _end(self, error: KazooException | None, found: Any = None) -> None:
        try:
            if error is None and not self._is_stopped:
                mark, value = self._understand(found)
                if mark != self._last:
                    self._last = mark
                    self._tell(value)
        finally:
            with self._lock:
                served, self._served = self._served, []
                self._is_reading = False
            for answer in served:
                answer.set(None) if error is None else answer.set_exception(error)
            if error is not None and not served and not isinstance(error, LOST):
                _log.error("changes of %s are not seen any more: %r", self.path, error)
            if self._is_wanted:
                self._begin()


def watch_value(client: KazooClient, path: str, tell: Callable[[Any], None]) -> Watch:
    """Of a node's JSON value; None when there is no node."""

    def understand(found: Any) -> tuple[Any, Any]:
        if found is None:
            return None, None
        data, stat = found
        return stat.mzxid, json.loads(data or b"null")

    return Watch(client, path, client.get_async, understand, tell)


def watch_names(client: KazooClient, path: str, tell: Callable[[list[str]], None]) -> Watch:
    """Of the sorted names of a node's children; [] when there is no node."""

    def understand(found: Any) -> tuple[Any, Any]:
        names = sorted(found or [])
        return names, names

    return Watch(client, path, client.get_children_async, understand, tell)
