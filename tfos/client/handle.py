"""Run: a run as a notebook or a script holds it, wherever it was submitted. Prints nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tfos.client import control
from tfos.client.logs import Selection, follow_logs, read_logs
from tfos.client.status import Status
from tfos.errors import UsageError
from tfos.lake.run_directory import RunDirectory, run_ids
from tfos.spec.job import JobSpec
from tfos.spec.result import Result


@dataclass(frozen=True)
class Run:
    """Run `run_id` of a lake, while it goes on or after it: what pl_submit's commands see of it.

    lake: a path, or an fsspec URL. zookeeper: as --zookeeper of pl_submit, "host:port,host:port";
    overrides what the lake says of it.
    Nothing is read before a method is called. Each raises LakeError when there is no such run, or
    the lake cannot be read. Raises UsageError for a name that no run can have.
    """

    lake: str
    run_id: str
    zookeeper: str | None = None

    def __post_init__(self) -> None:
        if not self.run_id:
            raise UsageError("run_id is empty: name a run, as tfos.runs(lake) lists them")
        JobSpec.of(run_id=self.run_id, lake=self.lake)

    def status(self) -> Status:
        """The state of the run now. Takes some seconds where its driver does not answer."""
        return control.read_status(self._directory(), self.zookeeper)

    def logs(
        self, role: str | None = None, attempt: int | None = None, follow: bool = False
    ) -> Iterator[str]:
        """The lines of its processes' logs, without their ends.

        role: "worker" for those of a role, "worker:1" for those of one process; all when not given.
        Of several processes each line begins with its own, as "worker-1 | ".
        attempt: from 1; the newest when not given.
        follow: goes on with what is added, and newer attempts, until the run has ended, or its
        driver is gone and nothing has come for 30 s; blocks meanwhile.
        Raises LakeError for logs that are not there, UsageError for a role that is none.
        """
        selection = Selection.parse(role)
        lake = self._directory()
        if follow:
            return _lines(follow_logs(lake, selection, attempt, self._has_driver))
        return _lines(read_logs(lake, selection, attempt))

    def cancel(self, timeout_secs: float = control.CANCEL_SECS) -> Result | None:
        """Ends the run as Ctrl-C does, and blocks until it has ended.

        Returns its result, None when its driver left none. Raises RegistryError when it is not
        running, or has not ended in time.
        """
        return control.cancel(self._directory(), self.zookeeper, timeout_secs)

    def result(self) -> Result | None:
        """What came of the run; None while it has not ended, or when its driver left nothing."""
        return control.read_result(self._directory())

    def wait(self, timeout_secs: float | None = None) -> Result:
        """Blocks until the run has ended; returns its result, also that of a run that failed.

        Raises TimeoutError when it has not ended in time, RegistryError when it has no driver for
        20 s and no result.
        """
        return control.wait(self._directory(), self.zookeeper, timeout_secs)

    def _directory(self) -> RunDirectory:
        lake = RunDirectory(self.lake, self.run_id)
        control.check_known(lake)
        return lake

    def _has_driver(self) -> bool:
        return control.has_driver(self._directory(), self.zookeeper)


def runs(lake: str = JobSpec.lake) -> list[Run]:
    """The runs in a lake, those that have begun, by name; empty where there is none.

    By name, as no object store tells cheaply when a run began. Names that tfos gave have the time
    in them: the runs of one app come in the order of their begin.
    """
    return [Run(lake, run_id) for run_id in run_ids(lake) if RunDirectory(lake, run_id).has_begun()]


def _lines(parts: Iterable[bytes]) -> Iterator[str]:
    rest = b""
    for part in parts:
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            yield line.decode(errors="replace")
    if rest:
        yield rest.decode(errors="replace")
