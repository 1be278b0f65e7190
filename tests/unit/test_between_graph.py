"""--strategy between-graph without a cluster: shares in graphs, waits of sessions, models."""

from __future__ import annotations

import itertools
import json
import os
import socket
import tempfile
import threading
import types
from importlib import metadata
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pytest
import tensorflow as tf
from helpers import write_feed
from pyspark.sql import types as T  # noqa: N812

from tfos.compat.tensorflow import shorten_waits
from tfos.errors import UsageError
from tfos.fault.failures import Failure, FailureKind
from tfos.fault.policy import GiveUp, Incident, Restart, decide
from tfos.feeding.ledger import Ledger
from tfos.feeding.reader import FeedReader
from tfos.feeding.reads import serve_reads
from tfos.feeding.schema import Column
from tfos.inference.inputs import input_layout
from tfos.inference.predict import _read
from tfos.inference.worker import Job, predict_partition
from tfos.lake.run_directory import RunDirectory
from tfos.spec.roles import Task
from tfos.spec.topology import find
from tfos.strategies.between_graph.backend import BetweenGraph
from tfos.strategies.between_graph.checkpoints import newest
from tfos.strategies.between_graph.context import BetweenGraphContext, config_of
from tfos.strategies.between_graph.export import export_saved_model
from tfos.strategies.between_graph.reads import CountedReader
from tfos.strategies.between_graph.share import SharedDataset
from tfos.strategies.between_graph.topology import BetweenGraph as Topology

tf1 = tf.compat.v1
ROWS = 23
TOPOLOGY = Topology(num_ps=2, num_workers=3)


class Told:
    """Reports that keep what they were told."""

    def __init__(self):
        self.last = {}

    def progress(self, progress):
        self.last = progress


@pytest.fixture
def feed(tmp_path):
    """(reader, manifest) of a feed of several shards, with strings of several in a row."""
    lake = RunDirectory(str(tmp_path), "run")
    columns = [Column("id", "int64"), Column("tags", "string", -1)]
    values = {"id": range(ROWS), "tags": [[str(i)] * (i % 3) for i in range(ROWS)]}
    write_feed(lake, "train", columns, values, [7, 0, 11, 5])
    reader = FeedReader(lake, str(tmp_path / "cache"))
    return reader, reader.manifest("train")


def read(dataset):
    """All ids of a dataset, in a session; checks their strings."""
    found = []
    with tf.Graph().as_default(), tf1.Session() as session:
        batch = tf1.data.make_one_shot_iterator(dataset()).get_next()
        strings = batch["tags"].to_tensor("-")
        while True:
            try:
                ids, tags = session.run([batch["id"], strings])
            except tf.errors.OutOfRangeError:
                return found
            found += ids.tolist()
            for number, row in zip(ids, tags.tolist(), strict=True):
                assert [t for t in row if t != b"-"] == [str(number).encode()] * (number % 3)


class TestTopology:
    def test_chief_is_one_of_the_workers(self):
        tasks = [str(task) for job in TOPOLOGY.jobs() for task in job.tasks]
        assert tasks == ["ps-0", "ps-1", "chief-0", "worker-0", "worker-1"]

    @pytest.mark.parametrize("role", ["chief", "worker"])
    def test_servers_come_first(self, role):
        assert TOPOLOGY.waits_for(Task(role, 0)) == {Task("ps", 0), Task("ps", 1)}
        assert TOPOLOGY.waits_for(Task("ps", 0)) == frozenset()

    @pytest.mark.parametrize(
        ("dead", "replaced"),
        [
            ("worker-1", {"worker-1"}),
            ("ps-1", {"ps-1", "chief", "ps", "worker"}),
            ("chief-0", {"chief-0", "chief", "ps", "worker"}),
            ("evaluator-0", {"evaluator-0"}),
        ],
    )
    def test_who_is_replaced(self, dead, replaced):
        task = Task.parse(dead)
        failure = Failure(task.role, task.index, "host", FailureKind.SIGNAL, "SIGKILL")
        assert decide([Incident((failure,), 0)], 3, TOPOLOGY) == Restart(frozenset(replaced))

    @pytest.mark.parametrize("role", ["chief", "worker", "ps", "evaluator"])
    def test_exception_in_train_is_final_in_each_role(self, role):
        failure = Failure(role, 0, "host", FailureKind.EXCEPTION, "ValueError: no")
        assert decide([Incident((failure,), 0)], 3, TOPOLOGY) == GiveUp(failure)


