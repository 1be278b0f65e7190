"""Any part may die at any moment: real signals to real processes, and then exact accounting.

The app counts in its weights how often each row was trained on; see tests/apps/counting.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import APPS, poll, role_pids
from kazoo.client import KazooClient
from runs import Run

from tfos.lake.run_directory import RunDirectory, checkpoint_order

sys.path.insert(0, str(APPS))
from counting import BATCH, UNIT_STEPS

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("no_leaks"), pytest.mark.timeout(600)]
COUNTING = APPS / "counting.py"
UNIT_ROWS = BATCH * UNIT_STEPS


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    runs = []

    def make(run_id: str, *options: object, args: tuple[object, ...] = ()) -> Run:
        runs.append(Run(tmp_path, run_id, *options, args=("--epochs", 10_000, *args)))
        return runs[-1]

    yield make
    for run in runs:
        run.close()


def check_counts(result: dict[str, Any], worker_deaths: int, chief_deaths: int = 0) -> None:
    """The weights have seen each row once per epoch, but for what a dying worker left half done.

    A worker that dies has at most one unit under way; its rows are trained on again by another.
    chief_deaths: where another chief goes on from what the store has. Two units of each of two
    workers may have been under way.
    """
    units = worker_deaths + 4 * chief_deaths
    counts, feed = result["metrics"], result["feeds"]["train"]
    rows, epochs = feed["rows"], counts["epochs"]
    assert feed["rows_trained"] == [rows] * epochs
    assert feed["rows_missed"] == [0] * epochs
    repeated = sum(feed["rows_repeated"])
    assert counts["low"] == epochs
    assert counts["high"] <= epochs + worker_deaths + chief_deaths
    assert counts["total"] == rows * epochs + repeated
    assert counts["uneven"] <= repeated <= units * UNIT_ROWS


def corrupt(lake: RunDirectory) -> str:
    """Flips a byte of the newest checkpoint's weights; returns its name."""
    name = lake.newest_checkpoint()
    assert name is not None
    path = next(Path(lake.path("checkpoints", name)).glob("weights.data*"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return name


def test_every_process_may_die(start, cluster, zookeeper, is_full):
    run = start(
        "mortal", "--master", cluster.url, "--zookeeper", f"{zookeeper}/mortal",
        "--num-ps", 2, "--num-workers", 2, "--conf", "spark.driver.host=127.0.0.1",
    )  # fmt: skip
    run.survive(lambda: os.kill(run.pid("worker-1"), signal.SIGKILL))
    run.survive(lambda: os.kill(run.pid("ps-1"), signal.SIGKILL))
    run.survive(lambda: os.kill(run.pid("chief-0"), signal.SIGTERM))
    damaged = []

    def damage() -> None:
        os.kill(run.pid("chief-0"), signal.SIGSTOP)  # no newer checkpoint may come
        damaged.append(corrupt(run.lake))
        os.kill(run.pid("chief-0"), signal.SIGKILL)

    run.survive(damage)

    def replace_machine() -> None:
        cluster.kill_worker(cluster.worker_of(run.pid("chief-0")))
        cluster.add_worker("d", 3)  # what is left has too few slots: the run waits for these

    if is_full:
        for task in ("ps-0", "chief-0"):
            run.survive(lambda task=task: os.kill(run.supervisor(task), signal.SIGKILL))
    run.survive(lambda: cluster.kill_worker(cluster.worker_of(run.pid("chief-0"))))
    if is_full:
        run.survive(replace_machine)
    result = run.finish()
    causes = [(f"{f['role']}-{f['index']}", f["kind"]) for f in result["failures"]]
    # what lost its peer may tell of it before the cause is told
    causes = [(task, kind) for task, kind in causes if kind != "peer"]
    assert causes[:4] == [
        ("worker-1", "signal"), ("ps-1", "signal"), ("chief-0", "preempted"), ("chief-0", "signal")
    ]  # fmt: skip
    assert {kind for _, kind in causes[4:]} == {"spark"}
    assert result["attempts"] == (5 if is_full else 2)
    assert result["restarts"] == {"ps": 6, "chief": 3, "worker": 3}
    assert f"checkpoint {damaged[0]} is passed over" in logs(run.lake)
    check_counts(result, worker_deaths=1)
    assert nodes_left(zookeeper, "mortal") == []


def test_every_process_in_step_may_die(start, cluster, zookeeper, is_full):
    """All workers go back to the checkpoint together, without a new attempt where they can."""
    run = start(
        "in-step", "--strategy", "multi-worker", "--hang-secs", 16, "--master", cluster.url,
        "--zookeeper", f"{zookeeper}/in-step", "--conf", "spark.driver.host=127.0.0.1",
    )  # fmt: skip
    run.survive(lambda: os.kill(run.pid("worker-0"), signal.SIGKILL))
    run.survive(lambda: os.kill(run.pid("chief-0"), signal.SIGKILL))
    harms = [("worker-0", "signal"), ("chief-0", "signal")]
    if is_full:
        run.survive(lambda: os.kill(run.pid("worker-0"), signal.SIGTERM))
        run.survive(lambda: os.kill(run.pid("worker-0"), signal.SIGSTOP))
        harms += [("worker-0", "preempted"), ("worker-0", "hang")]
        run.survive(lambda: os.kill(run.supervisor("worker-0"), signal.SIGKILL))
        run.survive(lambda: os.kill(run.executor("chief-0"), signal.SIGKILL))
    result = run.finish()
    causes = [(f"{f['role']}-{f['index']}", f["kind"]) for f in result["failures"]]
    told = [cause for cause in causes if cause[1] != "peer"]
    assert told[: len(harms)] == harms
    assert {kind for _, kind in told[len(harms) :]} == ({"spark"} if is_full else set())
    assert result["attempts"] == (3 if is_full else 1)
    assert result["restarts"] == dict.fromkeys(["chief", "worker"], len(harms))
    check_counts(result, worker_deaths=0)
    assert nodes_left(zookeeper, "in-step") == []


@pytest.mark.parametrize(
    ("staleness", "table"),
    [(2, ("--own-table",)), pytest.param("inf", (), marks=pytest.mark.full)],
    ids=["rows", "dense"],
)
def test_every_process_may_die_beside_a_store(start, cluster, zookeeper, is_full, staleness, table):
    """A worker alone is replaced, and so is a chief, which goes on where the one before was;
    servers go back to the checkpoint, and all with them.
    """
    run = start(
        "stored", "--strategy", "kv", "--master", cluster.url, "--zookeeper",
        f"{zookeeper}/stored", "--num-ps", 2, "--num-workers", 2, "--staleness", staleness,
        "--conf", "spark.driver.host=127.0.0.1", args=table,
    )  # fmt: skip
    harms = [("worker-1", signal.SIGKILL), ("ps-1", signal.SIGKILL), ("chief-0", signal.SIGTERM)]
    if is_full:
        harms += [("chief-0", signal.SIGKILL), ("ps-0", signal.SIGTERM)]
    for task, number in harms:
        others = {name: run.pid(name) for name in ("ps-0", "ps-1", "worker-0", "worker-1")}
        run.survive(lambda task=task, number=number: os.kill(run.pid(task), number))
        if task == "chief-0":
            assert others == {name: run.pid(name) for name in others}
    if is_full:
        for task in ("worker-0", "ps-0", "chief-0"):
            run.survive(lambda task=task: os.kill(run.supervisor(task), signal.SIGKILL))
        run.survive(lambda: os.kill(run.executor("ps-1"), signal.SIGKILL))
        run.survive(lambda: cluster.kill_worker(cluster.worker_of(run.pid("chief-0"))))
    result = run.finish()
    causes = [(f"{f['role']}-{f['index']}", f["kind"]) for f in result["failures"]]
    told = [cause for cause in causes if cause[1] not in ("peer", "spark")]
    kinds = {signal.SIGKILL: "signal", signal.SIGTERM: "preempted"}
    assert told == [(task, kinds[number]) for task, number in harms]
    assert result["attempts"] == (6 if is_full else 1)
    check_counts(result, worker_deaths=1, chief_deaths=2 if is_full else 1)
    assert nodes_left(zookeeper, "stored") == []


@pytest.mark.full
def test_every_process_may_die_while_the_feed_is_made(start, cluster, zookeeper):
    options = [
        "--overlap", "on", "--num-workers", 1, "--master", cluster.url, "--zookeeper",
        f"{zookeeper}/early", "--conf", "spark.driver.host=127.0.0.1", "--conf",
        "spark.cores.max=4",
    ]  # fmt: skip
    run = start("early", *options, args=("--etl-secs", 7))
    run.wait_for_training()
    assert not run.lake.exists("feed/train/manifest.json")
    run.driver().kill()
    run.wait_for_end()
    poll(lambda: not role_pids("early"), 30, "the roles have ended")
    # rows never come twice in the same order: all is made anew, without the old checkpoints
    run = start("early", *options, "--resume", args=("--etl-secs", 7))
    run.survive(lambda: os.kill(run.pid("worker-0"), signal.SIGKILL))
    run.survive(lambda: os.kill(run.pid("chief-0"), signal.SIGTERM))
    assert not run.lake.exists("feed/train/manifest.json")
    run.survive(lambda: os.kill(run.executor("ps-0"), signal.SIGKILL))
    assert run.lake.exists("feed/train/manifest.json")
    result = run.finish()
    assert result["attempts"] == 2
    assert "a new attempt is to begin when the feed is complete" in run.stderr
    assert "passed over" not in logs(run.lake)
    check_counts(result, worker_deaths=1)
    shards = result["feeds"]["train"]["shards"]
    assert sum(name.endswith(".arrow") for name in run.lake.list("feed/train")) == shards
    assert nodes_left(zookeeper, "early") == []


def test_sigterm_of_the_driver_waits_for_a_checkpoint_and_the_submission_repeated_goes_on(start):
    options = ("--submission", "parted", "--checkpoint-secs", 1000)
    run = start("parted", *options, args=("--unit-secs", 0.4))  # 40 units an epoch
    # counted from the first epoch on, which is number 1
    poll(lambda: run.trained[2] >= 4_000 + 3 * UNIT_ROWS, 120, "some units are done")
    run.close()
    assert " got SIGTERM: a checkpoint was saved first" in run.stderr
    step, *_ = checkpoint_order(run.lake.newest_checkpoint())
    assert step >= 3 * UNIT_STEPS
    again = start("parted", *options)
    result = again.finish()
    check_counts(result, worker_deaths=0)
    assert "got SIGTERM" not in again.stderr
    assert "feeds are in the lake already" in again.stderr
    # what has ended has ended
    third = start("parted", *options)
    assert third.finish()["metrics"] == result["metrics"]


def nodes_left(zookeeper: str, chroot: str) -> list[str]:
    """The runs of which nodes are left under a chroot in ZooKeeper."""
    client = KazooClient(f"{zookeeper}/{chroot}")
    client.start()
    try:
        return list(client.get_children("/tfos"))
    finally:
        client.stop()
        client.close()


def logs(lake: RunDirectory) -> str:
    return "".join(path.read_text() for path in Path(lake.path("logs")).rglob("*.log"))


def test_zookeeper_goes_and_comes_back(start, tmp_path):
    """Away for longer than the session timeout: all sessions expire, the training goes on."""
    from tfos.runtime.zookeeper import EmbeddedZooKeeper

    server = EmbeddedZooKeeper("127.0.0.1")
    server.wait()
    try:
        run = start("patient", "--zookeeper", server.hosts, "--num-workers", 1)
        run.wait_for_training()
        java = psutil.Process(server.pid)
        before = {name: role_pids("patient")[name] for name in ("chief-0", "ps-0", "worker-0")}
        checkpoint = run.lake.newest_checkpoint()
        java.suspend()
        stopped = time.monotonic()
        poll(lambda: time.monotonic() > stopped + 20, 30, "20 s")
        assert run.lake.newest_checkpoint() > checkpoint, "the training stopped with ZooKeeper"
        java.resume()
        run.wait_for_training()
        poll(lambda: {r.state for r in run.status.roles} <= {"up", "training"}, 30, "all are back")
        # a restart is ordered through the new sessions
        run.survive(lambda: os.kill(run.pid("worker-0"), signal.SIGKILL))
        result = run.finish()
        assert role_pids("patient") == {}
    finally:
        server.stop()
    assert result["attempts"] == 1, run.stderr
    assert result["restarts"] == {"ps": 0, "chief": 0, "worker": 1}
    assert before["chief-0"] == result["roles"]["chief-0"]["pid"]
    check_counts(result, worker_deaths=1)


def test_hung_processes_and_a_killed_embedded_zookeeper(start):
    """A deadlock in user code, then a stopped worker: both count as dead, and leave stacks."""
    run = start("hung", "--hang-secs", 16, "--num-workers", 2, args=("--misbehave", "deadlock"))
    run.wait_for_training(1)
    server = next(
        process
        for process in run.driver().children(recursive=True)
        if "org.apache.zookeeper.server.ZooKeeperServerMain" in process.cmdline()
    )
    server.kill()
    run.survive(lambda: os.kill(run.pid("worker-0"), signal.SIGSTOP))
    result = run.finish()
    deadlock, stopped = result["failures"]
    assert (deadlock["role"], deadlock["kind"]) == ("chief", "hang")
    assert "made no progress for 16 s (--hang-secs" in deadlock["message"]
    assert "between_units" in deadlock["traceback"]
    assert (stopped["role"], stopped["kind"]) == ("worker", "hang")
    assert "no sign of life" in stopped["message"]
    for log in ("ps-0", "worker-0", "worker-1"):
        text = Path(run.lake.path("logs", "1", f"{log}.log")).read_text()
        assert "most recent call first" in text, log
    assert result["restarts"] == {"ps": 1, "chief": 1, "worker": 3}
    check_counts(result, worker_deaths=1)


def test_full_lake(tmp_path, start):
    """No space left: retried, and then the root cause."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("only root can mount the small filesystem that this test fills")
    try:
        run = Run(disk, "full")
        run.wait_for_training()
        filler = disk / "filler"
        with pytest.raises(OSError), open(filler, "wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        result, last_words = run.fail()
        assert "No space left on device" in last_words
        assert result["error"]["role"] == "chief"
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
