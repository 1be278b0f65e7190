"""The TensorFlow process of a role: a child of a supervisor.

    python -m tfos.runtime.main TASK RUN_ID STRATEGY

It imports TensorFlow at once and then waits, so that the slow import overlaps with the other
roles' coming up, or was long ago when it takes over from one that died. The supervisor talks to it
in lines on stdin: first the start order, in JSON; then perhaps SAVE_SOON. On the descriptor of
TFOS_CHANNEL the child answers in JSON lines: {"alive": true} every second, {"ready": true} when its
server is up, {"progress": {...}}, {"moved": true} for progress without words, {"quiet": true} and
{"quiet": false} around what may take long, {"preempted": true} after a SIGTERM, and at last
{"outcome": {...}} or {"failure": {...}}. When stdin closes before the order came, the run is over.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import pickle
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from tfos.errors import FencedError, LakeError
from tfos.lake.storage import APP, GENERATION, Lake
from tfos.runtime.roles import is_in_step
from tfos.spec.job import JobSpec

if TYPE_CHECKING:
    from tfos.fault.checkpoint.checkpointer import Checkpointer

CHANNEL_FD = "TFOS_CHANNEL"
SAVE_SOON = b"save\n"
# the process writes the stacks of its threads to its log
STACKS_SIGNAL = signal.SIGUSR1
_ALIVE_SECS = 1.0
# how long a process that got SIGTERM stays to let the chief save a checkpoint
_PREEMPTION_SECS = 20.0
# a node of ZooKeeper holds 1 MiB
_METRICS_BYTES = 900_000
# exceptions of TensorFlow that tell of another process's death, not of an error here
_PEER_ERRORS = ("UnavailableError", "PSUnavailableError", "AbortedError", "CancelledError")
_PEER_WORDS = re.compile(
    "context_id|remote_handle|Socket closed|Stream removed|failed to connect|Connection re"
    "|Collective ops is aborted|stopped sending heartbeats|Error reported from /job"
)
# also "aborted", though nobody died: user code that gives collectives other shapes each time
_DISAGREE_WORDS = re.compile("mismatch in the collective")


@dataclass(frozen=True)
class StartOrder:
    """What a TF process needs to begin.

    cluster: TensorFlow's cluster dict, {"ps": ["host:port"], ...}.
    scratch: a local directory that the supervisor removes at the end.
    """

    role: str
    index: int
    attempt: int
    life: int
    cluster: Mapping[str, list[str]]
    spec: Mapping[str, Any]
    lake: str
    run_id: str
    scratch: str

    def to_line(self) -> bytes:
        return json.dumps(vars(self)).encode() + b"\n"


class Channel:
    """The way back to the supervisor. Thread-safe."""

    def __init__(self, fd: int) -> None:
        self._file = os.fdopen(fd, "wb", buffering=0)
        self._lock = threading.Lock()

    def send(self, **message: Any) -> None:
        with self._lock:
            self._file.write(json.dumps(message).encode() + b"\n")

    def fail(self, kind: str, message: str, trace: str = "") -> None:
        self.send(failure={"kind": kind, "message": message, "traceback": trace})


def main() -> int:
    faulthandler.register(STACKS_SIGNAL, all_threads=True)
    channel = Channel(int(os.environ.pop(CHANNEL_FD)))
    preemption = _Preemption(channel)
    threading.Thread(target=_stay_alive, args=(channel,), daemon=True).start()
    try:
        _import(sys.argv[1].rpartition("-")[0], sys.argv[3])
        line = sys.stdin.buffer.readline()
        if not line:
            return 0
        _begin(StartOrder(**json.loads(line)), channel, preemption)
    except BaseException as error:
        message = f"{type(error).__name__}: {error}".strip()
        try:
            channel.fail(_kind(error), message, traceback.format_exc())
            traceback.print_exc()
        finally:  # whether the log lies on a full disk, too, or the supervisor is gone
            _leave(1)
    return 0


def _leave(status: int) -> NoReturn:
    """Ends the process at once.

    Threads that user code or a coordinator left behind may wait for ever for servers that are going
    away; Python would wait for them.
    """
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def _stay_alive(channel: Channel) -> None:
    while True:
        channel.send(alive=True)
        time.sleep(_ALIVE_SECS)


def _import(role: str, strategy: str) -> None:
    """All the slow imports, and for the chief what TensorFlow and Keras do at their first use."""
    import tensorflow as tf

    import tfos.feeding.dataset

    if role in ("chief", "evaluator") or strategy == "multi-worker":
        import keras

        import tfos.context
        import tfos.runtime.strategies  # noqa: F401

        # the processes in step can meet only before the first operation
        if strategy != "multi-worker" or role == "evaluator":
            tf.function(lambda x: x + 1)(tf.constant(1))
            keras.layers.Dense(1).build((None, 1))


def _kind(error: BaseException) -> str:
    import tensorflow as tf

    lost = type(error).__name__ in _PEER_ERRORS or (
        isinstance(error, tf.errors.OpError)
        and _PEER_WORDS.search(str(error))
        and not _DISAGREE_WORDS.search(str(error))
    )
    return "peer" if lost else "exception"


class _Preemption:
    """What a SIGTERM does: a while to save a checkpoint, then the end.

    Made in the main thread. A thread of its own waits for the signal, since the main thread may be
    inside TensorFlow, where Python's handlers do not run. on_sigterm: what is done first; what it
    returns is asked whether a checkpoint is saved, until it says yes or the time is up. Both may
    block, or raise: the process ends in time all the same. A process that user code forks is to
    end at a SIGTERM as any other, and not to wake this one.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.on_sigterm: Callable[[], Callable[[], bool]] = lambda: lambda: True
        read_end, write_end = os.pipe()
        os.set_blocking(write_end, False)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        self.listen()
        os.register_at_fork(after_in_child=_forget_signals)
        threading.Thread(target=self._wait, args=(read_end,), daemon=True).start()

    def listen(self) -> None:
        """Takes the signal over, from TensorFlow's coordination service too; in the main thread."""
        signal.signal(signal.SIGTERM, lambda signum, frame: None)

    def _wait(self, read_end: int) -> NoReturn:
        while os.read(read_end, 1) != bytes([signal.SIGTERM]):
            pass
        saving = threading.Thread(target=self._save, daemon=True)
        saving.start()
        # no longer, whatever the lake does: who sent the signal does not wait either
        saving.join(_PREEMPTION_SECS)
        try:
            self._channel.fail("preempted", "got SIGTERM")
        finally:
            os._exit(128 + signal.SIGTERM)

    def _save(self) -> None:
        is_saved = self.on_sigterm()
        while not is_saved():
            time.sleep(0.05)


