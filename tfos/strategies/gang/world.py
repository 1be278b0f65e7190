"""How the processes of a gang meet: at the begin, over what they restored, and at the end."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import struct
from collections.abc import Iterator, Mapping

from tfos.runtime.devices import VISIBLE
from tfos.runtime.host import Host
from tfos.spec.roles import CHIEF
from tfos.strategies.gang.places import Place, place_of, rank_of, variables
from tfos.strategies.gang.store import Store, serving

# how long rank 0 stays until the others have heard that all are done
_LEAVE_SECS = 10.0
# of PyTorch, and of Horovod
_INTERFACES = ("GLOO_SOCKET_IFNAME", "HOROVOD_GLOO_IFACE")
# netdevice(7); the answer's address is behind the name, 16 bytes, a family and a port
_SIOCGIFADDR = 0x8915


class PeerLost(ConnectionError):
    """Another process of the gang does not answer, or has gone another way."""


class World:
    """The gang of one life, as one of its processes sees it; made by join().

    place: of this process. master: "host:port" on which rank 0 may listen, and nobody does yet.
    environment: what launchers tell their processes.
    """

    place: Place
    master: str
    environment: Mapping[str, str]

    def __init__(self, store: Store, rank: int, size: int) -> None:
        self._store, self._rank, self._size = store, rank, size

    def tell(self, key: str, value: str) -> None:
        """For the others, from whom wait() gets it. Each key once in a life."""
        with _peers():
            self._store.put(key, value)

    def wait(self, key: str) -> str:
        """What another process tells, for as long as it takes. Raises PeerLost without rank 0."""
        with _peers():
            return self._store.wait(key)

    def gather(self, what: str, value: str) -> list[str]:
        """The values of all ranks, in each, when all have called it."""
        self.tell(f"{what}-{self._rank}", value)
        if self._rank == 0:
            values = [self.wait(f"{what}-{rank}") for rank in range(self._size)]
            self.tell(what, json.dumps(values))
        return list(json.loads(self.wait(what)))

    def meet(self, what: str, value: str = "") -> list[str]:
        """As gather(). When it returns in rank 0 nobody waits for anything of it any more: what
        comes next may hold Python's lock until the others do the same, as MPI_Init() does in
        mpi4py.
        """
        found = self.gather(what, value)
        if self._rank:
            self.tell(f"{what}-met-{self._rank}", "")
        else:
            for rank in range(1, self._size):
                self.wait(f"{what}-met-{rank}")
        return found

    def agree(self, step: int) -> None:
        """Waits for all, and raises PeerLost unless they have read the checkpoint of this step."""
        steps = [int(value) for value in self.meet("step", str(step))]
        if set(steps) != {step}:
            raise PeerLost(f"the processes have read checkpoints of different steps: {steps}")

    def leave(self) -> None:
        """Waits until all have called it: none goes while another one may still need it."""
        self.gather("done", "")
        if self._rank:
            self.tell(f"gone-{self._rank}", "")
            return
        with contextlib.suppress(ConnectionError):  # who is killed now has done its work
            for rank in range(1, self._size):
                self._store.wait(f"gone-{rank}", _LEAVE_SECS)


@contextlib.contextmanager
def join(host: Host) -> Iterator[World]:
    """Meets the others of this life; rank 0 serves their store until the block ends."""
    rank, size = rank_of(host.task), 1 + len(host.addresses.get("worker", ()))
    address = host.addresses[CHIEF][0]  # which the supervisor holds: only Python's own can bind it
    store, key = Store(address), _key(host)
    world = World(store, rank, size)
    with contextlib.ExitStack() as stack:
        with host.meeting(), _peers():
            if rank == 0:
                stack.enter_context(serving(address))
                store.put(key, free(address.rpartition(":")[0]))
            world.master = store.wait(key, up=False)
            visible = world.gather("visible", os.environ.get(VISIBLE, ""))
        world.place = place = place_of(host.task, host.addresses, visible)
        told = variables(place, world.master, address, host.spec.start_timeout_secs)
        world.environment = {**told, **_interface(place.host)}
        yield world


def reach(host: Host) -> Store:
    """The store of this life, as soon as rank 0 serves it: for roles that are beside the gang."""
    store = Store(host.addresses[CHIEF][0])
    with host.meeting(), _peers():
        store.wait(_key(host), up=False)
    return store


def _key(host: Host) -> str:
    return f"master-{host.attempt}.{host.life}"


@contextlib.contextmanager
def _peers() -> Iterator[None]:
    try:
        yield
    except PeerLost:
        raise
    except ConnectionError as error:
        raise PeerLost(str(error)) from error


def _interface(address: str) -> dict[str, str]:
    """Variables that name the network interface with this address, but for those that are set.

    Gloo would take the address of this host's name, which in Debian's /etc/hosts is 127.0.1.1.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # one that has no address
                asked = struct.pack("256s", name.encode())
                found = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, asked)[20:24]
                if socket.inet_ntoa(found) == address:
                    return {each: name for each in _INTERFACES if each not in os.environ}
    return {}


def free(host: str) -> str:
    """A port of `host` that no process holds, as "host:port": frameworks bind theirs alone."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return f"{host}:{probe.getsockname()[1]}"
