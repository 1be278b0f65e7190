"""A notebook whose session is an application of YARN in client mode, its lake on HDFS."""

from __future__ import annotations

import json
import sys

import psutil
import pytest
from conftest import ROOT, poll, role_pids
from notebooks import Kernel

from tfos.lake.run_directory import RunDirectory

sys.path.insert(0, str(ROOT / "tests" / "e2e"))
from test_notebook import APP, SESSION, check_interrupted, poll_beside

pytestmark = [pytest.mark.cluster, pytest.mark.full, pytest.mark.timeout(600)]
pytest_plugins = ["hadoop_fixtures"]


def test_interrupted_killed_and_continued_by_the_next_kernel(edge, tmp_path, monkeypatch):
    for name in ("JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    lake = RunDirectory("hdfs:///runs", "cells")
    session = SESSION.format(master="yarn").replace("cores.max", "executor.instances")
    job = "strategy='ps', num_ps=1, num_workers=1, lake='hdfs:///runs', checkpoint_secs=2"
    run = f"App().run(spark, run_id='cells', params={{'epochs': 1000}}, {job}"

    def new_kernel() -> Kernel:
        kernel = Kernel(tmp_path)
        for code in (session, APP):
            assert kernel.run(code).error is None
        return kernel

    kernel = new_kernel()
    try:
        cells = kernel.begin(f"{run})")
        poll_beside(cells, lake.newest_checkpoint, "a checkpoint")
        kernel.interrupt()
        check_interrupted(cells.result())
        assert not role_pids("cells")
        at = lake.newest_checkpoint()
        cells = kernel.begin(f"{run}, resume=True)")
        poll_beside(cells, lambda: lake.newest_checkpoint() != at, "a checkpoint")
        psutil.Process(kernel.pid).kill()
        poll(lambda: not edge.processes(), 120, "its containers are empty")
    finally:
        kernel.close()
    kernel = new_kernel()
    try:
        epoch = lake.checkpoint_state(lake.newest_checkpoint())["sections"]["fit0"]["epoch"]
        run = run.replace("1000", str(epoch + 2))
        ended = kernel.run(f"r = {run}, resume=True)\nr['feeds']['train']['rows_trained']")
        assert ended.error is None, ended.error[2]
        assert json.loads(ended.value) == [4000] * (epoch + 2)
        kernel.run("spark.stop()")
    finally:
        kernel.close()