def _forget_signals() -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _begin(order: StartOrder, channel: Channel, preemption: _Preemption) -> None:
    from tfos.feeding.dataset import serve_reads
    from tfos.feeding.reader import FeedReader

    in_step = is_in_step(JobSpec(**order.spec), order.role)
    lake = Lake(order.lake, order.run_id)
    # workers under parameter servers take turns; others read epochs, or shares of them, alone
    turns = len(order.cluster["worker"]) if order.role == "worker" and not in_step else 1
    reader = FeedReader(lake, order.scratch, readers=turns)

    def ask_for_checkpoint() -> Callable[[], bool]:
        channel.send(preempted=True)  # first: the lake may be slow, or what fails
        newest = lake.newest_checkpoint()
        return lambda: lake.newest_checkpoint() != newest

    if order.role == "ps" or (in_step and order.role == "worker"):
        preemption.on_sigterm = ask_for_checkpoint
    if order.role in ("chief", "evaluator") or in_step:
        serve_reads(reader)
        channel.send(outcome=_train(order, lake, reader, channel, preemption))
        _leave(0)
    import tensorflow as tf

    if order.role == "worker":
        serve_reads(reader, order.index, turns)
    server = tf.distribute.Server(
        tf.train.ClusterSpec(dict(order.cluster)),
        job_name=order.role,
        task_index=order.index,
        protocol="grpc",
    )
    channel.send(ready=True)
    server.join()


