"""A ZooKeeper server for the tests of one module. A pytest plugin of few tests."""

from __future__ import annotations

import pytest

from tfos.runtime.registry import prepare
from tfos.runtime.zookeeper import EmbeddedZooKeeper


@pytest.fixture(scope="module")
def server():
    server = EmbeddedZooKeeper("127.0.0.1")
    server.wait()
    try:
        prepare(server.hosts)
        yield server
    finally:
        server.stop()
