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

    rank: 0 is the chief. node: of processes that share a machine and see the same GPUs, by number,
    that of rank 0 first, and by name. local_rank, local_size: among those of its node. cross_rank,
    cross_size: among those of the same local rank, one of each node that has so many. host: the
    machine's address.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    cross_rank: int
    cross_size: int
    node: int
    node_name: str
    host: str


def rank_of(task: Task) -> int:
    return 0 if task.role == CHIEF else 1 + task.index


def hosts_of(addresses: Mapping[str, Sequence[str]]) -> list[str]:
    """The machine of each rank. addresses: "host:port" by role, as the runtime has them."""
    return [at.rpartition(":")[0] for at in (*addresses[CHIEF], *addresses.get("worker", ()))]


def place_of(task: Task, addresses: Mapping[str, Sequence[str]], visible: Sequence[str]) -> Place:
    """The place of `task`. addresses: see hosts_of().

    visible: CUDA_VISIBLE_DEVICES of each rank, "" where it is not set. Code takes the GPU with the
    number of its local rank: where each process sees one of its own, that is 0 in each.
    """
    hosts = hosts_of(addresses)
    pairs = list(zip(hosts, visible, strict=True))
    rank = rank_of(task)
    host, sees = pair = pairs[rank]
    is_divided = any(other != sees for at, other in pairs if at == host)
    name = f"{host}-gpu-{sees.replace(',', '-')}" if is_divided else host
    local_rank, nodes = pairs[:rank].count(pair), list(dict.fromkeys(pairs))
    across = [node for node in nodes if pairs.count(node) > local_rank]
    return Place(
        rank, len(hosts), local_rank, pairs.count(pair), across.index(pair), len(across),
        nodes.index(pair), name, host,
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
        "HOROVOD_HOSTNAME": place.node_name,
        # one that is built with MPI, too, would take that, and train N worlds of one process
        "HOROVOD_CONTROLLER": "gloo",
        "HOROVOD_CPU_OPERATIONS": "gloo",
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": store_host,
        "HOROVOD_GLOO_RENDEZVOUS_PORT": store_port,
        "HOROVOD_GLOO_TIMEOUT_SECONDS": max(1, round(start_secs)),
    }
    return {name: str(value) for name, value in found.items()}
