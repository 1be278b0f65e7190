"""Which server has which keys: consistent hashing with virtual nodes (Karger et al. 1997). Pure.

Hashes of keys fall into buckets, the same for ever and on every ring. Each server is at many points
of a circle; a bucket is the server's whose point comes next. A server that comes takes buckets from
all others and none moves between these; one that goes leaves its buckets to all others.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Sequence

BUCKET_BITS = 14
BUCKETS = 1 << BUCKET_BITS
# of a server; shares differ by 1 / sqrt(VIRTUAL_NODES), 4%, or so
VIRTUAL_NODES = 512
_POINTS_OF_DIGEST = 8


class Ring:
    """servers: names, at least one, each once; their order only says the numbers in `owners`.

    owners: for each bucket the number of its server. Raises ValueError for bad names.
    """

    def __init__(self, servers: Sequence[str]) -> None:
        if not servers or len(set(servers)) != len(servers):
            raise ValueError(f"servers are {list(servers)}: use one or more, each once")
        self.servers = tuple(servers)
        # two servers at one point are in the order of their names
        points = sorted(
            (point, name, number) for number, name in enumerate(servers) for point in _points(name)
        )
        places = [point for point, _, _ in points]
        width = (1 << 64) // BUCKETS
        self.owners = tuple(
            points[bisect_left(places, bucket * width) % len(points)][2]
            for bucket in range(BUCKETS)
        )

    def buckets(self, server: str) -> list[int]:
        number = self.servers.index(server)
        return [bucket for bucket, owner in enumerate(self.owners) if owner == number]

    def moves(self, after: Ring) -> dict[int, tuple[str, str]]:
        """The buckets that have another server on the ring `after`: (server now, server then)."""
        names = (
            (self.servers[before], after.servers[then])
            for before, then in zip(self.owners, after.owners, strict=True)
        )
        return {bucket: pair for bucket, pair in enumerate(names) if pair[0] != pair[1]}


def _points(server: str) -> list[int]:
    found = []
    for number in range(VIRTUAL_NODES // _POINTS_OF_DIGEST):
        digest = hashlib.blake2b(f"{server}#{number}".encode()).digest()
        found += [int.from_bytes(digest[at : at + 8], "big") for at in range(0, 64, 8)]
    return found
