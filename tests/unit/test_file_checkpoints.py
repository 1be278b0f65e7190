"""Checkpoints of files of a framework's own: whole or not at all, with the progress, fenced."""

from __future__ import annotations

import pytest
import tenacity

from tfos.errors import FencedError, LakeError, UsageError
from tfos.fault.checkpoint.files import FileCheckpoints
from tfos.fault.checkpoint.store import CheckpointStore
from tfos.lake import storage
from tfos.lake.run_directory import RunDirectory
from tfos.spec.times import TIMES


class World:
    def __init__(self, root):
        self.lake = RunDirectory(str(root / "lake"), "run")
        self.root, self.scratch = root, root / "scratch"
        self.scratch.mkdir()
        self.state = {"at": 0}
        self.restored = None

    def checkpoints(self, every_secs=1e9, **store):
        def restore(sections, shared):
            self.restored = sections, shared

        return FileCheckpoints(
            CheckpointStore(self.lake, **store), str(self.scratch), every_secs,
            lambda: ({"positions": dict(self.state)}, ["ledger"]), restore,
        )  # fmt: skip

    def model(self, **files):
        """A new directory of the user's."""
        directory = self.root / f"model{len(list(self.root.iterdir()))}"
        for name, text in files.items():
            path = directory / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return directory


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "_BACKOFF", tenacity.wait_fixed(0.01))
    monkeypatch.setattr(TIMES, "lake_retry_secs", 0.1)
    return World(tmp_path)


def test_what_is_saved_is_found_with_its_progress(world):
    first = world.checkpoints()
    assert (first.newest(), first.step, world.restored) == (None, 0, None)
    world.state["at"] = 3
    model = world.model(weights="one", opt__state="two")
    first.save_dir(model, 7)
    world.state["at"] = 9
    assert first.newest() is None, "it is what the run goes on from"
    again = world.checkpoints()
    assert again.step == 7
    found = again.newest()
    assert (found / "weights").read_text() == "one"
    assert (found / "opt" / "state").read_text() == "two"
    assert world.restored == ({"positions": {"at": 3}}, ["ledger"])
    assert world.lake.checkpoint_state(world.lake.newest_checkpoint())["shared"] == ["ledger"]


def test_files_of_the_user_stay_as_they_are(world):
    """Also those that have the names of ours, and what is written to them afterwards."""
    model = world.model(**{"state.json": "mine"})
    world.checkpoints().save_dir(str(model), 1)
    with open(model / "state.json", "a") as file:
        file.write(" and more")
    assert [path.name for path in model.iterdir()] == ["state.json"]
    assert (world.checkpoints().newest() / "state.json").read_text() == "mine"


def test_an_empty_directory_is_one(world):
    empty = world.root / "empty"
    empty.mkdir()
    world.checkpoints().save_dir(empty, 1)
    assert list(world.checkpoints().newest().iterdir()) == []


def test_the_newest_three_are_kept(world):
    checkpoints = world.checkpoints()
    for step in range(1, 6):
        checkpoints.save_dir(world.model(step=str(step)), step)
    assert [int(name) for name in world.lake.list("checkpoints")] == [3, 4, 5]
    assert not [path for path in world.scratch.iterdir() if path.name.startswith("save-")]


def test_a_damaged_one_is_passed_over(world):
    checkpoints = world.checkpoints()
    for step in (1, 2):
        checkpoints.save_dir(world.model(step=str(step)), step)
    world.lake.write(f"checkpoints/{world.lake.newest_checkpoint()}/files/step", b"x")
    assert (world.checkpoints().newest() / "step").read_text() == "1"


def test_only_the_owner_saves(world):
    world.checkpoints().save_dir(world.model(a="1"), 1)
    other = world.checkpoints(is_owner=False, every_secs=0.0)
    other.save_dir(world.model(a="2"), 2)
    assert not other.due()
    assert (other.newest() / "a").read_text() == "1"
    assert len(world.lake.checkpoints()) == 1


def test_bad_input_is_refused_and_saves_nothing(world):
    checkpoints = world.checkpoints()
    checkpoints.save_dir(world.model(a="1"), 5)
    with pytest.raises(UsageError, match="at step 5 exists already"):
        checkpoints.save_dir(world.model(a="2"), 5)
    with pytest.raises(UsageError, match="nowhere', which is no directory"):
        checkpoints.save_dir(world.root / "nowhere", 6)
    assert len(world.lake.checkpoints()) == 1


def test_who_was_replaced_saves_nothing(world):
    def fence():
        raise FencedError("another chief")

    with pytest.raises(FencedError):
        world.checkpoints(fence=fence).save_dir(world.model(a="1"), 1)
    assert world.lake.checkpoints() == []


def test_one_that_the_lake_refuses_is_none(world, monkeypatch):
    def fail(self, source, path):
        raise LakeError("full")

    checkpoints = world.checkpoints()
    is_saved = checkpoints.hurry()
    with monkeypatch.context() as broken:
        broken.setattr(RunDirectory, "upload", fail)
        with pytest.raises(LakeError):
            checkpoints.save_dir(world.model(a="1"), 1)
    assert not is_saved()
    assert world.checkpoints().newest() is None
    checkpoints.save_dir(world.model(a="2"), 1)
    assert (world.checkpoints().newest() / "a").read_text() == "2"


def test_is_due_after_its_time_and_when_asked_for(world):
    assert world.checkpoints(every_secs=0.0).due()
    checkpoints = world.checkpoints()
    assert not checkpoints.due()
    is_saved = checkpoints.hurry()
    assert checkpoints.due()
    assert not is_saved()
    checkpoints.save_dir(world.model(a="1"), 1)
    assert not checkpoints.due()
    assert is_saved()
    assert not checkpoints.hurry()()
