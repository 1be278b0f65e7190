"""Runs from a notebook, in a real kernel: interrupted, one after the other, killed, resumed."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import ROOT, our_processes, poll, role_pids
from nbclient.exceptions import DeadKernelError
from notebooks import Cell, Kernel

from tfos.lake.run_directory import RunDirectory

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("no_leaks"), pytest.mark.timeout(300)]

SESSION = """
from pyspark.sql import SparkSession

import tfos

spark = (
    SparkSession.builder.master({master!r})
    .config("spark.cores.max", 3)
    .config("spark.ui.showConsoleProgress", "false")
    .getOrCreate()
)
"""
# what train() needs of other cells goes with it
APP = """
import time

PAUSE_SECS = 0.05


class Pause:
    def __init__(self, secs):
        self.secs = secs


def callback(pause):
    import keras

    wait = lambda batch, logs: time.sleep(pause.secs)
    return keras.callbacks.LambdaCallback(on_train_batch_end=wait)


def rows():
    return spark.range(4000).selectExpr("cast(id % 7 as float) as x", "cast(id % 9 as float) as y")


def train(ctx):
    import keras

    with ctx.strategy.scope():
        x = keras.Input((), name="x")
        y = keras.layers.Dense(1)(keras.layers.Reshape((1,))(x))
        model = keras.Model({"x": x}, keras.layers.Reshape(())(y))
        model.compile("sgd", "mse")
    callbacks = [callback(Pause(PAUSE_SECS)), keras.callbacks.TensorBoard(ctx.log_dir)]
    ctx.fit(model, ctx.dataset("train", 50, label="y"), ctx.params["epochs"], callbacks=callbacks)


class App(tfos.TFOnSparkApp):
    def pre_train(self, spark):
        return rows()

    def train(self, ctx):
        train(ctx)


class Slow(App):
    def pre_train(self, spark):
        print("pre_train() sleeps", flush=True)
        spark.sparkContext.parallelize(range(3), 3).foreach(lambda _: time.sleep(1000))
