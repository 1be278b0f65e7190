"""The parts of the driver that need no cluster: which submission this is, and numbers in JSON."""

from __future__ import annotations

import contextlib
import json
import os
import re
from types import SimpleNamespace

import pytest
from helpers import Nodes

from tfos.compat.spark import answers
from tfos.driver.claim import Claim, HasEnded, application, run_id_of, submission
from tfos.driver.run import attempt_number
from tfos.driver.summary import Summary
from tfos.errors import LakeError
from tfos.fault.failures import Failure, FailureKind
from tfos.lake.run_directory import RunDirectory, checkpoint_name, checkpoint_path
from tfos.lake.storage import COMMIT
from tfos.runtime import keys
from tfos.spec.job import SUBMISSION_CONF, JobSpec
from tfos.spec.result import JVM_GONE, Result, finite, sum_stats

YARN = "application_1700000000000_0042"


def spark(application, **conf):
    settings = SimpleNamespace(getAll=lambda: list(conf.items()))
    context = SimpleNamespace(applicationId=application, getConf=lambda: settings)
    return SimpleNamespace(sparkContext=context)


class TestSubmission:
    def test_pl_submit_names_it(self):
        """The second application of one submission, as --supervise starts it."""
        for name in (YARN, "app-20260101-0001", "app-20260101-0002"):
            assert submission(spark(name, **{SUBMISSION_CONF: "0a1b"})) == "0a1b"

    def test_else_it_is_the_yarn_application_in_cluster_mode(self):
        yarn = {"spark.master": "yarn", "spark.submit.deployMode": "cluster"}
        assert submission(spark(YARN, **yarn)) == YARN
        assert application(spark(YARN, **yarn, **{SUBMISSION_CONF: "0a1b"})) == YARN

    @pytest.mark.parametrize(
        "conf",
        [{}, {"spark.master": "yarn"}, {"spark.master": "local[2]"}],
        ids=["nothing known", "YARN, client mode", "local"],
    )
    def test_else_there_is_none(self, conf):
        """In a notebook several runs share an application, and no driver is started again."""
        assert submission(spark(YARN, **conf)) == application(spark(YARN, **conf)) == ""


class TestRunId:
    def test_of_each_driver_of_a_yarn_application_is_the_same(self):
        assert run_id_of(YARN, "MyApp", 0) == run_id_of(YARN, "MyApp", 0) == f"myapp-{YARN}"

    def test_of_the_second_run_of_an_application_is_another(self):
        assert run_id_of(YARN, "MyApp", 1) == f"myapp-{YARN}-2"

    @pytest.mark.parametrize("name", ["MyApp", "x" * 500, "../.."])
    def test_is_a_valid_one(self, name):
        for of in (YARN, "0a1b"):
            run_id = run_id_of(of, name, 0)
            assert JobSpec.of(run_id=run_id).run_id == run_id

    @pytest.mark.parametrize("of", ["0a1b", ""])
    def test_elsewhere_is_new_each_time(self, of):
        ids = {run_id_of(of, "MyApp", 0) for _ in range(5)}
        assert len(ids) > 1
        assert all(re.fullmatch(r"myapp-\d{8}-\d{6}-[0-9a-f]{4}", run_id) for run_id in ids)


class TestAttemptNumber:
    @pytest.fixture
    def lake(self, tmp_path):
        return RunDirectory(str(tmp_path), "r")

    def test_begins_with_one(self, lake):
        assert attempt_number(lake, 0) == 1

    def test_is_above_all_that_there_were(self, lake):
        lake.write("logs/2/chief-0.log", b"")
        assert attempt_number(lake, 0) == 3
        assert attempt_number(lake, 4) == 5
        lake.write_generation(10, 1)
        assert attempt_number(lake, 4) == 11

    def test_does_not_need_logs(self, lake):
        """Of an attempt that ended at once no log may have got to a remote lake."""
        assert attempt_number(lake, 1) == 2


class TestCheckpointStats:
    def test_of_all_lives_of_the_chief_are_added_up(self):
        one = {"saved": 2, "step": 8, "stall_secs": 0.5, "save_secs": 1.25}
        two = {"saved": 0, "step": 8, "stall_secs": 0.0, "save_secs": 0.0}
        three = {"saved": 1, "step": 12, "stall_secs": 0.25, "save_secs": 0.5}
        assert sum_stats([one, two, three]) == {
            "saved": 3, "step": 12, "stall_secs": 0.75, "save_secs": 1.75,
        }  # fmt: skip

    def test_of_a_run_that_never_trained_are_none(self):
        assert sum_stats([]) == {}


