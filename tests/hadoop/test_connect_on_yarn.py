"""A notebook in a session of Spark Connect whose server is an application of YARN."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from conftest import ROOT, role_pids, supervisor_of
from connect_server import ConnectServer

from tfos.lake.run_directory import RunDirectory

sys.path.insert(0, str(ROOT / "tests" / "e2e"))
from test_connect import new_kernel
from test_notebook import poll_beside

pytestmark = [pytest.mark.cluster, pytest.mark.full, pytest.mark.timeout(600)]
pytest_plugins = ["hadoop_fixtures"]


def test_a_run_and_an_executor_that_is_killed(
    edge, zookeeper: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    lake = RunDirectory(f"{edge.url}/runs", "remote")
    server = ConnectServer("yarn", tmp_path, spark__executor__instances=4)
    try:
        kernel = new_kernel(tmp_path, server)
        try:
            job = f"lake='{edge.url}/runs', checkpoint_secs=2, zookeeper={zookeeper!r}"
            job += ", strategy='ps', num_ps=1, num_workers=1"
            run = kernel.begin(
                f"r = App().run(spark, run_id='remote', params={{'epochs': 40}}, {job})"
                "\nr['feeds']['train']['rows_trained']"
            )
            poll_beside(run, lake.newest_checkpoint, "a checkpoint")
            parents = supervisor_of(role_pids("remote")["worker-0"]).parents()
            next(process for process in parents if process.name() == "java").kill()
            ended = run.result()
            assert ended.error is None, ended.error[2]
            assert json.loads(ended.value) == [4000] * 40
            assert lake.result()["attempts"] == 2
        finally:
            kernel.close()
    finally:
        server.close()
