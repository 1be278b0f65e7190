"""Checkpoints: what is saved is restored, what is damaged is passed over, training hardly waits."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from pathlib import Path

import pytest
import tenacity
import tensorflow as tf

from tfos.errors import FencedError, LakeError, UsageError
from tfos.fault.checkpoint.checkpointer import Checkpointer
from tfos.fault.checkpoint.store import KEPT, CheckpointStore
from tfos.feeding.ledger import Ledger
from tfos.lake import storage
from tfos.lake.run_directory import (
    RunDirectory,
    checkpoint_name,
    checkpoint_order,
    checkpoint_path,
)
from tfos.lake.storage import COMMIT
from tfos.spec.times import TIMES

DEADLINE_SECS = 20


class World:
    """One run's lake and the chief's local directory."""

    def __init__(self, root):
        self.lake = RunDirectory(str(root / "lake"), "run")
        self.scratch = root / "scratch"
        self.scratch.mkdir()

    def checkpointer(self, every_secs=1e9, **options):
        names = ("fence", "is_owner", "writer")
        store = {name: options.pop(name) for name in names if name in options}
        store = CheckpointStore(self.lake, **store)
        return Checkpointer(store, str(self.scratch), every_secs, **options)

    def save(self, *steps):
        """A process that saves each step: as the variable's value, and as the state."""
        checkpointer, variable = self.checkpointer(), tf.Variable(0.0)
        checkpointer.restore(v=variable)
        for step in steps:
            variable.assign(float(step))
            checkpointer.save(step, step)
        checkpointer.wait()

    def restored(self):
        """What the next process begins with: the state and the variable's value."""
        variable = tf.Variable(-1.0)
        return self.checkpointer().restore(v=variable), float(variable)

    def steps(self):
        return [int(name) for name in self.lake.list("checkpoints")]


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "_BACKOFF", tenacity.wait_fixed(0.01))
    monkeypatch.setattr(TIMES, "lake_retry_secs", 0.1)
    return World(tmp_path)


@pytest.fixture
def two_saved(world):
    world.save(1, 2)
    return world


@pytest.fixture
def gate(monkeypatch):
    """Uploads wait until it is set."""
    gate = threading.Event()
    upload = RunDirectory.upload

    def held(self, source, path):
        assert gate.wait(DEADLINE_SECS)
        upload(self, source, path)

    monkeypatch.setattr(RunDirectory, "upload", held)
    yield gate
    gate.set()


