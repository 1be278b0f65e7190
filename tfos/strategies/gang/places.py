"""Who a process of a gang is: its ranks, and what launchers tell a process of them. Pure.

The variables are those of torchrun (torch.distributed.run, "Environment Variables") and of
Horovod's Gloo launcher (horovod/runner/gloo_run.py): code written for these finds what it needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tfos.spec.roles import CHIEF, Task


@dataclass(frozen=True)
class Place:
    """A process among the `size` of its gang.

    rank: 0 is the chief. local_rank, local_size: among those of its machine. cross_rank,
    cross_size: among those of the same local rank, one of each machine that has so many. node: the
    number of its machine, by the lowest rank there. host: that machine's address.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    cross_rank: int
    cross_size: int
    node: int
    host: str


def rank_of(task: Task) -> int:
    return 0 if task.role == CHIEF else 1 + task.index


def place_of(task: Task, addresses: Mapping[str, Sequence[str]]) -> Place:
    """The place of `task`. addresses: "host:port" by role, as the runtime has them."""
    hosts = [at.rpartition(":")[0] for at in (*addresses[CHIEF], *addresses.get("worker", ()))]
    rank = rank_of(task)
    host, local_rank = hosts[rank], hosts[:rank].count(hosts[rank])
    nodes = list(dict.fromkeys(hosts))
    across = [node for node in nodes if hosts.count(node) > local_rank]
    return Place(
        rank, len(hosts), local_rank, hosts.count(host), across.index(host), len(across),
        nodes.index(host), host,
    )  # fmt: skip


def variables(place: Place, master: str, store: str, start_secs: float) -> dict[str, str]:
    """The environment of a process.

    master: "host:port" that rank 0 may listen on, and nobody does yet. store: "host:port" of the
    gang's HTTP store. start_secs: how long the processes may wait for each other at the begin.
    """
    master_host, _, master_port = master.rpartition(":")
    store_host, _, store_port = store.rpartition(":")
    found = {
        "RANK": place.rank,
        "WORLD_SIZE": place.size,
        "LOCAL_RANK": place.local_rank,
        "LOCAL_WORLD_SIZE": place.local_size,
        "GROUP_RANK": place.node,
        "MASTER_ADDR": master_host,
        "MASTER_PORT": master_port,
        "HOROVOD_RANK": place.rank,
        "HOROVOD_SIZE": place.size,
        "HOROVOD_LOCAL_RANK": place.local_rank,
        "HOROVOD_LOCAL_SIZE": place.local_size,
        "HOROVOD_CROSS_RANK": place.cross_rank,
        "HOROVOD_CROSS_SIZE": place.cross_size,
        "HOROVOD_HOSTNAME": place.host,
        # one that is built with MPI, too, would take that, and train N worlds of one process
        "HOROVOD_CONTROLLER": "gloo",
        "HOROVOD_CPU_OPERATIONS": "gloo",
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": store_host,
        "HOROVOD_GLOO_RENDEZVOUS_PORT": store_port,
        "HOROVOD_GLOO_TIMEOUT_SECONDS": max(1, round(start_secs)),
    }
    return {name: str(value) for name, value in found.items()}
