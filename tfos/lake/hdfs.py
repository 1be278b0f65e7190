"""HDFS: which client opens it, which NameNode, and how a file is replaced whole.

The client is hdfs-native. fsspec has others for the same URLs that lose the NameNode of a path, or
do nothing where a file is to be renamed onto another (webhdfs): those are refused.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import re
import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tfos.errors import LakeError

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
    host = _as_tokens_name_it(host, port)
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


def _as_tokens_name_it(host: str, port: str) -> str:
    """The host of a NameNode by its IP address, where the container's token is for that.

    Hadoop names tokens so (hadoop.security.token.service.use_ip), and hdfs-native, which compares
    texts, takes no other.
    """
    file = os.environ.get("HADOOP_TOKEN_FILE_LOCATION")
    if file and host and port:
        with contextlib.suppress(OSError):
            address = socket.gethostbyname(host)
            if f"{address}:{port}".encode() in Path(file).read_bytes():
                return address
    return host


# what the client raises of NameNodes and Kerberos, and what is to be done; a second try is no use
_REFUSALS = {
    "GSS_S_NO_CRED": "there is no Kerberos ticket here: run kinit, or set KRB5_CLIENT_KTNAME to the"
    " file of a keytab",
    "GSS_S_CREDENTIALS_EXPIRED": "the Kerberos ticket has expired: run kinit",
    "KRB5KRB_AP_ERR_TKT_EXPIRED": "the Kerberos ticket has expired: run kinit",
    "SecretManager$InvalidToken": "HDFS takes this application's delegation token no longer"
    " (dfs.namenode.delegation.token.max-lifetime): continue the run with --resume",
    "AccessControlException": "",
}
_DENIED = re.compile(r'^.*AccessControlException", "')


def refusal(error: Exception) -> str | None:
    """A refusal by HDFS or Kerberos in one line; None for another error, which may pass."""
    text = str(error)
    for sign, words in _REFUSALS.items():
        if sign in text:
            return words or _DENIED.sub("", briefly(error)).replace('\\"', '"')
    return None


def check_access(url: str) -> None:
    """Raises LakeError where HDFS, or Kerberos, refuses to show a path; other errors may pass."""
    try:
        fs, path = open_url(url)
        fs.info(path)
    except Exception as error:
        if why := refusal(error):
            raise LakeError(f"cannot look at {url}: {why}") from error


def briefly(error: object) -> str:
    """What an error says, without the trace of the NameNode's Java."""
    return str(error).partition("\\n\\tat ")[0]


def _act_as_spark_does() -> None:
    """In a container: with the configuration of who submitted, and in their name."""
    if _SHIPPED_CONF.is_dir():  # YARN gives the NodeManager's
        os.environ["HADOOP_CONF_DIR"] = str(_SHIPPED_CONF.resolve())
    if "SPARK_USER" in os.environ:
        # without Kerberos it is whom a client says it is; the process may be the NodeManager's
        os.environ.setdefault("HADOOP_USER_NAME", os.environ["SPARK_USER"])


def with_namenode(url: str, default: str) -> str:
    """`url` with the NameNode that it leaves out. default: fs.defaultFS of the cluster, or nothing
    where the session does not tell it.

    Raises ValueError where that is no HDFS.
    """
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES or parts.netloc:
        return url
    if not is_hdfs(default):
        known = (
            f"the cluster's fs.defaultFS is {default!r}" if default else "Spark Connect does not"
        )
        raise ValueError(f"{url} names no NameNode, and {known}: write hdfs://HOST:PORT/PATH")
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
