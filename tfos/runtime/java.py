"""Finding Spark, and the Java 17 or newer that Spark and the ZooKeeper server need."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

from tfos.errors import PreflightError

OLDEST = 17


def find_java() -> str:
    """The path of a java that is new enough: $JAVA_HOME/bin/java, else the one on PATH.

    Raises PreflightError that says what was found and what to install.
    """
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home, "bin", "java")) if home else shutil.which("java")
    remedy = f"install a JDK of version {OLDEST} or newer, and set JAVA_HOME or PATH to it"
    if not java:
        raise PreflightError(f"no Java found: JAVA_HOME is not set and PATH has no java; {remedy}")
    try:
        said = _version(java)
    except OSError as error:
        source = "JAVA_HOME" if home else "PATH"
        raise PreflightError(f"{java} (from {source}) does not run: {error}; {remedy}") from error
    version = re.search(r'version "(?:1\.)?(\d+)', said)
    if not version or int(version.group(1)) < OLDEST:
        found = said.splitlines()[0] if said else "no version"
        raise PreflightError(f"{java} is too old ({found}); {remedy}")
    return java


@functools.lru_cache
def _version(java: str) -> str:
    """What it says of itself; a JVM takes its time for that. Raises OSError."""
    return subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60).stderr


def spark_home() -> Path:
    """$SPARK_HOME, else the Spark inside the installed pyspark. Raises PreflightError."""
    home = os.environ.get("SPARK_HOME")
    if home:
        return Path(home)
    found = importlib.util.find_spec("pyspark")
    if found is None or found.origin is None:
        raise PreflightError("no Spark found: install pyspark, or set SPARK_HOME")
    return Path(found.origin).parent
