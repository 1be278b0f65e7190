"""HDFS: which client opens it, which NameNode, and how a file is replaced whole.

The client is hdfs-native. fsspec has others for the same URLs that lose the NameNode of a path, or
do nothing where a file is to be renamed onto another (webhdfs): those are refused.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

SCHEMES = ("hdfs", "viewfs")
REFUSED = ("webhdfs", "swebhdfs")
# where Spark on YARN puts the configuration of Hadoop into a container's directory
_SHIPPED_CONF = Path("__spark_conf__", "__hadoop_conf__")


def is_hdfs(url: str) -> bool:
    return urlsplit(url).scheme in SCHEMES


def open_url(url: str) -> tuple[Any, str]:
    """The fsspec filesystem of a URL, and the path on it.

    Raises ImportError without hdfs-native, ValueError where the NameNode is not known.
    """
    from hdfs_native.fsspec import HdfsFileSystem, ViewfsFileSystem

    _act_as_spark_does()
    parts = urlsplit(url)
    kind = HdfsFileSystem if parts.scheme == "hdfs" else ViewfsFileSystem
    # not parts.hostname: a name service may have capitals
    host, _, port = parts.netloc.partition(":")
    # not of fsspec's cache, which is emptied in each forked process, such as the one that becomes
    # Spark's JVM: there the end of this client waits for threads that only its parent has
    try:
        fs = kind(host or None, int(port) if port else None, skip_instance_cache=True)
    except RuntimeError as error:
        if "fs.defaultFS" not in str(error):
            raise
        raise ValueError(
            f"{url} names no NameNode, and no configuration of Hadoop here does: write"
            " hdfs://HOST:PORT/PATH, or set HADOOP_CONF_DIR"
        ) from error
    return fs, parts.path or "/"


def _act_as_spark_does() -> None:
    """In a container: with the configuration of who submitted, and in their name."""
    if _SHIPPED_CONF.is_dir():  # YARN gives the NodeManager's
        os.environ["HADOOP_CONF_DIR"] = str(_SHIPPED_CONF.resolve())
    if "SPARK_USER" in os.environ and "HADOOP_TOKEN_FILE_LOCATION" not in os.environ:
        # without Kerberos it is whom a client says it is; the process may be the NodeManager's
        os.environ.setdefault("HADOOP_USER_NAME", os.environ["SPARK_USER"])


def with_namenode(url: str, default: str) -> str:
    """`url` with the NameNode that it leaves out. default: fs.defaultFS of the cluster.

    Raises ValueError where that is no HDFS.
    """
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES or parts.netloc:
        return url
    if not is_hdfs(default):
        raise ValueError(
            f"{url} names no NameNode, and the cluster's fs.defaultFS is {default!r}: write"
            " hdfs://HOST:PORT/PATH"
        )
    root = urlsplit(default)
    return f"{root.scheme}://{root.netloc}{parts.path}"


def write_secret(fs: Any, path: str, data: bytes) -> None:
    """Writes a file that only its owner may read, from the first byte on."""
    from hdfs_native import WriteOptions

    with fs.client.create(path, WriteOptions(permission=0o600, overwrite=True)) as file:
        file.write(data)


def replace(fs: Any, target: str, put: Callable[[str], object]) -> None:
    """Has `put` write a file, and names it `target`: HDFS shows a file that is being written."""
    name = f".{posixpath.basename(target)}.{secrets.token_hex(4)}.part"
    part = posixpath.join(posixpath.dirname(target), name)
    try:
        put(part)
        fs.mv(part, target, overwrite=True)
    except BaseException:
        with contextlib.suppress(Exception):
            fs.rm_file(part)
        raise
