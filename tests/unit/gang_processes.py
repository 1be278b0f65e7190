"""A gang's real processes without Spark and ZooKeeper: what supervisors do is done here."""

from __future__ import annotations

import argparse
import contextlib
import os
import pickle
import queue
import sys
import time

from conftest import APPS
from helpers import write_feed

from tfos.feeding.schema import Column
from tfos.lake.run_directory import AppRecord, RunDirectory
from tfos.runtime.child import TFProcess
from tfos.runtime.ports import hold_port
from tfos.runtime.protocol import Failed, Outcome, StartOrder
from tfos.runtime.roles import addresses, all_tasks
from tfos.spec.job import JobSpec

DEADLINE_SECS = 60.0


class Processes:
    """A gang of `size` that runs `app` on a feed of so many ids. Each begin() is its next life.

    options: of the JobSpec. said: all that the processes said, (rank, message), in order.
    """

    def __init__(self, root, app, size, rows, **options):
        self.root = root
        self.lake = RunDirectory(str(root / "lake"), "run")
        write_feed(self.lake, "train", [Column("id", "int64")], {"id": [*range(rows)]}, [rows])
        self.lake.write_app(AppRecord(pickle.dumps(app), b"", ["train"]))
        self.spec = JobSpec.of("gang", num_workers=size, lake=self.lake.url, **options)
        self.tasks = sorted(all_tasks(self.spec))
        self.life = 0
        self._stack = contextlib.ExitStack()
        self.said = []
        self._events = queue.Queue()

    def __enter__(self):
        held = [self._stack.enter_context(hold_port("127.0.0.1")) for _ in self.tasks]
        ports = [f"127.0.0.1:{each.getsockname()[1]}" for each in held]
        self._addresses = addresses(dict(zip(self.tasks, ports, strict=True)))
        self.processes = []
        return self

    def __exit__(self, *exc):
        self.end()
        self._stack.close()

    def end(self):
        for process in self.processes:
            process.end()

    def begin(self):
        self.end()
        self.life += 1
        self.lake.write_generation(1, self.life)
        self.said, self._events = [], queue.Queue()
        events = self._events
        self.processes = []
        for rank, task in enumerate(self.tasks):
            process = TFProcess(
                task, "run", self.spec.topology, str(self.root), self.root / f"{task}.log",
                lambda _, message, rank=rank: events.put((rank, message)),
                lambda _, status, rank=rank: events.put((rank, status)),
            )  # fmt: skip
            process.begin(self.life, self.spec.hang_secs)
            self.processes.append(process)
        for task, process in zip(self.tasks, self.processes, strict=True):
            order = StartOrder(
                task.role, task.index, 1, self.life, self._addresses, self.spec.as_json(),
                self.lake.url, "run", process.scratch, secret="of this gang",
            )  # fmt: skip
            process.order(order)

    def wait(self, is_it, what):
        """The first (rank, message or exit status), said or yet to be, of which is_it(...)."""
        deadline = time.monotonic() + DEADLINE_SECS
        for each in self.said:
            if is_it(*each):
                return each
        while True:
            try:
                each = self._events.get(timeout=max(0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(
                    f"{what}: not within {DEADLINE_SECS:g} s\n{self.logs}"
                ) from None
            self.said.append(each)
            if is_it(*each):
                return each

    def ended(self, rank):
        """How a process ended: its Outcome's metrics, or Failed, or None; and its status."""
        status = self.wait(lambda r, m: r == rank and isinstance(m, int), f"rank {rank} ends")[1]
        last = [m for r, m in self.said if r == rank and isinstance(m, Outcome | Failed)]
        return (last[0] if last else None), status

    def signal(self, rank, number):
        os.kill(self.processes[rank].pid, number)

    @property
    def logs(self):
        return "\n".join(f"{path.name}:\n{path.read_text()}" for path in self.root.glob("*.log"))


def app_of(module, name, **arguments):
    """An app of tests/apps with these arguments, which its processes can unpickle."""
    if str(APPS) not in sys.path:
        sys.path.insert(0, str(APPS))
    kind = getattr(__import__(module), name)
    parser = argparse.ArgumentParser()
    kind.add_arguments(parser)
    app = kind()
    app.args = parser.parse_args([])
    vars(app.args).update(arguments)
    return app
