"""One driver for one run: the lease that it keeps in the lake."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import threading
import time

import pytest
from conftest import poll

from tfos.driver import lease as lease_module
from tfos.driver.claim import Claim
from tfos.driver.lease import Lease, Watch, is_dead, is_free, this_machine
from tfos.errors import LakeError
from tfos.lake.run_directory import DriverLease, RunDirectory
from tfos.spec.job import JobSpec
from tfos.spec.times import TIMES

DEADLINE_SECS = 10
OTHER = DriverLease("there", "m", 4711, "submission-a", "token-a", 7)
THIRD = DriverLease("elsewhere", "", 1, "submission-b", "token-b", 0)
MINE = DriverLease("here", "", 2, "", "token-c", 0)
SAME = dataclasses.replace(MINE, submission=OTHER.submission)
OF_YARN = {"submission": "application_1_0001", "application": "application_1_0001"}


class TestIsFree:
    LATE, EARLY = TIMES.lease_watch_secs + 1, TIMES.lease_watch_secs - 1

    @pytest.mark.parametrize("mine", [MINE, dataclasses.replace(MINE, submission="mine")])
    @pytest.mark.parametrize(
        ("seen", "watch", "expected"),
        [
            (None, Watch(0, 0, False), True),
            (None, Watch(EARLY, 0, True), True),  # it has ended
            (OTHER, Watch(EARLY, EARLY, False), None),
            (OTHER, Watch(LATE, LATE, False), True),
            (OTHER, Watch(EARLY, 0, True), False),
            (OTHER, Watch(LATE, 0, True), False),
            (THIRD, Watch(LATE, 1, True), False),  # another one was faster
        ],
    )
    def test_by_what_changes(self, seen, watch, expected, mine):
        assert is_free(seen, watch, mine) is expected

    def test_a_driver_of_the_same_submission_has_time_to_end(self):
        assert is_free(OTHER, Watch(TIMES.lease_ending_secs, 0, True), SAME) is None
        assert is_free(OTHER, Watch(TIMES.lease_ending_secs + 1, 0, True), SAME) is False
        assert is_free(OTHER, Watch(self.EARLY, self.EARLY, False), SAME) is None
        assert is_free(OTHER, Watch(2 * self.LATE, self.LATE, True), SAME) is True

    def test_the_later_driver_of_one_application_need_not_wait(self):
        of_yarn = dataclasses.replace(OTHER, **OF_YARN)
        mine = dataclasses.replace(MINE, **OF_YARN)
        assert is_free(of_yarn, Watch(0, 0, True), mine) is True
        other = dataclasses.replace(mine, application="application_1_0002")
        assert is_free(of_yarn, Watch(TIMES.lease_ending_secs + 1, 0, True), other) is False

    def test_of_a_driver_that_is_known_to_be_dead_there_is_nothing_to_wait_for(self):
        assert is_free(OTHER, Watch(0, 0, False), MINE, is_dead=True) is True

    def test_the_watch_is_longer_than_a_beat_and_short(self):
        assert TIMES.lease_secs + 2 < TIMES.lease_watch_secs < 10
        assert TIMES.lease_ending_secs > 30  # what Kubernetes leaves a pod


class TestIsDead:
    def test_a_process_of_this_machine_that_is_gone(self):
        with subprocess.Popen(["true"]) as ended:
            pass
        here = dataclasses.replace(OTHER, machine=this_machine(), pid=ended.pid)
        assert is_dead(here)
        assert not is_dead(dataclasses.replace(here, pid=os.getpid()))
        assert not is_dead(dataclasses.replace(here, pid=1))

    @pytest.mark.parametrize("machine", ["", "another boot pid:[1]"])
    def test_of_another_machine_or_container_nothing_is_known(self, machine):
        with subprocess.Popen(["true"]) as ended:
            pass
        assert not is_dead(dataclasses.replace(OTHER, machine=machine, pid=ended.pid))

    def test_of_no_lease(self):
        assert not is_dead(None)


@pytest.fixture
def lake(tmp_path, monkeypatch):
    monkeypatch.setattr(TIMES, "lease_secs", 0.05)
    monkeypatch.setattr(TIMES, "lease_watch_secs", 0.5)
    monkeypatch.setattr(TIMES, "lake_retry_secs", 0.0)
    monkeypatch.setattr(lease_module, "_LOOK_EVERY_SECS", 0.02)
    return RunDirectory(str(tmp_path), "r")


@pytest.fixture
def taken(lake):
    """A lease that beats."""
    lease = Lease(lake, "submission-a")
    lease.take()
    yield lease
    lease.release()


def beats(lake, more=2):
    first = lake.lease().beat
    poll(lambda: lake.lease().beat >= first + more, DEADLINE_SECS, "it beats")


class TestLease:
    def test_of_a_new_run_is_there_at_once_beats_and_goes(self, lake):
        lease = Lease(lake, "")
        begun = time.monotonic()
        lease.take()
        assert time.monotonic() - begun < TIMES.lease_watch_secs
        beats(lake)
        lease.release()
        assert lake.lease() is None

    def test_while_it_beats_nobody_else_gets_the_run(self, lake, taken):
        mine = lake.lease()
        late = Lease(lake, "submission-b")
        with pytest.raises(LakeError, match=f"process {mine.pid} on host {mine.host}"):
            late.take()
        late.release()
        assert lake.lease().token == mine.token
        beats(lake)

    def test_knows_that_it_is_lost_before_the_next_beat(self, lake, monkeypatch):
        monkeypatch.setattr(TIMES, "lease_secs", 60.0)
        lease = Lease(lake, "submission-a")
        assert not lease.is_lost()
        lease.take()
        assert not lease.is_lost()
        lake.write_lease(THIRD)
        assert lease.is_lost()
        lease._over.set()
        lease._thread.join(DEADLINE_SECS)
        assert lake.lease() == THIRD

    def test_that_beats_no_more_is_taken_over_after_the_watch(self, lake):
        lake.write_lease(OTHER)
        begun = time.monotonic()
        lease = Lease(lake, "submission-b")
        lease.take()
        assert TIMES.lease_watch_secs < time.monotonic() - begun < DEADLINE_SECS
        assert lake.lease().token != OTHER.token
        lease.release()
        assert lake.lease() is None

    def test_of_a_process_of_this_machine_that_is_gone_is_taken_over_at_once(self, lake):
        with subprocess.Popen(["true"]) as ended:
            pass
        lake.write_lease(dataclasses.replace(OTHER, machine=this_machine(), pid=ended.pid))
        begun = time.monotonic()
        lease = Lease(lake, "submission-b")
        lease.take()
        assert time.monotonic() - begun < TIMES.lease_watch_secs
        lease.release()

    def test_what_is_done_since_it_began_shortens_the_watch(self, lake, monkeypatch):
        lake.write_lease(OTHER)
        lease = Lease(lake, "submission-b")
        lease._begun -= TIMES.lease_watch_secs
        monkeypatch.setattr(TIMES, "lease_watch_secs", TIMES.lease_watch_secs - 0.001)
        slept = []
        monkeypatch.setattr(lease_module.time, "sleep", slept.append)
        lease.take()
        assert len(slept) == 1
        lease.release()

    def test_driver_that_finds_another_ones_hears_of_it_and_leaves_it_alone(self, lake, taken):
        heard = []
        taken.when_taken(heard.append)
        lake.write_lease(THIRD)
        poll(lambda: heard, DEADLINE_SECS, "it is heard of")
        assert heard == ["process 1 on host elsewhere"]
        taken.release()
        assert lake.lease() == THIRD
        late = []
        taken.when_taken(late.append)
        assert late == heard

    def test_driver_that_yarn_starts_again_takes_over_at_once(self, lake):
        heard = []
        first = Lease(lake, "submission-a", "application_1_0001")
        first.take()
        first.when_taken(heard.append)
        again = Lease(lake, "submission-a", "application_1_0001")
        again.take()
        poll(lambda: heard, DEADLINE_SECS, "the first one hears of it")
        beats(lake)
        for lease in (first, again):
            lease.release()

    def test_of_a_submission_that_is_repeated_while_its_driver_lives(
        self, lake, taken, monkeypatch
    ):
        monkeypatch.setattr(TIMES, "lease_ending_secs", 0.3)
        mine, told = lake.lease(), []
        again = Lease(lake, "submission-a")
        words = (
            rf"submission submission-a \(run r\) has a driver that lives, process {mine.pid} on"
            rf" host {mine.host} .*pl_submit kill r --lake {lake.url}.*another --submission"
        )
        with pytest.raises(LakeError, match=words):
            again.take(told.append)
        assert len(told) == 1
        assert f"process {mine.pid} on host {mine.host}, lives yet" in told[0]
        assert lake.lease().token == mine.token
        beats(lake)

    def test_of_a_submission_repeated_while_its_driver_ends(self, lake, taken):
        told = []
        again = Lease(lake, "submission-a")
        again.take(lambda line: (told.append(line), taken.release()))
        assert len(told) == 1
        assert lake.lease().token == again._mine.token
        again.release()

    def test_of_two_that_watched_the_same_the_last_writer_has_it(self, lake, monkeypatch):
        lake.write_lease(OTHER)
        lease = Lease(lake, "")
        write = lake.write_lease

        def beaten(mine):
            write(mine)
            write(THIRD)

        monkeypatch.setattr(RunDirectory, "write_lease", lambda self, mine: beaten(mine))
        with pytest.raises(LakeError, match="process 1 on host elsewhere"):
            lease.take()
        lease.release()
        assert lake.lease() == THIRD


class TestLakeOutOfOrder:
    def test_is_no_failure_and_it_beats_again(self, lake, taken, monkeypatch):
        tries = []

        def fails(self, lease):
            tries.append(lease)
            raise LakeError("the lake is away")

        with monkeypatch.context() as broken:
            broken.setattr(RunDirectory, "write_lease", fails)
            poll(lambda: len(tries) > 2, DEADLINE_SECS, "it was tried")
        beats(lake)

    def test_that_hangs_holds_up_no_end(self, lake, taken, monkeypatch):
        hangs, goes_on = threading.Event(), threading.Event()

        def hang(self, lease):
            hangs.set()
            goes_on.wait(DEADLINE_SECS)

        monkeypatch.setattr(RunDirectory, "write_lease", hang)
        assert hangs.wait(DEADLINE_SECS)
        begun = time.monotonic()
        taken.release()
        assert time.monotonic() - begun < DEADLINE_SECS / 2
        goes_on.set()
        poll(lambda: lake.lease() is None, DEADLINE_SECS, "it goes when the lake is back")


class TestClaim:
    def claim(self, lake):
        claim = Claim(JobSpec.of(), "r", "submission-b", lake)
        claim.lake = lake
        claim._lease = Lease(lake, "submission-b")
        return claim

    def test_that_is_refused_writes_no_result_beside_one_that_lives(self, lake, taken):
        claim = self.claim(lake)
        with pytest.raises(LakeError, match="has a driver that lives"):
            claim.take_lease()
        assert claim.lake is None

    def test_that_gets_it_writes_its_result(self, lake):
        claim = self.claim(lake)
        claim.take_lease()
        assert claim.lake is lake
        claim._lease.release()
