"""Checkpoints as committed directories of the lake, of whatever framework.

A checkpoint is the files of a local directory, among them state.json: the step, the state of each
training loop ("sections"), and that of the run ("shared": the ledger). So rewinding the weights
rewinds the account of rows with them.
"""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tfos.errors import DamagedError, FencedError, LakeError
from tfos.lake.run_directory import STATE, RunDirectory, checkpoint_name, checkpoint_path
from tfos.lake.storage import remove_local

KEPT = 3
_log = logging.getLogger(__name__)


class CheckpointStore:
    """The checkpoints of one run, as one process reads and writes them. Not thread-safe.

    fence: raises FencedError when another process has taken this one's place; called before each
        file of a checkpoint is written.
    is_owner: whether this process saves; another one only reads.
    writer: "<attempt>.<life>" of this process, which is part of its checkpoints' names.
    newest: the newest step in the lake, -1 while there is none.
    """

    def __init__(
        self,
        lake: RunDirectory,
        fence: Callable[[], None] = lambda: None,
        is_owner: bool = True,
        writer: str = "",
    ) -> None:
        self._lake = lake
        self.fence = fence
        self.is_owner = is_owner
        self._writer = writer
        self._saved = 0
        self._save_secs = 0.0
        self.newest = -1

    def fetch_newest(self, scratch: str) -> tuple[str, dict[str, Any]] | None:
        """The newest checkpoint that is whole: a new local directory in `scratch`, and its state.

        Those that are not whole are passed over; and removed, by the owner. What is newer than the
        one that is returned is gone then. Raises LakeError.
        """
        for name in reversed(self._lake.checkpoints()):
            local = tempfile.mkdtemp(prefix="restore-", dir=scratch)
            try:
                self._lake.fetch_dir(checkpoint_path(name), local)
            except DamagedError as error:
                # never finished, or damaged; gone, it is not in the way when its step comes again
                _log.warning("checkpoint %s is passed over and removed: %s", name, error)
                remove_local(local)
                if self.is_owner:
                    self._lake.remove(checkpoint_path(name))
                continue
            state = json.loads(Path(local, STATE).read_text())
            self.newest = int(state["step"])
            return local, state
        return None

    @staticmethod
    def write_state(local: str, step: int, sections: Mapping[str, Any], shared: Any) -> None:
        """Completes the local directory of a checkpoint. All that is given is JSON-able."""
        record = {"step": step, "sections": sections, "shared": shared}
        Path(local, STATE).write_text(json.dumps(record))

    def commit(self, local: str, step: int, begun: float | None = None) -> float:
        """Takes a local directory to the lake, as the checkpoint of `step`; removes old ones.

        step: above `newest`. begun: when saving began, on time.monotonic().
        Returns the seconds since then. Raises LakeError, FencedError among others; then there is no
        such checkpoint.
        """
        begun = time.monotonic() if begun is None else begun
        path = checkpoint_path(checkpoint_name(step, self._writer))
        try:
            self._lake.commit_dir(local, path, {"step": step}, self.fence)
        except FencedError:
            with suppress(LakeError):  # a directory with our name on it is ours all the same
                self._lake.remove(path)
            raise
        self.newest = step
        self._saved += 1
        took = time.monotonic() - begun
        self._save_secs += took
        return took

    def prune(self) -> None:
        """Removes all but the newest checkpoints."""
        try:
            for name in self._lake.checkpoints()[:-KEPT]:
                self._lake.remove(checkpoint_path(name))
        except LakeError as error:
            _log.warning("old checkpoints stay until the next save: %s", error)

    @property
    def stats(self) -> dict[str, float]:
        """What saving took so far.

        saved: checkpoints committed by this object; step: the newest one in the lake, 0 if none.
        save_secs: from the begin of each save to its commit, summed up.
        """
        return {
            "saved": self._saved,
            "step": max(self.newest, 0),
            "save_secs": round(self._save_secs, 3),
        }
