"""Snapshots of a store in the lake, as Parquet: by each server its rows, for any number of servers.

    <path>/<table>/stripe=07/ps-0.parquet   bucket, key, changed, weights, slots; sorted by bucket
    <path>/part-ps-0.json                   what ps-0 has written; when all of it is there
    <path>/snapshot.json                    all parts; last, a snapshot without it does not exist

What save() writes has each row whole, with its slots, as a stripe is locked while it is copied, and
no longer: where rows of different stripes are to be of one moment, nobody may push meanwhile. What
begin() writes is of one moment, and others push on. A delta has the rows changed since the snapshot
that it is based on; of a table of which rows have expired since, it has all ("since" is 0 then).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import posixpath
import urllib.parse
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tfos.errors import DamagedError
from tfos.kv.hashing import hashes
from tfos.kv.moment import Moment
from tfos.kv.ring import BUCKET_BITS, Ring
from tfos.kv.spec import table_from_json
from tfos.kv.store import Store
from tfos.kv.table import Rows, Table, now_ms
from tfos.lake.storage import Storage

MARKER = "snapshot.json"
_ROW_GROUP = 65_536


def save(
    store: Store, storage: Storage, path: str, server: str, base: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Writes the server's part, and returns what commit() is to know of it.

    base: the part of the same server in the snapshot that this is a delta to; None for all rows.
    Raises ValueError if that has rows that are not an earlier state of these.
    """
    facts, part = _begun(store, server, base), _part(store, server)
    tables = store.tables
    all_facts = [facts(table) for table in tables]
    found = (
        (number, stripe, table.scan(stripe, True, known["since"], part["taken"]))
        for number, (table, known) in enumerate(zip(tables, all_facts, strict=True))
        for stripe in range(table.stripes)
    )
    return _write(storage, path, part, tables, all_facts, found)


def begin(
    store: Store, storage: Storage, path: str, server: str, base: Mapping[str, Any] | None = None
) -> Callable[[], dict[str, Any]]:
    """As save(), of the rows as they are when this returns: what it returns writes and returns the
    part, and may be called in another thread. To be called once. Raises OSError as well.

    Makes a copy of the process, see tfos.kv.moment, which is for one whose libraries bear it.
    """
    part = _part(store, server)
    moment = Moment(store, _begun(store, server, base), part["taken"])

    def finish() -> dict[str, Any]:
        with contextlib.closing(moment):
            return _write(storage, path, part, moment.tables, moment.facts, moment.rows())

    return finish


def _part(store: Store, server: str) -> dict[str, Any]:
    return {"server": server, "origin": store.origin, "taken": now_ms()}


def _begun(
    store: Store, server: str, base: Mapping[str, Any] | None
) -> Callable[[Table], dict[str, Any]]:
    """What is to be known of a table before its rows are read; since: 0 where all are."""
    if base is not None and base["origin"] != store.origin:
        raise ValueError(
            f"{server} has begun anew since that snapshot was written: write a full one first"
        )

    def facts(table: Table) -> dict[str, Any]:
        name, swept = table.spec.name, table.swept
        # a delta does not say which rows are gone
        is_delta = base is not None and base["swept"].get(name) == swept
        since = int(base["taken"]) if base is not None and is_delta else 0
        return {
            "spec": table.spec.to_json(), "steps": table.steps, "stripes": table.stripes,
            "swept": swept, "since": since,
        }  # fmt: skip

    return facts


def _write(
    storage: Storage,
    path: str,
    part: dict[str, Any],
    tables: Sequence[Table],
    facts: Sequence[dict[str, Any]],
    found: Iterable[tuple[int, int, Rows]],
) -> dict[str, Any]:
    """Writes what was found, (table, stripe, rows), and the part."""
    server, files = part["server"], [dict[str, Any]() for _ in tables]
    for number, stripe, rows in found:
        if len(rows.keys):
            table = tables[number]
            directory = urllib.parse.quote(table.spec.name, safe="")
            file = posixpath.join(directory, f"stripe={stripe:02d}", f"{server}.parquet")
            data = _parquet(table, rows)
            storage.write(posixpath.join(path, file), data)
            digest = hashlib.sha256(data).hexdigest()
            files[number][file] = {"rows": len(rows.keys), "bytes": len(data), "sha256": digest}
    names = [table.spec.name for table in tables]
    part["swept"] = {name: known["swept"] for name, known in zip(names, facts, strict=True)}
    part["tables"] = [
        {**known, "files": written} for known, written in zip(facts, files, strict=True)
    ]
    storage.write_json(posixpath.join(path, f"part-{server}.json"), part)
    return part


