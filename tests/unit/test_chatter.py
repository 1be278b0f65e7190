"""What of a stream is shown, and what goes to the log."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfos.cli.chatter import Filter

DAEMON = (
    b"Traceback (most recent call last):\n"
    b'  File "/v/site-packages/pyspark/python/lib/pyspark.zip/pyspark/daemon.py", line 264, in m\n'
    b"    code = worker(sock, authenticated)\n"
    b"           ^^^^^^^^^^^^^^^^^^^^^^^^^^^\n"
    b'  File "/v/site-packages/pyspark/python/lib/pyspark.zip/pyspark/daemon.py", line 95, in w\n'
    b"BrokenPipeError: [Errno 32] Broken pipe\n"
)
# what may stand between two daemons that write at the same time
TWO_DAEMONS = b"".join(line * 2 for line in DAEMON.splitlines(keepends=True))
CHAINED = (
    b"PySpark daemon failed to flush the output to the worker process:\n" + DAEMON + b"\n"
    b"During handling of the above exception, another exception occurred:\n\n" + DAEMON
)
USERS_TRACEBACK = (
    b'Traceback (most recent call last):\n  File "/home/me/etl.py", line 3, in <module>\n'
    b"    socket.send(b'')\nBrokenPipeError: [Errno 32] Broken pipe\n"
)
DAEMONS_ERROR = DAEMON.replace(
    b"BrokenPipeError: [Errno 32] Broken pipe", b"ImportError: no pandas"
)
WARN = b"26/11/29 03:07:16 WARN NativeCodeLoader: Unable to load native-hadoop library\n"
STACK = (
    b"java.io.IOException: Connection reset\n\tat java.base/sun.nio.ch.Net.read(Net.java:5)\n"
    b"\t... 12 more\nCaused by: java.lang.Error\n"
)
ERROR = b"26/11/29 03:07:16 ERROR Executor: Exception in task 0.0 in stage 0.0 (TID 0)\n"
NATIVE = (
    b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n"
    b"I0000 00:00:1795921781.910852   20821 cudart_stub.cc:31] Could not find cuda drivers.\n"
    b"E0000 00:00:1795921790.514990   20821 cuda_platform.cc:52] failed call to cuInit: 303\n"
    b"2024-02-01 10:00:00.123456: E external/local_xla/xla/stream_executor/cuda/cuda_dnn.cc:9261]"
    b" Unable to register cuDNN factory\n"
    b"2024-02-01 10:00:00.123456: I tensorflow/core/platform/cpu_feature_guard.cc:182] This is\n"
    b"To enable the following instructions: AVX2 FMA, rebuild TensorFlow\n"
    b"W1129 03:07:16.123456  20821 cpu_allocator_impl.cc:84] Allocation exceeds 10%\n"
)
JVM = (
    b"WARNING: Using incubator modules: jdk.incubator.vector\n"
    b"Using Spark's default log4j profile: org/apache/spark/log4j2-defaults.properties\n"
    b'Setting Spark log level to "ERROR".\n'
)
HIDDEN_IN_JVM = [JVM, WARN, WARN + STACK, NATIVE, DAEMON, TWO_DAEMONS, CHAINED]
SHOWN = [
    b"hello\n", b"\n", b"no newline", b"\r 10%\r 20%", b"\x1b[?25l\r\x1b[2K\x1b[32mtrain\x1b[0m",
    b"\x00\xff\xfe\n\x80", b"26/11/29 and so on\n", b"26/11/29 03:07:16 me: hi\n", b"2026-11-29",
    b"2026-11-29 03:07:16.123 INFO me: hi\n", b"I am here\n", b"WARNING: mine\n",
    b"WARNING:tensorflow:5 out of the last 5 calls\n", b"E0000 00:00:1.5 1 conv.cc:3] no memory\n",
    b"F0000 00:00:1.5 1 check.cc:3] Check failed\n", b"I1129 03:07:16.123456 9 mine.py:2] absl\n",
    b"To enable the following instructions: read on\n", b"\tat the door\n", b"ValueError: 1\n",
    STACK, ERROR, ERROR + STACK, USERS_TRACEBACK, DAEMONS_ERROR,
    b"Traceback (most recent call last):\n", b"tfos   12.0s  worker-0 is up on h\n",
    b"x" * 2000 + b"\n",
]  # fmt: skip


def told_apart(data, is_jvm, cuts=()):
    """What is shown and what is hidden of `data`, cut there."""
    one = Filter(is_jvm)
    pieces = []
    at = 0
    for cut in [*sorted(cuts), len(data)]:
        pieces += one.feed(data[at:cut])
        at = cut
    pieces += one.flush()
    assert b"".join(piece.data for piece in pieces) == data
    assert all(piece.data for piece in pieces)
    return tuple(b"".join(p.data for p in pieces if p.is_shown is kind) for kind in (True, False))


class TestWhatIsShown:
    @pytest.mark.parametrize("data", HIDDEN_IN_JVM)
    def test_chatter_of_the_jvm_is_hidden(self, data):
        assert told_apart(data, is_jvm=True) == (b"", data)

    def test_of_the_driver_only_tensorflows_is(self):
        assert told_apart(NATIVE, is_jvm=False) == (b"", NATIVE)
        for data in (JVM, WARN, WARN + STACK, DAEMON):
            assert told_apart(data, is_jvm=False) == (data, b"")

    @pytest.mark.parametrize("is_jvm", [True, False])
    @pytest.mark.parametrize("data", SHOWN)
    def test_all_else_is_shown(self, data, is_jvm):
        assert told_apart(data, is_jvm) == (data, b"")

    def test_what_comes_after_chatter_is_shown(self):
        for data in (b"hello\n", USERS_TRACEBACK, ERROR + STACK, b"end"):
            for chatter in HIDDEN_IN_JVM:
                assert told_apart(chatter + data, is_jvm=True) == (data, chatter)

    def test_form_counts_at_the_begin_of_a_line_alone(self):
        data = b"progress 10% " + WARN
        assert told_apart(data, is_jvm=True) == (data, b"")


class TestAtOnce:
    @pytest.mark.parametrize("is_jvm", [True, False])
    @pytest.mark.parametrize(
        "data", [b"Password: ", b"\r 10%", b"\x1b[2K", b"26-", b"\xff", b"2026-11-29 10:00 "]
    )
    def test_partial_lines_that_cannot_be_chatter(self, data, is_jvm):
        one = Filter(is_jvm)
        assert b"".join(piece.data for piece in one.feed(b"first\n" + data)) == b"first\n" + data
        assert not one.is_holding

    def test_what_was_held_for_long_is_shown_and_its_line_too(self):
        one = Filter(is_jvm=True)
        assert one.feed(b"26/11/29 03:0") == []
        (piece,) = one.flush()
        assert (piece.data, piece.is_shown) == (b"26/11/29 03:0", True)
        assert [p.is_shown for p in one.feed(b"7:16 WARN A: b\n" + WARN)] == [True, False]

    def test_megabytes_take_no_time(self):
        chunk = 65_536
        for data in (b"a line of a user\n" * 500_000, b"x" * 10_000_000, WARN * 100_000):
            one = Filter(is_jvm=True)
            begun = time.process_time()
            for at in range(0, len(data), chunk):
                one.feed(data[at : at + chunk])
            assert time.process_time() - begun < 2.0


PARTS = st.lists(st.sampled_from([*HIDDEN_IN_JVM, *SHOWN]) | st.binary(max_size=20), max_size=6)
NOISE = PARTS.map(b"".join)


@settings(max_examples=300, deadline=None)
@given(st.data(), NOISE, st.booleans())
def test_it_does_not_matter_how_the_stream_is_cut(data, stream, is_jvm):
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=10))
    whole = told_apart(stream, is_jvm)
    assert told_apart(stream, is_jvm, cuts) == whole
    assert told_apart(stream, is_jvm, range(len(stream))) == whole


@given(st.lists(st.sampled_from([line for line in SHOWN if line != STACK])))
def test_what_is_shown_among_chatter(parts):
    parts = [part.removesuffix(b"\n") + b"\n" for part in parts]
    shown, hidden = told_apart(b"".join(WARN + part for part in parts), is_jvm=True)
    assert shown == b"".join(parts)
    assert hidden == WARN * len(parts)
