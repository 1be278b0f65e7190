"""Spark assigns GPUs, invented by a discovery script: each process sees its own."""

from __future__ import annotations

import psutil
import pytest
from conftest import SparkCluster, poll, role_pids
from runs import Run

pytestmark = [pytest.mark.cluster, pytest.mark.full, pytest.mark.timeout(300)]


def test_workers_of_one_executor_see_different_gpus(tmp_path, no_leaks, monkeypatch):
    script = tmp_path / "gpus.sh"
    script.write_text("""#!/bin/sh\necho '{"name": "gpu", "addresses": ["4", "5", "6", "7"]}'\n""")
    script.chmod(0o755)
    resource = "-Dspark.worker.resource.gpu"
    monkeypatch.setenv(
        "SPARK_WORKER_OPTS", f"{resource}.amount=4 {resource}.discoveryScript={script}"
    )
    cluster = SparkCluster(tmp_path)
    run = None
    try:
        cluster.add_worker("a", 4)
        run = Run(
            tmp_path, "gpus", "--master", cluster.url, "--strategy", "ps", "--num-ps", 1,
            "--num-workers", 2, "--conf", "spark.driver.host=127.0.0.1", "--fork", "off",
            "--conf", "spark.executor.resource.gpu.amount=4",
            "--conf", "spark.task.resource.gpu.amount=1",
        )  # fmt: skip
        run.wait_for_training()
        pids = poll(lambda: len(found := role_pids("gpus")) == 4 and found, 60, "all roles run")
        # started anew, not forked, so that /proc has the environment
        seen = {
            task: psutil.Process(pid).environ()["CUDA_VISIBLE_DEVICES"]
            for task, pid in pids.items()
        }
        assert (seen["ps-0"], seen["chief-0"]) == ("-1", "-1")
        workers = {seen["worker-0"], seen["worker-1"]}
        assert len(workers) == 2
        assert workers < {"4", "5", "6", "7"}
        assert run.finish()["status"] == "succeeded"
    finally:
        if run is not None:
            run.close()
        cluster.close()
