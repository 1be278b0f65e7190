"""Snapshots of the store that belong to checkpoints: by the servers, into the run's directory."""

from __future__ import annotations

import logging
import posixpath
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from tfos.errors import LakeError
from tfos.kv import snapshot
from tfos.kv.client import Client
from tfos.lake.run_directory import RunDirectory
from tfos.training.runner import SECTION

DIRECTORY = "store"
_log = logging.getLogger(__name__)


class Snapshots:
    """Of the store that `client` has, in `lake`. Used by the one process that saves checkpoints.

    client: one that waits for replies as long as it takes to write. writer: "<attempt>.<life>" of
    this process, which is part of the names. fence: raises when another one has taken its place.
    quiet: made around what may take long and has nothing to report.
    """

    def __init__(
        self,
        client: Client,
        lake: RunDirectory,
        writer: str,
        fence: Callable[[], None],
        quiet: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._quiet = quiet
        self._client, self._lake, self._writer, self._fence = client, lake, writer, fence
        attempt, life = writer.split(".")
        self._name = f"{int(attempt):06d}-{int(life):06d}"
        self._saved, self._last = 0, ""

    def save(self) -> dict[str, Any]:
        """Writes a snapshot; nobody may push meanwhile. For a checkpoint's section.

        Those that no checkpoint can name any more are removed.
        """
        self._fence()
        self._saved += 1
        path = posixpath.join(DIRECTORY, f"{self._name}-{self._saved:06d}")
        with self._quiet():
            parts = self._client.save(path)
        self._fence()
        snapshot.commit(self._lake, path, parts)
        try:
            named = {path, *self._named()}
            for name in self._lake.list(DIRECTORY):
                other = posixpath.join(DIRECTORY, name)
                # one of the checkpoint that is being uploaded is named by none yet
                if other not in {*named, self._last}:
                    self._lake.remove(other)
            self._last = path
        except LakeError as error:
            _log.warning("old snapshots stay until the next save: %s", error)
        return {"path": path}

    def _named(self) -> set[str]:
        """The snapshots that checkpoints name."""
        states = (self._lake.checkpoint_state(name) for name in self._lake.checkpoints())
        sections = (state["sections"].get(SECTION) for state in states if state)
        return {section["path"] for section in sections if section}

    def load(self, state: dict[str, Any] | None) -> None:
        """Gives empty servers the rows of the snapshot that a checkpoint names, if it names one."""
        if state is not None:
            with self._quiet():
                self._client.load([state["path"]])
