"""pl_submit in cluster mode: the driver is on the cluster, and is followed through the lake.

What spark-submit says is searched for the application's name and address; what the driver and the
app write comes out of the driver's log in the lake. Ctrl-C leaves the application running.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from types import FrameType

from tfos.cli.chatter import Filter
from tfos.cli.submission import Submission
from tfos.client.control import cancel
from tfos.client.logs import Tail
from tfos.errors import LakeError, TFOSError
from tfos.lake.run_directory import DRIVER_LOG, RunDirectory
from tfos.runtime.java import find_java, spark_home
from tfos.runtime.process import ChildProcess, describe_status
from tfos.spec.result import Result

_LOOK_SECS = 1.0
_READ_BYTES = 65_536
# within that time a second Ctrl-C ends the run
_TWICE_SECS = 3.0
_KEPT_LINES = 200
_KILL_SECS = 60.0
_SUBMITTED = re.compile(rb"Submitted application (application_\d+_\d+)")
_TRACKING = re.compile(rb"tracking URL: (\S+)")


class Submitted:
    """What spark-submit writes, read in a thread until it ends.

    stream: the descriptor for it; for one child, and closed by begin().
    told: called once, with the application's name, and then with its address, as (what, value).
    """

    def __init__(self, shows_all: bool, told: Callable[[str, str], None]) -> None:
        self._source, self.stream = os.pipe()
        self._shows_all = shows_all
        self._told = told
        self._filter = Filter(is_jvm=True)
        self._lines: deque[bytes] = deque(maxlen=_KEPT_LINES)
        self._rest = b""
        self.application = ""
        self._address = ""
        self._thread = threading.Thread(target=self._read, daemon=True)

    def begin(self) -> None:
        """To be called when the child has been started."""
        os.close(self.stream)
        self._thread.start()

    def close(self) -> bytes:
        """To be called when the child has ended; returns what it said beyond chatter."""
        self._thread.join(_LOOK_SECS)
        return b"".join([*self._lines, self._rest])

    def _read(self) -> None:
        while data := os.read(self._source, _READ_BYTES):
            if self._shows_all:
                _show(data)
            self._search(data)
            for piece in self._filter.feed(data):
                if piece.is_shown:
                    self._keep(piece.data)
        for piece in self._filter.flush():
            self._keep(piece.data)
        os.close(self._source)

    def _keep(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._lines.extend(line + b"\n" for line in lines)

    def _search(self, data: bytes) -> None:
        if not self.application and (found := _SUBMITTED.search(data)):
            self.application = found[1].decode()
            self._told("application", self.application)
        found = _TRACKING.search(data)
        if found and found[1] != b"N/A" and not self._address:
            self._address = found[1].decode()
            self._told("tracking URL", self._address)


class DriverOutput:
    """The driver's log in the lake, shown as it grows."""

    def __init__(self, lake: RunDirectory, shows_all: bool) -> None:
        self._lake = lake
        self._shows_all = shows_all
        self._filter = Filter(is_jvm=False)
        self._tail = Tail(lake, DRIVER_LOG)
        self._due = 0.0
        self._warned = False

    def skip(self) -> None:
        """Passes over what is there: of a run that is continued."""
        try:
            if self._lake.exists(DRIVER_LOG):
                while self._tail.read():
                    pass
        except LakeError as error:
            self._warn(error)

    def look(self, is_last: bool = False) -> None:
        """Shows what has come since, if it is time to look."""
        if not is_last and time.monotonic() < self._due:
            return
        try:
            if self._lake.exists(DRIVER_LOG):
                while data := self._tail.read():
                    self._show(data)
        except LakeError as error:
            self._warn(error)
        if is_last:
            for piece in self._filter.flush():
                _show(piece.data)
        self._due = time.monotonic() + _LOOK_SECS

    def _show(self, data: bytes) -> None:
        for piece in self._filter.feed(data):
            if piece.is_shown or self._shows_all:
                _show(piece.data)

    def _warn(self, error: LakeError) -> None:
        if not self._warned:
            self._warned = True
            print(f"tfos: the driver cannot be followed from here: {error}", file=sys.stderr)


