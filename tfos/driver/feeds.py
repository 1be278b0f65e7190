"""From pre_train() to feeds in the lake."""

from __future__ import annotations

import contextlib
import pickle
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tfos.driver.cluster import cluster_of
from tfos.driver.display import Display
from tfos.driver.pickled import pickled
from tfos.errors import AppError, FeedError, LakeError
from tfos.feeding.arrived import ArrivedReader
from tfos.feeding.feed import Feed
from tfos.feeding.schema import Manifest
from tfos.feeding.writer import can_stream, open_feed, stream_feed, write_feeds
from tfos.lake.run_directory import AppRecord, RunDirectory, manifest_path
from tfos.runtime import keys
from tfos.runtime.registry import Registry, RegistryAddress

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from tfos.app import TFOnSparkApp

_WAIT_SECS = 0.5
_CANCEL_SECS = 10.0


class Feeds:
    """The feeds of a run, complete in the lake or on their way. Used on the driver.

    manifests: of the feeds that are complete; after cancel() of what has arrived of another, too.
    secs: what making them has taken.
    """

    def __init__(
        self,
        app: TFOnSparkApp,
        spark: SparkSession,
        lake: RunDirectory,
        address: RegistryAddress,
        registry: Registry,
        display: Display,
    ) -> None:
        self._app, self._spark, self._lake = app, spark, lake
        self._registry, self._display = registry, display
        self._maker = secrets.token_hex(4)
        self._publisher = _Publisher(address, lake.run_id, self._maker)
        self._published: dict[str, dict[int, dict[str, Any]]] = {}
        self._begun = time.monotonic()
        self._streamed: tuple[Feed, Manifest] | None = None
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._is_cancelled = False
        self.manifests: dict[str, Manifest] = {}
        self.secs = 0.0

    def make(self, may_stream: Callable[[], bool]) -> None:
        """Those of the run that is resumed, or new ones: all of them, or all but one. Blocks.

        may_stream: whether the feed "train", or the only one, may be left to be written by begin(),
        where its columns allow it. Asked where feeds are to be made at all.
        """
        if not self._take_over():
            self._make_anew(may_stream())
        for manifest in self.manifests.values():
            self._tell(manifest)
        self.secs = time.monotonic() - self._begun

    def _take_over(self) -> bool:
        """The feeds of the run that is resumed, and what its pre_train() set, if all are there."""
        lake, app = self._lake, self._app
        record = lake.app()
        if record is None:
            return False
        paths = {name: manifest_path(name) for name in record.feeds}
        if not all(map(lake.exists, paths.values())):
            # checkpoints go back to rows in an order that will not come again
            lake.forget_training()
            return False
        self._display.line("feeds are in the lake already: pre_train() is not run again")
        # in the app as it is now: its code and arguments are new
        app.__dict__.update(pickle.loads(record.state))
        _store(app, lake, record.feeds)
        for name, path in paths.items():
            self.manifests[name] = Manifest.from_json(lake.read_json(path))
        return True

    def _make_anew(self, may_stream: bool) -> None:
        lake = self._lake
        lake.remove("feed")
        self._registry.remove(f"{keys.run(lake.run_id)}/feeds")
        self._display.phase("pre_train()")
        feeds = named_feeds(self._app.pre_train(self._spark), self._app._feeds_from)
        pickled(self._app)  # an attribute that cannot travel is found before the long part
        self._display.phase(f"feeding {', '.join(feeds)}")
        others = dict(feeds)
        # of all, before the first job
        layouts = {name: feed.layout(name) for name, feed in feeds.items()}
        name = next(iter(feeds)) if len(feeds) == 1 else "train"
        if may_stream and name in feeds:
            if can_stream(layouts[name]):
                self._streamed = others.pop(name), open_feed(lake, layouts[name])
            else:
                self._display.line(f"feed {name} is made before the training: it has array columns")
        self.manifests.update(write_feeds(others, lake, self._publisher, self._look))
        _store(self._app, lake, list(feeds))

    def begin(self) -> None:
        """Starts to write the feed that make() has left, if there is one; does not block."""
        if self._streamed is None or self._thread is not None:
            return
        cluster = cluster_of(self._spark)
        feed, opened = self._streamed

        def write() -> None:
            begun = time.monotonic()
            words = f"tfos {self._lake.run_id} feed {opened.feed}"
            try:
                cluster.group_jobs(self._group, words)
                manifest = stream_feed(
                    feed, opened, self._lake, self._publisher, self._look,
                    lambda: self._is_cancelled or bool(self._registry.taken),
                )  # fmt: skip
                self.manifests[opened.feed] = manifest
                self._tell(manifest)
            except BaseException as error:
                self._error = error
            finally:
                self.secs += time.monotonic() - begun

        self._display.line(f"feeding {opened.feed} while the training begins")
        self._thread = cluster.thread(write, "tfos-feed")
        self._thread.start()

    @property
    def is_writing(self) -> bool:
        """Whether a feed is being written beside the training."""
        return self._thread is not None and self._thread.is_alive()

    def check(self) -> None:
        """Raises what ended the writing."""
        if self._error is not None:
            raise self._error

    def wait(self) -> None:
        """Blocks until all feeds are complete.

        Raises what ended the writing, or RegistryError when another driver has taken over the run.
        """
        self.begin()
        if self._thread is not None:
            while self.is_writing:
                self._registry.check_taken()
                self._thread.join(_WAIT_SECS)
        self._registry.check_taken()
        self.check()

    def cancel(self) -> None:
        """Ends the writing; to be called when the run fails. What has arrived is told of."""
        self._is_cancelled = True
        deadline = time.monotonic() + _CANCEL_SECS
        while self._thread is not None and self.is_writing and time.monotonic() < deadline:
            with contextlib.suppress(Exception):  # the Spark context may be gone already
                # again and again: the job may be about to begin
                cluster_of(self._spark).cancel(self._group)
            self._thread.join(_WAIT_SECS)
        feed = self._streamed[1].feed if self._streamed and self._thread else None
        if feed is not None and feed not in self.manifests:
            with contextlib.suppress(LakeError):
                self.manifests[feed] = ArrivedReader(self._lake, feed).look()

    @property
    def _group(self) -> str:
        return f"tfos-{self._lake.run_id}-feed"

    def _look(self, name: str) -> dict[int, dict[str, Any]]:
        """What was published of a feed, by partition; a record never changes.

        Raises RegistryError when another driver has taken over the run: the feed is its own then.
        """
        self._registry.check_taken()
        known = self._published.setdefault(name, {})
        path = keys.feed(self._lake.run_id, self._maker, name)
        self._registry.sync(path)
        for number in self._registry.children(path):
            if int(number) not in known:
                known[int(number)] = self._registry.get(f"{path}/{number}")
        return known

    def _tell(self, manifest: Manifest) -> None:
        shards = len(manifest.shards)
        self._display.line(f"feed {manifest.feed}: {manifest.rows:,} rows in {shards} shards")