"""


@pytest.fixture
def new_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], Kernel]]:
    """Makes a kernel with a session on a master, and with the app."""
    for name in ("JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    # of a virtual environment that is not activated: the first python3 of PATH is another one
    other = tmp_path / "bin" / "python3"
    other.parent.mkdir()
    other.write_text("#!/bin/sh\necho another Python >&2\nexit 1\n")
    other.chmod(0o755)
    ours = Path(sys.executable).parent  # for the command of %tensorboard
    monkeypatch.setenv("PATH", f"{other.parent}:{ours}:{os.environ['PATH']}")
    kernels: list[Kernel] = []

    def new(master: str = "") -> Kernel:
        if master.startswith("spark:"):
            monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
        else:
            monkeypatch.delenv("PYSPARK_PYTHON", raising=False)
        kernel = Kernel(tmp_path)
        kernels.append(kernel)
        for code in (SESSION.format(master=master), APP) if master else ():
            assert kernel.run(code).error is None
        return kernel

    yield new
    for kernel in kernels:
        kernel.close()


def poll_beside(cell: Future[Cell], condition: Callable[[], Any], what: str) -> None:
    """Waits for what a cell that runs brings about."""

    def look() -> Any:
        if cell.done():
            raise AssertionError(f"the cell has ended before {what}: {cell.result().all}")
        return condition()

    poll(look, 120, what)


def check_interrupted(cell: Cell) -> None:
    assert cell.error is not None
    name, _, shown = cell.error
    assert name == "KeyboardInterrupt"
    # the cell's own lines and those of tfos that it called; nothing of what was interrupted
    assert shown.count("File ") == 2, shown
    assert "\x1b" not in cell.stdout


def test_tour(new_kernel, tmp_path):
    """The example, cell by cell, and as a whole without a path of this machine."""
    path = ROOT / "examples" / "notebook.ipynb"
    notebook = json.loads(path.read_text())
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    kernel = new_kernel()
    ran = []
    for cell in notebook["cells"]:
        assert not cell.get("outputs") and not cell.get("execution_count")
        if cell["cell_type"] == "code":
            ran.append(kernel.run("".join(cell["source"])))
            assert ran[-1].error is None, ran[-1].error[2]
    shown = [cell.displays for cell in ran if "tfos " in cell.stdout]
    assert len(shown) == 2, ran
    for lines in shown:
        assert len(lines) == 1  # it changed in place
        assert re.match(r"train epoch 3/3  ([\d,]+)/\1 rows  ", lines[0]), lines
    assert {path.parent.name for path in tmp_path.glob("tfos-runs/*/result.json")} == {
        "tour", "tour-ps",
    }  # fmt: skip


@pytest.mark.full
def test_interrupted_killed_and_resumed(new_kernel, tmp_path, standalone):
    before = set(our_processes())
    lake = RunDirectory(str(tmp_path), "night")
    kernel = new_kernel(standalone)
    job = f"strategy='ps', num_ps=1, num_workers=1, lake={str(tmp_path)!r}, checkpoint_secs=1"

    # while Spark computes: its jobs go, the session stays
    slow = kernel.begin(f"Slow().run(spark, run_id='slow', {job})")
    poll_beside(slow, lambda: "pre_train() sleeps" in str(kernel.outputs), "pre_train()")
    kernel.interrupt()
    check_interrupted(slow.result())
    jobs = kernel.run("list(spark.sparkContext.statusTracker().getActiveJobsIds())")
    assert jobs.value == "[]"

    # while it trains
    run = f"App().run(spark, run_id='night', params={{'epochs': 1000}}, {job}"
    night = kernel.begin(f"{run})")
    poll_beside(night, lake.newest_checkpoint, "a checkpoint")
    kernel.interrupt()
    check_interrupted(night.result())
    assert night.result().displays[-1].startswith("train epoch ")
    assert lake.read_json("result.json")["error"]["message"] == "interrupted"
    assert not role_pids("night")

    # another run in this session, and this one again until the kernel is killed
    other = kernel.run(
        f"r = tfos.run(train, rows(), run_id='other', params={{'epochs': 2}}, {job})"
        "\nr['feeds']['train']['rows_trained']"
    )
    assert other.error is None, other.error[2]
    assert other.value == "[4000, 4000]"
    at = lake.newest_checkpoint()
    again = kernel.begin(f"{run}, resume=True)")
    poll_beside(again, lambda: lake.newest_checkpoint() != at, "a checkpoint")
    os.kill(kernel.pid, signal.SIGKILL)
    with pytest.raises(DeadKernelError):
        again.result()
    poll(lambda: not set(our_processes()) - before, 30, f"all is gone: {our_processes()}")
    assert not lake.exists("result.json")

    # the next kernel goes on
    kernel = new_kernel(standalone)
    epoch = lake.checkpoint_state(lake.newest_checkpoint())["sections"]["fit0"]["epoch"]
    run = run.replace("1000", str(epoch + 2))
    ended = kernel.run(f"r = {run}, resume=True)\nr['feeds']['train']['rows_trained']")
    assert ended.error is None, ended.error[2]
    assert json.loads(ended.value) == [4000] * (epoch + 2)
    assert "feeds are in the lake already" in ended.stdout
    kernel.run("spark.stop()")


@pytest.mark.full
def test_tensorboard_shows_a_run_that_goes_on(new_kernel, tmp_path):
    kernel = new_kernel("local[3]")
    lake = RunDirectory(str(tmp_path), "watched")
    kernel.run("%load_ext tensorboard")
    kernel.run(f"%tensorboard --port 0 --logdir {lake.path('events')}")
    board = json.loads(
        kernel.run(
            "from tensorboard import manager\n"
            "import json\n"
            "print(json.dumps([[m.pid, m.port] for m in manager.get_all()]))"
        ).stdout
    )
    ((pid, port),) = [each for each in board if each[0] in our_processes()]
    try:

        def tags() -> Any:
            url = f"http://127.0.0.1:{port}/data/plugin/scalars/tags"
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)

        run = kernel.begin(
            "App().run(spark, run_id='watched', strategy='single', params={'epochs': 1000},"
            f" lake={str(tmp_path)!r})"
        )
        shown = lambda: any("epoch_loss" in of for of in tags().values())  # noqa: E731
        poll_beside(run, shown, "TensorBoard has the loss")
        kernel.interrupt()
        check_interrupted(run.result())
    finally:
        psutil.Process(pid).terminate()
    kernel.run("spark.stop()")
