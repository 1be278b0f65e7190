"""The main job, harmed at random, comes to the result that it comes to undisturbed.

    bin/test --chaos [--chaos-seed N] [--chaos-kills N]

A failure prints what was done and when, the failures as the run knew them, and pl_submit's last
words; the same seed makes the same schedule, though not to the millisecond.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import APPS, ROOT, SparkCluster
from harms import Chaos, schedule
from kazoo.client import KazooClient
from runs import Run

from tfos.cli.render import print_status

EXAMPLE = ROOT / "examples" / "fm_movielens"
SLOW_APP = APPS / "slow_fm.py"
EPOCHS, BATCH, UNIT_STEPS = 15, 1024, 5
UNITS = EPOCHS * 18
# how long training goes on between two harms, at least
HARM_SECS = 10.0
HANG_SECS = 30
# the JVMs live for minutes: what their second compiler would gain is less than what it takes
JAVA_OPTIONS = "-XX:TieredStopAtLevel=1"
# what the undisturbed run comes to; see tests/e2e/test_movielens.py
RMSE = 0.813


@pytest.fixture
def harm_a_run(
    tmp_path: Path,
    seed: int,
    movielens: Path,
    cluster: SparkCluster,
    zookeeper: str,
    record_property: Callable[[str, object], None],
    pytestconfig: pytest.Config,
) -> Callable[..., None]:
    def harm(kills: int, *without: str) -> None:
        harms = schedule(seed, kills, without)
        print(f"--chaos-seed {seed}, {kills} harms: {'; '.join(map(str, harms))}")
        begun = time.monotonic()
        app = tmp_path / "app"
        shutil.copytree(EXAMPLE, app)
        shutil.copy(SLOW_APP, app)
        run = Run(
            tmp_path, "chaos", "--master", cluster.url, "--zookeeper", f"{zookeeper}/chaos",
            "--strategy", pytestconfig.getoption("--chaos-strategy"),
            "--num-ps", 2, "--num-workers", 2, "--hang-secs", HANG_SECS,
            "--conf", "spark.driver.host=127.0.0.1", "--conf", "spark.sql.shuffle.partitions=4",
            "--conf", f"spark.driver.extraJavaOptions={JAVA_OPTIONS}",
            "--conf", f"spark.executor.extraJavaOptions={JAVA_OPTIONS}",
            app=app / SLOW_APP.name,
            args=(
                "--data", movielens, "--epochs", EPOCHS, "--batch-size", BATCH,
                "--unit-steps", UNIT_STEPS, "--unit-secs", HARM_SECS * kills / UNITS,
            ),
        )  # fmt: skip
        chaos = Chaos(run, cluster)
        try:
            chaos.wreak(harms)
            result = run.finish(240)
            chaos.tell("the run has ended")
        except BaseException:
            print(run.stderr[-20_000:])
            raise
        finally:
            print_status(run.status)
            run.close()
        secs = time.monotonic() - begun
        record_property("tell", f"{'; '.join(map(str, harms))}")
        record_property("tell", f"{secs:.0f} s, {_in_words(result)}")
        _check(result, chaos, patient=sum(not harm.early for harm in harms))
        _check_nothing_is_left(zookeeper)

    return harm


def _in_words(result: dict[str, Any]) -> str:
    return (
        f"test RMSE {result['metrics']['test_rmse']:.4f}, {len(result['failures'])} failures,"
        f" {result['attempts']} attempts, restarts {result['restarts']},"
        f" rows repeated {sum(result['feeds']['train']['rows_repeated'])}"
    )


def _check(result: dict[str, Any], chaos: Chaos, patient: int) -> None:
    """The run noticed what was done to it, and came to its end as if nothing had been."""
    assert result["status"] == "succeeded"
    assert result["error"] is None
    assert len(result["failures"]) >= patient
    assert abs(result["metrics"]["test_rmse"] - RMSE) <= 0.02
    feed = result["feeds"]["train"]
    assert feed["rows_trained"] == [feed["rows"]] * EPOCHS
    assert feed["rows_missed"] == [0] * EPOCHS
    # a worker that dies has at most one unit under way, which another one trains on again
    deaths = sum(task.startswith("worker") for task in chaos.killed)
    assert sum(feed["rows_repeated"]) <= deaths * UNIT_STEPS * BATCH


def _check_nothing_is_left(zookeeper: str) -> None:
    client = KazooClient(hosts=zookeeper)
    client.start()
    try:
        assert client.get_children("/chaos/tfos") == []
    finally:
        client.stop()
        client.close()


def test_the_schedule_depends_on_the_seed_alone():
    assert schedule(7, 30) == schedule(7, 30) != schedule(8, 30)
    assert schedule(7, 4, ["SIGKILL"]) == schedule(7, 9, ["SIGKILL"])[:4]


@pytest.mark.full
@pytest.mark.cluster
@pytest.mark.timeout(400)
def test_a_few_kills(harm_a_run):
    # without those that take long to recover from
    harm_a_run(4, "SIGSTOP", "supervisor", "executor", "Spark worker")


@pytest.mark.chaos
@pytest.mark.cluster
@pytest.mark.timeout(3600)
def test_many_kills(harm_a_run, pytestconfig):
    harm_a_run(pytestconfig.getoption("--chaos-kills"))