class _Publisher:
    """Called in a Spark task: a connection to the registry, as a publish function."""

    def __init__(self, address: RegistryAddress, run_id: str, maker: str) -> None:
        self._address = address
        self._run_id, self._maker = run_id, maker

    @contextlib.contextmanager
    def __call__(self) -> Iterator[Any]:
        with Registry(self._address) as registry:
            yield lambda feed, partition, record: registry.create(
                keys.partition(self._run_id, self._maker, feed, partition), record
            )


def named_feeds(returned: Any, source: str) -> dict[str, Feed]:
    """What pre_train() may return, as named feeds. Raises AppError.

    source: how messages begin, with who gave it.
    """
    from pyspark.sql import DataFrame

    named = returned if isinstance(returned, dict) else {"train": returned}
    if not named:
        raise FeedError(f"{source} an empty dict: it takes at least one DataFrame")
    feeds = {}
    for name, value in named.items():
        feed = value if isinstance(value, Feed) else Feed(value)
        if not isinstance(feed.df, DataFrame):
            found = f"{type(feed.df).__name__}" + (f" as {name!r}" if named is returned else "")
            raise AppError(
                f"{source} {found}: it takes a DataFrame or a tfos.Feed of one, or a dict of named"
                ' ones such as {"train": df, "eval": other}'
            )
        if not str(name).isidentifier():
            raise AppError(f"{source} a feed named {name!r}: use a Python identifier")
        feeds[name] = feed
    return feeds


def _store(app: TFOnSparkApp, lake: RunDirectory, feeds: Sequence[str]) -> None:
    """Writes the app for train(), and what a resumed run takes over when the feeds are complete."""
    lake.write_app(AppRecord(**pickled(app), feeds=feeds))
