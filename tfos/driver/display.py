"""What a person sees while a run goes on: on stderr, or in the cell of a notebook."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from rich.console import Console
from rich.markup import escape
from rich.status import Status

from tfos.driver.notebook import CellLine, in_notebook

# pl_submit sets it when its own stderr is a terminal: ours is a pipe to the JVM under spark-submit
TERMINAL_ENV = "TFOS_TERMINAL"
_PLAIN_PROGRESS_SECS = 5.0


class Display:
    """Phases as lines; the progress as one line that changes, or a line now and then.

    tell: is told each phase, for who looks from elsewhere; to be set when somebody can.
    """

    def __init__(self) -> None:
        self.tell: Callable[[str], None] = lambda phase: None
        is_cell = in_notebook()
        terminal = True if os.environ.get(TERMINAL_ENV) else None
        self._console = Console(
            # a cell shows what is on stderr as an error, and is saved without escape sequences
            stderr=not is_cell,
            force_terminal=False if is_cell else terminal,
            force_jupyter=False,
            highlight=False,
        )
        self._begun = time.monotonic()
        self._progress: _Progress
        if is_cell:
            self._progress = CellLine()
        elif self._console.is_terminal:
            self._progress = _TerminalLine(self._console)
        else:
            self._progress = _Lines(self.line)

    def line(self, text: str) -> None:
        """A line that stays."""
        stamp = f"[dim]{time.monotonic() - self._begun:6.1f}s[/dim]"
        self._console.print(f"tfos {stamp}  {escape(text)}", soft_wrap=True)

    def phase(self, text: str) -> None:
        """What the run waits for from now on."""
        self.line(text)
        self.tell(text)

    def progress(self, progress: Mapping[str, Any]) -> None:
        """How far the training is, as the chief reports it."""
        self._progress.show(describe_progress(progress))

    def close(self) -> None:
        """No progress is made for now."""
        self._progress.close()


class _Progress(Protocol):
    """Where the progress is shown."""

    def show(self, text: str) -> None:
        """Shows it in place of the text before."""

    def close(self) -> None:
        """Nothing changes any more, until the next show()."""


class _TerminalLine:
    """The last line of a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status: Status | None = None

    def show(self, text: str) -> None:
        if self._status is None:
            self._status = self._console.status("")
            self._status.start()
        self._status.update(escape(text))

    def close(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None


class _Lines:
    """A line now and then, and at once when it is about something else."""

    def __init__(self, line: Callable[[str], None]) -> None:
        self._line = line
        self._time = 0.0
        self._text = ""

    def show(self, text: str) -> None:
        now = time.monotonic()
        changed_phase = text.split()[:2] != self._text.split()[:2]
        if text != self._text and (changed_phase or now - self._time >= _PLAIN_PROGRESS_SECS):
            self._time, self._text = now, text
            self._line(text)

    def close(self) -> None:
        pass


def describe_progress(progress: Mapping[str, Any]) -> str:
    """One line: epoch, rows, rows/s, metrics."""
    if "rows" not in progress:
        return str(progress.get("phase", ""))
    where = ""
    if progress["epoch"]:
        where = f" epoch {progress['epoch']}" + (
            f"/{progress['epochs']}" if progress["epochs"] else ""
        )
    done = f"{progress['rows_done']:,}/{progress['rows']:,} rows"
    metrics = "  ".join(f"{name} {value:.4f}" for name, value in progress["metrics"].items())
    speed = f"{progress['rows_per_sec']:,} rows/s"
    return f"{progress['phase']}{where}  {done}  {speed}  {metrics}".rstrip()
