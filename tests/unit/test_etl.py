"""The feeds of a run: made, taken over, or written beside the training; without Spark."""

from __future__ import annotations

import contextlib
import threading
import types

import pyarrow as pa
import pytest
from helpers import Frame, Nodes
from spark_types import array

import tfos.driver.feeds
from tfos.app import TFOnSparkApp
from tfos.driver.feeds import Feeds
from tfos.errors import FeedError, RegistryError
from tfos.lake.run_directory import RunDirectory, arrived_path, manifest_path
from tfos.runtime.registry import RegistryAddress

LONG = ("long", pa.int64())
WAIT_SECS = 20


class App(TFOnSparkApp):
    """An app whose pre_train returns what the test says."""

    def __init__(self, returned):
        self.args = types.SimpleNamespace()
        self._returned = returned

    def __getstate__(self):
        return {name: value for name, value in vars(self).items() if name != "_returned"}

    def pre_train(self, spark):
        self.classes = 3
        return self._returned


class Gate(Frame):
    """A DataFrame whose job begins when it is let, and which can be cancelled."""

    def __init__(self, *partitions):
        super().__init__({"x": LONG}, *partitions)
        self.let, self.begun, self.is_cancelled = threading.Event(), threading.Event(), False

    def mapInArrow(self, function, schema):
        self.begun.set()
        assert self.let.wait(WAIT_SECS)
        if self.is_cancelled:
            raise RuntimeError("the job was cancelled")
        return super().mapInArrow(function, schema)


ROWS = [{"x": 1}, {"x": 2}]


@pytest.fixture
def lake(tmp_path):
    lake = RunDirectory(str(tmp_path), "run")
    lake.write_json("spec.json", {})
    return lake


@pytest.fixture
def nodes(monkeypatch):
    nodes = Nodes()
    monkeypatch.setattr(
        tfos.driver.feeds, "Registry", lambda address: contextlib.nullcontext(nodes)
    )
    monkeypatch.setattr("pyspark.sql.DataFrame", Frame)
    return nodes


@pytest.fixture
def make(lake, nodes, monkeypatch):
    """Makes the feeds that an app returns, as far as make() does it."""
    monkeypatch.setattr(tfos.driver.feeds, "_WAIT_SECS", 0.01)
    made = []

    def make(returned, may_stream=True, cancelled=lambda group: None):
        context = types.SimpleNamespace(setJobGroup=lambda *of: None, cancelJobGroup=cancelled)
        spark = types.SimpleNamespace(sparkContext=context)
        lines = []
        display = types.SimpleNamespace(line=lines.append, phase=lines.append)
        address = RegistryAddress("h:1", "run", "secret")
        feeds = Feeds(App(returned), spark, lake, address, nodes, display)
        feeds.lines = lines
        made.append(feeds)
        feeds.make(may_stream if callable(may_stream) else lambda: may_stream)
        return feeds

    yield make
    for feeds in made:
        feeds.cancel()


class TestMake:
    @pytest.mark.parametrize("names", [["train"], ["other"], ["eval", "train"]])
    def test_training_feed_is_left_for_later(self, lake, make, names):
        feeds = make({name: Frame({"x": LONG}, ROWS) for name in names})
        assert list(feeds.manifests) == names[:-1]
        assert lake.exists(arrived_path(names[-1])) and lake.app()
        feeds.begin()
        feeds.wait()
        assert set(feeds.manifests) == set(names)
        assert feeds.manifests[names[-1]].rows == 2
        assert feeds.secs > 0

    @pytest.mark.parametrize(
        ("kinds", "may_stream"),
        [
            ({"train": (array("long"), pa.list_(pa.int64()))}, True),
            ({"train": LONG}, False),
            ({"one": LONG, "other": LONG}, True),
        ],
        ids=["arrays", "not allowed", "which of them is unknown"],
    )
    def test_else_all_are_made_at_once(self, make, kinds, may_stream):
        rows = {name: [{"x": 1 if kind is LONG else [1]}] for name, kind in kinds.items()}
        feeds = make({n: Frame({"x": kind}, rows[n]) for n, kind in kinds.items()}, may_stream)
        assert set(feeds.manifests) == set(kinds)
        feeds.begin()
        feeds.wait()
        assert not any("while the training begins" in line for line in feeds.lines)
        told = any("array columns" in line for line in feeds.lines)
        assert told is any(kind is not LONG for kind in kinds.values())

    def test_of_a_run_that_is_resumed_they_are_taken_over(self, lake, make):
        feeds = make(Frame({"x": LONG}, ROWS))
        feeds.begin()
        feeds.wait()
        lake.write("checkpoints/1-1.1/state.json", b"{}")

        def asked():
            raise AssertionError("nothing is to be made")

        again = make(None, asked)
        assert again.manifests == feeds.manifests
        assert again._app.classes == 3
        assert lake.exists("checkpoints/1-1.1")

    def test_of_a_run_that_never_had_them_all_they_are_made_anew(self, lake, make, nodes):
        gate = Gate(ROWS)
        make({"eval": Frame({"x": LONG}, ROWS), "train": gate})
        lake.write("checkpoints/1-1.1/state.json", b"{}")
        lake.write("feed/train/000007-0.arrow", b"of the driver that died")
        lake.write_evaluations({"stop": 0})
        lake.write_generation(3, 2)
        again = make(Frame({"x": LONG}, ROWS, ROWS), may_stream=False)
        assert again.manifests["train"].rows == 4
        assert not lake.exists("checkpoints") and lake.evaluations()["stop"] is None
        # the chief that outlives its driver is nobody's
        assert lake.generation() == {"attempt": 3, "life": 0}
        shards = {shard.path for shard in again.manifests["train"].shards}
        assert {f"feed/train/{name}" for name in lake.list("feed/train")} == shards | {
            manifest_path("train")
        }

    def test_of_a_run_that_another_driver_takes_over_are_not_committed(self, lake, make, nodes):
        class Late(Frame):
            def mapInArrow(self, function, schema):
                found = super().mapInArrow(function, schema)
                lake.write("feed/train/000000-99-0.arrow", b"of the other driver")
                nodes.taken = "/driver"
                return found

        with pytest.raises(RegistryError, match="/driver"):
            make(Late({"x": LONG}, ROWS), may_stream=False)
        assert lake.exists("feed/train/000000-99-0.arrow")
        assert not lake.exists(manifest_path("train"))

    def test_have_nothing_of_what_tasks_of_another_driver_write(self, lake, make):
        """It was replaced, and its Spark application still runs tasks, of the same numbers."""
        tasks = []

        class First(Frame):
            def mapInArrow(self, function, schema):
                tasks.append(lambda: super(First, self).mapInArrow(function, schema))
                raise RuntimeError("cut off")

        class Second(Frame):
            def mapInArrow(self, function, schema):
                tasks[0]()
                return super().mapInArrow(function, schema)

        with pytest.raises(RuntimeError, match="cut off"):
            make(First({"x": LONG}, ROWS), may_stream=False)
        feed = make(Second({"x": LONG}, [*ROWS, {"x": 3}]), may_stream=False).manifests["train"]
        assert feed.rows == 3
        assert all(lake.exists(shard.path) for shard in feed.shards)


