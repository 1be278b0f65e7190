"""A Hadoop where all have to say who they are: tickets on the edge node, tokens in containers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest
from conftest import ROOT
from hadoop_cluster import HadoopCluster
from hadoop_fixtures import from_edge
from yarn_runs import submit

sys.path.insert(0, str(ROOT / "tests" / "e2e"))
from test_recovery import check_counts

pytestmark = [pytest.mark.cluster, pytest.mark.full, pytest.mark.timeout(600)]
USE = """
import sys
from tfos.lake.storage import Storage

lake = Storage(sys.argv[1])
lake.write("x/secret", b"12345" * 100_000, is_secret=True)
print(len(lake.read("x/secret")), lake._fs.info(lake.path("x/secret"))["owner"])
"""


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HadoopCluster]:
    cluster = HadoopCluster(tmp_path_factory.mktemp("hadoop"), has_kerberos=True)
    yield cluster
    cluster.close()


@pytest.fixture
def edge(secured: HadoopCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[HadoopCluster]:
    """As from an edge node whose user has a ticket."""
    secured.log_in()
    yield from from_edge(secured, monkeypatch)


def use(url: str) -> subprocess.CompletedProcess[str]:
    """Writes and reads a lake in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", USE, url], capture_output=True, text=True, timeout=100
    )


class TestHdfs:
    def test_with_a_ticket(self, edge):
        for url in (edge.url, edge.url.replace("127.0.0.1", "localhost"), "hdfs://"):
            used = use(f"{url}/tickets")
            assert used.returncode == 0, used.stderr
            assert used.stdout.split() == ["500000", "me"]

    def test_without_one_it_is_said_at_once(self, edge, monkeypatch, tmp_path):
        monkeypatch.setenv("KRB5CCNAME", f"FILE:{tmp_path / 'none'}")
        used = use(f"{edge.url}/tickets")
        assert used.returncode == 1
        assert "kinit" in used.stderr.splitlines()[-1], used.stderr

    def test_with_a_keytab_in_place_of_a_ticket(self, edge, monkeypatch, tmp_path):
        monkeypatch.setenv("KRB5CCNAME", f"FILE:{tmp_path / 'none'}")
        monkeypatch.setenv("KRB5_CLIENT_KTNAME", str(edge.realm.keytab))
        assert use(f"{edge.url}/keytab").stdout.split() == ["500000", "me"]

    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
    def test_with_a_token_alone(self, edge, monkeypatch, tmp_path, host):
        """As in a container."""
        monkeypatch.setenv("HADOOP_TOKEN_FILE_LOCATION", str(edge.token(tmp_path / "token")))
        monkeypatch.setenv("KRB5CCNAME", f"FILE:{tmp_path / 'none'}")
        used = use(f"{edge.url.replace('127.0.0.1', host)}/tokens")
        assert used.stdout.split() == ["500000", "me"], used.stderr


@pytest.mark.parametrize("mode", ["cluster", "client"])
def test_a_run_with_a_ticket(edge, mode):
    process = submit(
        f"ticket-{mode}", "hdfs:///runs", "--json", "--deploy-mode", mode, args=("--epochs", 3)
    )
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    check_counts(json.loads(stdout.splitlines()[-1]), worker_deaths=0)


@pytest.mark.parametrize("mode", ["cluster", "client"])
def test_a_run_without_a_ticket_is_refused_before_it_begins(edge, monkeypatch, tmp_path, mode):
    monkeypatch.setenv("KRB5CCNAME", f"FILE:{tmp_path / 'none'}")
    process = submit("refused", "hdfs:///runs", "--deploy-mode", mode, args=())
    _, stderr = process.communicate(timeout=100)
    assert process.returncode == 1
    assert stderr == (
        "tfos: cannot look at hdfs:///runs: there is no Kerberos ticket here: run kinit, or set"
        " KRB5_CLIENT_KTNAME to the file of a keytab\n"
    )


@pytest.mark.parametrize("mode", ["cluster", "client"])
def test_a_run_with_a_keytab(edge, monkeypatch, tmp_path, mode):
    """... and no ticket, as a scheduler submits it."""
    monkeypatch.setenv("KRB5CCNAME", f"FILE:{tmp_path / 'none'}")
    process = submit(
        f"keytab-{mode}", "hdfs:///runs", "--json", "--deploy-mode", mode, "--principal",
        edge.realm.principal, "--keytab", edge.realm.keytab, args=("--epochs", 3),
    )  # fmt: skip
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    check_counts(json.loads(stdout.splitlines()[-1]), worker_deaths=0)