def _read_marker(storage: Storage, path: str) -> list[dict[str, Any]]:
    """The parts of a snapshot."""
    if not storage.exists(posixpath.join(path, MARKER)):
        raise DamagedError(f"{storage.uri(path)} is no snapshot: it has no {MARKER}")
    found: list[dict[str, Any]] = storage.read_json(posixpath.join(path, MARKER))["parts"]
    return found


def rows_of(parts: Sequence[Mapping[str, Any]]) -> int:
    """How many rows a snapshot of these parts has."""
    return sum(
        file["rows"]
        for part in parts
        for table in part["tables"]
        for file in table["files"].values()
    )


def commit(storage: Storage, path: str, parts: Sequence[Mapping[str, Any]]) -> None:
    """Makes it a snapshot, when the parts of all servers are written."""
    storage.write_json(posixpath.join(path, MARKER), {"parts": list(parts)})


def restore(
    store: Store, storage: Storage, paths: Sequence[str], ring: Ring, server: str
) -> dict[str, int]:
    """Loads the rows that are this server's on `ring`: how many, by table.

    paths: a full snapshot and the deltas to it, in order; of whatever servers. Raises DamagedError
    for one that is not whole, ValueError where a table is there with other arguments.

    Rows that expire with time do not while nobody trains: they were changed as long ago as they
    were when the last of the snapshots was begun.
    """
    mine = np.array(ring.owners) == ring.servers.index(server)
    snapshots = [_read_marker(storage, path) for path in paths]
    taken = max((part["taken"] for parts in snapshots for part in parts), default=0)
    pause = max(0, now_ms() - taken)
    # the last of them that has all rows that a server had of a table
    full = {
        (part["server"], facts["spec"]["name"]): number
        for number, parts in enumerate(snapshots)
        for part in parts
        for facts in part["tables"]
        if not facts["since"]
    }
    for number, (path, parts) in enumerate(zip(paths, snapshots, strict=True)):
        for part in parts:
            for facts in part["tables"]:
                if number < full.get((part["server"], facts["spec"]["name"]), 0):
                    continue
                table = store.at(store.table(table_from_json(facts["spec"])))
                table.set_steps(max(table.steps, facts["steps"]))
                for file, expected in facts["files"].items():
                    stripe = int(file.split("stripe=")[1][:2])
                    if mine.reshape(facts["stripes"], -1)[stripe].any():
                        found = _read(storage, posixpath.join(path, file), expected)
                        _load(table, found, mine, pause)
    return {table.spec.name: len(table) for table in store.tables}


def _parquet(table: Table, rows: Rows) -> bytes:
    bucket = (hashes(rows.keys) >> np.uint64(64 - BUCKET_BITS)).astype(np.int32)
    order = np.argsort(bucket, kind="stable")
    width = table.spec.width
    columns = {
        "bucket": pa.array(bucket[order]),
        "key": pa.array(rows.keys[order]),
        "changed": pa.array(rows.changed[order]).cast(pa.timestamp("ms", "UTC")),
        "weights": _lists(rows.values[order, :width]),
    }
    if table.floats > width:
        columns["slots"] = _lists(rows.values[order, width:])
    sink = io.BytesIO()
    # floats that are trained hardly get smaller
    pq.write_table(pa.table(columns), sink, row_group_size=_ROW_GROUP, use_dictionary=False)
    return sink.getvalue()


def _lists(values: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(
        pa.array(np.ascontiguousarray(values).ravel()), values.shape[1]
    )


def _read(storage: Storage, path: str, expected: Mapping[str, Any]) -> pa.Table:
    data = storage.read(path)
    if hashlib.sha256(data).hexdigest() != expected["sha256"]:
        raise DamagedError(
            f"{storage.uri(path)} has {len(data):,} bytes, and is not the file of"
            f" {expected['bytes']:,} bytes that was written"
        )
    return pq.read_table(io.BytesIO(data))


def _load(table: Table, found: pa.Table, mine: np.ndarray, later: int) -> None:
    """later: milliseconds, of the times of rows that expire with them."""
    found = found.filter(pa.array(mine[found["bucket"].to_numpy()]))
    if not len(found):
        return
    names = [name for name in ("weights", "slots") if name in found.column_names]
    parts = [
        found[name].combine_chunks().flatten().to_numpy().reshape(len(found), -1) for name in names
    ]
    changed = found["changed"].cast(pa.int64()).to_numpy()
    if table.spec.expire_secs is not None:
        changed = changed + later
    table.load(Rows(found["key"].to_numpy(), changed, np.concatenate(parts, axis=1)))
