#!/usr/bin/env bash
# Through fsspec, hdfs-native cannot open an HDFS whose name service has a capital letter.
#
# Version: hdfs-native 0.14.7, fsspec 2026.9.0.
# Expected: hdfs://Prod/x is opened as by the package's own Client, and by Hadoop: with the NameNodes
#   that hdfs-site.xml has for the name service "Prod", which is a key and not a host name.
# Seen: the URL's host is taken in small letters, and "prod" has no NameNodes: InvalidArgument("No
#   NameNode hosts found"). Client("hdfs://Prod") with the same configuration calls the NameNode. All
#   that opens URLs by fsspec, as pandas and Dask do, is cut off from such clusters.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet hdfs-native==0.14.7 fsspec==2026.9.0
cd "$work"
cat > try.py <<'PY'
import os
import pathlib
import socket
import threading

listener = socket.create_server(("127.0.0.1", 0))
calls = []


def listen():
    """A NameNode that hangs up: what counts is that it is called."""
    while True:
        connection, _ = listener.accept()
        calls.append(connection.recv(4))
        connection.close()


threading.Thread(target=listen, daemon=True).start()


def site(name, values):
    rows = (f"<property><name>{k}</name><value>{v}</value></property>" for k, v in values.items())
    pathlib.Path(name).write_text(f"<configuration>{''.join(rows)}</configuration>")


address = f"127.0.0.1:{listener.getsockname()[1]}"
site("core-site.xml", {"fs.defaultFS": "hdfs://Prod"})
site(
    "hdfs-site.xml",
    {
        "dfs.nameservices": "Prod",
        "dfs.ha.namenodes.Prod": "a,b",
        "dfs.namenode.rpc-address.Prod.a": address,
        "dfs.namenode.rpc-address.Prod.b": address,
    },
)
os.environ["HADOOP_CONF_DIR"] = os.getcwd()
import fsspec
from hdfs_native import Client


def tried(act):
    """Whether the NameNode was called within some seconds, and the error if there was one."""
    calls.clear()
    errors = []

    def run():
        try:
            act()
        except Exception as error:
            errors.append(f"{type(error).__name__}: {error}")

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(5)
    return b"hrpc" in calls, *errors


direct = tried(lambda: Client("hdfs://Prod").get_file_info("/x"))
through = tried(lambda: fsspec.core.url_to_fs("hdfs://Prod/x")[0].info("/x"))
print("NameNode called by Client:", direct)
print("NameNode called by fsspec:", through)
assert direct[0]
assert through == (False, 'RuntimeError: InvalidArgument("No NameNode hosts found")'), "it is now"
os._exit(0)
PY
"$work/venv/bin/python" try.py
