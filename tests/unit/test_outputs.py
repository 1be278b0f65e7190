"""Files that training writes, in a lake that is no mounted directory."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

import fsspec
import keras
import pytest
from worlds import Interrupted, World, interrupt
from zoo import functional

from tfos.feeding.reads import serve_reads
from tfos.lake.run_directory import RunDirectory
from tfos.training.outputs import Outputs

pytest_plugins = ["world_fixtures"]
_numbers = itertools.count()


@pytest.fixture
def lake():
    """In memory, as remote as any other for who writes to paths."""
    name = f"outputs-{next(_numbers)}"
    yield RunDirectory(f"memory://{name}", "run")
    fsspec.filesystem("memory").rm(f"/{name}", recursive=True)


@pytest.fixture
def remote(feeds, tmp_path, lake):
    serve_reads(feeds)
    return World(feeds, tmp_path, lake)


class TestOutputs:
    def test_of_a_local_lake_are_its_directories(self, tmp_path):
        lake = RunDirectory(str(tmp_path / "lake"), "run")
        outputs = Outputs(lake, str(tmp_path), is_owner=True)
        assert outputs.events == lake.uri("events") and outputs.output == lake.uri("output")
        Path(outputs.output, "a.txt").write_text("a")
        outputs.upload()
        assert lake.read("output/a.txt") == b"a"
        assert Path(Outputs(lake, str(tmp_path), is_owner=False).output, "a.txt").exists()

    def test_what_has_changed_is_uploaded_and_nothing_else(self, lake, tmp_path, monkeypatch):
        lake.write("output/old.txt", b"old")
        outputs = Outputs(lake, str(tmp_path), is_owner=True)
        uploaded = []
        upload = lake.upload
        monkeypatch.setattr(
            lake, "upload", lambda s, path: uploaded.append(path) or upload(s, path)
        )
        Path(outputs.events, "train").mkdir()
        Path(outputs.events, "train", "e").write_bytes(b"1")
        Path(outputs.output, "log.csv").write_text("1\n")
        outputs.upload()
        assert sorted(uploaded) == ["events/train/e", "output/log.csv"]
        with open(Path(outputs.output, "log.csv"), "a") as file:
            file.write("2\n")
        outputs.upload()
        assert uploaded[2:] == ["output/log.csv"]
        assert lake.read("output/log.csv") == b"1\n2\n"
        outputs.upload()
        assert len(uploaded) == 3
        Path(outputs.output, "log.csv").unlink()
        outputs.upload()
        assert lake.find("output") == ["old.txt"]
        assert lake.find("events") == ["train/e"]

    def test_begin_with_what_is_in_the_lake(self, lake, tmp_path):
        lake.write("output/deep/a.txt", b"a")
        Path(tmp_path, "outputs", "output").mkdir(parents=True)
        Path(tmp_path, "outputs", "output", "stale.txt").touch()
        outputs = Outputs(lake, str(tmp_path), is_owner=True)
        files = [path for path in Path(outputs.output).rglob("*") if path.is_file()]
        assert files == [Path(outputs.output, "deep", "a.txt")]
        assert files[0].read_bytes() == b"a"

    def test_of_others_than_the_chief_stay_where_they_are(self, lake, tmp_path):
        lake.write("output/a.txt", b"a")
        outputs = Outputs(lake, str(tmp_path), is_owner=False)
        Path(outputs.output, "b.txt").touch()
        outputs.upload()
        assert lake.find("output") == ["a.txt"]


class TestTraining:
    def callbacks(self, context):
        output, events = Path(context.output_dir), context.log_dir
        return [
            keras.callbacks.CSVLogger(str(output / "log.csv"), append=True),
            keras.callbacks.ModelCheckpoint(str(output / "models" / "{epoch}.weights.h5"),
                                            save_weights_only=True),
            keras.callbacks.TensorBoard(events),
        ]  # fmt: skip

    def rows(self, remote):
        lines = remote.lake.read("output/log.csv").decode().splitlines()
        return [row["epoch"] for row in csv.DictReader(lines)]

    def test_files_of_callbacks_are_in_the_lake_after_each_epoch(self, remote):
        context, found = remote.context(), []
        look = keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: found.append(remote.lake.find("output"))
        )
        context.fit(
            functional(metrics=[]), remote.dataset(), 2, callbacks=[*self.callbacks(context), look]
        )
        remote.saver.wait()
        assert found == [[], ["log.csv", "models/1.weights.h5"]]
        assert self.rows(remote) == ["0", "1"]
        events = remote.lake.find("events")
        assert len(events) == 1 and events[0].startswith("train/events.out.tfevents")

    def test_a_run_that_goes_on_appends_to_them(self, remote):
        context = remote.context()
        with pytest.raises(Interrupted):
            context.fit(
                functional(metrics=[]), remote.dataset(), 3,
                callbacks=[*self.callbacks(context), interrupt(on_epoch_begin=2)],
            )  # fmt: skip
        remote.saver.wait()
        remote.scratch = str(Path(remote.scratch, "another-machine"))
        Path(remote.scratch).mkdir()
        context = remote.context()
        context.fit(functional(metrics=[]), remote.dataset(), 3, callbacks=self.callbacks(context))
        remote.saver.wait()
        assert self.rows(remote) == ["0", "1", "2"]
        assert remote.lake.find("output") == [
            "log.csv", "models/1.weights.h5", "models/2.weights.h5", "models/3.weights.h5",
        ]  # fmt: skip
        assert len(remote.lake.find("events")) == 2

    def test_files_of_a_loop_of_ones_own(self, remote):
        context = remote.context()

        def step(features, label):
            return context.mean(label)

        Path(context.output_dir, "notes.txt").write_text("before")
        context.run_epoch(step, remote.dataset())
        assert remote.lake.read("output/notes.txt") == b"before"
