"""The TensorFlow process of a role: `python -m tfos.runtime.main`, a child of a supervisor.

It imports TensorFlow at once and then waits, so that the slow import overlaps with the other
roles' coming up. The supervisor talks to it in JSON lines: one on stdin, the start order; on the
descriptor of TFOS_CHANNEL the child answers {"ready": true} when its server is up, {"progress":
{...}}, and at last {"outcome": {...}} or {"failure": {...}}. When stdin closes before the order
came, the run is over.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tfos.lake import APP, Lake
from tfos.spec import JobSpec

CHANNEL_FD = "TFOS_CHANNEL"
# a node of ZooKeeper holds 1 MiB
_METRICS_BYTES = 900_000
# exceptions of TensorFlow that tell of another process's death, not of an error here
_PEER_ERRORS = ("UnavailableError", "PSUnavailableError", "AbortedError", "CancelledError")


@dataclass(frozen=True)
class StartOrder:
    """What a TF process needs to begin.

    cluster: TensorFlow's cluster dict, {"ps": ["host:port"], ...}.
    scratch: a local directory that the supervisor removes at the end.
    """

    role: str
    index: int
    attempt: int
    cluster: Mapping[str, list[str]]
    spec: Mapping[str, Any]
    lake: str
    run_id: str
    scratch: str

    def to_line(self) -> bytes:
        return json.dumps(vars(self)).encode() + b"\n"


class Channel:
    """The way back to the supervisor."""

    def __init__(self, fd: int) -> None:
        self._file = os.fdopen(fd, "wb", buffering=0)

    def send(self, **message: Any) -> None:
        self._file.write(json.dumps(message).encode() + b"\n")


def main() -> int:
    channel = Channel(int(os.environ.pop(CHANNEL_FD)))
    try:
        import tensorflow as tf  # noqa: F401  (slow: see above)

        line = sys.stdin.buffer.readline()
        if not line:
            return 0
        _begin(StartOrder(**json.loads(line)), channel)
    except BaseException as error:
        traceback.print_exc()
        kind = "peer" if type(error).__name__ in _PEER_ERRORS else "exception"
        message = f"{type(error).__name__}: {error}".strip()
        channel.send(
            failure={"kind": kind, "message": message, "traceback": traceback.format_exc()}
        )
        return 1
    return 0


def _begin(order: StartOrder, channel: Channel) -> None:
    from tfos.feeding.dataset import serve_reads
    from tfos.feeding.reader import FeedReader

    lake = Lake(order.lake, order.run_id)
    reader = FeedReader(lake, order.scratch)
    if order.role == "chief":
        serve_reads(reader)
        channel.send(outcome=_train(order, lake, reader, channel))
        # a coordinator's threads may hang on to servers that are going away: nothing to wait for
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    import tensorflow as tf

    if order.role == "worker":
        serve_reads(reader, order.index, len(order.cluster["worker"]))
    server = tf.distribute.Server(
        tf.train.ClusterSpec(dict(order.cluster)),
        job_name=order.role,
        task_index=order.index,
        protocol="grpc",
    )
    channel.send(ready=True)
    server.join()


def _train(order: StartOrder, lake: Lake, reader: Any, channel: Channel) -> dict[str, Any]:
    """Runs the user's train(ctx) in the chief; returns what goes into result.json."""
    from tfos.context import Place, TrainContext, chief_device
    from tfos.fault.checkpoint import Checkpointer
    from tfos.feeding.ledger import Ledger
    from tfos.runtime.strategies import make_runner

    spec = JobSpec(**order.spec)
    app = pickle.loads(pickle.loads(lake.read(APP))["app"])
    runner = make_runner(spec.strategy, order.cluster)
    ledger = Ledger()
    distributed = spec.strategy != "single"
    context = TrainContext(
        Place(
            role=order.role,
            index=order.index,
            num_workers=spec.num_workers if distributed else 0,
            num_ps=spec.num_ps if distributed else 0,
            attempt=order.attempt,
            params=spec.params,
            log_dir=lake.uri("events"),
        ),
        runner,
        lake,
        reader,
        Checkpointer(
            lake,
            order.scratch,
            spec.checkpoint_secs,
            chief_device(runner),
            (ledger.as_json, ledger.restore),
        ),
        ledger,
        order.scratch,
        lambda progress: channel.send(progress=progress),
    )
    channel.send(progress={"phase": "train() begins"})
    returned = app.train(context)
    metrics = {**context.reported, **_metrics(returned)}
    size = len(json.dumps(metrics))
    if size > _METRICS_BYTES:
        raise ValueError(
            f"train() returned {size:,} bytes of metrics, more than {_METRICS_BYTES:,}: write large"
            " results to the lake, e.g. into ctx.log_dir"
        )
    return {
        "metrics": metrics,
        "model": context.model_uri,
        "rows_trained": ledger.as_json(),
    }


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