def _train(
    order: StartOrder, lake: Lake, reader: Any, channel: Channel, preemption: _Preemption
) -> dict[str, Any]:
    """Runs the user's train(ctx); returns what goes into result.json."""
    from tfos.context import Place, TrainContext, chief_device
    from tfos.fault.checkpoint.checkpointer import Checkpointer
    from tfos.feeding.ledger import Ledger
    from tfos.runtime.strategies import check_agreement, make_runner
    from tfos.training.outputs import Outputs

    spec = JobSpec(**order.spec)
    app = pickle.loads(pickle.loads(lake.read(APP))["app"])
    is_chief = order.role == "chief"
    strategy = "single" if order.role == "evaluator" else spec.strategy
    runner = make_runner(strategy, order.cluster, order.role, order.index, spec.hang_secs)
    preemption.listen()
    channel.send(ready=True)
    ledger = Ledger()
    reports = _ChannelReports(channel, is_chief)
    # fetching a checkpoint may take long, and so may restoring it: see quiet
    checkpointer = Checkpointer(
        lake,
        order.scratch,
        spec.checkpoint_secs,
        chief_device(runner),
        (ledger.as_json, ledger.restore),
        fence=lambda: _check_generation(lake, order),
        is_owner=is_chief,
        writer=f"{order.attempt}.{order.life}",
        quiet=reports.quiet,
        on_commit=lambda: reports.saved(checkpointer),
    )
    reports.saved(checkpointer)
    with reports.quiet():  # one may have to fetch more than the others
        check_agreement(runner, checkpointer.step)
    if is_chief:
        preemption.on_sigterm = checkpointer.hurry
    threading.Thread(target=_obey, args=(checkpointer,), daemon=True).start()
    with reports.quiet():
        outputs = Outputs(lake, order.scratch, is_chief or order.role == "evaluator")
    context = TrainContext(
        Place(
            role=order.role,
            index=order.index,
            num_workers=spec.num_workers if spec.strategy != "single" else 0,
            num_ps=spec.num_ps if spec.strategy == "ps" else 0,
            attempt=order.attempt,
            params=spec.params,
            has_evaluator=spec.evaluator,
        ),
        runner,
        lake,
        reader,
        checkpointer,
        ledger,
        order.scratch,
        reports,
        outputs,
    )
    reports.progress({"phase": "train() begins"})
    try:
        returned = app.train(context)
    except BaseException:
        # what train() raised is the root cause
        with contextlib.suppress(LakeError), reports.quiet():
            checkpointer.wait()
            outputs.upload()
        raise
    with reports.quiet():
        checkpointer.wait()
        outputs.upload()
        check_agreement(runner, 0)  # none goes while another one still trains
    metrics = {**context.reported, **_metrics(returned)}
    size = len(json.dumps(metrics))
    if size > _METRICS_BYTES:
        raise ValueError(
            f"train() returned {size:,} bytes of metrics, more than {_METRICS_BYTES:,}: write large"
            " results to the lake, into ctx.output_dir"
        )
    return {
        "metrics": metrics,
        "model": context.model_uri,
        "feeds": ledger.as_json(),
        "checkpoints": checkpointer.stats,
    }


class _ChannelReports:
    """Passes on to the supervisor how the training goes on; the chief speaks for those in step."""

    def __init__(self, channel: Channel, is_chief: bool) -> None:
        self._channel = channel
        self._is_chief = is_chief
        self._moved = 0.0
        self._depth = 0
        self._last: dict[str, Any] = {}
        self._checkpoints: Mapping[str, float] = {}

    def progress(self, progress: dict[str, Any]) -> None:
        if not self._is_chief:
            self.moved()
            return
        self._last = progress
        self._channel.send(progress={**progress, "checkpoints": self._checkpoints})

    def saved(self, checkpointer: Checkpointer) -> None:
        """Tells of a new checkpoint; a loop of the user's own may have no other words."""
        self._checkpoints = checkpointer.stats
        if self._last:
            self.progress(self._last)

    def moved(self) -> None:
        if time.monotonic() - self._moved > _ALIVE_SECS:
            self._moved = time.monotonic()
            self._channel.send(moved=True)

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        self._depth += 1
        if self._depth == 1:
            self._channel.send(quiet=True)
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                self._channel.send(quiet=False)


def _obey(checkpointer: Checkpointer) -> None:
    """Does what the supervisor says on stdin, after the order."""
    for line in sys.stdin.buffer:
        if line == SAVE_SOON:
            checkpointer.hurry()


def _check_generation(lake: Lake, order: StartOrder) -> None:
    """Raises FencedError when the driver has put another chief in this one's place."""
    current = lake.read_json(GENERATION)
    if current != {"attempt": order.attempt, "life": order.life}:
        raise FencedError(
            f"the chief of attempt {order.attempt}, life {order.life}, may not write checkpoints"
            f" any more: the driver has begun {current}"
        )


def _metrics(returned: Any) -> dict[str, Any]:
    if returned is None:
        return {}
    metrics = returned if isinstance(returned, Mapping) else {"returned": returned}
    try:
        return dict(json.loads(json.dumps(metrics, default=_plain)))
    except (TypeError, ValueError) as error:
        raise TypeError(f"train() must return JSON-able values: {error}") from error


def _plain(value: Any) -> Any:
    """NumPy and TensorFlow scalars and arrays as Python's."""
    if hasattr(value, "numpy"):
        value = value.numpy()
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{value!r} ({type(value).__name__}) is not JSON-able")


if __name__ == "__main__":
    sys.exit(main())
