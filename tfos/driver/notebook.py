"""The notebook that a run is called from, where there is one."""

from __future__ import annotations

import math
import sys
import time
from typing import Any

# each is a message to the browser
_EVERY_SECS = 0.5


def in_notebook() -> bool:
    """Whether a cell of a notebook shows what this process writes: Jupyter's, and its kin."""
    # who has not imported IPython has no cells
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return hasattr(shell, "kernel")


class CellLine:
    """A line that changes in place in the cell that runs; its last text is what is saved.

    It stands where it was first shown, among what else the cell puts out, until close().
    """

    def __init__(self) -> None:
        self._handle: Any = None
        self._text = self._shown = ""
        self._time = -math.inf

    def show(self, text: str) -> None:
        self._text = text
        if time.monotonic() >= self._time + _EVERY_SECS:
            self._update()

    def close(self) -> None:
        self._update()
        self._handle, self._shown = None, self._text

    def _update(self) -> None:
        from IPython.display import display

        if self._text == self._shown:
            return
        self._shown, self._time = self._text, time.monotonic()
        content = {"text/plain": self._text}
        if self._handle is None:
            self._handle = display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)
