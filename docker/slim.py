"""Takes out of an image's virtual environment what no run needs, and says what each part was.

    slim.py ENVIRONMENT             # takes out, and byte-compiles
    slim.py --compile ENVIRONMENT   # byte-compiles alone

What an app may call stays: TFLite's converter, pandas on Spark, Hive's metastore, Kerberos, YARN.
What goes is never loaded (headers, tests, other systems' libraries) or serves programs that a pod
does not run (a Spark shell, a Thrift or Connect server, TensorBoard's fast reader).
"""

from __future__ import annotations

import argparse
import os
import platform
import py_compile
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

# where the environment is in the image
PLACE = Path("/opt/tfos")
# what it is -> where, below site-packages
UNUSED = {
    "headers of C++": ("tensorflow/include", "tensorflow/xla_aot_runtime_src", "pyarrow/include"),
    "tests": ("numpy/**/tests", "pandas/tests", "pyarrow/tests", "tensorboard/**/*_test.py"),
    "libclang, which only TensorFlow's own build uses": ("clang",),
    "Arrow Flight, its client and server": ("pyarrow/*flight*",),
    "sources of Cython": ("pyarrow/src", "**/*.pyx", "**/*.pxd", "pyarrow/**/*.pxi"),
    "TensorBoard's reader in Rust": ("tensorboard_data_server/bin",),
    "Spark's examples and tests": ("pyspark/examples", "pyspark/**/tests"),
    "Spark's shells": (
        "pyspark/jars/connect-repl",
        "pyspark/jars/spark-repl_*",
        "pyspark/jars/scala-compiler-*",
        "pyspark/jars/jline-*",
    ),
    "Spark's Connect and Thrift servers": (
        "pyspark/jars/spark-connect_*",
        "pyspark/jars/spark-pipelines_*",
        "pyspark/jars/spark-hive-thriftserver_*",
        "pyspark/jars/hive-beeline-*",
        "pyspark/jars/hive-cli-*",
        "pyspark/jars/hive-jdbc-*",
        "pyspark/jars/hive-service-rpc-*",
    ),
    "jars of other systems": ("pyspark/jars/*-osx-*", "pyspark/jars/*-windows-*"),
}
# TensorFlow's libraries come with the symbols of their functions. Others' are left alone: a wheel's
# libraries may be patched after they were linked, which strip does not survive.
STRIPPED = ("tensorflow/**/*.so*", "grpc/**/*.so")
# words in the paths of native libraries inside of jars
SYSTEMS = {
    "aix", "android", "darwin", "freebsd", "mac", "macos", "musl", "osx", "sunos", "win", "windows",
}  # fmt: skip
OWN = {"x86_64": {"amd64", "linux64"}, "aarch64": {"aarch64", "arm64"}}  # of platform.machine()
MACHINES = OWN["x86_64"] | OWN["aarch64"] | {
    "arm", "armhf", "armv6", "armv7", "i386", "linux32", "loongarch64", "mips64", "ppc", "ppc64",
    "ppc64le", "riscv64", "s390x", "x86",
}  # fmt: skip
# what a driver, an executor and a role's process import; it is byte-compiled, as pods can write no
# __pycache__ and would compile it again in each process
IMPORTED = (
    "tensorflow", "keras", "keras.src.backend.tensorflow", "tensorboard",
    "tensorboard.summary._tf.summary", "pandas", "pyarrow.dataset", "pyarrow.parquet",
    "pyspark.daemon", "pyspark.ml", "pyspark.sql.functions", "pyspark.sql.pandas.types",
    "pyspark.worker", "kazoo.client", "rich.console", "tenacity", "s3fs", "hdfs_native.fsspec",
    "pip._internal.cli.main",
)  # fmt: skip
_LIST = """
import importlib, sys
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:  # of an extra that is not installed
        print("not there:", error, file=sys.stderr)
modules = list(sys.modules.values())
print(*{module.__file__ for module in modules if getattr(module, "__file__", None)}, sep="\\n")
"""


def size_of(path: Path) -> int:
    if path.is_symlink() or not path.exists():
        return 0
    files = path.rglob("*") if path.is_dir() else (path,)
    return sum(file.lstat().st_size for file in files if not file.is_dir())


