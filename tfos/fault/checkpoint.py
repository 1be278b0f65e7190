"""Checkpoints: weights, optimizers and progress, whole or not at all.

A checkpoint is a committed directory of the lake: TensorFlow's own checkpoint files, written by
the chief, and state.json, the progress that belongs to these weights. Several training loops of
one run share its checkpoints; each has a section of the state and prefixes its objects with it.
"""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfos.errors import DamagedError, UsageError
from tfos.lake import Lake, remove_local

KEPT = 3
_log = logging.getLogger(__name__)


def checkpoint_path(step: int) -> str:
    return f"checkpoints/{step:012d}"


class Checkpointer:
    """Saves and restores the checkpoints of one run. Used by the chief; not thread-safe.

    scratch: a local directory for files on their way.
    every_secs: how often due() says yes.
    io_device: the TensorFlow device that writes files, where variables live on other machines.
    shared: state that belongs to no section: called at a save, and given back at the restore.
    """

    def __init__(
        self,
        lake: Lake,
        scratch: str,
        every_secs: float,
        io_device: str | None = None,
        shared: tuple[Callable[[], Any], Callable[[Any], None]] | None = None,
    ) -> None:
        self._lake = lake
        self._scratch = scratch
        self._every_secs = every_secs
        self._options = tf.train.CheckpointOptions(experimental_io_device=io_device)
        self._shared = shared
        self._objects: dict[str, Any] = {}
        self._sections: dict[str, Any] = {}
        self._last_save = time.monotonic()
        self._restored = self._fetch_newest()
        if self._restored and shared:
            shared[1](self._restored[1]["shared"])

    def _fetch_newest(self) -> tuple[str, dict[str, Any]] | None:
        """The newest checkpoint that is whole: its local TensorFlow prefix and its state."""
        for name in reversed(self._lake.list("checkpoints")):
            local = tempfile.mkdtemp(prefix="restore-", dir=self._scratch)
            try:
                self._lake.fetch_dir(f"checkpoints/{name}", local)
            except DamagedError as error:
                # never finished, or damaged; gone, it is not in the way when its step comes again
                _log.warning("checkpoint %s is passed over and removed: %s", name, error)
                remove_local(local)
                self._lake.remove(f"checkpoints/{name}")
                continue
            state = json.loads(Path(local, "state.json").read_text())
            self._sections = dict(state["sections"])
            return str(Path(local, "weights")), state
        return None

    @property
    def step(self) -> int:
        """The step of the checkpoint that the run continues from; 0 when it begins."""
        return int(self._restored[1]["step"]) if self._restored else 0

    def restore(self, section: str = "user", **objects: Any) -> Any:
        """Takes `objects` into all later checkpoints, and restores them if there is one.

        objects: trackables whose variables exist already, e.g. model=model, optimizer=optimizer.
        Returns the state last saved for the section, or None when the run begins.
        """
        named = {f"{section}.{name}": value for name, value in objects.items()}
        self._objects.update(named)
        if self._restored is None or section not in self._restored[1]["sections"]:
            return None
        status = tf.train.Checkpoint(**named).read(self._restored[0], self._options)
        status.assert_existing_objects_matched().expect_partial()
        return self._restored[1]["sections"][section]

    def due(self) -> bool:
        """Whether --checkpoint-secs have passed since the last save."""
        return time.monotonic() - self._last_save >= self._every_secs

    def save(self, step: int, state: Any = None, section: str = "user") -> None:
        """Saves all objects given to restore(), and `state` (JSON-able) for the section. Blocks.

        step: above that of every earlier checkpoint of the run. No training may be under way.
        """
        newest = max(map(int, self._lake.list("checkpoints")), default=-1)
        if step <= newest:
            raise UsageError(
                f"a checkpoint at step {newest} exists already, which is not before {step}: save at"
                " a later step"
            )
        self._sections[section] = state
        record: Mapping[str, Any] = {
            "step": step,
            "sections": self._sections,
            "shared": self._shared[0]() if self._shared else None,
        }
        with tempfile.TemporaryDirectory(prefix="save-", dir=self._scratch) as local:
            tf.train.Checkpoint(**self._objects).write(str(Path(local, "weights")), self._options)
            Path(local, "state.json").write_text(json.dumps(record))
            self._lake.commit_dir(local, checkpoint_path(step), {"step": step})
        for name in self._lake.list("checkpoints")[:-KEPT]:
            self._lake.remove(f"checkpoints/{name}")
        self._last_save = time.monotonic()
