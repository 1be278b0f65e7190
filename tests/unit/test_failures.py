"""Failure records, and which of several is the root cause."""

from __future__ import annotations

import itertools
import json
import signal

import pytest

from tfos.fault.failures import (
    Failure,
    FailureKind,
    crash_advice,
    describe,
    error_message,
    kind_of_exit,
    may_be_consequence,
    root_cause,
    said_by,
)


def failure(kind, time=0.0, role="worker", index=0, **more):
    return Failure(role, index, "host-a", kind, f"{kind} happened", time=time, **more)


class TestRootCause:
    @pytest.mark.parametrize(
        "direct", ["exception", "signal", "crash", "exit", "hang", "preempted"]
    )
    @pytest.mark.parametrize("indirect", ["start", "spark", "peer"])
    def test_direct_kinds_win_whatever_the_time(self, direct, indirect):
        late, early = failure(direct, time=100.0), failure(indirect, time=1.0)
        assert root_cause([late, early]) is late
        assert root_cause([early, late]) is late

    def test_order_of_the_indirect_kinds(self):
        start, spark, peer = failure("start", 3.0), failure("spark", 2.0), failure("peer", 1.0)
        for order in itertools.permutations([start, spark, peer]):
            assert root_cause(order) is start
        assert root_cause([peer, spark]) is spark

    def test_earliest_among_equally_direct(self):
        failures = [failure("exit", 5.0), failure("exception", 4.0), failure("signal", 4.5)]
        for order in itertools.permutations(failures):
            assert root_cause(order).kind == "exception"

    @pytest.mark.parametrize("kind", ["exception", "crash"])
    def test_what_may_be_an_echo_comes_after_any_end(self, kind):
        echo = failure(kind, 1.0, may_echo=True)
        for direct in ("signal", "exit", "hang", "preempted", "start", "spark"):
            end = failure(direct, 9.0)
            assert root_cause([echo, end]) is end
        assert root_cause([failure("peer", 0.5), echo]) is echo
        assert may_be_consequence(echo)

    def test_takes_any_iterable(self):
        assert root_cause(failure("peer", t) for t in (3.0, 1.0, 2.0)).time == 1.0

    def test_none_is_an_error(self):
        with pytest.raises(ValueError):
            root_cause([])


class TestMayBeConsequence:
    @pytest.mark.parametrize(
        ("kind", "expected"),
        [
            ("exception", False),
            ("signal", False),
            ("crash", False),
            ("exit", False),
            ("hang", False),
            ("preempted", False),
            ("start", True),
            ("spark", True),
            ("peer", True),
        ],
    )
    def test_by_kind(self, kind, expected):
        assert may_be_consequence(failure(kind)) is expected


class TestEnd:
    """Of a process that ended without a word."""

    INSIDE = ("SIGABRT", "SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE")

    @pytest.mark.parametrize("name", INSIDE)
    def test_signals_from_inside_are_crashes_and_explained(self, name):
        status = -signal.Signals[name]
        assert kind_of_exit(status) is FailureKind.CRASH
        assert FailureKind.CRASH.is_deterministic
        assert crash_advice(status, None)

    @pytest.mark.parametrize("name", INSIDE)
    def test_with_a_limit_that_is_the_likely_cause(self, name):
        advice = crash_advice(-signal.Signals[name], 2 << 30)
        for word in ("2.00 GiB", "RLIMIT_AS", "spark.executor.pyspark.memory", "memoryOverhead"):
            assert word in advice

    @pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGHUP", "SIGINT"])
    def test_signals_from_outside_are_not(self, name):
        assert kind_of_exit(-signal.Signals[name]) is FailureKind.SIGNAL
        assert crash_advice(-signal.Signals[name], 2 << 30) == ""

    def test_an_exit_status_is_neither(self):
        assert kind_of_exit(3) is FailureKind.EXIT
        assert crash_advice(3, 2 << 30) == ""


class TestFailure:
    def test_unknown_kind_is_refused_by_name(self):
        with pytest.raises(ValueError, match="'meteor'"):
            failure("meteor")

    def test_task_is_role_and_index(self):
        assert failure("exit", role="ps", index=3).task == "ps-3"

    def test_json_round_trip(self):
        before = Failure(
            "chief", 0, "h", "exception", "ValueError: 1", "Traceback\n  é", 12.25, 2, 3
        )
        assert (before.attempt, before.life) == (2, 3)
        assert Failure.from_json(json.loads(json.dumps(before.as_json()))) == before

    def test_error_of_a_result_has_five_keys(self):
        error = failure("signal", role="ps", index=2, traceback="...", attempt=1).as_error()
        assert error == {
            "role": "ps", "index": 2, "host": "host-a", "message": "signal happened",
            "traceback": "...",
        }  # fmt: skip