class TestClaim:
    @pytest.mark.parametrize("taken", ["", "/driver"])
    def test_what_another_driver_has_taken_over_is_left_alone(self, tmp_path, monkeypatch, taken):
        nodes = Nodes()
        monkeypatch.setattr(
            "tfos.driver.claim.Registry", lambda address: contextlib.nullcontext(nodes)
        )
        lake = RunDirectory(str(tmp_path), "r")
        claim = Claim(JobSpec.of(), "r", "", lake)
        claim.lake = lake
        with claim.registry(None) as registry:
            assert registry.get(keys.driver("r"))["pid"] == os.getpid()
            registry.taken = taken
        is_left = nodes.get(keys.driver("r")) is not None
        assert (claim.lake is None) == is_left == bool(taken)


class TestDefiniteEnd:
    """A driver that Spark starts again, though the one before has brought the run to its end."""

    def lake(self, tmp_path, submission):
        lake = RunDirectory(str(tmp_path), "r")
        lake.write_spec({**JobSpec.of().as_json(), "submission": submission})
        lake.write_result(Result("r", "failed", {"message": "ValueError"}).as_json())
        return lake

    @pytest.mark.parametrize("resume", [False, True])
    def test_is_the_end_of_the_submission(self, tmp_path, resume):
        lake = self.lake(tmp_path, "mine")
        spec = JobSpec.of(resume=resume, run_id="r")
        with pytest.raises(HasEnded) as caught:
            Claim(spec, "r", "mine", lake).open_lake(set())
        assert caught.value.result.error == {"message": "ValueError"}
        assert lake.result()["status"] == "failed"

    def test_is_none_for_another_submission(self, tmp_path):
        lake = self.lake(tmp_path, "another's")
        with pytest.raises(LakeError, match="exists already"):
            Claim(JobSpec.of(), "r", "mine", lake).open_lake(set())
        Claim(JobSpec.of(resume=True, run_id="r"), "r", "mine", lake).open_lake(set())

    @pytest.mark.parametrize("left", [None, "interrupted", JVM_GONE])
    def test_is_none_of_a_driver_that_died(self, tmp_path, left):
        lake = self.lake(tmp_path, "mine")
        lake.remove_result()
        if left:  # YARN takes a container away: SIGTERM, and soon SIGKILL
            lake.write_result(Result("r", "failed", {"message": left}).as_json())
        Claim(JobSpec.of(), "r", "mine", lake).open_lake(set())


class TestLostJvm:
    """The driver outlives its JVM for a moment, in which all that it asks of Spark fails."""

    JOB = Failure("ps", 0, "h", FailureKind.SPARK, "the Spark job of the ps roles ended: refused")

    @pytest.mark.parametrize("known", [None, JOB])
    def test_is_the_cause_and_no_definite_end(self, known):
        summary = Summary()
        summary.failure = known
        summary.lost_jvm()
        summary.failed(ConnectionRefusedError(111, "Connection refused"))
        result = summary.result(None)
        assert result.error["message"] == JVM_GONE
        assert not result.is_definite

    def test_is_not_the_cause_of_what_a_role_said_before(self):
        summary = Summary()
        summary.failure = Failure("chief", 0, "h", FailureKind.EXCEPTION, "ValueError: no")
        summary.lost_jvm()
        result = summary.result(None)
        assert result.error["message"] == "ValueError: no"
        assert result.is_definite

    def test_is_seen_by_asking_it(self):
        class Gone:
            def __getattr__(self, name):
                raise ConnectionRefusedError(111, "Connection refused")

        assert not answers(Gone())
        assert answers(None)


class TestLedgerOfAFailedRun:
    def test_is_that_of_its_newest_checkpoint(self, tmp_path):
        lake, summary = RunDirectory(str(tmp_path), "r"), Summary()
        summary.attempts = 1
        for step, rows in ((1, 10), (2, 25)):
            path = checkpoint_path(checkpoint_name(step, "1.1"))
            state = {"step": step, "sections": {}, "shared": {"train": {"rows": rows}}}
            lake.write_json(f"{path}/state.json", state)
            lake.write(f"{path}/{COMMIT}", b"{}")
        assert summary._trained(lake) == {"train": {"rows": 25}}

    def test_is_empty_without_one(self, tmp_path):
        assert Summary()._trained(None) == {}
        summary = Summary()
        summary.attempts = 1
        assert summary._trained(RunDirectory(str(tmp_path), "r")) == {}


class TestFinite:
    def test_what_json_has_no_word_for_is_null(self):
        value = {"a": [1.5, float("nan")], "b": {"c": float("inf")}, "d": -float("inf"), "e": "x"}
        found = finite(value)
        assert found == {"a": [1.5, None], "b": {"c": None}, "d": None, "e": "x"}
        json.dumps(found, allow_nan=False)
