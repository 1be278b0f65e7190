"""Runs in a session of Spark Connect, from a notebook, on a real server."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from conftest import APPS, our_processes, poll, role_pids, supervisor_of
from connect_server import ConnectServer
from notebooks import Kernel
from test_notebook import APP, check_interrupted, poll_beside

from tfos.lake.run_directory import RunDirectory

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("no_leaks"), pytest.mark.timeout(400)]

SESSION = """
from pyspark.sql import SparkSession

import tfos

spark = SparkSession.builder.remote({url!r}).getOrCreate()
"""
ROWS = "r['feeds']['train']['rows_trained'], r['restarts'], r['attempts']"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    return tmp_path


def new_kernel(folder: Path, server: ConnectServer) -> Kernel:
    kernel = Kernel(folder)
    for code in (SESSION.format(url=server.url), APP):
        cell = kernel.run(code)
        assert cell.error is None, cell.error[2]
    return kernel


@pytest.fixture
def kernel(home: Path, server: ConnectServer) -> Iterator[Kernel]:
    kernel = new_kernel(home, server)
    yield kernel
    kernel.close()


class TestLocal:
    @pytest.fixture
    def server(self, home: Path) -> Iterator[ConnectServer]:
        server = ConnectServer("local[3]", home)
        yield server
        server.close()

    def test_killed_worker_interrupt_and_the_next_run(self, kernel, home, zookeeper):
        refused = kernel.run(f"App().run(spark, strategy='single', lake={str(home)!r})")
        assert refused.error[0] == "PreflightError" and 'zookeeper="HOST:PORT"' in refused.error[1]

        job = f"lake={str(home)!r}, checkpoint_secs=1, zookeeper={zookeeper!r}"
        roles = f"strategy='ps', num_ps=1, num_workers=1, {job}"
        # a worker dies
        harmed = kernel.begin(
            f"r = tfos.run(train, rows(), run_id='harmed', params={{'epochs': 4}}, {roles})\n{ROWS}"
        )
        lake = RunDirectory(str(home), "harmed")
        poll_beside(harmed, lake.newest_checkpoint, "a checkpoint")
        os.kill(role_pids("harmed")["worker-0"], signal.SIGKILL)
        trained, restarts, attempts = eval(harmed.result().value)
        assert (trained, restarts["worker"], attempts) == ([4000] * 4, 1, 1)

        # the kernel is interrupted
        run = kernel.begin(f"App().run(spark, run_id='i', params={{'epochs': 1000}}, {roles})")
        poll_beside(run, RunDirectory(str(home), "i").newest_checkpoint, "a checkpoint")
        kernel.interrupt()
        check_interrupted(run.result())
        assert not role_pids("i")

        slots = kernel.run("from tfos.driver.cluster import cluster_of\ncluster_of(spark).slots()")
        assert slots.value == "3"
        # they are free; a module is shipped; the model is used
        code = f"""
import sys
sys.path.insert(0, {str(APPS)!r})
from linear import Linear
r = Linear().run(spark, [], run_id="next", strategy="single", {job})
print(tfos.predict(spark.sql("select cast(0.5 as double) as x"), r.model).collect())
{ROWS}
"""
        ended = kernel.run(code)
        assert ended.error is None, ended.error[2]
        assert eval(ended.value)[0] == [4000, 4000]
        assert "prediction=" in ended.stdout


@pytest.mark.full
class TestStandalone:
    @pytest.fixture
    def server(self, home: Path, cluster) -> Iterator[ConnectServer]:
        server = ConnectServer(cluster.url, home, spark__executor__cores=2)
        yield server
        server.close()

    def test_killed_executor_and_killed_kernel(self, kernel, home, server, zookeeper):
        job = f"lake={str(home)!r}, checkpoint_secs=1, zookeeper={zookeeper!r}"
        job += ", strategy='ps', num_ps=1, num_workers=1"
        run = f"App().run(spark, run_id='night', params={{'epochs': 1000}}, {job}"
        lake = RunDirectory(str(home), "night")
        night = kernel.begin(f"{run})")
        poll_beside(night, lake.newest_checkpoint, "a checkpoint")
        parents = supervisor_of(role_pids("night")["worker-0"]).parents()
        next(process for process in parents if process.name() == "java").kill()
        poll_beside(night, lambda: (lake.generation() or {})["attempt"] == 2, "a new attempt")
        at = lake.newest_checkpoint()  # from now on the chief before saves no more
        poll_beside(night, lambda: lake.newest_checkpoint() != at, "a checkpoint")

        # whoever has the session is gone: the roles end; the server is not ours
        psutil.Process(kernel.pid).kill()
        poll(lambda: not role_pids("night"), 60, "the roles have ended")

        second = new_kernel(home, server)
        try:
            epoch = lake.checkpoint_state(lake.newest_checkpoint())["sections"]["fit0"]["epoch"]
            again = run.replace("1000", str(epoch + 2))
            ended = second.run(f"r = {again}, resume=True)\nr['feeds']['train']['rows_trained']")
            assert ended.error is None, ended.error[2]
            assert json.loads(ended.value) == [4000] * (epoch + 2)
            assert "feeds are in the lake already" in ended.stdout
        finally:
            second.close()
        assert not role_pids("night"), our_processes()