def run(submission: Submission, env: dict[str, str], scratch: str) -> Result | str:
    """Runs spark-submit to the application's end; returns its result, or why there is none.

    Raises Interrupted after Ctrl-C, which leaves the application running; a second one, at once,
    ends it.
    """
    lake = RunDirectory(submission.lake, submission.run_id)
    output = DriverOutput(lake, submission.options.verbose)
    output.skip()
    submitted = Submitted(submission.options.verbose, _tell)
    process = ChildProcess(
        submission.command(), env=env, scratch=scratch,
        log=submitted.stream, errors=submitted.stream,
    )  # fmt: skip
    submitted.begin()
    _tell("run", f"{submission.run_id} in {submission.lake}")
    _tell("look at it, end it", f"pl_submit status|logs|kill {_named(submission)}")
    interrupts = _Interrupts()
    try:
        while process.poll() is None and not interrupts.count:
            output.look()
            time.sleep(0.1)
        if interrupts.count:
            _leave(submission, submitted.application)
            deadline = time.monotonic() + _TWICE_SECS
            while interrupts.count == 1 and time.monotonic() < deadline:
                time.sleep(0.1)
            if interrupts.count > 1:
                _tell("ending it", _end(lake, submitted.application))
    finally:
        interrupts.close()
        status = process.end(keep_scratch=True)
        said = submitted.close()
    if interrupts.count:
        raise Interrupted
    output.look(is_last=True)
    record = lake.result()
    if record is not None:
        return Result.from_json(record)
    _show(said)
    return f"spark-submit {describe_status(status)} and the run left no result; see above"


class Interrupted(Exception):
    """Ctrl-C; all that is to be said of it has been."""


def _leave(submission: Submission, application: str) -> None:
    print(file=sys.stderr)
    _tell(application or "the application", "goes on; a second Ctrl-C within 3 s ends it")
    _tell("look at it", f"pl_submit status {_named(submission)}")
    _tell("end it", f"pl_submit kill {_named(submission)}")
    if application:
        _tell("or, without tfos", f"yarn application -kill {application}")


def _end(lake: RunDirectory, application: str) -> str:
    """Ends the run, in order where its driver can be reached; says how that went."""
    try:
        result = cancel(lake)
        return f"run {lake.run_id} {result.status if result else 'ended without a result'}"
    except TFOSError as error:
        if not application:
            return f"{error}; and no application of it is known here"
        return kill_application(application)


def kill_application(application: str) -> str:
    """Has YARN end an application; says how that went. Hadoop's client is among Spark's jars."""
    places = [os.environ.get("HADOOP_CONF_DIR", ""), str(spark_home() / "jars" / "*")]
    client = "org.apache.hadoop.yarn.client.cli.ApplicationCLI"
    command = [find_java(), "-cp", os.pathsep.join(places), client, "-kill", application]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=_KILL_SECS)
    if ended.returncode == 0:
        return f"application {application} is killed"
    return f"application {application} could not be killed: {ended.stderr.strip()[-500:]}"


class _Interrupts:
    """Counts Ctrl-C, and SIGTERM, until close()."""

    def __init__(self) -> None:
        self.count = 0
        self._before = {
            signum: signal.signal(signum, self._note) for signum in (signal.SIGINT, signal.SIGTERM)
        }

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.count += 1

    def close(self) -> None:
        for signum, before in self._before.items():
            signal.signal(signum, before)


def _named(submission: Submission) -> str:
    return shlex.join([submission.run_id, "--lake", submission.lake])


def _tell(what: str, value: str) -> None:
    print(f"tfos: {what}: {value}", file=sys.stderr, flush=True)


def _show(data: bytes) -> None:
    sys.stderr.buffer.write(data)
    sys.stderr.flush()
