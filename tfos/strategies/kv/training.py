"""The chief and the workers, which have TensorFlow."""

from __future__ import annotations

import sys

from tfos.runtime.backend import Trained
from tfos.runtime.host import Host
from tfos.strategies.kv.places import SWITCH_SECS, client_of, listen, snapshot_client_of
from tfos.strategies.kv.topology import KeyValueStore as Topology
from tfos.strategies.train import train
from tfos.tables.stored import keep_in_store
from tfos.training.stored.coordinator import Coordinator
from tfos.training.stored.journal import Journal
from tfos.training.stored.lanes import Aside
from tfos.training.stored.runners import ChiefRunner, InStore, WorkerRunner
from tfos.training.stored.snapshots import Snapshots
from tfos.training.stored.store import ModelStore
from tfos.training.stored.worker import Worker

# units of one life of a chief; numbers of two chiefs are never the same
_UNITS = 1 << 32
# after the last section, for workers that have not heard how it ended
_FAREWELL_SECS = 10.0


def lead(host: Host, topology: Topology) -> Trained:
    """The chief: hands out units, and has the checkpoints."""
    keep_in_store()
    first = (host.attempt * 1024 + host.life) * _UNITS
    store = ModelStore(client_of(host), topology.most_ahead is not None, first)
    chief = f"{host.attempt}.{host.life}"
    units = Coordinator(listen(host.addresses["chief"][0]), host.secret, chief)
    snapshots = Snapshots(
        snapshot_client_of(host), host.lake, chief, host.store.fence, host.reports.quiet,
        refuses=True,
    )  # fmt: skip
    journal = Journal(store.client, chief)
    runner = ChiefRunner(store, topology.num_workers, units, snapshots, journal)
    trained = _train(host, topology, runner)
    units.wait_told(topology.num_workers, _FAREWELL_SECS)
    return trained


def work(host: Host, topology: Topology) -> Trained:
    """A worker: makes units, and goes on where the chief does."""
    keep_in_store()
    name, _, port = host.addresses["chief"][0].rpartition(":")
    worker = Worker((name, int(port)), host.secret)
    waits = topology.most_ahead is not None
    store = ModelStore(client_of(host), waits, 0)
    if not waits:
        sys.setswitchinterval(SWITCH_SECS)
        store.ahead = Aside(client_of(host), "pulls")
        store.behind = Aside(client_of(host), "pushes")
    runner = WorkerRunner(store, topology.num_workers, worker, host.reports.moved)
    trained = _train(host, topology, runner)
    with host.reports.quiet():
        # as long as the chief has something to do: a worker that has gone would be missed. The
        # driver ends the process
        worker.wait_for_more()
    return trained


def _train(host: Host, topology: Topology, runner: InStore) -> Trained:
    if not host.is_chief:
        host.ask_to_save_at_sigterm()
        host.reader(turns=topology.num_workers)
    return train(host, runner)
