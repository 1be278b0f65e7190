"""tfos.Run and tfos.runs, on a lake alone; test_operate.py has what they share with pl_submit."""

from __future__ import annotations

import threading

import pytest

import tfos
from tfos.client import control, logs
from tfos.lake.run_directory import RunDirectory
from tfos.spec.job import JobSpec

RESULT = tfos.Result.from_json(tfos.Result("r", "succeeded", metrics={"loss": 0.25}).as_json())
ERROR = {"role": "chief", "index": 0, "host": "h", "message": "was killed", "traceback": ""}
DEADLINE_SECS = 20.0


@pytest.fixture
def url(tmp_path):
    return str(tmp_path / "lake")


@pytest.fixture
def lake(url):
    """The lake of a run that has begun, and names no ZooKeeper."""
    lake = RunDirectory(url, "r")
    lake.write_spec(JobSpec.of(run_id="r").as_json())
    return lake


@pytest.fixture
def no_patience(monkeypatch):
    for name in ("_ENDING_SECS", "_LEFT_SECS", "_ASK_SECS", "_POLL_SECS"):
        monkeypatch.setattr(control, name, 0.01)


class TestRuns:
    def test_are_those_that_have_begun_by_name(self, url):
        assert tfos.runs(url) == []
        for name in ("b-2", "a-3", "b-1"):
            RunDirectory(url, name).write_spec({})
        RunDirectory(url, "failed-early").write_result({})
        RunDirectory(url, "checked").write(".tfos-marker", b"")
        assert [run.run_id for run in tfos.runs(url)] == ["a-3", "b-1", "b-2", "failed-early"]
        assert tfos.runs(url)[0] == tfos.Run(url, "a-3")

    def test_in_an_object_store(self):
        RunDirectory("memory://handles", "one").write_spec({})
        assert tfos.runs("memory://handles") == [tfos.Run("memory://handles", "one")]


class TestRun:
    def test_reads_nothing_before_it_is_asked(self, url, lake):
        run = tfos.Run(url, "other")
        for ask in (run.status, run.logs, run.cancel, run.result, run.wait):
            with pytest.raises(tfos.LakeError, match=r"no run other in .*, which holds r;"):
                ask()

    @pytest.mark.parametrize(
        ("place", "told"), [(("", "r"), "lake"), (("x", ""), "run_id"), (("x", "a/b"), "'a/b'")]
    )
    def test_refuses_what_no_run_can_be(self, place, told):
        with pytest.raises(tfos.UsageError, match=told):
            tfos.Run(*place)

    def test_that_has_ended(self, url, lake, capsys):
        lake.write_result(RESULT.as_json())
        run = tfos.Run(url, "r")
        assert run.result() == run.wait() == RESULT
        assert run.result()["metrics"] == {"loss": 0.25}
        status = run.status()
        assert isinstance(status, tfos.Status)
        assert (status.state, status.metrics) == ("succeeded", {"loss": 0.25})
        with pytest.raises(tfos.RegistryError, match="not running: it succeeded"):
            run.cancel()
        assert capsys.readouterr() == ("", "")

    def test_that_failed(self, url, lake):
        failure = {**ERROR, "time": 1.0, "kind": "signal"}
        result = tfos.Result("r", "failed", ERROR, failures=[failure])
        lake.write_result(result.as_json())
        run = tfos.Run(url, "r")
        assert run.wait().status == "failed"
        assert run.status().message == "chief 0 on h: was killed"
        assert isinstance(run.status().failures[0], tfos.Failure)

    def test_whose_driver_is_gone(self, url, lake, no_patience):
        run = tfos.Run(url, "r")
        assert run.result() is None
        assert run.status().state == "dead"
        for ask in (run.wait, run.cancel):
            with pytest.raises(tfos.RegistryError, match="pl_submit --resume --run-id r"):
                ask()

    def test_wait_has_an_end(self, url, lake):
        with pytest.raises(TimeoutError, match=r"run r in .* within 0\.1 s"):
            tfos.Run(url, "r").wait(timeout_secs=0.1)

    def test_wait_goes_on_while_there_is_a_driver(self, url, lake, no_patience, monkeypatch):
        asked = threading.Event()

        def has_driver(*place):
            if asked.is_set():  # the second time
                lake.write_result(RESULT.as_json())
            asked.set()
            return True

        monkeypatch.setattr(control, "_LEFT_SECS", DEADLINE_SECS)
        monkeypatch.setattr(control, "has_driver", has_driver)
        assert tfos.Run(url, "r").wait() == RESULT


class TestLogs:
    @pytest.fixture(autouse=True)
    def written(self, lake):
        lake.write("logs/1/chief-0.log", b"old\n")
        lake.write("logs/2/chief-0.log", b"one\r\n\n\xff unfinished")
        lake.write("logs/2/worker-1.log", b"w\n")

    def test_are_lines(self, url, capsys):
        run = tfos.Run(url, "r")
        unfinished = "\ufffd unfinished"
        assert list(run.logs("chief:0")) == ["one\r", "", unfinished]
        named = ["chief-0 | one\r", "chief-0 | ", f"chief-0 | {unfinished}", "worker-1 | w"]
        assert list(run.logs()) == named
        assert list(run.logs(attempt=1)) == ["chief-0 | old"]
        assert capsys.readouterr() == ("", "")

    def test_lines_larger_than_a_part(self, url, lake, monkeypatch):
        monkeypatch.setattr(logs, "_CHUNK_BYTES", 5)
        lake.write("logs/3/chief-0.log", b"a line\nand another\n")
        assert list(tfos.Run(url, "r").logs("chief:0")) == ["a line", "and another"]

    def test_what_is_not_there_is_said_at_once(self, url):
        run = tfos.Run(url, "r")
        for follow in (False, True):
            with pytest.raises(tfos.LakeError, match="worker:5"):
                run.logs("worker:5", follow=follow)
            with pytest.raises(tfos.LakeError, match="attempt 7"):
                run.logs(attempt=7, follow=follow)
            with pytest.raises(tfos.UsageError, match="'worker:x'"):
                run.logs("worker:x", follow=follow)

    def test_follow(self, url, lake):
        lines = tfos.Run(url, "r").logs("worker:1", follow=True)
        assert next(lines) == "w"
        lake.write("logs/2/worker-1.log", b"w\nmore\n")
        assert next(lines) == "more"
        lake.write("logs/3/worker-1.log", b"again\n")
        assert next(lines) == "again"
        lake.write_result(RESULT.as_json())
        assert list(lines) == []
