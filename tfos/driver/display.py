"""What a person sees on stderr while a run goes on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.status import Status

# pl_submit sets it when its own stderr is a terminal: ours is a pipe to the JVM under spark-submit
TERMINAL_ENV = "TFOS_TERMINAL"
_PLAIN_PROGRESS_SECS = 5.0


class Display:
    """Phases as lines; the progress as one line that changes, or a line now and then.

    tell: is told each phase, for who looks from elsewhere; to be set when somebody can.
    """

    def __init__(self) -> None:
        self.tell: Callable[[str], None] = lambda phase: None
        terminal = True if os.environ.get(TERMINAL_ENV) else None
        self._console = Console(stderr=True, force_terminal=terminal, highlight=False)
        self._status: Status | None = None
        self._begun = time.monotonic()
        self._last_progress = 0.0
        self._last_text = ""

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
        text = describe_progress(progress)
        if self._console.is_terminal:
            if self._status is None:
                self._status = self._console.status("")
                self._status.start()
            self._status.update(escape(text))
            return
        now = time.monotonic()
        changed_phase = text.split()[:2] != self._last_text.split()[:2]
        if text != self._last_text and (
            changed_phase or now - self._last_progress >= _PLAIN_PROGRESS_SECS
        ):
            self._last_progress, self._last_text = now, text
            self.line(text)

    def close(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None


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
