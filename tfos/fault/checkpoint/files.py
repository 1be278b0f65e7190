"""Checkpoints of frameworks that write files of their own: a directory, with the progress."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from tfos.errors import UsageError
from tfos.fault.checkpoint.store import CheckpointStore
from tfos.lake.storage import remove_local

# where in a checkpoint the files are, beside state.json
_FILES = "files"


class FileCheckpoints:
    """Saves and restores the checkpoints of one run. Not thread-safe, but for hurry() and due().

    store: where they are kept; where this process is not its owner, save_dir() does nothing.
    scratch: a local directory for files on their way.
    every_secs: how often due() says yes.
    state: gives what else belongs into a checkpoint, as CheckpointStore.write_state() has it: the
    sections, and what is shared. restore: is given both back.
    quiet: made around what may take long and has nothing to report.
    on_commit: called when a checkpoint is committed.
    """

    def __init__(
        self,
        store: CheckpointStore,
        scratch: str,
        every_secs: float,
        state: Callable[[], tuple[Mapping[str, Any], Any]],
        restore: Callable[[Mapping[str, Any], Any], None],
        quiet: Callable[[], AbstractContextManager[None]] = nullcontext,
        on_commit: Callable[[], None] = lambda: None,
    ) -> None:
        self._store, self._scratch, self._every_secs = store, scratch, every_secs
        self._state, self._quiet, self._on_commit = state, quiet, on_commit
        self._last_save = time.monotonic()
        self._hurried = threading.Event()
        self._saves = self._committed = 0
        self.fence = store.fence
        with quiet():
            found = store.fetch_newest(scratch)
        self._newest: Path | None = None
        self._step = 0
        if found is not None:
            local, record = found
            self._newest, self._step = Path(local, _FILES), int(record["step"])
            self._newest.mkdir(exist_ok=True)  # of a directory without files there is nothing
            restore(record["sections"], record["shared"])

    @property
    def step(self) -> int:
        """The step of the checkpoint that the run continues from; 0 when it begins."""
        return self._step

    def newest(self) -> Path | None:
        """The directory that the run continues from, as save_dir() was given it; None: it begins.

        A local copy of this process's own, the same in all processes. It stays what it was at the
        begin of train(), whatever is saved since.
        """
        return self._newest

    def due(self) -> bool:
        """Whether --checkpoint-secs have passed since the last save, or one is asked for.

        As it is where a process is about to be taken away. Never where save_dir() does nothing.
        """
        if not self._store.is_owner:
            return False
        return self._hurried.is_set() or time.monotonic() - self._last_save >= self._every_secs

    def hurry(self) -> Callable[[], bool]:
        """Makes due() say yes until the next save. May be called from any thread.

        Returns what says whether a checkpoint that was begun since is committed.
        """
        wanted = self._saves + 1
        self._hurried.set()
        return lambda: self._committed >= wanted

    def save_dir(self, path: str | Path, step: int) -> None:
        """Makes all files below the local directory `path` a checkpoint. Blocks until it is one.

        With them go the positions in the feeds, and the account of rows. The newest three are kept.
        Of several processes rank 0 alone saves; in the others nothing is done.
        step: above that of every earlier checkpoint of the run.
        Raises UsageError for a step that is not above, and where there is no such directory;
        LakeError, FencedError among others: then there is no such checkpoint.
        """
        if not self._store.is_owner:
            return
        if not Path(path).is_dir():
            raise UsageError(f"save_dir() was given {os.fspath(path)!r}, which is no directory")
        if step <= self._store.newest:
            raise UsageError(
                f"a checkpoint at step {self._store.newest} exists already, which is not before"
                f" {step}: save at a later step"
            )
        self._saves += 1  # first: who calls hurry() from here on waits for the next one
        self._hurried.clear()
        self._last_save = time.monotonic()
        number = self._saves
        local = tempfile.mkdtemp(prefix="save-", dir=self._scratch)
        try:
            with self._quiet():
                shutil.copytree(path, Path(local, _FILES), copy_function=_link)
                self._store.write_state(local, step, *self._state())
                self._store.commit(local, step, self._last_save)
        finally:
            remove_local(local)
        self._committed = number
        self._on_commit()
        self._store.prune()


def _link(source: str, target: str) -> None:
    """A file that is read at once needs no second copy, where the filesystem is the same."""
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copy2(source, target)