class TestDescribe:
    def test_says_role_index_host_and_message(self):
        text = describe(failure("signal", role="ps", index=2))
        assert text == "ps 2 on host-a: signal happened"

    def test_traceback_follows_indented(self):
        text = describe(failure("exception", traceback="Traceback:\n  File x\nValueError: 1\n"))
        assert text.splitlines()[1:] == ["  Traceback:", "    File x", "  ValueError: 1"]

    def test_only_the_tail_of_a_long_traceback(self):
        trace = "\n".join(f"line {i}" for i in range(100))
        lines = describe(failure("exception", traceback=trace), traceback_lines=3).splitlines()
        assert lines[1:] == ["  line 97", "  line 98", "  line 99"]


def test_what_spark_says_of_a_lost_task():
    reason = "ExecutorLostFailure (executor 4 exited) Reason: Command exited with code 137"
    assert said_by(reason).startswith("an executor was lost: Command exited with code 137 (")
    assert "memory" not in said_by(reason)
    assert said_by("Traceback (most recent call last):\n  x\nValueError: y\n") == "ValueError: y"


@pytest.mark.parametrize(
    "reason",
    [
        "The executor exited with exit code 137(SIGKILL, possible container OOM).",
        "The executor exited with exit code 1.\n\nThe API gave the following reason: OOMKilled\n",
    ],
)
def test_what_kubernetes_says_of_a_container_that_was_killed_for_its_memory(reason):
    said = said_by(f"ExecutorLostFailure (executor 3 exited) Reason: {reason}")
    assert said.startswith("an executor was lost: The executor ")
    assert "spark.executor.memoryOverhead=SIZE" in said


class TestErrorMessage:
    """The line of an exception's text that says what happened."""

    def test_of_an_ordinary_exception(self):
        assert error_message(KeyError("sales")) == "KeyError: 'sales'"
        assert error_message(ValueError("first\nsecond")) == "ValueError: first"

    def test_why_an_executor_was_lost_comes_first(self):
        text = (
            "An error occurred while calling o1.collect.\n"
            ": org.apache.spark.SparkException: Job aborted: barrier task ResultTask(2, 0) finished"
            " unsuccessfully.\nExecutorLostFailure (executor 1 exited caused by one of the running"
            " tasks) Reason: Container killed by YARN for exceeding physical memory limits. 3.3 GB"
            " of 1.9 GB physical memory used. Consider boosting spark.executor.memoryOverhead.\n"
            "\tat org.apache.spark.scheduler.DAGScheduler.x(DAGScheduler.scala:1)"
        )
        message = error_message(type("Py4JJavaError", (Exception,), {})(text))
        assert message.startswith("an executor was lost: Container killed by YARN for exceeding")
        assert "ResultTask(2, 0)" in message
        assert "\n" not in message

    def test_of_a_python_worker_inside_a_spark_exception(self):
        text = """An error occurred while calling z:org.apache.spark.api.python.PythonRDD.collect.
: org.apache.spark.SparkException: Job aborted due to stage failure: Lost task 0.3
Traceback (most recent call last):
  File "app.py", line 3, in udf
tfos.errors.LakeError: cannot write /lake/run

	at org.apache.spark.api.python.BasePythonRunner.read(PythonRunner.scala:1)
Caused by: java.lang.RuntimeError: x"""
        message = error_message(type("Py4JJavaError", (Exception,), {})(text))
        assert message == "tfos.errors.LakeError: cannot write /lake/run"

    def test_of_a_lost_executor(self):
        text = """An error occurred while calling z:org.apache.spark.api.python.PythonRDD.collect.
: org.apache.spark.SparkException: Job aborted: ExecutorLostFailure (executor 1 exited)
	at org.apache.spark.scheduler.DAGScheduler.abort(DAGScheduler.scala:1)"""
        message = error_message(type("Py4JJavaError", (Exception,), {})(text))
        assert "ExecutorLostFailure (executor 1 exited)" in message
