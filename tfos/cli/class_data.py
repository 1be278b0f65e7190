"""Spark's classes, archived: a JVM that maps them need not load and verify them again.

Most of what a JVM of Spark does in its first seconds is to load and to verify classes. The driver's
JVM of the first run writes those that it has loaded to an archive as it ends, in the user's cache;
those of later runs map it. One that does not fit, the JVM passes over in silence. (Java's
documentation, "Class Data Sharing": dynamic archives, which are in JDK 13 and newer.)
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

# for JVMs that live for seconds: compiled code would not pay there
COMPILE_LITTLE = "-XX:TieredStopAtLevel=1"
# spark-class and the launcher read them
_DRIVER, _LAUNCHER = "SPARK_SUBMIT_OPTS", "SPARK_LAUNCHER_OPTS"
_JAVA = ("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS")
_ARCHIVES = ("SharedArchive", "ArchiveClassesAtExit", "-Xshare")
_SILENT = ("-Xlog:cds=off", "-Xlog:cds+dynamic=off")
_UNUSED_SECS = 30 * 24 * 3600.0


class ClassArchive:
    """The archive for drivers with this java, Spark and class path.

    extra: what else is on the class path, as the user's settings have it.
    """

    def __init__(self, java: str, spark_home: Path, extra: Sequence[str] = ()) -> None:
        self._file: Path | None = None
        with contextlib.suppress(OSError, RuntimeError):  # no home, or a jar that is not there
            self._file = _file(Path(java).resolve(), spark_home, extra)
        # what this process's JVM writes
        self._part = Path(f"{self._file}.{os.getpid()}")

    def options(self) -> list[str]:
        """Options for the driver's JVM: to use the archive, or to write it as it ends."""
        if self._file is None:
            return []
        try:
            if self._file.exists():
                os.utime(self._file)  # in use
                return [f"-XX:SharedArchiveFile={self._file}", *_SILENT]
            self._file.parent.mkdir(parents=True, exist_ok=True)
            return [f"-XX:ArchiveClassesAtExit={self._part}", *_SILENT]
        except OSError:  # a home that cannot be written
            return []

    def close(self, status: int) -> None:
        """When the JVM has ended: puts what it has written in its place.

        status: its exit status; after a signal it may not have written all.
        """
        with contextlib.suppress(OSError):
            if self._file is None or not self._part.exists():
                return
            if status < 0:
                self._part.unlink()
            else:
                self._part.rename(self._file)
                _remove_unused(self._file.parent)


def _file(java: Path, spark_home: Path, extra: Sequence[str]) -> Path | None:
    """Where the archive is to be; None where this java, or the launcher, cannot do with it."""
    if not (java.parents[1] / "lib" / "server" / "classes.jsa").exists():  # it builds on the JDK's
        return None
    stats = [
        (str(file), file.stat().st_size, file.stat().st_mtime_ns)
        for file in (java, *sorted((spark_home / "jars").glob("*.jar")))
    ]
    key = hashlib.sha256(repr((stats, *extra)).encode()).hexdigest()[:16]
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    file = Path(cache, "tfos", f"classes-{key}.jsa")
    # Spark's launcher would split, or unquote, the option
    return None if re.search(r"[\s'\"\\]", str(file)) else file


def launch_environment(
    environment: Mapping[str, str], driver: Sequence[str], conf: Sequence[str] = ()
) -> dict[str, str]:
    """Of spark-submit: `environment`, with these options for the JVM that it becomes.

    Before it a JVM makes the command line of it. conf: the user's options for the driver's JVM;
    where there are any about archives, there or in the environment, they are left alone.
    """
    own = environment.get(_DRIVER, "")
    theirs = [own, *conf, *(environment.get(name, "") for name in _JAVA)]
    if any(word in text for text in theirs for word in _ARCHIVES):
        driver = ()
    options = {_DRIVER: (own, *driver), _LAUNCHER: (environment.get(_LAUNCHER, ""), COMPILE_LITTLE)}
    return {**environment, **{name: " ".join(text).strip() for name, text in options.items()}}


def _remove_unused(cache: Path) -> None:
    """Archives of other versions, and parts of ones that were interrupted."""
    for file in cache.glob("classes-*"):
        if file.stat().st_mtime < time.time() - _UNUSED_SECS:
            file.unlink()
