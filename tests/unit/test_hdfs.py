"""What HDFS needs besides a client, without a cluster; tests/hadoop has a real one."""

from __future__ import annotations

import os

import fsspec
import pytest

from tfos.errors import LakeError
from tfos.lake import hdfs
from tfos.lake.run_directory import RunDirectory


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

    def test_name_services_keep_their_capitals(self, tmp_path, monkeypatch):
        """fsspec would look for the NameNodes of "prod"."""
        pytest.importorskip("hdfs_native")
        values = {"dfs.nameservices": "Prod", "dfs.ha.namenodes.Prod": "a"}
        values["dfs.namenode.rpc-address.Prod.a"] = "127.0.0.1:1"
        rows = (
            f"<property><name>{k}</name><value>{v}</value></property>" for k, v in values.items()
        )
        (tmp_path / "hdfs-site.xml").write_text(f"<configuration>{''.join(rows)}</configuration>")
        monkeypatch.setenv("HADOOP_CONF_DIR", str(tmp_path))
        fs, path = hdfs.open_url("hdfs://Prod/a/B")
        assert (fs.host, fs.port, path) == ("Prod", None, "/a/B")
        fs, path = hdfs.open_url("hdfs://127.0.0.1:1/a/B")
        assert (fs.host, fs.port, path) == ("127.0.0.1", 1, "/a/B")

    def test_that_nobody_names_is_an_error_at_once(self, monkeypatch):
        pytest.importorskip("hdfs_native")
        for name in ("HADOOP_CONF_DIR", "HADOOP_HOME"):
            monkeypatch.delenv(name, raising=False)
        with pytest.raises(LakeError, match=r"names no NameNode.* set HADOOP_CONF_DIR"):
            RunDirectory("hdfs:///runs", "r").spec()

    def test_the_configuration_that_spark_ships_is_used(self, tmp_path, monkeypatch):
        pytest.importorskip("hdfs_native")
        for name in ("HADOOP_CONF_DIR", "HADOOP_HOME"):
            monkeypatch.delenv(name, raising=False)
        conf = tmp_path / "__spark_conf__" / "__hadoop_conf__"
        conf.mkdir(parents=True)
        (conf / "core-site.xml").write_text(
            "<configuration><property><name>fs.defaultFS</name>"
            "<value>hdfs://127.0.0.1:1</value></property></configuration>"
        )
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HADOOP_CONF_DIR", "/of/the/nodemanager")
        monkeypatch.setenv("SPARK_USER", "alice")
        monkeypatch.setenv("HADOOP_USER_NAME", "")  # that it is taken back afterwards
        monkeypatch.delenv("HADOOP_USER_NAME")
        fs, path = hdfs.open_url("hdfs:///runs")
        assert path == "/runs"
        assert fs.protocol == "hdfs"
        assert os.environ["HADOOP_CONF_DIR"] == str(conf)
        assert os.environ["HADOOP_USER_NAME"] == "alice"


@pytest.mark.parametrize("scheme", hdfs.REFUSED)
def test_clients_that_lose_files_are_refused(scheme):
    with pytest.raises(LakeError, match=rf"over {scheme}://: write hdfs://HOST:PORT/PATH"):
        RunDirectory(f"{scheme}://namenode:9870/runs", "r").spec()
