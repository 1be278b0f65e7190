"""Snapshots of the store that belong to checkpoints: by the servers, into the run's directory."""

from __future__ import annotations

import functools
import logging
import posixpath
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from tfos.errors import LakeError
from tfos.kv import snapshot
from tfos.kv.client import Client
from tfos.lake.run_directory import RunDirectory
from tfos.training.runner import SECTION

DIRECTORY = "store"
# after so many deltas to a full snapshot comes a full one
MOST_DELTAS = 16
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Chain:
    """A full snapshot and the deltas to it, in order. Pure.

    newest: the parts of the last of them. rows: of the full one. changed: of all deltas together.
    """

    paths: tuple[str, ...] = ()
    newest: Sequence[Mapping[str, Any]] = ()
    rows: int = 0
    changed: int = 0

    @property
    def goes_on(self) -> bool:
        """Whether a delta comes next: what is to be read again stays below twice the rows."""
        return bool(self.paths) and self.changed < self.rows and len(self.paths) <= MOST_DELTAS

    def followed_by(self, path: str, parts: Sequence[Mapping[str, Any]]) -> Chain:
        found = snapshot.rows_of(parts)
        if not self.goes_on:
            return Chain((path,), parts, found)
        return Chain((*self.paths, path), parts, self.rows, self.changed + found)


class Snapshots:
    """Of the store that `client` has, in `lake`. Used by the one process that saves checkpoints.

    client: one that waits for replies as long as it takes to write. writer: "<attempt>.<life>" of
    this process, which is part of the names. fence: raises when another one has taken its place.
    quiet: made around what may take long and has nothing to report.
    refuses: see load().
    """

    def __init__(
        self,
        client: Client,
        lake: RunDirectory,
        writer: str,
        fence: Callable[[], None],
        quiet: Callable[[], AbstractContextManager[None]] = nullcontext,
        refuses: bool = False,
    ) -> None:
        self._refuses = refuses
        self._quiet = quiet
        self._client, self._lake, self._writer, self._fence = client, lake, writer, fence
        attempt, life = writer.split(".")
        self._name = f"{int(attempt):06d}-{int(life):06d}"
        self._saved, self._chain = 0, Chain()

    def save(self) -> tuple[dict[str, Any], Callable[[], None]]:
        """Begins a snapshot of the rows as they are when it returns; nobody may push meanwhile.

        Returns a checkpoint's section, and what makes the snapshot whole: called before that
        checkpoint is committed and before the next save(), in any thread. It removes those that no
        checkpoint can name any more.
        """
        self._fence()
        self._saved += 1
        path = posixpath.join(DIRECTORY, f"{self._name}-{self._saved:06d}")
        before = self._chain
        with self._quiet():
            self._client.begin_save(path, before.newest if before.goes_on else ())
        paths = [*before.paths, path] if before.goes_on else [path]
        return {"paths": paths}, functools.partial(self._finish, path)

    def _finish(self, path: str) -> None:
        parts = self._client.finish_save(path)
        self._fence()
        snapshot.commit(self._lake, path, parts)
        self._chain = self._chain.followed_by(path, parts)
        try:
            named = {*self._chain.paths, *self._named()}
            for name in self._lake.list(DIRECTORY):
                other = posixpath.join(DIRECTORY, name)
                # those of a process that has taken this one's place have names that come later
                if other not in named and name.rpartition("-")[0] <= self._name:
                    self._fence()
                    self._lake.remove(other)
        except LakeError as error:
            _log.warning("old snapshots stay until the next save: %s", error)

    def _named(self) -> set[str]:
        """The snapshots that checkpoints name."""
        states = (self._lake.checkpoint_state(name) for name in self._lake.checkpoints())
        sections = (state["sections"].get(SECTION) for state in states if state)
        return {path for section in sections if section for path in section["paths"]}

    def load(self, state: dict[str, Any] | None) -> None:
        """Gives the servers the rows of what a checkpoint names, and no others; None for none.

        Whoever has used what they had before is refused by them, where `refuses` was given.
        """
        self._chain = Chain()
        with self._quiet():
            self._client.load(state["paths"] if state is not None else [], self._refuses)
