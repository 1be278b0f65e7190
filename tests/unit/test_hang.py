"""When a process is taken for hung. Time is a number here."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfos.fault.hang import HangWatch

SECS = 100.0
PROGRESS = {"phase": "train", "epoch": 3}


def alive(watch, now):
    watch.alive(now)


def moved(watch, now):
    watch.moved(now)


def progress(watch, now):
    watch.moved(now, PROGRESS)


def quiet(watch, now):
    watch.quiet(True, now)


def loud(watch, now):
    watch.quiet(False, now)


def alive_until(watch, begin, end):
    """A sign of life every second."""
    for now in range(int(begin), int(end) + 1):
        watch.alive(float(now))


class TestSilence:
    @pytest.mark.parametrize(
        ("trains", "secs", "words"), [(False, 50, "half"), (True, 75, "three")]
    )
    def test_is_found_before_those_who_wait_for_it(self, trains, secs, words):
        """Of a worker first, then of the chief, and then that there is no progress."""
        watch = HangWatch(SECS, trains, 1000.0)
        assert watch.verdict(1000.0 + secs) is None
        why = watch.verdict(1000.5 + secs)
        assert f"no sign of life for {secs} s ({words}" in why
        assert "--hang-secs 100" in why

    @pytest.mark.parametrize("said", [alive, moved, progress, quiet, loud])
    def test_any_word_is_a_sign_of_life(self, said):
        watch = HangWatch(SECS, False, 0.0)
        said(watch, 40.0)
        assert watch.verdict(90.0) is None
        assert watch.verdict(90.5) is not None

    def test_counts_inside_what_may_take_long(self):
        watch = HangWatch(SECS, True, 0.0)
        watch.quiet(True, 0.0)
        assert "no sign of life" in watch.verdict(75.5)


class TestMeeting:
    def test_lasts_as_long_as_no_progress_may_with_or_without_signs_of_life(self):
        for alive in (False, True):
            watch = HangWatch(SECS, False, 0.0)
            watch.meets(True, 10.0)
            if alive:
                alive_until(watch, 10, 110)
            assert watch.verdict(110.0) is None
            assert "could not meet the other processes for 100 s" in watch.verdict(110.5)
            assert not watch.has_met

    def test_silence_counts_again_after_it(self):
        watch = HangWatch(SECS, False, 0.0)
        watch.meets(True, 10.0)
        watch.meets(False, 100.0)
        assert watch.has_met
        assert watch.verdict(150.0) is None
        assert "no sign of life for 50 s" in watch.verdict(150.5)


class TestProgress:
    def test_signs_of_life_are_no_progress(self):
        watch = HangWatch(SECS, True, 0.0)
        alive_until(watch, 0, 101)
        assert watch.verdict(100.0) is None
        assert "no progress for 100 s" in watch.verdict(100.5)

    def test_is_not_expected_of_a_server(self):
        watch = HangWatch(SECS, False, 0.0)
        alive_until(watch, 0, 5000)
        assert watch.verdict(5000.0) is None

    @pytest.mark.parametrize("said", [progress, moved])
    def test_restarts_the_clock(self, said):
        watch = HangWatch(SECS, True, 0.0)
        said(watch, 60.0)
        alive_until(watch, 60, 161)
        assert watch.verdict(160.0) is None
        assert watch.verdict(160.5) is not None

    def test_is_not_expected_in_what_may_take_long_and_is_after_it(self):
        watch = HangWatch(SECS, True, 0.0)
        watch.quiet(True, 10.0)
        alive_until(watch, 10, 1000)
        assert watch.verdict(1000.0) is None
        watch.quiet(False, 1000.0)
        alive_until(watch, 1000, 1101)
        assert watch.verdict(1100.0) is None
        assert watch.verdict(1100.5) is not None

    def test_progress_does_not_end_what_may_take_long(self):
        """An evaluation reports how far it is."""
        watch = HangWatch(SECS, True, 0.0)
        watch.quiet(True, 0.0)
        watch.moved(1.0, PROGRESS)
        alive_until(watch, 1, 1000)
        assert watch.verdict(1000.0) is None

    def test_verdict_names_what_was_reported_last_and_the_remedy(self):
        watch = HangWatch(SECS, True, 0.0)
        watch.moved(0.0, PROGRESS)
        watch.moved(1.0)
        alive_until(watch, 1, 110)
        why = watch.verdict(110.0)
        assert why.endswith("train epoch 3")
        assert "--hang-secs" in why
        assert "ctx.report()" in why

    @pytest.mark.parametrize(
        ("progress", "words"),
        [
            (None, "nothing yet"),
            ({"phase": "train() begins"}, "train() begins"),
            ({"phase": "train", "epoch": 0}, "train"),
        ],
    )
    def test_verdict_before_the_first_epoch(self, progress, words):
        watch = HangWatch(SECS, True, 0.0)
        if progress:
            watch.moved(0.0, progress)
        alive_until(watch, 0, 110)
        assert watch.verdict(110.0).endswith(f"it reported last: {words}")


class TestOff:
    @pytest.mark.parametrize("trains", [False, True])
    def test_zero_never_finds_anything(self, trains):
        assert HangWatch(0, trains, 0.0).verdict(1e9) is None


@given(
    st.lists(
        st.tuples(
            st.sampled_from([alive, progress, moved, quiet, loud]),
            st.floats(0, SECS / 2 - 0.01),
        )
    ),
    st.booleans(),
)
def test_silence_is_always_found_and_a_talking_server_never_hangs(said, trains):
    watch = HangWatch(SECS, trains, 0.0)
    now = 0.0
    for tell, later in said:
        now += later
        if not trains:
            assert watch.verdict(now) is None
        tell(watch, now)
    assert watch.verdict(now + SECS) is not None