class TestShares:
    def test_shares_of_an_epoch_are_all_of_its_rows(self, feed):
        reader, manifest = feed
        serve_reads(reader)
        shares = [
            read(lambda i=i: SharedDataset(manifest, 4, of=(i, 3))(epochs=1)) for i in range(3)
        ]
        assert [len(each) for each in shares] == [7, 8, 8]
        assert sorted(itertools.chain(*shares)) == list(range(ROWS))

    def test_epochs_differ_and_have_the_same_number_of_rows(self, feed):
        reader, manifest = feed
        serve_reads(reader)
        found = read(lambda: SharedDataset(manifest, 4, of=(0, 1))(epochs=2))
        assert sorted(found[:ROWS]) == sorted(found[ROWS:]) == list(range(ROWS))
        assert found[:ROWS] != found[ROWS:]

    def test_more_processes_than_rows(self, feed):
        reader, manifest = feed
        serve_reads(reader)
        assert read(SharedDataset(manifest, 4, of=(0, 100))) == []

    def test_what_is_made_of_it_keeps_the_share(self, feed):
        reader, manifest = feed
        serve_reads(reader)
        dataset = SharedDataset(manifest, 4, of=(1, 2)).map(lambda f: {**f, "id": f["id"] + 0})
        assert len(read(lambda: dataset(epochs=1))) == 12
        assert sorted(read(lambda: dataset.whole()(epochs=1))) == list(range(ROWS))

    def test_what_is_read_is_counted_and_told(self, feed, monkeypatch):
        monkeypatch.setattr("tfos.strategies.between_graph.reads._REPORT_SECS", 0)
        reader, manifest = feed
        ledger, told = Ledger(), Told()
        counted = CountedReader(reader, ledger, told, (1, 2), {"loss": 0.5, "name": "x"})
        serve_reads(counted)
        read(lambda: SharedDataset(manifest, 4, of=(1, 2))(epochs=2))
        assert counted.counts()["train"]["rows_read"] == [12, 12]
        assert (told.last["epoch"], told.last["rows_done"], told.last["rows"]) == (2, 12, 12)
        assert told.last["metrics"] == {"loss": 0.5}
        counted.end()
        read(lambda: SharedDataset(manifest, 4, of=(1, 2))(epochs=1))
        assert counted.counts()["train"]["rows_read"] == [12, 12]


class TestContext:
    CLUSTER: ClassVar = {"chief": ["h:1"], "ps": ["h:2", "h:3"], "worker": ["h:4", "h:5"]}

    def host(self, tmp_path, task, lake=None):
        return types.SimpleNamespace(
            task=Task.parse(task), is_chief=task == "chief-0", attempt=1, scratch=str(tmp_path),
            spec=types.SimpleNamespace(params={"rate": 1}), addresses=self.CLUSTER,
            lake=lake or RunDirectory(str(tmp_path), "run"),
        )  # fmt: skip

    @pytest.mark.parametrize(
        ("task", "share", "device"),
        [
            ("chief-0", (0, 3), "/job:chief/task:0"),
            ("worker-1", (2, 3), "/job:worker/task:1"),
            ("evaluator-0", (0, 1), "/job:evaluator/task:0"),
        ],
    )
    def test_where_a_process_stands(self, tmp_path, task, share, device):
        host = self.host(tmp_path, task)
        ctx = BetweenGraphContext(host)
        assert (ctx.share, ctx.worker_device) == (share, device)
        assert (ctx.num_workers, ctx.num_ps) == (3, 2)
        assert list(ctx.session_config.device_filters) == ["/job:ps", device]
        assert ctx.cluster_spec.as_dict() == self.CLUSTER
        role, _, index = task.partition("-")
        assert config_of(host)["cluster"] == self.CLUSTER
        assert config_of(host)["task"] == {"type": role, "index": int(index)}

    def test_all_processes_have_one_directory(self, tmp_path):
        found = {
            BetweenGraphContext(self.host(tmp_path / task, task, lake)).model_dir
            for lake in [RunDirectory(str(tmp_path), "run")]
            for task in ("chief-0", "ps-1", "worker-0", "evaluator-0")
        }
        assert found == {str(tmp_path / "run" / "output" / "model_dir")}

    def test_lake_that_is_not_mounted_has_no_such_directory(self, tmp_path):
        lake = RunDirectory("memory://lake", "run")
        ctx = BetweenGraphContext(self.host(tmp_path, "worker-0", lake))
        with pytest.raises(UsageError, match=r"memory://lake.* is no directory.* --lake a dir"):
            _ = ctx.model_dir

    def test_what_trains_keras_models_says_where_that_is(self, tmp_path):
        ctx = BetweenGraphContext(self.host(tmp_path, "chief-0"))
        with pytest.raises(UsageError, match=r"ctx.fit: .* use --strategy ps, multi-worker or si"):
            ctx.fit(None, None)
        assert not hasattr(ctx, "no_such_name")

    def test_evaluator_has_no_server(self, tmp_path):
        with pytest.raises(UsageError, match="not in the cluster"):
            BetweenGraphContext(self.host(tmp_path, "evaluator-0")).server()

    def test_server_that_does_not_serve_is_an_error(self, tmp_path, monkeypatch):
        """Its port is that of the test, so that it counts as one that listens."""
        monkeypatch.setenv("TF_CONFIG", "")
        monkeypatch.setattr("tfos.strategies.between_graph.backend.shorten_waits", lambda secs: 0)
        is_ready, roles = threading.Event(), []
        with socket.create_server(("127.0.0.1", 0)) as listener:
            host = self.host(tmp_path, "ps-1")
            host.addresses = {"ps": ["h:1", f"127.0.0.1:{listener.getsockname()[1]}"]}
            host.ready, host.take_sigterm_back = is_ready.set, lambda: None
            app = types.SimpleNamespace(train=lambda ctx: roles.append(ctx.role))
            host.app = lambda: app
            with pytest.raises(UsageError, match=r"returned in a parameter server: .*join\(\)"):
                BetweenGraph().run(host)
            assert is_ready.wait(10)
        assert roles == ["ps"]
        assert json.loads(os.environ["TF_CONFIG"])["task"] == {"type": "ps", "index": 1}