def say(what: str, before: int, after: int = 0) -> None:
    print(f"{(before - after) / 1e6:8.1f} MB  {what}")


def found(site: Path, patterns: Iterable[str]) -> Iterator[Path]:
    for pattern in patterns:
        yield from sorted(site.glob(pattern))


def remove(site: Path, what: str, patterns: Iterable[str]) -> None:
    removed = 0
    for path in found(site, patterns):
        removed += size_of(path)
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    say(what, removed)


def is_foreign(name: str, machine: str) -> bool:
    """Whether a file of a jar is a native library of another system, or of another machine.

    machine: as platform.machine() names it. A library that names no machine is not foreign.
    """
    path = name.lower().replace("x86_64", "amd64").replace("aarch_64", "aarch64")
    if not re.search(r"\.(a|dll|dylib|jnilib|so)$", path):
        return False
    words = set(re.split(r"[^a-z0-9]+", path))
    return (
        path.endswith((".dll", ".dylib", ".jnilib"))
        or bool(words & SYSTEMS)
        or (bool(words & MACHINES) and not words & OWN[machine])
    )


def slim_jars(jars: Path, machine: str) -> None:
    """Takes foreign native libraries out of jars. The order and the times of the others stay."""
    before = size_of(jars)
    for jar in sorted(jars.glob("*.jar")):
        with zipfile.ZipFile(jar) as old:
            entries = old.infolist()
            kept = [entry for entry in entries if not is_foreign(entry.filename, machine)]
            if len(kept) == len(entries):
                continue
            part = jar.with_suffix(".part")
            with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as new:
                for entry in kept:
                    new.writestr(entry, old.read(entry))
        part.replace(jar)
    say("native libraries of other systems, in jars", before, size_of(jars))


def strip(site: Path) -> None:
    libraries = [file for file in found(site, STRIPPED) if not file.is_symlink()]
    before = sum(map(size_of, libraries))
    subprocess.run(["strip", "--strip-unneeded", *map(str, libraries)], check=True)
    say("symbols of TensorFlow's libraries", before, sum(map(size_of, libraries)))


def link_copies(site: Path) -> None:
    """Wheels hold no links: libraries of several names are there several times."""
    saved = 0
    for file in sorted(site.glob("pyarrow/*.so.*.*.*")):
        stem = file.name[: file.name.index(".so")]
        for copy in sorted(site.glob(f"pyarrow/{stem}.so*")):
            if copy != file and not copy.is_symlink() and copy.read_bytes() == file.read_bytes():
                saved += size_of(copy)
                copy.unlink()
                copy.symlink_to(file.name)
    say("copies of Arrow's libraries", saved)


def compile_file(file: Path, environment: Path) -> None:
    # unchecked: the same bytes in each build, and no look at the source when it is loaded
    py_compile.compile(
        str(file),
        dfile=str(PLACE / file.relative_to(environment)),
        doraise=True,
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )


def imported_files(site: Path) -> list[Path]:
    """The sources in `site` of the modules that these imports load."""
    listed = subprocess.run(
        [sys.executable, "-c", _LIST, *IMPORTED],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONDONTWRITEBYTECODE": "1"},
    )
    files = [Path(line) for line in listed.stdout.split("\n") if line.endswith(".py")]
    return sorted(file for file in files if site in file.parents)


def slim(site: Path) -> None:
    for what, patterns in UNUSED.items():
        remove(site, what, patterns)
    slim_jars(site / "pyspark" / "jars", platform.machine())
    strip(site)
    link_copies(site)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("environment", type=Path)
    arguments = parser.parse_args()
    (site,) = arguments.environment.glob("lib/python3*/site-packages")
    if arguments.compile:
        for file in site.rglob("*.py"):
            compile_file(file, arguments.environment)
        return
    before = size_of(site)
    slim(site)
    slimmed = size_of(site)
    for file in imported_files(site):
        compile_file(file, arguments.environment)
    say("byte code, added", slimmed, size_of(site))
    print(f"{before / 1e6:8.1f} MB before, {size_of(site) / 1e6:.1f} MB after")


if __name__ == "__main__":
    main()
