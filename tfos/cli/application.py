"""The application of a run in cluster mode, as YARN or Kubernetes knows it."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field

from tfos.runtime.java import find_java, spark_home

_KILL_SECS = 60.0
# what spark-submit says of it: YARN's id; Kubernetes's namespace and the driver's pod
_SUBMITTED = re.compile(
    rb"Submitted application (application_\d+_\d+)"
    rb"|submission ID (\S+:\S+) (?:to finish|into Kubernetes)"
)
_PHASE = re.compile(rb"\(phase: (\w+)\)")
_TRACKING = re.compile(rb"tracking URL: (\S+)")
# the last one tells how it ended; "[...]" is of the scheduler, while it waits
_DIAGNOSTICS = re.compile(rb"^\s+diagnostics: ((?!N/A)[^\[\s].*)")


def name_in(line: bytes) -> str | None:
    """An application's name, in a line that spark-submit writes."""
    found = _SUBMITTED.search(line)
    return found and (found[1] or found[2]).decode()


def phase_in(line: bytes) -> str | None:
    """The phase of a driver's pod, in such a line; Kubernetes's word for it."""
    found = _PHASE.search(line)
    return found and found[1].decode()


def address_in(line: bytes) -> str | None:
    """Where YARN shows an application, in such a line."""
    found = _TRACKING.search(line)
    return None if found is None or found[1] == b"N/A" else found[1].decode()


def diagnostics_in(line: bytes) -> str | None:
    """What YARN says of an application that has ended badly, in such a line."""
    found = _DIAGNOSTICS.search(line)
    return found and found[1].decode(errors="replace").strip()


@dataclass(frozen=True)
class Application:
    """name: as name_in() finds it. master: as --master has it.

    settings: of Spark's for Kubernetes, such as whose account it is asked with.
    """

    name: str
    master: str
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def kill_command(self) -> str:
        """What ends it without tfos."""
        if self.master.startswith("k8s"):
            namespace, _, pod = self.name.partition(":")
            return f"kubectl delete pod {pod} -n {namespace}"
        return f"yarn application -kill {self.name}"

    def kill(self) -> str:
        """Has it ended by who runs it; says how that went. Their clients are among Spark's jars."""
        if self.master.startswith("k8s"):
            submit = str(spark_home() / "bin" / "spark-submit")
            command = [submit, "--master", self.master, "--kill", self.name]
            command += [w for k, v in self.settings.items() for w in ("--conf", f"{k}={v}")]
            manager = "Kubernetes"
        else:
            names = ("HADOOP_CONF_DIR", "YARN_CONF_DIR")
            confs = [os.environ[name] for name in names if name in os.environ]
            path = os.pathsep.join([*confs, str(spark_home() / "jars" / "*")])
            client = "org.apache.hadoop.yarn.client.cli.ApplicationCLI"
            command = [find_java(), "-cp", path, client, "-kill", self.name]
            manager = "ResourceManager"
        try:
            ended = subprocess.run(
                command, capture_output=True, text=True, timeout=_KILL_SECS, start_new_session=True
            )
        except subprocess.TimeoutExpired:
            return f"could not be killed: no {manager} answered within {_KILL_SECS:g} s"
        if ended.returncode == 0:
            return "is killed"
        return f"could not be killed: {ended.stderr.strip()[-500:]}"