class TestKeras:
    @pytest.mark.parametrize("strategy", ["ps", "multi-worker", "single", "kv"])
    def test_strategies_that_train_its_models_need_keras_3(self, monkeypatch, strategy):
        monkeypatch.setattr(metadata, "version", lambda package: "2.15.0")
        with pytest.raises(UsageError, match=r"models of Keras 3; here is Keras 2.15.0, .* 2.16"):
            find(strategy)().check_environment()

    def test_between_graph_does_not(self, monkeypatch):
        monkeypatch.setattr(metadata, "version", lambda package: "2.15.0")
        Topology().check_environment()

    def test_where_there_is_none_nothing_is_said(self, monkeypatch):
        def missing(package):
            raise metadata.PackageNotFoundError(package)

        monkeypatch.setattr(metadata, "version", missing)
        find("single")().check_environment()


def test_sessions_do_not_wait_half_a_minute(monkeypatch):
    kinds = (tf1.train.SessionManager, tf1.train.Supervisor)
    for kind in kinds:
        monkeypatch.setattr(kind, "__init__", kind.__init__)
    shorten_waits(0.25)
    with tf.Graph().as_default():
        tf.compat.v1.train.get_or_create_global_step()
        assert tf1.train.SessionManager()._recovery_wait_secs == 0.25
        assert tf1.train.SessionManager(recovery_wait_secs=7)._recovery_wait_secs == 7
        assert tf1.train.SessionManager(None, None, None, None, 8)._recovery_wait_secs == 8
        assert tf1.train.Supervisor()._recovery_wait_secs == 0.25


def test_newest_checkpoint_of_a_directory(tmp_path):
    assert newest(str(tmp_path)) is None
    with tf.Graph().as_default(), tf1.Session() as session:
        tf1.get_variable("x", [])
        session.run(tf1.global_variables_initializer())
        saver = tf1.train.Saver()
        saver.save(session, str(tmp_path / "model.ckpt"), global_step=7)
        saver.save(session, str(tmp_path / "model.ckpt"), global_step=12)
    assert newest(str(tmp_path)) == (12, "model.ckpt-12")


class TestExport:
    COLUMNS = (Column("id", "int64"), Column("pair", "float32", 2))

    @pytest.fixture
    def saved(self, tmp_path):
        """A SavedModel as TF1's sessions write it: 3 * id + sum(pair)."""
        with tf.Graph().as_default(), tf1.Session() as session:
            number = tf1.placeholder(tf.int64, [None])
            pair = tf1.placeholder(tf.float32, [None, 2])
            factor = tf1.get_variable("factor", [], initializer=tf1.constant_initializer(3.0))
            total = factor * tf.cast(number, tf.float32) + tf.reduce_sum(pair, 1)
            session.run(tf1.global_variables_initializer())
            tf1.saved_model.simple_save(
                session, str(tmp_path / "saved"), {"id": number, "pair": pair},
                {"total": total, "rows": tf.identity(number)},
            )  # fmt: skip
        return str(tmp_path / "saved")

    def export(self, tmp_path, saved, columns=COLUMNS, name=""):
        with tempfile.TemporaryDirectory() as scratch:
            lake = RunDirectory(str(tmp_path), "run")
            return export_saved_model(saved, columns, name, lake, scratch, lambda: None)

    def test_predict_applies_it(self, tmp_path, saved):
        uri, identity, signature = _read(self.export(tmp_path, saved))
        schema = T.StructType().add("id", T.LongType()).add("pair", T.ArrayType(T.FloatType()))
        pair = pa.array([[1.0, 2.0], [0.5, 0.0]], pa.list_(pa.float32()))
        batch = pa.record_batch({"id": pa.array([1, 2], "int64"), "pair": pair})
        job = Job(uri, identity, signature, input_layout(schema, signature, {}), 10, "found")
        (found,) = predict_partition([batch], job)
        assert found.column("found").to_pylist() == [
            {"rows": 1, "total": 6.0},
            {"rows": 2, "total": 6.5},
        ]

    def test_other_inputs_than_columns(self, tmp_path, saved):
        with pytest.raises(UsageError, match=r"takes \{id: int64, pair: float32\}, but .*\{id: "):
            self.export(tmp_path, saved, self.COLUMNS[:1])

    def test_signature_that_is_not_there(self, tmp_path, saved):
        with pytest.raises(UsageError, match=r"no signature 'classify', but \['serving_default'\]"):
            self.export(tmp_path, saved, name="classify")

    def test_directory_of_something_else(self, tmp_path):
        with pytest.raises(UsageError, match=r"no saved_model.pb"):
            self.export(tmp_path, str(Path(tmp_path)))
