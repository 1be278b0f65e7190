"""Machines on a switch, as network namespaces of Linux, and cables that break.

Each machine has an address, a host name and a routing table of its own, and the files and processes
of this one. Packets that are to be lost are sent to an address of the switch that nobody has: the
sender hears nothing, as when a switch drops them. Only root can do this.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import SparkCluster

_NOBODY = "02:00:00:00:00:01"
_COUNT = itertools.count()


def require() -> None:
    """Skips the test where there can be no such machines."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("only root, with iproute2, can make network namespaces")
    tried = subprocess.run(["ip", "netns", "add", _name("try")], capture_output=True, text=True)
    if tried.returncode != 0:
        pytest.skip(f"no network namespaces: {tried.stderr.strip()}")
    _ip("netns", "del", _name("try"))


def _name(machine: str) -> str:
    return f"tfos-{os.getpid()}-{machine}"


def _ip(*argv: str) -> None:
    subprocess.run(["ip", *argv], check=True, capture_output=True, text=True, timeout=30)


@dataclass(frozen=True)
class Machine:
    name: str
    address: str
    namespace: str

    def command(self, *argv: str) -> list[str]:
        """The command that runs `argv` there; its process becomes that of `argv`."""
        named = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', self.name]
        # Spark would look for the address of the host name
        spark = ["env", f"SPARK_LOCAL_IP={self.address}"]
        return ["ip", "netns", "exec", self.namespace, *spark, *named, *argv]

    def has(self, pid: int) -> bool:
        """Whether a process runs there."""
        try:
            theirs = Path(f"/proc/{pid}/ns/net").stat()
        except OSError:  # it has just ended
            return False
        ours = Path(f"/run/netns/{self.namespace}").stat()
        return (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino)


class Network:
    """All machines reach each other, and this process, until a cut."""

    def __init__(self) -> None:
        # other test processes have networks of their own, and what was one goes away in its time
        self._number = (os.getpid() + 7 * next(_COUNT)) % 250 + 1
        self._bridge = f"tfos{self._number}"
        self._machines: dict[str, Machine] = {}
        _ip("link", "add", self._bridge, "type", "bridge")
        _ip("addr", "add", f"{self._address(254)}/24", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")

    def _address(self, host: int) -> str:
        return f"10.213.{self._number}.{host}"

    def add(self, name: str) -> Machine:
        host = len(self._machines) + 1
        machine = Machine(name, self._address(host), _name(f"{self._number}-{name}"))
        self._machines[name] = machine
        ours = f"{self._bridge}-{host}"
        _ip("netns", "add", machine.namespace)
        _ip("link", "add", ours, "type", "veth", "peer", "name", "eth0", "netns", machine.namespace)
        _ip("link", "set", ours, "master", self._bridge, "up")
        for part in (
            ["addr", "add", f"{machine.address}/24", "dev", "eth0"],
            ["link", "set", "eth0", "up"],
            ["link", "set", "lo", "up"],
        ):
            _ip("-n", machine.namespace, *part)
        return machine

    @property
    def machines(self) -> list[Machine]:
        return list(self._machines.values())

    def lose(self, sender: Machine, receiver: Machine) -> None:
        """From now on no packet of the sender gets to the receiver; those of it do arrive."""
        to = [receiver.address, "lladdr", _NOBODY, "dev", "eth0", "nud", "permanent"]
        _ip("-n", sender.namespace, "neigh", "replace", *to)

    def cut(self, one: Machine, *others: Machine) -> None:
        """From now on no packet gets from `one` to the others, or back; without others, to any."""
        for other in others or [each for each in self._machines.values() if each != one]:
            self.lose(one, other)
            self.lose(other, one)

    def mend(self) -> None:
        for machine in self._machines.values():
            _ip("-n", machine.namespace, "neigh", "flush", "all", "nud", "permanent")

    def close(self) -> None:
        for machine in self._machines.values():
            _ip("netns", "del", machine.namespace)
        _ip("link", "del", self._bridge)


class MachineCluster(SparkCluster):
    """A standalone Spark cluster with a machine for the master, and one for each worker."""

    def __init__(self, home: Path, network: Network) -> None:
        self._network = network
        self.machines: dict[str, Machine] = {}
        super().__init__(home)

    def _machine(self, name: str) -> Machine:
        if name not in self.machines:
            self.machines[name] = self._network.add(name)
        return self.machines[name]

    def _address(self, name: str) -> str:
        return self._machine(name).address

    def _command(self, name: str, *argv: str) -> list[str]:
        return self._machine(name).command(*argv)
