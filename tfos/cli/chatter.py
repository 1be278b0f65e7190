"""What Spark and TensorFlow tell of themselves, told apart from what a person is to see. Pure.

A Filter takes a stream in any pieces and says of each byte whether it is to be shown. Chatter is
known by its form: a line of log4j below ERROR, a line that C++ code of TensorFlow logs below ERROR,
the JVM's remarks at its start, the traceback of a daemon of pyspark whose peer has gone. All else
is shown, and at once, partial lines too; only a line whose begin may still become one of these is
held back until it is told apart, or until flush() is called.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

# no form needs more of a line than this to be known
_HEAD_BYTES = 512
_TRACEBACK_BYTES = 16_384
_NEWLINE = 0x0A

_NATIVE = rb"""(?P<native>
    WARNING:\ All\ log\ messages\ before\ absl::InitializeLog\(\)\ is\ called\ are\ written
  | (?:[IW]\d{4}\ \d\d:\d\d:\d{1,16}\.\d{1,9}\ +\d{1,10}\ |\d{4}-\d\d-\d\d\ [\d:.]{8,18}:\ [IW]\ )
    [\w./-]{1,200}\.(?:cc|cpp|cu|h):\d{1,6}\]
    # no GPU here, or its libraries registered twice: errors by their level alone
  | (?:E\d{4}\ \d\d:\d\d:\d{1,16}\.\d{1,9}\ +\d{1,10}\ |\d{4}-\d\d-\d\d\ [\d:.]{8,18}:\ E\ )
    [\w./-]{0,200}cuda_\w{1,20}\.cc:\d{1,6}\]\ (?:failed\ call\ to\ cuInit|Unable\ to\ register\ cu)
)"""
_LOG4J = rb"(?P<log4j>\d\d/\d\d/\d\d\ \d\d:\d\d:\d\d\ (?:TRACE|DEBUG|INFO|WARN)\ [^\s:]{1,200}:\ )"
_JVM_LITERALS = (
    b"WARNING: Using incubator modules: ",
    b"WARNING: A restricted method in java.",
    b"WARNING: A terminally deprecated method in ",
    b"WARNING: An illegal reflective access operation ",
    b"WARNING: Illegal reflective access by ",
    b"WARNING: All illegal access operations ",
    b"WARNING: Please consider reporting this to ",
    b"WARNING: Restricted methods will be blocked ",
    b"WARNING: Use --",
    b"WARNING: java.lang.",
    b"WARNING: sun.misc.",
    b"Picked up JAVA_TOOL_OPTIONS: ",
    b"Picked up _JAVA_OPTIONS: ",
    b"Using Spark's default log4j profile: ",
    b"Setting Spark log level to ",
    b"Setting default log level to ",
    b"To adjust logging level use sc.setLogLevel",
    b"SLF4J: ",
    b"log4j:WARN ",
)
_JVM = b"(?P<jvm>" + b"|".join(map(re.escape, _JVM_LITERALS)) + b")"
_TRACEBACK_HEADS = (
    b"PySpark daemon failed to flush the output to the worker process:",
    b"Traceback (most recent call last):",
)
_TRACEBACK = b"(?P<traceback>" + b"|".join(map(re.escape, _TRACEBACK_HEADS)) + b")"

# how lines of these forms begin; compared with each digit as 0
_NATIVE_BEGINS = (
    b"WARNING: All log messages before absl",
    *(level + b"0000 00:00:" for level in (b"I", b"W", b"E")),
    b"0000-00-00 00:00:00",
)
_LOG4J_BEGINS = tuple(
    b"00/00/00 00:00:00 " + level + b" " for level in (b"TRACE", b"DEBUG", b"INFO", b"WARN")
)
_DIGITS = bytes.maketrans(b"123456789", b"000000000")

# lines that belong to the one before them, by the form of that
_MORE = {
    "native": re.compile(rb"To enable the following instructions: "),
    "log4j": re.compile(
        rb"\t(?:at [^\s(]{1,300}\(|\.\.\. \d|Suppressed: )|Caused by: "
        rb"|[a-z]\w{0,40}\.[\w.$]{1,200}(?:Exception|Error)(?::|\r?\n)"
    ),
    "traceback": re.compile(
        rb"\r?\n|During handling of the above exception|(?:BrokenPipe|ConnectionReset|EOF)Error\b"
    ),
}
_DAEMON = re.compile(rb'  File "[^"]*[/\\]pyspark[/\\]daemon\.py", line ')
_PEER_IS_GONE = re.compile(rb"(?:BrokenPipe|ConnectionReset|EOF)Error\b")


@dataclass(frozen=True)
class Piece:
    """A part of the stream. is_shown: whether a person is to see it."""

    data: bytes
    is_shown: bool


class Filter:
    """One stream. Not thread-safe.

    The data of all pieces, one after the other, is what was fed; how that was cut does not matter.

    is_jvm: the stream is the JVM's own stderr, with log4j's lines and, where executors are on this
    machine, the output of their Python workers. Else it is the driver's: only TensorFlow chatters.
    """

    def __init__(self, is_jvm: bool) -> None:
        forms = (_NATIVE, _LOG4J, _JVM, _TRACEBACK) if is_jvm else (_NATIVE,)
        self._forms = re.compile(b"^(?:%s)" % b"|".join(forms), re.MULTILINE | re.VERBOSE)
        begins = _NATIVE_BEGINS
        if is_jvm:
            begins += (*_LOG4J_BEGINS, *_JVM_LITERALS, *_TRACEBACK_HEADS)
        self._begins = tuple(begin.translate(_DIGITS) for begin in begins)
        self._held = b""
        # whether the line that has begun is shown; None at the begin of a line
        self._is_shown: bool | None = None
        # the form of the line before, where that was hidden
        self._after = ""

    @property
    def is_holding(self) -> bool:
        """Whether there is something that flush() would show."""
        return bool(self._held)

    def flush(self) -> list[Piece]:
        """What is held back, to be shown: nothing more has come for a while, or will come."""
        held, self._held = self._held, b""
        if not held:
            return []
        self._after = ""
        self._is_shown = None if held.endswith(b"\n") else True
        return [Piece(held, True)]

    def feed(self, data: bytes) -> list[Piece]:
        """What is told apart by now, of what was held back and of `data`."""
        text, self._held = self._held + data, b""
        pieces: list[Piece] = []
        at = 0
        while at < len(text):
            if self._is_shown is not None:
                end, is_shown = _line_end(text, at), self._is_shown
            else:
                verdict = self._judge(text, at)
                if verdict is None:
                    self._held = text[at:]
                    break
                end, is_shown = verdict
            pieces.append(Piece(text[at:end], is_shown))
            self._is_shown = None if text[end - 1] == _NEWLINE else is_shown
            at = end
        return _joined(pieces)

    def _judge(self, text: bytes, at: int) -> tuple[int, bool] | None:
        """Tells apart the line that begins at `at`, and more lines where that is simple.

        Returns where what is told apart ends, and whether it is shown; None where more of the line
        must be known.
        """
        more = _MORE.get(self._after)
        if more is not None:
            if more.match(text, at):
                return _line_end(text, at), False
            if _is_short(text, at) and _may_go_on(text[at:], self._after):
                return None
        self._after = ""
        form = self._forms.match(text, at)
        if form is None:
            return self._end_of_shown(text, at)
        kind = form.lastgroup or ""
        if kind == "traceback":
            size = _daemon_traceback(text[at : at + _TRACEBACK_BYTES])
            if not size:
                return None if size is None else (_line_end(text, at), True)
            self._after = kind
            return at + size, False
        self._after = kind
        return _line_end(text, at), False

    def _end_of_shown(self, text: bytes, at: int) -> tuple[int, bool] | None:
        """As _judge(), where the line at `at` has none of the forms so far."""
        found = self._forms.search(text, at)
        if found is not None:
            return found.start(), True
        last = max(at, text.rfind(b"\n") + 1)
        if _is_short(text, last) and self._may_become(text[last:]):
            return (last, True) if last > at else None
        return len(text), True

    def _may_become(self, begun: bytes) -> bool:
        """Whether a line that begins so may have one of the forms."""
        digits_as_0 = begun.translate(_DIGITS)
        return any(_is_prefix(digits_as_0, begin) for begin in self._begins)


def _may_go_on(begun: bytes, form: str) -> bool:
    """Whether a line that begins so may belong to a line of `form` before it."""
    # of the others anything may: a class name, for one
    return form != "native" or _is_prefix(begun, b"To enable the following instructions: ")


def _is_prefix(one: bytes, other: bytes) -> bool:
    """Whether one of the two begins with the other."""
    return one.startswith(other) or other.startswith(one)


def _is_short(text: bytes, at: int) -> bool:
    """Whether the line at `at` has not ended, and is not long enough to be known."""
    return 0 < len(text) - at < _HEAD_BYTES and text.find(b"\n", at) < 0


def _line_end(text: bytes, at: int) -> int:
    return text.find(b"\n", at) + 1 or len(text)


def _daemon_traceback(text: bytes) -> int | None:
    """The size of the traceback at the begin of `text`, of a pyspark daemon whose peer has gone.

    0 when there is none; None when that cannot be said yet. Two daemons may write at a time.
    """
    is_daemons = False
    size = 0
    for line in text.split(b"\n")[:-1]:
        size += len(line) + 1
        if line.rstrip(b"\r") in _TRACEBACK_HEADS:
            continue
        if not is_daemons:
            if not _DAEMON.match(line):
                return 0
            is_daemons = True
        elif _PEER_IS_GONE.match(line):
            return size
        elif not line.startswith(b" "):
            return 0
    return None if len(text) < _TRACEBACK_BYTES else 0


def _joined(pieces: list[Piece]) -> list[Piece]:
    """The same with neighbours of one kind in one piece."""
    return [
        Piece(b"".join(piece.data for piece in group), is_shown)
        for is_shown, group in itertools.groupby(pieces, lambda piece: piece.is_shown)
    ]
