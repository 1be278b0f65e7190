"""From pre_train() to feeds in the lake."""

from __future__ import annotations

import contextlib
import copy
import pickle
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tfos.app import TFOnSparkApp
from tfos.display import Display
from tfos.errors import AppError, FeedError
from tfos.feeding.feed import Feed
from tfos.feeding.schema import Manifest, manifest_path
from tfos.feeding.writer import write_feeds
from tfos.lake import APP, Lake
from tfos.runtime import keys
from tfos.runtime.registry import Registry, RegistryAddress

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def make_feeds(
    app: TFOnSparkApp,
    spark: SparkSession,
    lake: Lake,
    address: RegistryAddress,
    registry: Registry,
    display: Display,
) -> dict[str, Manifest]:
    """The feeds, complete in the lake: those of the run that is resumed, or new ones."""
    if lake.exists(APP):
        display.line("feeds are in the lake already: pre_train() is not run again")
        record = pickle.loads(lake.read(APP))
        # what pre_train() set, in the app as it is now: its code and arguments are the new ones
        app.__dict__.update(pickle.loads(record["state"]))
        _store(app, lake, record["feeds"])
        return {n: Manifest.from_json(lake.read_json(manifest_path(n))) for n in record["feeds"]}
    lake.remove("feed")
    registry.remove(f"{keys.run(lake.run_id)}/feeds")
    display.line("pre_train()")
    feeds = _named_feeds(app.pre_train(spark))
    _pickle(app)  # an attribute that cannot travel is found before the long part
    display.line(f"feeding {', '.join(feeds)}")
    publisher = _Publisher(address, lake.run_id)

    def published(name: str) -> dict[int, dict[str, Any]]:
        path = keys.feed(lake.run_id, name)
        return {int(n): registry.get(f"{path}/{n}") for n in registry.children(path)}

    manifests = write_feeds(feeds, lake, publisher, published)
    _store(app, lake, list(manifests))
    for manifest in manifests.values():
        display.line(
            f"feed {manifest.feed}: {manifest.rows:,} rows in {len(manifest.shards)} shards"
        )
    return manifests


class _Publisher:
    """Called in a Spark task: a connection to the registry, as a publish function."""

    def __init__(self, address: RegistryAddress, run_id: str) -> None:
        self._address = address
        self._run_id = run_id

    @contextlib.contextmanager
    def __call__(self) -> Iterator[Any]:
        with Registry(self._address) as registry:
            yield lambda feed, partition, record: registry.create(
                keys.partition(self._run_id, feed, partition), record
            )


def _named_feeds(returned: Any) -> dict[str, Feed]:
    """pre_train's return value as named feeds. Raises AppError."""
    from pyspark.sql import DataFrame

    named = returned if isinstance(returned, dict) else {"train": returned}
    if not named:
        raise FeedError("pre_train() returned an empty dict: return at least one DataFrame")
    feeds = {}
    for name, value in named.items():
        feed = value if isinstance(value, Feed) else Feed(value)
        if not isinstance(feed.df, DataFrame):
            found = f"{type(feed.df).__name__}" + (f" as {name!r}" if named is returned else "")
            raise AppError(
                f"pre_train() returned {found}: return a DataFrame or a tfos.Feed of one, or a dict"
                ' of named ones such as {"train": df, "eval": other}'
            )
        if not str(name).isidentifier():
            raise AppError(f"pre_train() returned a feed named {name!r}: use a Python identifier")
        feeds[name] = feed
    return feeds


def _store(app: TFOnSparkApp, lake: Lake, feeds: list[str]) -> None:
    """Writes the app for train(), and what a resumed run takes over: the feeds are complete."""
    lake.write(APP, pickle.dumps({**_pickle(app), "feeds": feeds}))


def _pickle(app: TFOnSparkApp) -> dict[str, bytes]:
    """The app, and what pre_train() set on it. Raises AppError for what cannot be pickled."""
    from pyspark import cloudpickle

    app = copy.copy(app)
    vars(app).pop("fit_data", None)  # a DataFrame stays on the driver
    state = {name: value for name, value in vars(app).items() if name not in ("args", "result")}
    try:
        return {"app": cloudpickle.dumps(app), "state": cloudpickle.dumps(state)}
    except Exception as error:
        for name, value in vars(app).items():
            try:
                cloudpickle.dumps(value)
            except Exception as reason:
                raise AppError(
                    f"attribute self.{name} ({type(value).__name__}), set by pre_train(), cannot be"
                    f" pickled and so cannot reach train(): {reason}; keep it in a local variable,"
                    " or delete it before pre_train() returns"
                ) from reason
        raise AppError(f"{type(app).__name__} cannot be pickled: {error}") from error
