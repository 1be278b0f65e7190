"""A gang on two machines, whose host names nobody resolves: frameworks meet by addresses alone."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from frameworks import needs, options_of
from gang_processes import Processes, app_of
from network import Network, require

from tfos.runtime.protocol import StartOrder

ROWS = 1003
pytestmark = [pytest.mark.timeout(240), pytest.mark.full]


@pytest.fixture
def machines():
    require()
    network = Network()
    try:
        yield [network.add("gang-a"), network.add("gang-b")]
    finally:
        network.close()


@pytest.mark.parametrize("framework", ["torch", "xgboost", "mpi"])
def test_they_meet_and_train(framework, tmp_path, machines):
    needs(framework)
    app = app_of("gang_frameworks", "GangFrameworks", framework=framework, epochs=2, step_secs=0.0)
    gang = Processes(tmp_path, app, 2, ROWS, **options_of(framework))
    gang.lake.write_generation(1, 1)
    one, other = (f"{machine.address}:29400" for machine in machines)
    processes = []
    for task, machine in zip(gang.tasks, machines, strict=True):
        scratch = tmp_path / str(task)
        scratch.mkdir()
        order = StartOrder(
            task.role, task.index, 1, 1, {"chief": [one], "worker": [other]}, gang.spec.as_json(),
            gang.lake.url, "run", str(scratch), secret="of this gang",
        )  # fmt: skip
        program = str(Path(__file__).parent / "gang_rank.py")
        command = [sys.executable, program, json.dumps(dataclasses.asdict(order))]
        path = os.pathsep.join(path for path in sys.path if path)
        processes.append(
            subprocess.Popen(
                machine.command(*command), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                text=True, env={**os.environ, "PYTHONPATH": path},
            )
        )  # fmt: skip
    try:
        for rank, process in enumerate(processes):
            stdout, stderr = process.communicate(timeout=120)
            assert process.returncode == 0, stderr
            found = json.loads(stdout.splitlines()[-1])
            assert found["seen"] == [2 * ROWS, ROWS * (ROWS - 1)]
            place = [found[name] for name in ("LOCAL_RANK", "GROUP_RANK", "GLOO_SOCKET_IFNAME")]
            assert place == ["0", str(rank), "eth0"]
    finally:
        for process in processes:
            process.kill()
