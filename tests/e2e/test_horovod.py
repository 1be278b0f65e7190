"""Horovod in a gang, as its users write it, on TensorFlow 2.15; and where it cannot be."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from pathlib import Path

import pytest
from conftest import APPS, DATA, ROOT, submit
from horovod_environment import horovod
from old_tensorflow import within
from runs import Run, causes

sys.path.insert(0, str(APPS))
from gang_frameworks import ROWS
from horovod_line import EPOCHS
from horovod_line import ROWS as LINE_ROWS

pytestmark = [
    pytest.mark.cluster, pytest.mark.full, pytest.mark.usefixtures("no_leaks"),
    pytest.mark.timeout(300),
]  # fmt: skip
GANG = ("--strategy", "gang", "--num-workers", 2)
EXAMPLE = ROOT / "examples" / "a9a_logistic" / "with_horovod.py"
# the first of these tests may build it
builds = pytest.mark.timeout(2400)


@pytest.fixture(scope="module")
def venv() -> Path:
    return horovod()


@builds
def test_tape_and_fit_give_the_same_in_all_ranks(venv, tmp_path):
    app = APPS / "horovod_line.py"
    ended = submit("--json", *GANG, "--lake", tmp_path, app, where=within(venv))
    assert ended.status == 0, ended.stderr
    metrics, feed = ended.result["metrics"], ended.result["feeds"]["train"]
    assert metrics["world"] == [0, 2, 0, 2]
    assert metrics["across"] == [0, 1]
    assert metrics["controller"] == [True, False]
    assert metrics["begun"][0] != metrics["begun"][1]
    for name in ("with_tape", "with_fit"):
        ours, theirs = metrics[name]
        assert ours == theirs
        assert ours == pytest.approx([3, 2], abs=0.05)
    ours, theirs = metrics["losses"]
    assert ours == theirs  # each rank's own rows would have another
    assert len(ours) == EPOCHS
    assert ours[-1] < ours[0] / 10
    assert feed["rows_trained"] == [LINE_ROWS] * EPOCHS


@builds
def test_processes_are_killed_and_stopped(venv, tmp_path):
    options, args = [*GANG, "--hang-secs", 16], ("--framework", "horovod")
    app = APPS / "gang_frameworks.py"
    run = Run(tmp_path, "horovod", *options, app=app, args=args, where=within(venv))
    try:
        run.survive(lambda: os.kill(run.pid("worker-0"), signal.SIGKILL))
        run.survive(lambda: os.kill(run.pid("chief-0"), signal.SIGKILL))
        run.survive(lambda: os.kill(run.pid("worker-0"), signal.SIGSTOP))
        run.survive(lambda: os.kill(run.pid("chief-0"), signal.SIGSTOP))
        result = run.finish()
    finally:
        run.close()
    assert causes(result) == [
        ("worker-0", "signal"), ("chief-0", "signal"), ("worker-0", "hang"), ("chief-0", "hang")
    ]  # fmt: skip
    metrics = result["metrics"]
    assert metrics["begun"] > 0, "it went on from a checkpoint"
    assert metrics["seen"] == [n * metrics["epochs"] for n in (ROWS, ROWS * (ROWS - 1) // 2)]
    assert result["feeds"]["train"]["rows_trained"] == [ROWS] * metrics["epochs"]
    assert result["attempts"] == 1
    assert result["restarts"] == {"chief": 4, "worker": 4}


@builds
def test_a_state_of_elastic_goes_on_in_the_next_processes(venv, tmp_path):
    app = APPS / "horovod_elastic.py"
    run = Run(tmp_path, "elastic", *GANG, app=app, args=(), where=within(venv))
    try:
        run.survive(lambda: os.kill(run.pid("worker-0"), signal.SIGKILL))
        run.survive(lambda: os.kill(run.pid("chief-0"), signal.SIGKILL))
        result = run.finish()
    finally:
        run.close()
    assert causes(result) == [("worker-0", "signal"), ("chief-0", "signal")]
    metrics = result["metrics"]
    ours, theirs = metrics["weights"]
    assert ours == theirs == pytest.approx([3, 2], abs=0.05)
    assert metrics["begun"] > 0
    assert metrics["rows"] == ROWS * metrics["epochs"]
    # all batches but the last one of an epoch have ten rows, in two processes
    assert metrics["steps"] == [-(-ROWS // 20) * metrics["epochs"]] * 2
    assert result["feeds"]["train"]["rows_trained"] == [ROWS] * metrics["epochs"]


@builds
def test_the_example_is_as_good_as_one_process(venv, tmp_path):
    data = DATA / "a9a" / "a9a"
    if not data.is_file():
        pytest.skip(f"the a9a data is not at {data}")
    ended = submit("--json", *GANG, "--lake", tmp_path, EXAMPLE, "--data", data, where=within(venv))
    assert ended.status == 0, ended.stderr
    metrics, feed = ended.result["metrics"], ended.result["feeds"]["train"]
    assert metrics["test_accuracy"] == pytest.approx(0.850, abs=0.002)
    assert metrics["test_auc"] == pytest.approx(0.902, abs=0.001)
    assert feed["rows_trained"] == [feed["rows"]] * 8
    assert ended.result["checkpoints"]["saved"] >= 8


def test_without_horovod_it_is_said_what_to_use_instead(tmp_path):
    import tensorflow as tf

    if importlib.util.find_spec("horovod") is not None:
        pytest.skip("Horovod is installed here")
    ended = submit("--json", *GANG, "--lake", tmp_path, EXAMPLE)
    assert ended.status == 1
    error = ended.result["error"]
    assert "Horovod cannot be imported: No module named 'horovod'" in error["message"]
    assert f"its Keras part up to 2.15; here is {tf.__version__}" in error["message"]
    assert "Use --strategy multi-worker" in error["message"]
