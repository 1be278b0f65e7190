"""What HDFS needs besides a client, without a cluster; tests/hadoop has a real one."""

from __future__ import annotations

import os
import subprocess
import sys

import fsspec
import pytest

from tfos.errors import LakeError
from tfos.lake import hdfs
from tfos.lake.run_directory import RunDirectory
from tfos.lake.storage import Storage


class Memory:
    """fsspec's filesystem in memory, with what hdfs-native has besides."""

    def __init__(self):
        self.fs = fsspec.filesystem("memory", skip_instance_cache=True)
        self.fs.store.clear()

    def mv(self, source, target, overwrite):
        assert overwrite
        self.fs.mv(source, target)

    def rm_file(self, path):
        self.fs.rm_file(path)


class TestReplace:
    def test_the_file_is_written_beside_its_place_and_renamed(self):
        memory = Memory()
        memory.fs.pipe_file("/a/b", b"old")
        seen = []

        def put(path):
            seen.append((path.rpartition("/")[0], memory.fs.cat_file("/a/b")))
            memory.fs.pipe_file(path, b"new")

        hdfs.replace(memory, "/a/b", put)
        assert seen == [("/a", b"old")]
        assert memory.fs.find("/") == ["/a/b"]
        assert memory.fs.cat_file("/a/b") == b"new"

    def test_what_fails_leaves_the_file_as_it_was_and_nothing_else(self):
        memory = Memory()
        memory.fs.pipe_file("/a/b", b"old")

        def put(path):
            memory.fs.pipe_file(path, b"n")
            raise OSError("no space")

        with pytest.raises(OSError, match="no space"):
            hdfs.replace(memory, "/a/b", put)
        assert memory.fs.find("/") == ["/a/b"]
        assert memory.fs.cat_file("/a/b") == b"old"


class TestNameNode:
    @pytest.mark.parametrize(
        ("url", "found"),
        [
            ("hdfs:///runs", "hdfs://Prod/runs"),
            ("hdfs://other:9000/runs", "hdfs://other:9000/runs"),
            ("s3://bucket/runs", "s3://bucket/runs"),
        ],
    )
    def test_is_that_of_the_cluster_where_none_is_named(self, url, found):
        assert hdfs.with_namenode(url, "hdfs://Prod") == found

    def test_of_a_cluster_without_hdfs_there_is_none(self):
        with pytest.raises(ValueError, match=r"fs\.defaultFS is 'file:///': write hdfs://HOST"):
            hdfs.with_namenode("hdfs:///runs", "file:///")
        with pytest.raises(ValueError, match=r"Spark Connect does not: write hdfs://HOST:PORT"):
            hdfs.with_namenode("hdfs:///runs", "")

    def test_name_services_keep_their_capitals(self, tmp_path):
        """fsspec would look for the NameNodes of "prod"."""
        values = {"dfs.nameservices": "Prod", "dfs.ha.namenodes.Prod": "a"}
        values["dfs.namenode.rpc-address.Prod.a"] = "127.0.0.1:1"
        site(tmp_path / "hdfs-site.xml", values)
        code = """
fs, path = hdfs.open_url("hdfs://Prod/a/B")
print(fs.host, fs.port, path)
fs, path = hdfs.open_url("hdfs://127.0.0.1:1/a/B")
print(fs.host, fs.port, path)
"""
        said = elsewhere(code, tmp_path, HADOOP_CONF_DIR=str(tmp_path))
        assert said == ["Prod None /a/B", "127.0.0.1 1 /a/B"]

    def test_that_nobody_names_is_an_error_at_once(self, tmp_path):
        code = """
try:
    RunDirectory("hdfs:///runs", "r").spec()
except LakeError as error:
    print(error)
"""
        (said,) = elsewhere(code, tmp_path)
        assert "names no NameNode" in said
        assert "set HADOOP_CONF_DIR" in said

    def test_the_configuration_that_spark_ships_is_used(self, tmp_path):
        conf = tmp_path / "__spark_conf__" / "__hadoop_conf__"
        conf.mkdir(parents=True)
        site(conf / "core-site.xml", {"fs.defaultFS": "hdfs://127.0.0.1:1"})
        code = """
fs, path = hdfs.open_url("hdfs:///runs")
print(fs.protocol, path, os.environ["HADOOP_CONF_DIR"], os.environ["HADOOP_USER_NAME"])
"""
        given = {"HADOOP_CONF_DIR": "/of/the/nodemanager", "SPARK_USER": "alice"}
        # which all containers have, with Kerberos or without
        said = elsewhere(
            code, tmp_path, **given, HADOOP_TOKEN_FILE_LOCATION=str(tmp_path / "tokens")
        )
        assert said == [f"hdfs /runs {conf} alice"]


