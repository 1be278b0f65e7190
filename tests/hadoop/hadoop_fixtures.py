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
    for name, value in hadoop.environment.items():
        monkeypatch.setenv(name, value)
    yield hadoop
    for application in hadoop.applications():
        hadoop.yarn("application", "-kill", application)
    poll(lambda: not hadoop.processes(), 60, "nothing runs in containers")
