"""A directory on any fsspec filesystem, in which no file is ever half visible.

A single file appears whole: renamed into place on a local filesystem and on HDFS; object stores
have atomic puts. What makes a directory whole is in tfos.lake.committed.

Storage has moments of weakness: a server answers 500, a disk is full until somebody tidies up.
Reads and writes are tried again for TIMES.lake_retry_secs before they fail.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import posixpath
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import fsspec
import tenacity

from tfos.errors import LakeError
from tfos.lake import hdfs
from tfos.lake.atomic_file import replace
from tfos.spec.times import TIMES

# the marker of a directory that is whole, see tfos.lake.committed: removed before all else
COMMIT = "COMMIT"
# begins the name of a file that is there while executors are asked whether they see it
MARKER = ".tfos-"
_BACKOFF = tenacity.wait_exponential_jitter(initial=0.1, max=5, jitter=0.1)
# what a second try would not change
_FINAL = (FileNotFoundError, ValueError, ImportError, LakeError)
# protocol -> the extra of tfos that installs its filesystem
_EXTRAS = {
    "s3": "s3",
    "s3a": "s3",
    "oss": "oss",
    "gs": "gcs",
    "gcs": "gcs",
    **dict.fromkeys(hdfs.SCHEMES, "hdfs"),
}

T = TypeVar("T")
_log = logging.getLogger(__name__)


def absolute(url: str) -> str:
    """`url` with a relative path made absolute, so that every process means the same place."""
    if "://" in url or "::" in url:
        return url if url.endswith(("://", ":///")) else url.rstrip("/")
    return str(Path(url).expanduser().resolve())


def _opened(url: str) -> tuple[Any, str]:
    """The filesystem of a URL, and the path on it."""
    if hdfs.is_hdfs(url):
        return hdfs.open_url(url)
    scheme = url.partition(":")[0]
    if scheme in hdfs.REFUSED:
        raise ValueError(f"no run can be kept over {scheme}://: write hdfs://HOST:PORT/PATH")
    fs, root = fsspec.core.url_to_fs(url)
    return fs, root


class Storage:
    """The directory `below` under `url`. Picklable; opens its filesystem on first use.

    Paths are relative to the directory. Every method that touches storage raises LakeError, after
    it has tried for TIMES.lake_retry_secs; what is not there, and what a second try would not
    change, is an error at once. Thread-safe.
    """

    def __init__(self, url: str, below: str = "") -> None:
        self.url = absolute(url)
        self._below = below
        self._open: tuple[Any, str] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_open": None}

    @property
    def _fs(self) -> Any:
        return self._storage()[0]

    def _storage(self, retry_secs: float | None = None) -> tuple[Any, str]:
        if self._open is None:
            fs, root = self._try("open", "", lambda: _opened(self.url), retry_secs)
            self._open = fs, posixpath.join(root, self._below) if self._below else root
        return self._open

    def _try(
        self, verb: str, path: str, act: Callable[[], T], retry_secs: float | None = None
    ) -> T:
        """What `act` returns; it may be called many times.

        retry_secs: how long it is tried; TIMES.lake_retry_secs when None, 0 for once.
        """
        where = posixpath.join(self.url, self._below, path)

        def warn(state: tenacity.RetryCallState) -> None:
            error = state.outcome and state.outcome.exception()
            _log.warning(
                "cannot %s %s, trying again: %s: %s",
                verb, where, type(error).__name__, hdfs.briefly(error),
            )  # fmt: skip

        def attempt() -> T:
            try:
                return act()
            except Exception as error:
                refusal = hdfs.refusal(error) if hdfs.is_hdfs(self.url) else None
                if refusal is None:
                    raise
                raise LakeError(f"cannot {verb} {where}: {refusal}") from error

        retrying = tenacity.Retrying(
            # a remote filesystem lets its client library's exceptions through: any may be passing
            retry=tenacity.retry_if_exception(
                lambda error: isinstance(error, Exception) and not self._is_final(error)
            ),
            stop=tenacity.stop_before_delay(
                TIMES.lake_retry_secs if retry_secs is None else retry_secs
            ),
            wait=_BACKOFF,
            before_sleep=warn,
            reraise=True,
        )
        try:
            return retrying(attempt)
        except LakeError:
            raise
        except Exception as error:
            tries = retrying.statistics["attempt_number"]
            secs = retrying.statistics["delay_since_first_attempt"]
            tried = f" (tried {tries} times in {secs:.1f} s)" if tries > 1 else ""
            raise LakeError(
                f"cannot {verb} {where}: {type(error).__name__}: {hdfs.briefly(error)}{tried}; "
                f"{self._remedy(error)}"
            ) from error

    def _is_final(self, error: Exception) -> bool:
        """Whether a second try would not change it. Object stores' credentials are renewed."""
        is_mounted = self.url.startswith(("/", "file:"))
        return isinstance(error, _FINAL) or (is_mounted and isinstance(error, PermissionError))

    def _remedy(self, error: Exception) -> str:
        protocol = self.url.partition(":")[0]
        if isinstance(error, ImportError) and protocol in _EXTRAS:
            return (
                f"install the filesystem of {protocol}:// on every machine:"
                f" pip install 'tfos[{_EXTRAS[protocol]}]'"
            )
        return "check --lake and its permissions"

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
        return self._try("look for", path, lambda: self._exists(self.path(path)))

    def _exists(self, target: str) -> bool:
        # not fs.exists(): many a filesystem's takes any error for a no
        self._fs.invalidate_cache()  # of listings, which other processes' writes outdate
        try:
            self._fs.info(target)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def modified(self, path: str) -> float | None:
        """When a file was written, seconds since the epoch; None where that is not easily known."""
        if not self.is_local:
            return None
        try:
            return os.stat(self.path(path)).st_mtime
        except OSError:
            return None

    def find(self, path: str) -> list[str]:
        """The files in a directory and all below it, relative to it, sorted."""

        def act() -> list[str]:
            self._fs.invalidate_cache()
            root = self.path(path)
            try:
                return sorted(posixpath.relpath(name, root) for name in self._fs.find(root))
            except FileNotFoundError:
                return []

        return self._try("list", path, act)

    def list(self, path: str) -> list[str]:
        """The names in a directory, sorted; empty when it does not exist."""

        def act() -> list[str]:
            self._fs.invalidate_cache()
            try:
                names = self._fs.ls(self.path(path), detail=False)
            except FileNotFoundError:
                return []
            return sorted(posixpath.basename(name.rstrip("/")) for name in names)

        return self._try("list", path, act)

    def read(self, path: str) -> bytes:
        return self._try("read", path, lambda: bytes(self._fs.cat_file(self.path(path))))

    def size(self, path: str) -> int:
        """Of a file, in bytes, as it is now."""

        def act() -> int:
            self._fs.invalidate_cache()
            return int(self._fs.info(self.path(path))["size"])

        return self._try("look for", path, act)

    def read_from(self, path: str, offset: int) -> bytes:
        """A file from the byte number `offset` on."""
        return self._try(
            "read", path, lambda: bytes(self._fs.cat_file(self.path(path), start=offset))
        )

    def read_json(self, path: str) -> Any:
        data = self.read(path)
        return self._try("read", path, lambda: json.loads(data))

    def write(self, path: str, data: bytes, is_secret: bool = False) -> None:
        """Writes a file so that readers see all of it or nothing.

        is_secret: only its owner may read it, on a local filesystem and HDFS; elsewhere access is
        the storage's business.
        """
        self._write(path, data, is_secret=is_secret)

    def _write(
        self, path: str, data: bytes, retry_secs: float | None = None, is_secret: bool = False
    ) -> None:
        def write(target: str) -> None:
            if is_secret and hdfs.is_hdfs(self.url):
                hdfs.write_secret(self._fs, target, data)
            else:
                self._fs.pipe_file(target, data)

        def act() -> None:
            if self.is_local:
                replace(Path(self.path(path)), io.BytesIO(data), is_secret)
            else:
                self._put(path, write)

        self._try("write", path, act, retry_secs)

    def _put(self, path: str, put: Callable[[str], object]) -> None:
        """Has `put` write a file of a filesystem that is not local."""
        if hdfs.is_hdfs(self.url):
            hdfs.replace(self._fs, self.path(path), put)
        else:
            put(self.path(path))

    def write_json(self, path: str, value: Any, is_secret: bool = False) -> None:
        data = json.dumps(value, indent=2, allow_nan=True).encode() + b"\n"
        self.write(path, data, is_secret)

    def upload(self, source: str, path: str) -> None:
        """Copies a local file into the lake so that readers see all of it or nothing."""

        def act() -> None:
            if self.is_local:
                with open(source, "rb") as file:
                    replace(Path(self.path(path)), file)
            else:
                self._put(path, lambda target: self._fs.put_file(source, target))

        self._try("write", path, act)

    def download(self, path: str, target: str) -> None:
        """Copies a file to the local file `target`; when it raises, half of it may be there."""
        self._try("read", path, lambda: self._fs.get_file(self.path(path), target))

    def remove(self, path: str) -> None:
        """Removes a file, or a directory and all in it; nothing happens when there is none.

        A committed directory loses its marker first, so that no reader takes the rest for whole.
        """
        self._remove(path)

    def _remove(self, path: str, retry_secs: float | None = None) -> None:
        def act() -> None:
            target = self.path(path)
            # somebody else may remove it too
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                self._fs.invalidate_cache()
                # HDFS denies who is no superuser to look for something below a file
                if self._fs.info(target)["type"] == "directory" and self._exists(
                    posixpath.join(target, COMMIT)
                ):
                    self._fs.rm_file(posixpath.join(target, COMMIT))
                self._fs.rm(target, recursive=True)

        self._try("remove", path, act, retry_secs)

    def check_writable(self) -> str:
        """Writes a marker file that executors can look for, and returns its name.

        It is tried once: a --lake that is wrong is to be an error at once.
        """
        name = f"{MARKER}{secrets.token_hex(8)}"
        self._storage(retry_secs=0)
        self._write(name, b"tfos", retry_secs=0)
        return name

    def why_not_writable(self) -> str:
        """What an attempt to write a file here says; "" where it can be done."""
        name = f"{MARKER}{secrets.token_hex(8)}"
        try:
            self.write(name, b"tfos")
            self.remove(name)
        except LakeError as error:
            return str(error.__cause__ or error)
        return ""


def retried(act: Callable[[], T], is_passing: Callable[[BaseException], bool]) -> T:
    """What `act` returns; called again, as long as the lake is tried, after errors that may pass.

    For what other processes write and this one may be the last to see.
    """
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(is_passing),
        stop=tenacity.stop_before_delay(TIMES.lake_retry_secs),
        wait=tenacity.wait_fixed(0.25),
        reraise=True,
    )
    return retrying(act)


def remove_local(path: str) -> None:
    """Removes a local directory; what is already gone is no error."""
    shutil.rmtree(path, ignore_errors=True)
