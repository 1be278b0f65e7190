"""The lake: one run's directory on any fsspec filesystem.

    <lake>/<run-id>/
      spec.json                     the JobSpec
      registry.json                 the run's credential for ZooKeeper
      feed/<name>/<shard>.arrow     and manifest.json, written when the feed is complete
      app.pkl                       the app after pre_train, written when all feeds are complete
      checkpoints/<step>/...        COMMIT marker last
      model/                        exported SavedModel, COMMIT marker last
      logs/<attempt>/<role>-<i>.log
      events/                       TensorBoard
      result.json                   written once, at the end, whatever the end

Two rules keep readers from half-written data. A single file appears whole (renamed into place on
a local filesystem; object stores have atomic puts). A directory exists when its COMMIT marker
does: the marker is written last and holds the size and SHA-256 of every file; readers ignore a
directory without one. The idea of a marker as the only truth is orbax's (path/atomicity.py).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import posixpath
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import fsspec

from tfos.errors import DamagedError, LakeError

COMMIT = "COMMIT"
APP = "app.pkl"


def absolute(url: str) -> str:
    """`url` with a relative path made absolute, so that every process means the same place."""
    if "://" in url or "::" in url:
        return url if url.endswith(("://", ":///")) else url.rstrip("/")
    return str(Path(url).expanduser().resolve())


class Lake:
    """The directory of run `run_id` under `url`. Picklable; opens its filesystem on first use.

    Paths are relative to the run directory. Every method that touches storage raises LakeError.
    """

    def __init__(self, url: str, run_id: str) -> None:
        self.url = absolute(url)
        self.run_id = run_id
        self._open: tuple[Any, str] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "run_id": self.run_id, "_open": None}

    @property
    def _fs(self) -> Any:
        return self._storage()[0]

    def _storage(self) -> tuple[Any, str]:
        if self._open is None:
            with self._errors("open"):
                fs, root = fsspec.core.url_to_fs(self.url)
            self._open = fs, posixpath.join(root, self.run_id)
        return self._open

    @contextlib.contextmanager
    def _errors(self, verb: str, path: str = "") -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, ImportError) as error:
            where = posixpath.join(self.url, self.run_id, path)
            raise LakeError(
                f"cannot {verb} {where}: {type(error).__name__}: {error}; "
                "check --lake and its permissions"
            ) from error

    @property
    def is_local(self) -> bool:
        """Whether the lake is a mounted filesystem, whose files can be memory-mapped."""
        return "file" in (
            [self._fs.protocol] if isinstance(self._fs.protocol, str) else self._fs.protocol
        )

    def path(self, *parts: str) -> str:
        """The path of a file on the lake's filesystem; a plain path when the lake is local."""
        return posixpath.join(self._storage()[1], *parts)

    def uri(self, *parts: str) -> str:
        """The path as a person or another library would name it."""
        return self.path(*parts) if self.is_local else self._fs.unstrip_protocol(self.path(*parts))

    def exists(self, path: str) -> bool:
        with self._errors("look for", path):
            return bool(self._fs.exists(self.path(path)))

    def list(self, path: str) -> list[str]:
        """The names in a directory, sorted; empty when it does not exist."""
        with self._errors("list", path):
            if not self._fs.exists(self.path(path)):
                return []
            self._fs.invalidate_cache(self.path(path))
            names = self._fs.ls(self.path(path), detail=False)
        return sorted(posixpath.basename(name.rstrip("/")) for name in names)

    def read(self, path: str) -> bytes:
        with self._errors("read", path):
            return bytes(self._fs.cat_file(self.path(path)))

    def read_json(self, path: str) -> Any:
        data = self.read(path)
        with self._errors("read", path):  # a JSONDecodeError is a ValueError
            return json.loads(data)

    def write(self, path: str, data: bytes) -> None:
        """Writes a file so that readers see all of it or nothing."""
        target = self.path(path)
        with self._errors("write", path):
            if not self.is_local:
                self._fs.pipe_file(target, data)
                return
            os.makedirs(posixpath.dirname(target), exist_ok=True)
            part = f"{target}.{secrets.token_hex(4)}.part"
            try:
                with open(part, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(part, target)
            finally:
                Path(part).unlink(missing_ok=True)

    def write_json(self, path: str, value: Any) -> None:
        self.write(path, json.dumps(value, indent=2, allow_nan=True).encode() + b"\n")

    def open_new(self, path: str) -> BinaryIO:
        """A file open for writing; it must not be published before it is closed."""
        with self._errors("write", path):
            if self.is_local:
                os.makedirs(posixpath.dirname(self.path(path)), exist_ok=True)
            return self._fs.open(self.path(path), "wb")  # type: ignore[no-any-return]

    def upload(self, source: str, path: str) -> None:
        """Copies a local file into the lake; it is seen growing, as a log may be."""
        with self._errors("write", path):
            if self.is_local:
                os.makedirs(posixpath.dirname(self.path(path)), exist_ok=True)
            self._fs.put_file(source, self.path(path))

    def download(self, path: str, target: str) -> None:
        with self._errors("read", path):
            self._fs.get_file(self.path(path), target)

    def remove(self, path: str) -> None:
        """Removes a file, or a directory and all in it; nothing happens when there is none.

        A committed directory loses its marker first, so that no reader takes the rest for whole.
        """
        with self._errors("remove", path):
            target = self.path(path)
            if self._fs.exists(posixpath.join(target, COMMIT)):
                self._fs.rm_file(posixpath.join(target, COMMIT))
            if self._fs.exists(target):
                self._fs.rm(target, recursive=True)

    def commit_dir(self, source: str, path: str, note: Mapping[str, Any]) -> None:
        """Copies the local directory `source` to `path` and then writes its COMMIT marker.

        note: JSON-able facts kept in the marker.
        """
        self.remove(path)
        files = {}
        for file in sorted(p for p in Path(source).rglob("*") if p.is_file()):
            name = file.relative_to(source).as_posix()
            files[name] = {"bytes": file.stat().st_size, "sha256": _sha256(file)}
            self.upload(str(file), posixpath.join(path, name))
        self.write_json(posixpath.join(path, COMMIT), {**note, "files": files})

    def committed(self, path: str) -> dict[str, Any] | None:
        """The COMMIT marker of a directory, or None when it has none."""
        marker = posixpath.join(path, COMMIT)
        if not self.exists(marker):
            return None
        data = self.read(marker)
        try:
            return dict(json.loads(data))
        except ValueError as error:
            raise DamagedError(f"{self.uri(marker)} is damaged: {error}") from error

    def fetch_dir(self, path: str, target: str) -> dict[str, Any]:
        """Copies a committed directory to the local directory `target`, checks every file.

        Returns the marker. Raises LakeError when there is no marker or a file differs from it.
        """
        marker = self.committed(path)
        if marker is None:
            raise DamagedError(f"{self.uri(path)} has no {COMMIT} marker: it was never finished")
        for name, wanted in marker["files"].items():
            local = Path(target, name)
            local.parent.mkdir(parents=True, exist_ok=True)
            self.download(posixpath.join(path, name), str(local))
            found = _sha256(local)
            if found != wanted["sha256"]:
                raise DamagedError(
                    f"{self.uri(path, name)} is damaged: its SHA-256 is {found}, the marker says"
                    f" {wanted['sha256']}"
                )
        return marker

    def check_writable(self) -> str:
        """Writes a marker file that executors can look for, and returns its name."""
        name = f".tfos-{secrets.token_hex(8)}"
        self.write(name, b"tfos")
        return name


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def remove_local(path: str) -> None:
    """Removes a local directory; what is already gone is no error."""
    shutil.rmtree(path, ignore_errors=True)