class TestRestore:
    def test_restores_the_newest_with_its_state(self, world):
        assert world.checkpointer().step == 0
        assert world.restored() == (None, -1.0)
        world.save(3, 5)
        assert world.checkpointer().step == 5
        assert world.restored() == (5, 5.0)

    def test_keeps_the_newest(self, world):
        world.save(*range(1, 6))
        assert KEPT == 3
        assert world.steps() == [3, 4, 5]

    def test_names_sort_by_step(self):
        assert sorted(map(checkpoint_name, [9, 100, 20])) == list(
            map(checkpoint_name, [9, 20, 100])
        )

    def test_name_says_who_saved_it(self):
        assert checkpoint_path(checkpoint_name(7, "12.3")) == "checkpoints/000000000007-12.3"
        assert checkpoint_order("000000000007-12.3") == (7, 12, 3)
        assert checkpoint_order("000000000007") == (7, 0, 0)
        assert checkpoint_order("lost+found") is None

    def test_newest_is_that_of_the_highest_step_then_of_the_latest_chief(self, world):
        names = ["5-9.1", "6-2.1", "6-2.10", "6-10.1", "7-1.1"]
        for name in reversed(names):
            world.lake.write(f"checkpoints/{name}/{COMMIT}", b"{}")
        world.lake.write("checkpoints/8-1.1/state.json", b"{}")
        world.lake.write("checkpoints/lost+found/x", b"")
        assert world.lake.checkpoints() == [*names, "8-1.1"]
        assert world.lake.newest_checkpoint() == "7-1.1"

    def test_of_two_chiefs_at_one_step_do_not_touch_each_other(self, world):
        """The old one comes late, with a checkpoint of the step that the new one has saved."""
        old = world.checkpointer(writer="1.1")
        new = world.checkpointer(writer="1.2")
        for each, value in ((new, 2.0), (old, 1.0)):
            each.restore(v=tf.Variable(value))
            each.save(5, value)
            each.wait()
        assert world.lake.checkpoints() == ["000000000005-1.1", "000000000005-1.2"]
        assert world.restored() == (2.0, 2.0)

    def test_takes_place_in_quiet(self, two_saved):
        """It may take longer than any progress is waited for."""
        state = []

        @contextlib.contextmanager
        def quiet():
            state.append("quiet")
            yield
            state.append("over")

        seen = []
        fetch = two_saved.lake.fetch_dir
        two_saved.lake.fetch_dir = lambda *args: (seen.append(list(state)), fetch(*args))[1]
        checkpointer = two_saved.checkpointer(quiet=quiet)
        assert seen == [["quiet"]]
        variable = tf.Variable(-1.0)
        assert checkpointer.restore(v=variable) == 2
        assert state == ["quiet", "over"] * 2

    def test_sections_do_not_mix(self, world):
        one = world.checkpointer()
        a, b = tf.Variable(1.0), tf.Variable(2.0)
        one.restore("a", v=a)
        one.restore("b", v=b)
        one.save(1, "of a", "a")
        one.save(2, "of b", "b")
        one.wait()
        two = world.checkpointer()
        c, d = tf.Variable(0.0), tf.Variable(0.0)
        assert two.restore("b", v=c) == "of b"
        assert two.restore("a", v=d) == "of a"
        assert (float(c), float(d)) == (2.0, 1.0)
        assert two.restore("unknown", v=tf.Variable(0.0)) is None

    def test_shared_state_comes_back(self, world):
        ledger, other = Ledger(), Ledger()
        checkpointer = world.checkpointer(shared=(ledger.as_json, ledger.restore))
        checkpointer.restore(v=tf.Variable(0.0))
        ledger.add("train", 1, 9, 10)
        checkpointer.save(1)
        checkpointer.wait()
        world.checkpointer(shared=(other.as_json, other.restore))
        assert other.as_json() == ledger.as_json()

    def test_same_step_again_is_refused(self, two_saved):
        checkpointer = two_saved.checkpointer()
        checkpointer.restore(v=tf.Variable(0.0))
        with pytest.raises(UsageError, match="step 2"):
            checkpointer.save(2)
        checkpointer.save(3)
        with pytest.raises(UsageError, match="step 3"):
            checkpointer.save(3)