class TestBeside:
    def test_begins_once_and_does_not_block(self, make):
        gate = Gate(ROWS)
        feeds = make(gate)
        assert not gate.begun.is_set()
        feeds.begin()
        feeds.begin()
        feeds.check()
        assert gate.begun.wait(WAIT_SECS)
        assert not feeds.manifests
        gate.let.set()
        feeds.wait()
        assert feeds.manifests["train"].rows == 2
        assert sum("while the training begins" in line for line in feeds.lines) == 1

    def test_what_ends_it_is_raised(self, make):
        feeds = make(Frame({"x": LONG}, ROWS, [{"x": None}]))
        feeds.begin()
        with pytest.raises(FeedError, match="has nulls"):
            feeds.wait()
        with pytest.raises(FeedError, match="has nulls"):
            feeds.check()

    def test_is_cancelled_until_it_has_ended(self, lake, make):
        asked = []

        def cancel(group):
            asked.append(group)
            if len(asked) == 3:  # the first ones came before the job
                gate.is_cancelled = True
                gate.let.set()

        gate = Gate(ROWS)
        feeds = make(gate, cancelled=cancel)
        feeds.begin()
        assert gate.begun.wait(WAIT_SECS)
        feeds.cancel()
        # once more where the job takes a moment to end
        assert set(asked) == {"tfos-run-feed"} and len(asked) >= 3
        assert not feeds._thread.is_alive()
        assert not lake.exists(manifest_path("train"))

    def test_that_cannot_begin(self, make, monkeypatch):
        feeds = make(Frame({"x": LONG}, ROWS))
        monkeypatch.delattr(feeds._spark.sparkContext, "setJobGroup")
        feeds.begin()
        with pytest.raises(AttributeError, match="setJobGroup"):
            feeds.wait()

    def test_is_not_committed_after_that(self, lake, make):
        gate = Gate(ROWS)
        feeds = make(gate, cancelled=lambda group: gate.let.set())
        feeds.begin()
        assert gate.begun.wait(WAIT_SECS)
        feeds.cancel()
        assert not feeds._thread.is_alive()
        assert not lake.exists(manifest_path("train"))
        # the result tells of what had arrived
        assert (feeds.manifests["train"].complete, feeds.manifests["train"].rows) == (False, 0)

    def test_of_a_run_that_another_driver_has_taken_over(self, lake, make, nodes):
        gate = Gate(ROWS)
        feeds = make(gate)
        feeds.begin()
        assert gate.begun.wait(WAIT_SECS)
        nodes.taken = "/driver"
        with pytest.raises(RegistryError, match="/driver"):
            feeds.wait()
        gate.let.set()
        feeds._thread.join(WAIT_SECS)
        assert not lake.exists(manifest_path("train"))

    def test_that_never_began_is_complete_at_the_end(self, lake, make):
        """The roles were so quick that nobody saw all of them."""
        feeds = make(Frame({"x": LONG}, ROWS))
        feeds.wait()
        assert lake.exists(manifest_path("train"))
