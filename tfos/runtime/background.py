"""Work that must not hold up an event loop."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any


class Newest:
    """Calls `act(value)` in a thread of its own for what it is given; older values are skipped.

    act: may block, and must not raise.
    """

    def __init__(self, name: str, act: Callable[[Any], None]) -> None:
        self._act = act
        self._values: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def give(self, value: Any) -> None:
        """Returns at once."""
        self._values.put((value,))

    def close(self) -> None:
        """Ends the thread when it has done what it is at; returns at once."""
        self._values.put(())

    def _run(self) -> None:
        while True:
            newest = self._values.get()
            while newest and not self._values.empty():
                newest = self._values.get()
            if not newest:
                return
            self._act(newest[0])
