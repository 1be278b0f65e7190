"""A strategy that another package brings: launched, fed, killed and recovered as tfos's own are."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from conftest import APPS, ROOT, submit
from runs import Run, causes

from tfos.feeding.reader import FeedReader
from tfos.lake.run_directory import RunDirectory

sys.path.insert(0, str(APPS))
sys.path.insert(0, str(ROOT / "tests" / "strategy"))
from socket_line import ROWS
from sockets_strategy.backend import RATE, UNIT_ROWS, VIEW, gradient

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("no_leaks"), pytest.mark.timeout(300)]
APP = APPS / "socket_line.py"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The strategy's package, installed in a directory of its own."""
    root = tmp_path_factory.mktemp("package")
    source = shutil.copytree(ROOT / "tests" / "strategy", root / "source")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    install += ["--no-build-isolation", "--target", str(root / "installed"), str(source)]
    subprocess.run(install, check=True, timeout=120)
    return root / "installed"


@pytest.fixture
def installed(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = [str(package), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))


def trained(lake: RunDirectory, scratch: Path, epochs: int) -> np.ndarray:
    """The weights after so many epochs without an interruption."""
    reader, weights = FeedReader(lake, str(scratch)), np.zeros(2)
    for epoch in range(epochs):
        for start in range(0, ROWS, UNIT_ROWS):
            rows = reader.read(VIEW, epoch, start, min(start + UNIT_ROWS, ROWS))
            weights -= RATE * gradient(weights, *rows)
    return weights


def test_any_process_may_die(installed, tmp_path):
    run = Run(tmp_path, "sockets", "--strategy", "sockets", "--num-peers", 2, app=APP, args=())
    try:
        run.survive(lambda: os.kill(run.pid("peer-1"), signal.SIGKILL))
        run.survive(lambda: os.kill(run.pid("chief-0"), signal.SIGKILL))
        run.survive(lambda: os.kill(run.pid("chief-0"), signal.SIGTERM))
        result = run.finish()
    finally:
        run.close()
    epochs = result["metrics"]["epochs"]
    assert result["feeds"]["train"]["rows_trained"] == [ROWS] * epochs
    assert result["feeds"]["train"]["rows_missed"] == [0] * epochs
    assert result["restarts"] == {"chief": 2, "peer": 1}
    np.testing.assert_array_equal(result["metrics"]["weights"], trained(run.lake, tmp_path, epochs))
    assert result["metrics"]["weights"] == pytest.approx([3, 2], abs=0.1)


@pytest.mark.full
def test_mxnet_with_what_stands_in_for_it(installed, tmp_path):
    options = ["--strategy", "mxnet", "--num-workers", 2, "--num-servers", 2, "--hang-secs", 16]
    run = Run(tmp_path, "mxnet", *options, app=APPS / "mxnet_line.py", args=())
    harmed = ["server-1", "worker-0", "scheduler-0"]
    try:
        for task in harmed:
            run.survive(lambda task=task: os.kill(run.pid(task), signal.SIGKILL))
        result = run.finish()
    finally:
        run.close()
    metrics = result["metrics"]
    assert metrics["begun"] > 0, "it went on from a checkpoint"
    assert metrics["weights"] == pytest.approx([3, 2], abs=0.1)
    assert result["feeds"]["train"]["rows_trained"] == [ROWS] * metrics["epochs"]
    assert causes(result) == [(task, "signal") for task in harmed]
    assert result["restarts"] == {"chief": 3, "worker": 3, "scheduler": 3, "server": 6}


def test_mxnet_stands_in_the_docs():
    page = (ROOT / "docs" / "STRATEGIES.md").read_text()
    for name in ("mxnet_strategy", "mxnet_backend"):
        source = (ROOT / "tests" / "strategy" / f"{name}.py").read_text()
        assert textwrap.indent(source, "    ").rstrip() in page


def test_exception_in_train_ends_the_run_at_once(installed, tmp_path):
    ended = submit("--json", "--strategy", "sockets", "--lake", tmp_path, APP, "--fail")
    assert ended.status == 1
    assert ended.result["error"]["message"] == "ValueError: no such line"
    assert ended.result["attempts"] == 1
    assert set(ended.result["restarts"].values()) == {0}


def test_its_options_are_flags_as_others(installed):
    assert "--num-peers N" in submit("--help").stdout
    refused = submit("--strategy", "sockets", "--num-peers", 0, APP)
    assert refused.status == 2
    assert "--num-peers (run(num_peers=...), spark.tfos.numPeers) is 0" in refused.last_words


def test_one_that_is_not_installed(tmp_path):
    refused = submit("--strategy", "sockets", "--lake", tmp_path, APP)
    assert refused.status == 2
    assert "'sockets'" in refused.last_words
    assert "install the package that brings it" in refused.last_words
