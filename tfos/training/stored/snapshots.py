"""Snapshots of the store that belong to checkpoints: by the servers, into the run's directory."""

from __future__ import annotations

import logging
import posixpath
from collections.abc import Callable
from typing import Any

from tfos.errors import LakeError
from tfos.fault.checkpoint.store import KEPT
from tfos.kv import snapshot
from tfos.kv.client import Client
from tfos.lake.storage import Storage

DIRECTORY = "store"
_log = logging.getLogger(__name__)


class Snapshots:
    """Of the store that `client` has, in `lake`. Used by the one process that saves checkpoints.

    client: one that waits for replies as long as it takes to write. writer: "<attempt>.<life>" of
    this process, which is part of the names. fence: raises when another one has taken its place.
    """

    def __init__(
        self, client: Client, lake: Storage, writer: str, fence: Callable[[], None]
    ) -> None:
        self._client, self._lake, self._writer, self._fence = client, lake, writer, fence
        attempt, life = writer.split(".")
        self._name = f"{int(attempt):06d}-{int(life):06d}"
        self._saved = 0

    def save(self) -> dict[str, Any]:
        """Writes a snapshot; nobody may push meanwhile. For a checkpoint's section.

        Those that no checkpoint can name any more are removed.
        """
        self._fence()
        self._saved += 1
        path = posixpath.join(DIRECTORY, f"{self._name}-{self._saved:06d}")
        parts = self._client.save(path)
        self._fence()
        snapshot.commit(self._lake, path, parts)
        try:
            # the newest is not in a committed checkpoint yet
            for name in sorted(self._lake.list(DIRECTORY))[: -KEPT - 2]:
                self._lake.remove(posixpath.join(DIRECTORY, name))
        except LakeError as error:
            _log.warning("old snapshots stay until the next save: %s", error)
        return {"path": path}

    def load(self, state: dict[str, Any] | None) -> None:
        """Gives empty servers the rows of the snapshot that a checkpoint names, if it names one."""
        if state is not None:
            self._client.load([state["path"]])
