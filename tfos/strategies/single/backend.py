"""Everything in one process. Also what evaluates the checkpoints of other strategies."""

from __future__ import annotations

import functools
import secrets
import socket
from typing import TYPE_CHECKING

from tfos.fault.failures import FailureKind
from tfos.runtime.backend import Trained
from tfos.runtime.host import Host
from tfos.strategies.errors import failure_kind
from tfos.strategies.train import train, warm_up
from tfos.training.single import SingleRunner

if TYPE_CHECKING:
    from tfos.training.stored.snapshots import Snapshots
    from tfos.training.stored.store import ModelStore


class Single:
    def preload(self, role: str) -> None:
        warm_up()

    def run(self, host: Host) -> Trained:
        return train(host, SingleRunner(functools.partial(store_in_process, host)))

    def failure_kind(self, error: BaseException) -> FailureKind:
        return failure_kind(error)


def store_in_process(host: Host) -> tuple[ModelStore, Snapshots]:
    """For tables without a number of rows: a server in this process, which only it can reach."""
    from tfos.kv.client import Client
    from tfos.kv.server import Server
    from tfos.kv.store import Store
    from tfos.training.stored.snapshots import Snapshots
    from tfos.training.stored.store import ModelStore

    secret = secrets.token_bytes(32)
    listener = socket.create_server(("127.0.0.1", 0))
    server = Server(listener, secret, Store(), storage=host.lake)
    server.start()
    client = Client({"ps-0": server.address}, secret)
    # a server may write for long before it answers that a snapshot is there
    patient = Client({"ps-0": server.address}, secret, stall_secs=24 * 3600.0)
    writer = f"{host.attempt}.{host.life}"
    snapshots = Snapshots(patient, host.lake, writer, host.store.fence, host.reports.quiet)
    return ModelStore(client), snapshots
