"""NameNodes in a pair: a run goes on when one of them is lost and the other takes over."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from conftest import ROOT
from hadoop_cluster import HadoopCluster
from hadoop_fixtures import from_edge
from yarn_runs import Training

sys.path.insert(0, str(ROOT / "tests" / "e2e"))
from test_recovery import check_counts

pytestmark = [pytest.mark.cluster, pytest.mark.full, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HadoopCluster]:
    cluster = HadoopCluster(tmp_path_factory.mktemp("hadoop"), is_paired=True)
    yield cluster
    cluster.close()


@pytest.fixture
def edge(pair: HadoopCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[HadoopCluster]:
    yield from from_edge(pair, monkeypatch)


def test_a_run_goes_on_through_a_failover(edge, tmp_path):
    run = Training("failover", tmp_path)
    run.wait_for_training()
    at = run.lake.newest_checkpoint()
    edge.kill_namenode("a")
    edge.make_active("b")
    run.wait_for_checkpoint(after=at)
    result = run.finish()
    check_counts(result, worker_deaths=0)
    assert result["attempts"] == 1
    assert not any(result["restarts"].values())