class TestDamage:
    def files(self, world):
        path = Path(world.lake.path(checkpoint_path(checkpoint_name(2))))
        found = {file.name: file for file in path.iterdir()}
        assert {"state.json", "weights.index", COMMIT} < set(found)
        return found

    @pytest.mark.parametrize("kind", ["state.json", "weights.index", "weights.data", COMMIT])
    @pytest.mark.parametrize("damage", ["flipped", "truncated", "deleted byte", "missing", "empty"])
    def test_the_one_before_is_used(self, two_saved, kind, damage, caplog):
        files = self.files(two_saved)
        (file,) = [path for name, path in files.items() if name.startswith(kind)]
        data = file.read_bytes()
        middle = len(data) // 2
        match damage:
            case "flipped":
                file.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
            case "truncated":
                file.write_bytes(data[:-1])
            case "deleted byte":
                file.write_bytes(data[:middle] + data[middle + 1 :])
            case "missing":
                file.unlink()
            case "empty":
                file.write_bytes(b"")
        with caplog.at_level(logging.WARNING):
            assert two_saved.restored() == (1, 1.0)
        assert kind in caplog.text
        assert "passed over" in caplog.text
        assert two_saved.steps() == [1]

    def test_no_checkpoint_is_left(self, two_saved):
        for step in (1, 2):
            two_saved.lake.remove(f"{checkpoint_path(checkpoint_name(step))}/{COMMIT}")
        assert two_saved.restored() == (None, -1.0)

    def test_what_was_passed_over_does_not_push_out_newer_ones(self, two_saved):
        """Left-overs of crashed saves have higher steps than what a resumed run saves first."""
        for step in (10, 11, 12):
            two_saved.lake.write(f"{checkpoint_path(checkpoint_name(step))}/weights.index", b"half")
        two_saved.save(3)
        assert two_saved.restored() == (3, 3.0)

    def test_storage_that_fails_is_not_damage(self, two_saved, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr(two_saved.lake._fs, "get_file", raises(OSError("stale handle")))
            with pytest.raises(LakeError, match="stale handle"):
                two_saved.checkpointer()
        assert two_saved.restored() == (2, 2.0)


def raises(error):
    def fail(*args, **kwargs):
        raise error

    return fail


class TestUpload:
    def test_training_goes_on_while_it_is_uploaded(self, world, gate):
        checkpointer, variable = world.checkpointer(), tf.Variable(1.0)
        state = {"row": 1}
        checkpointer.restore(v=variable)
        checkpointer.save(1, state)
        variable.assign(2.0)
        state["row"] = 2
        assert world.lake.committed(checkpoint_path(checkpoint_name(1))) is None
        assert checkpointer.stats["saved"] == checkpointer.stats["step"] == 0
        gate.set()
        checkpointer.wait()
        assert world.restored() == ({"row": 1}, 1.0)

    def test_next_save_waits_for_the_one_under_way(self, world, gate):
        checkpointer = world.checkpointer()
        checkpointer.restore(v=tf.Variable(1.0))
        checkpointer.save(1)
        second = threading.Thread(target=checkpointer.save, args=(2,))
        second.start()
        assert list(world.scratch.glob("save-*/state.json")) != []
        assert len(list(world.scratch.glob("save-*"))) == 1
        assert second.is_alive()
        gate.set()
        second.join(DEADLINE_SECS)
        checkpointer.wait()
        assert world.steps() == [1, 2]

    def test_wait_without_a_save(self, world):
        world.checkpointer().wait()

    @pytest.mark.parametrize("told_by", ["save", "wait"])
    def test_error_is_told_once_and_what_follows_is_saved(self, world, monkeypatch, told_by):
        checkpointer = world.checkpointer()
        checkpointer.restore(v=tf.Variable(1.0))
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", raises(OSError(28, "No space left on device")))
            checkpointer.save(1)
            checkpointer._upload.join()
        with pytest.raises(LakeError, match=r"No space left on device.*tried"):
            checkpointer.save(2) if told_by == "save" else checkpointer.wait()
        assert world.steps() == []
        checkpointer.save(1)  # it was never there
        checkpointer.save(2)
        checkpointer.wait()
        assert world.steps() == [1, 2]
        assert checkpointer.stats["saved"] == 2

    def test_nothing_is_left_in_scratch(self, world, monkeypatch):
        world.save(1, 2)
        monkeypatch.setattr(os, "fsync", raises(OSError(28, "No space left on device")))
        with pytest.raises(LakeError):
            world.save(3)
        monkeypatch.undo()
        checkpointer = world.checkpointer()
        checkpointer.restore(v=tf.Variable(0.0))
        with pytest.raises(TypeError, match="JSON"):
            checkpointer.save(4, state=object())
        assert not list(world.scratch.glob("save-*"))
        assert len(list(world.scratch.glob("restore-*"))) == 2

    def test_old_ones_that_cannot_be_removed_are_no_failure(self, world, monkeypatch, caplog):
        with monkeypatch.context() as patch:
            patch.setattr(
                RunDirectory,
                "remove",
                refuse_to_remove(RunDirectory.remove, checkpoint_path(checkpoint_name(1))),
            )
            world.save(*range(1, 5))
        assert "old checkpoints stay" in caplog.text
        assert world.steps() == [1, 2, 3, 4]
        world.save(5)
        assert world.steps() == [3, 4, 5]

    def test_no_listing_while_training_stands_still(self, world, monkeypatch):
        world.save(1)
        checkpointer = world.checkpointer()
        checkpointer.restore(v=tf.Variable(1.0))
        callers = []
        original = RunDirectory._try
        monkeypatch.setattr(
            RunDirectory,
            "_try",
            lambda *args: (callers.append(threading.current_thread().name), original(*args))[1],
        )
        checkpointer.save(2)
        checkpointer.save(3)
        checkpointer.wait()
        assert set(callers) == {"checkpoint"}


def refuse_to_remove(remove, kept):
    def act(self, path):
        # commit_dir clears the place first: that is no pruning
        if path == kept and self.exists(f"{path}/{COMMIT}"):
            raise LakeError("no permission to delete")
        remove(self, path)

    return act


class TestFence:
    def test_is_asked_before_the_marker_is_there(self, world):
        seen = []

        def fence():
            seen.append(world.lake.list(checkpoint_path(checkpoint_name(1))))

        checkpointer = world.checkpointer(fence=fence)
        checkpointer.restore(v=tf.Variable(1.0))
        checkpointer.save(1)
        checkpointer.wait()
        assert seen[0] == []
        assert "state.json" in seen[-1]
        assert COMMIT not in seen[-1]
        assert world.steps() == [1]

    def test_that_raises_gives_the_checkpoint_up(self, world):
        fenced = FencedError("another chief is at work")

        def fence():
            if "state.json" in world.lake.list(checkpoint_path(checkpoint_name(2, "1.1"))):
                is_fenced.set()
            if is_fenced.is_set():
                raise fenced

        is_fenced = threading.Event()
        checkpointer = world.checkpointer(fence=fence, writer="1.1")
        checkpointer.restore(v=tf.Variable(1.0))
        checkpointer.save(1)
        checkpointer.save(2)
        with pytest.raises(LakeError) as caught:
            checkpointer.save(3)
        assert caught.value is fenced
        assert world.lake.list("checkpoints") == ["000000000001-1.1"]
        assert not list(world.scratch.glob("save-*"))


class TestDue:
    def test_counts_from_the_begin_of_the_last_save(self, world, gate, monkeypatch):
        now = 100.0
        monkeypatch.setattr(time, "monotonic", lambda: now)
        checkpointer = world.checkpointer(every_secs=10)
        checkpointer.restore(v=tf.Variable(1.0))
        now = 109.0
        assert not checkpointer.due()
        now = 110.0
        assert checkpointer.due()
        checkpointer.save(1)
        assert not checkpointer.due()
        now = 120.0  # its upload is not through yet, which a save would wait for
        assert not checkpointer.due()
        gate.set()
        checkpointer.wait()
        assert checkpointer.due()

    def test_hurry_says_yes_until_the_next_save(self, world):
        checkpointer = world.checkpointer()
        checkpointer.restore(v=tf.Variable(1.0))
        assert not checkpointer.due()
        other = threading.Thread(target=checkpointer.hurry)
        other.start()
        other.join()
        assert checkpointer.due()
        assert checkpointer.due()
        checkpointer.save(1)
        assert not checkpointer.due()

    def test_hurry_in_the_middle_of_a_save_asks_for_another(self, world):
        checkpointer = world.checkpointer(
            shared=(lambda: bool(checkpointer.hurry()), lambda state: None)
        )
        checkpointer.restore(v=tf.Variable(1.0))
        checkpointer.save(1)
        assert checkpointer.due()


class TestHurry:
    def test_is_answered_by_a_checkpoint_that_was_begun_since(self, world, gate):
        checkpointer = world.checkpointer()
        checkpointer.restore(v=tf.Variable(1.0))
        checkpointer.save(1)
        is_saved = checkpointer.hurry()
        gate.set()
        checkpointer.wait()  # what was under way holds nothing of what was trained since
        assert not is_saved()
        checkpointer.save(2)
        checkpointer.wait()
        assert is_saved()

    def test_each_commit_is_told(self, world):
        told = []
        checkpointer = world.checkpointer(on_commit=lambda: told.append(checkpointer.stats["step"]))
        checkpointer.restore(v=tf.Variable(1.0))
        checkpointer.save(1)
        checkpointer.save(4)
        checkpointer.wait()
        assert told == [1, 4]


class TestStats:
    def test_of_a_beginning_and_a_continuation(self, world):
        zero = {"saved": 0, "step": 0, "stall_secs": 0.0, "save_secs": 0.0}
        assert world.checkpointer().stats == zero
        world.save(4, 7)
        assert world.checkpointer().stats == {**zero, "step": 7}

    def test_stall_and_save_are_apart(self, world, gate):
        checkpointer = world.checkpointer()
        checkpointer.restore(v=tf.Variable(1.0))
        checkpointer.save(3)
        stalled = checkpointer.stats["stall_secs"]
        threading.Timer(0.2, gate.set).start()
        checkpointer.wait()  # what waits outside of save() is no stall
        stats = checkpointer.stats
        assert (stats["saved"], stats["step"]) == (1, 3)
        assert stats["stall_secs"] == stalled == round(stalled, 3)
        assert stats["save_secs"] >= 0.2 > stalled
        checkpointer.save(4)
        checkpointer.wait()
        assert checkpointer.stats["saved"] == 2
        assert checkpointer.stats["save_secs"] > stats["save_secs"]


class TestAffordable:
    """Saves that nobody asked for, at the ends of epochs."""

    @pytest.fixture
    def clock(self, monkeypatch):
        now = [1000.0]
        monkeypatch.setattr("tfos.fault.checkpoint.checkpointer.time.monotonic", lambda: now[0])
        return now

    def saver(self, tmp_path, clock, secs):
        """One whose save took so long."""
        saver = Checkpointer(
            CheckpointStore(RunDirectory(str(tmp_path), "run")), str(tmp_path), 1e9
        )
        commit = saver._store._lake.commit_dir

        def slow(*args):
            commit(*args)
            clock[0] += secs

        saver._store._lake.commit_dir = slow
        saver.restore(weight=tf.Variable(1.0))
        saver.save(1)
        saver.wait()
        return saver

    def test_before_the_first(self, tmp_path, clock):
        assert Checkpointer(
            CheckpointStore(RunDirectory(str(tmp_path), "run")), str(tmp_path), 1e9
        ).affordable()

    def test_cheap_ones_always_are(self, tmp_path, clock):
        assert self.saver(tmp_path, clock, 0.9).affordable()

    def test_others_are_after_ten_times_their_time(self, tmp_path, clock):
        saver = self.saver(tmp_path, clock, 3.0)
        assert not saver.affordable()
        clock[0] += 26
        assert not saver.affordable()
        clock[0] += 2
        assert saver.affordable()

    def test_none_is_while_an_upload_takes_long(self, tmp_path, clock):
        saver = self.saver(tmp_path, clock, 0.1)
        going_on = threading.Event()
        saver._store._lake.commit_dir = lambda *args: going_on.wait(60)
        saver.save(2)
        for secs in (0.3, 2):
            clock[0] += secs
            assert not saver.affordable()
        going_on.set()
        saver.wait()

    def test_one_that_tells_of_an_error_is(self, tmp_path, clock):
        saver = self.saver(tmp_path, clock, 3.0)

        def failing(*args):
            clock[0] += 3
            raise LakeError("full")

        saver._store._lake.commit_dir = failing
        saver.save(2)
        saver._upload.join()
        assert saver.affordable()

    def test_one_that_is_asked_for_is(self, tmp_path, clock):
        saver = self.saver(tmp_path, clock, 3.0)
        saver.hurry()
        assert saver.affordable()