class TestTokens:
    """hdfs-native takes those of the very address that it is told."""

    @pytest.mark.parametrize(
        ("host", "taken"),
        [
            ("localhost", "127.0.0.1"),
            ("127.0.0.1", "127.0.0.1"),
            ("no.such.host.", "no.such.host."),
        ],
    )
    def test_a_namenode_has_the_name_that_its_token_has(self, monkeypatch, tmp_path, host, taken):
        (tmp_path / "tokens").write_bytes(b"HDTS\0\x15HDFS_DELEGATION_TOKEN\x0e127.0.0.1:8020\0")
        monkeypatch.setenv("HADOOP_TOKEN_FILE_LOCATION", str(tmp_path / "tokens"))
        fs, _ = hdfs.open_url(f"hdfs://{host}:8020/x")
        assert (fs.host, fs.port) == (taken, 8020)

    def test_without_a_token_for_it_it_keeps_its_own(self, monkeypatch, tmp_path):
        monkeypatch.setenv("HADOOP_TOKEN_FILE_LOCATION", str(tmp_path / "none"))
        assert hdfs.open_url("hdfs://localhost:8020/x")[0].host == "localhost"


class TestRefusals:
    DENIED = (
        'RPCError("org.apache.hadoop.security.AccessControlException", "Permission denied:'
        ' user=me, access=WRITE, inode=\\"/\\":hdfs:supergroup:drwxr-xr-x\\n\\tat org.apache")'
    )

    def test_they_are_told_at_once_and_in_a_line(self, monkeypatch):
        tries = []

        def deny(path):
            tries.append(path)
            raise RuntimeError(self.DENIED)

        lake = Storage("hdfs://127.0.0.1:1/x")
        monkeypatch.setattr(lake._fs, "cat_file", deny)
        with pytest.raises(LakeError) as raised:
            lake.read("file")
        assert str(raised.value) == (
            "cannot read hdfs://127.0.0.1:1/x/file: Permission denied: user=me, access=WRITE,"
            ' inode="/":hdfs:supergroup:drwxr-xr-x'
        )
        assert len(tries) == 1

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ('GSSAPIError(.. "GSS_S_NO_CRED" ..)', "run kinit"),
            ('RPCError("...SecretManager$InvalidToken", "token can\'t be found")', "--resume"),
        ],
    )
    def test_they_have_a_remedy(self, text, words):
        assert words in hdfs.refusal(RuntimeError(text))

    def test_other_errors_may_pass(self):
        assert hdfs.refusal(RuntimeError("connection refused")) is None


def test_processes_can_be_forked_beside_an_open_client(tmp_path):
    """As PySpark forks its JVM, with a preexec_fn: Python's hooks run in the child."""
    site(tmp_path / "core-site.xml", {})
    site(tmp_path / "hdfs-site.xml", {"dfs.client.failover.max.attempts": 0})
    code = """
import contextlib, socket, subprocess, threading
namenode = socket.create_server(("127.0.0.1", 0))
def hang_up():
    while True:
        connection, _ = namenode.accept()
        connection.recv(4)
        connection.close()
threading.Thread(target=hang_up, daemon=True).start()
fs, path = hdfs.open_url(f"hdfs://127.0.0.1:{namenode.getsockname()[1]}/x")
with contextlib.suppress(OSError):
    fs.info(path)
print(len(os.listdir("/proc/self/task")) > 2)
del fs
print(subprocess.run(["echo"], preexec_fn=int, capture_output=True).returncode)
"""
    assert elsewhere(code, tmp_path, HADOOP_CONF_DIR=str(tmp_path)) == ["True", "0"]


def site(path, values):
    rows = (f"<property><name>{k}</name><value>{v}</value></property>" for k, v in values.items())
    path.write_text(f"<configuration>{''.join(rows)}</configuration>")


def elsewhere(code, directory, **environment):
    """The lines that `code` prints: its client's threads are not to be in this process."""
    names = ("HADOOP_CONF_DIR", "HADOOP_HOME", "HADOOP_USER_NAME", "SPARK_USER")
    env = {name: value for name, value in os.environ.items() if name not in names}
    head = """
import os
from tfos.errors import LakeError
from tfos.lake import hdfs
from tfos.lake.run_directory import RunDirectory
"""
    ended = subprocess.run(
        [sys.executable, "-c", f"{head}{code}\nos._exit(sys.stdout.flush() or 0)".replace(
            "import os\n", "import os, sys\n", 1
        )],
        cwd=directory, env={**env, **environment}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


@pytest.mark.parametrize("scheme", hdfs.REFUSED)
def test_clients_that_lose_files_are_refused(scheme):
    with pytest.raises(LakeError, match=rf"over {scheme}://: write hdfs://HOST:PORT/PATH"):
        RunDirectory(f"{scheme}://namenode:9870/runs", "r").spec()
