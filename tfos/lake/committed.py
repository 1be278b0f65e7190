"""Directories that exist when they are whole.

A directory exists when its COMMIT marker does: the marker is written last, when the files are
durable, and holds the size and SHA-256 of every file and one of its own; readers ignore a directory
without one. The idea of a marker as the only truth is orbax's (path/atomicity.py).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import posixpath
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from tfos.errors import DamagedError, LakeError
from tfos.lake.atomic_file import sha256
from tfos.lake.storage import COMMIT, Storage

# the key of a marker's own SHA-256
_SEAL = "sha256"


class CommittedStorage(Storage):
    def commit_dir(
        self,
        source: str,
        path: str,
        note: Mapping[str, Any],
        fence: Callable[[], None] = lambda: None,
    ) -> None:
        """Copies the local directory `source` to `path` and then writes its COMMIT marker.

        note: JSON-able facts kept in the marker.
        fence: raises when the place is another's now. It is called before anything is removed or
        written, and then before each file, the marker is the last one.
        When anything is raised, nothing is committed, and the directory is removed if it can be
        and is still ours.
        """
        fence()
        self.remove(path)
        try:
            files = {}
            for file in sorted(p for p in Path(source).rglob("*") if p.is_file()):
                name = file.relative_to(source).as_posix()
                files[name] = {"bytes": file.stat().st_size, "sha256": sha256(file)}
                fence()
                self.upload(str(file), posixpath.join(path, name))
            fence()
            self.write(posixpath.join(path, COMMIT), _seal({**note, "files": files}))
        except BaseException:
            # it would take up what may be a full disk; readers ignore it anyhow, so try once only
            with contextlib.suppress(Exception):
                fence()
                self._remove(path, retry_secs=0)
            raise

    def committed(self, path: str) -> dict[str, Any] | None:
        """The COMMIT marker of a directory, or None when it has none.

        Raises DamagedError when it is not what commit_dir() wrote.
        """
        marker = posixpath.join(path, COMMIT)
        if not self.exists(marker):
            return None
        data = self.read(marker)
        try:
            found = dict(json.loads(data))
        except ValueError as error:
            raise DamagedError(f"{self.uri(marker)} is damaged: {error}") from error
        found.pop(_SEAL, None)
        if _seal(found) != data:
            raise DamagedError(f"{self.uri(marker)} is damaged: it is not as it was written")
        return found

    def fetch_dir(self, path: str, target: str, without: Collection[str] = ()) -> dict[str, Any]:
        """Copies a committed directory to the local directory `target`, checks every file.

        without: names of files that are left out.
        Returns the marker. Raises DamagedError when there is no marker, or a file is missing or
        differs from it.
        """
        marker = self.committed(path)
        if marker is None:
            raise DamagedError(f"{self.uri(path)} has no {COMMIT} marker: it was never finished")
        for name, wanted in marker["files"].items():
            if name in without:
                continue
            local = Path(target, name)
            local.parent.mkdir(parents=True, exist_ok=True)
            try:
                self.download(posixpath.join(path, name), str(local))
            except LakeError as error:
                if isinstance(error.__cause__, FileNotFoundError):
                    raise DamagedError(
                        f"{self.uri(path, name)} is missing: the marker names it"
                    ) from error
                raise
            found = sha256(local)
            if found != wanted["sha256"]:
                raise DamagedError(
                    f"{self.uri(path, name)} is damaged: its SHA-256 is {found}, the marker says"
                    f" {wanted['sha256']}"
                )
        return marker


def _seal(record: Mapping[str, Any]) -> bytes:
    """A record as JSON that holds its own SHA-256: no byte of it can change unnoticed."""
    plain = json.dumps(record)
    seal = hashlib.sha256(plain.encode()).hexdigest()
    return json.dumps({**record, _SEAL: seal}, indent=2).encode() + b"\n"


def digest(marker: Mapping[str, Any]) -> str:
    """What tells a committed directory from all others: a SHA-256 of its marker."""
    return hashlib.sha256(json.dumps(marker, sort_keys=True).encode()).hexdigest()
