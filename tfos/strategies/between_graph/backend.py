"""Each process runs train(); sessions of TF1, or Estimator, do the rest among themselves."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from typing import Any

from tfos.compat.tensorflow import shorten_waits
from tfos.errors import LakeError, UsageError
from tfos.fault.failures import FailureKind
from tfos.feeding.reads import serve_reads
from tfos.runtime.backend import Trained
from tfos.runtime.host import Host
from tfos.spec.roles import EVALUATOR
from tfos.strategies.between_graph.checkpoints import Checkpoints, newest
from tfos.strategies.between_graph.context import BetweenGraphContext, config_of
from tfos.strategies.between_graph.reads import CountedReader
from tfos.strategies.errors import failure_kind

_LOOK_SECS = 0.1
_STAY_SECS = 3600.0
# between two looks of a session whether the chief has initialized the variables
_WAIT_SECS = 1.0


class BetweenGraph:
    def preload(self, role: str) -> None:
        """TensorFlow is imported with this module. Nothing runs before the app turns TF2 off."""

    def run(self, host: Host) -> Trained:
        os.environ["TF_CONFIG"] = json.dumps(config_of(host))
        shorten_waits(_WAIT_SECS)
        app = host.app()
        context = BetweenGraphContext(host)
        host.take_sigterm_back()
        if host.task.role == "ps":
            threading.Thread(target=_ready_when_it_listens, args=(host,), daemon=True).start()
            app.train(context)
            raise UsageError(
                "train() has returned in a parameter server: where ctx.role is 'ps', call"
                " ctx.server().join(), or Estimator's train_and_evaluate"
            )
        number, count = context.share
        reader = CountedReader(
            host.reader(turns=count), host.ledger, host.reports, context.share, context.reported
        )
        serve_reads(reader, number, count)
        host.ready()
        if host.is_chief:
            return _train_as_chief(host, app, context, reader)
        app.train(context)
        if host.task.role == EVALUATOR:
            _note_evaluation(host, context)
        with host.reports.quiet():
            context.close()
            while True:  # until the chief is done as well: who leaves before counts as lost
                time.sleep(_STAY_SECS)

    def failure_kind(self, error: BaseException) -> FailureKind:
        return failure_kind(error)


def _train_as_chief(
    host: Host, app: Any, context: BetweenGraphContext, reader: CountedReader
) -> Trained:
    with host.reports.quiet():
        checkpoints = Checkpoints(host, context.model_dir if host.lake.is_local else "", reader)
    host.reports.progress({"phase": "train() begins"})
    try:
        returned = app.train(context)
    except BaseException:
        # what train() raised is the root cause
        with contextlib.suppress(LakeError), host.reports.quiet():
            context.close()
        raise
    reader.end()
    with host.reports.quiet():
        checkpoints.end()
        context.close()
    return Trained.of(returned, context.reported, context.model_uri)


def _note_evaluation(host: Host, context: BetweenGraphContext) -> None:
    """The driver, at the end of the run, waits until the last checkpoint is evaluated."""
    found = newest(context.model_dir)
    done = {
        "fit": 0,
        "step": found[0] if found else 0,
        "metrics": dict(context.reported),
        "seconds": 0.0,
    }
    host.lake.write_evaluations({"evaluations": [done], "stop": None})


def _ready_when_it_listens(host: Host) -> None:
    """A session that connects earlier would not try again for a second, as gRPC has it."""
    place, _, port = host.addresses["ps"][host.task.index].rpartition(":")
    while True:
        with contextlib.suppress(OSError), socket.create_connection((place, int(port)), 1):
            host.ready()
            return
        time.sleep(_LOOK_SECS)
