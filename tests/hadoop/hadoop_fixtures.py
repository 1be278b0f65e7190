"""One Hadoop for all tests of a process, and what a test on it may not leave."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from conftest import poll
from hadoop_cluster import HadoopCluster


@pytest.fixture(scope="session")
def hadoop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HadoopCluster]:
    cluster = HadoopCluster(tmp_path_factory.mktemp("hadoop"))
    yield cluster
    cluster.close()


@pytest.fixture
def edge(hadoop: HadoopCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[HadoopCluster]:
    """The cluster, as from an edge node. When the test is over nothing runs in containers."""
    yield from from_edge(hadoop, monkeypatch)


def from_edge(cluster: HadoopCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[HadoopCluster]:
    """What edge() is, of any cluster."""
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    yield cluster
    for application in cluster.applications():
        cluster.yarn("application", "-kill", application)
    poll(lambda: not cluster.processes(), 60, "nothing runs in containers")
