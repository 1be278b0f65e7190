"""From DataFrames to feeds: runs on the driver.

Spark's tasks write and publish the partitions, see partition.py. The driver reads back what was
published and writes the feed's manifest, which later runs of the driver trust.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tfos.errors import FeedError, LakeError, RegistryError
from tfos.feeding.arrived import ArrivedWriter
from tfos.feeding.convert import map_batches
from tfos.feeding.feed import Feed
from tfos.feeding.layout import Layout
from tfos.feeding.partition import add_counts, widen, write_partition
from tfos.feeding.schema import Column, Manifest, Shard, resolve_lengths
from tfos.lake.run_directory import RunDirectory, feed_path, is_arrival, manifest_path

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

# between two looks at what has been published of a feed that is read already
_TELL_SECS = 1.0


def write_feeds(
    feeds: dict[str, Feed],
    lake: RunDirectory,
    connect: Callable[[], Any],
    published: Callable[[str], dict[int, dict[str, Any]]],
) -> dict[str, Manifest]:
    """Writes every DataFrame as a feed and commits the manifests. Called on the driver; blocks.

    connect: picklable; gives a context manager around a partition.Publish, on an executor.
    published: feed name -> the record of each published partition, as the registry has them.
    Raises FeedError for an unsupported type, a declaration that fits no column, a null, vectors
    of several sizes or an empty DataFrame; then no manifest is written. Types and declarations of
    all feeds are checked before the first job.
    """
    layouts = {name: feed.layout(name) for name, feed in feeds.items()}
    records = {}
    for name, feed in feeds.items():
        written = _run_job(feed.df, lake, layouts[name], connect)
        records[name] = published(name)
        _check_published(name, written, records[name])
    spans: dict[str, dict[str, list[tuple[int, int]]]] = {name: {} for name in feeds}
    for name, partitions in records.items():
        for record in partitions.values():
            widen(spans[name], record["spans"])
    resolved = resolve_lengths({n: layout.columns for n, layout in layouts.items()}, spans)
    manifests = {}
    for name, partitions in records.items():
        shards = [Shard(**s) for number in sorted(partitions) for s in partitions[number]["shards"]]
        manifests[name] = Manifest(name, resolved[name], tuple(shards))
        _check_rows(manifests[name])
    for layout in layouts.values():
        _check_vectors(layout, resolved[layout.feed], spans)
    for manifest in manifests.values():
        _commit(lake, manifest)
    return manifests


def can_stream(layout: Layout) -> bool:
    """Whether the tensors of a feed are known before its rows: it has scalar columns alone."""
    return all(
        source.column.length is None and not source.column.sparse for source in layout.sources
    )


def open_feed(lake: RunDirectory, layout: Layout) -> Manifest:
    """Writes the manifest of a feed of which no shard is there yet; see stream_feed."""
    manifest = Manifest(layout.feed, layout.columns, (), complete=False)
    ArrivedWriter(lake, manifest).begin()
    return manifest


def stream_feed(
    feed: Feed,
    opened: Manifest,
    lake: RunDirectory,
    connect: Callable[[], Any],
    published: Callable[[str], dict[int, dict[str, Any]]],
    is_cancelled: Callable[[], bool],
) -> Manifest:
    """Writes a DataFrame as a feed of which the shards can be read as they come. Blocks.

    The partitions that are published are told of as they come, see arrived.py, and the manifest is
    committed in the end, as write_feeds does it. Called on the driver.

    opened: what open_feed() wrote. is_cancelled: whether the feed is not to be committed any more.
    Raises what write_feeds raises.
    """
    layout, arrived = feed.layout(opened.feed), ArrivedWriter(lake, opened)
    order: dict[int, tuple[Shard, ...]] = {}

    def look() -> tuple[Shard, ...]:
        """All shards that have come, in that order."""
        for partition, record in sorted(published(layout.feed).items()):
            if partition not in order:
                order[partition] = tuple(Shard(**shard) for shard in record["shards"])
        return tuple(shard for each in order.values() for shard in each)

    written = threading.Event()

    def tell() -> None:
        while not written.wait(_TELL_SECS):
            # what fails now is told of by what comes after it, or is over by then
            with contextlib.suppress(LakeError, RegistryError):
                arrived.tell(look())

    teller = threading.Thread(target=tell, name="arrivals", daemon=True)
    teller.start()
    try:
        partitions = _run_job(feed.df, lake, layout, connect)
    finally:
        written.set()
        teller.join()
    came = look()
    _check_published(layout.feed, partitions, order)
    shards = tuple(shard for partition in sorted(order) for shard in order[partition])
    numbers = {shard: number for number, shard in enumerate(shards)}
    arrival = tuple(numbers[shard] for shard in came)
    manifest = replace(opened, shards=shards, complete=True, arrival=arrival)
    _check_rows(manifest)
    if is_cancelled():
        raise FeedError(f"feed {layout.feed!r} is no longer wanted")
    # for those who do not see the manifest at once
    arrived.tell(came)
    _commit(lake, manifest)
    return manifest


def _check_published(feed: str, written: set[int], published: Iterable[int]) -> None:
    missing = sorted(written.difference(published))
    if missing:
        raise FeedError(
            f"feed {feed!r} has {len(written)} partitions, and the registry does not know of those"
            f" numbered {missing[:10]}: were the run's nodes removed from ZooKeeper?"
        )


def _check_rows(manifest: Manifest) -> None:
    if not manifest.rows:
        raise FeedError(
            f"feed {manifest.feed!r} has no rows; check the filters and joins"
            " of its DataFrame in pre_train"
        )


def _commit(lake: RunDirectory, manifest: Manifest) -> None:
    """Writes the manifest of a feed that is complete, and removes what is no part of it."""
    _remove_strays(lake, manifest)
    lake.write_json(manifest_path(manifest.feed), manifest.as_json())


def _run_job(
    frame: DataFrame, lake: RunDirectory, layout: Layout, connect: Callable[[], Any]
) -> set[int]:
    """Writes and publishes all partitions; returns their numbers. Raises FeedError."""
    rows = map_batches(
        frame, lambda batches: write_partition(batches, lake, layout, connect), "wrong string"
    ).collect()
    nulls: dict[str, int] = {}
    null_elements: dict[str, int] = {}
    written = set()
    for row in rows:
        wrong = json.loads(row.wrong)
        written.add(wrong["partition"])
        if wrong["error"]:
            raise FeedError(wrong["error"])
        add_counts(nulls, wrong["nulls"])
        add_counts(null_elements, wrong["null_elements"])
    if nulls or null_elements:
        raise _null_error(layout, nulls, null_elements)
    return written


def _null_error(
    layout: Layout, nulls: Mapping[str, int], null_elements: Mapping[str, int]
) -> FeedError:
    # by the names that `fill` has: a null map makes two columns null
    named = {s.name: nulls[s.column.name] for s in layout.sources if s.column.name in nulls}
    found = [f"column {name!r} has {count}" for name, count in sorted(named.items())]
    found += [f"elements of {name!r} have {n}" for name, n in sorted(null_elements.items())]
    remedies = ["drop them in pre_train, e.g. df.dropna()"]
    if named:
        fill = ", ".join(f"{name!r}: ..." for name in sorted(named))
        remedies.append(f"return tfos.Feed(df, fill={{{fill}}})")
    if null_elements:
        remedies.append("F.filter(column, lambda x: x.isNotNull()) for those inside arrays")
    return FeedError(
        f"feed {layout.feed!r} has nulls: {', '.join(found)}; {', or '.join(remedies)}"
    )


def _check_vectors(
    layout: Layout,
    columns: tuple[Column, ...],
    spans: Mapping[str, Mapping[str, Sequence[tuple[int, int]]]],
) -> None:
    for source, column in zip(layout.sources, columns, strict=True):
        if source.part == "vector" and column.is_ragged:
            seen = {s for feed in spans.values() for s in feed.get(column.name, ())}
            low, high = min(low for low, _ in seen), max(high for _, high in seen)
            raise FeedError(
                f"column {column.name!r} of feed {layout.feed!r} has vectors of {low} to {high}"
                " dimensions, counting all feeds: give all of them one size, above 0"
            )


def _remove_strays(lake: RunDirectory, manifest: Manifest) -> None:
    """Removes what killed attempts of tasks left beside the published shards."""
    published = {shard.path for shard in manifest.shards}
    for file in lake.list(feed_path(manifest.feed)):
        path = f"{feed_path(manifest.feed)}/{file}"
        if path not in published and not is_arrival(file):
            lake.remove(path)
