"""The order of an epoch: every row once, whatever the cuts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tfos.feeding.plan import (
    WINDOW_BYTES,
    WINDOW_ROWS,
    EpochOrder,
    Position,
    Slice,
    left,
    share,
    window_rows,
    within,
)

SHARDS = st.lists(st.integers(0, 30), max_size=12)
QUICK = settings(max_examples=80, deadline=None)


def visit(order, shard_rows, start, stop):
    """The (shard, row) at each position in [start, stop), as a reader goes about it."""
    found = []
    for window, first, last in order.windows(start, stop):
        rows = [
            (part.shard, row)
            for part in order.slices(*order.window_bounds(window))
            for row in range(part.start, part.stop)
        ]
        permutation = order.permutation(window)
        if permutation is not None:
            rows = [rows[i] for i in permutation]
        found.extend(rows[first:last])
    return found


def every_row(shard_rows):
    return [(shard, row) for shard, rows in enumerate(shard_rows) for row in range(rows)]


class TestEpochOrder:
    @QUICK
    @given(SHARDS, st.integers(1, 40), st.booleans(), st.integers(0, 9), st.integers(0, 3))
    def test_every_row_is_visited_exactly_once(self, shards, window, shuffle, seed, epoch):
        order = EpochOrder(shards, window, shuffle, seed, epoch)
        assert order.rows == sum(shards)
        assert sorted(visit(order, shards, 0, order.rows)) == every_row(shards)

    @QUICK
    @given(SHARDS, st.integers(1, 40), st.booleans(), st.data())
    def test_cuts_do_not_change_the_order(self, shards, window, shuffle, data):
        order = EpochOrder(shards, window, shuffle, 5, 1)
        whole = visit(order, shards, 0, order.rows)
        cuts = sorted(data.draw(st.lists(st.integers(0, order.rows), max_size=6)))
        pieces = []
        for start, stop in zip([0, *cuts], [*cuts, order.rows], strict=True):
            pieces.extend(visit(order, shards, start, stop))
        assert pieces == whole

    @QUICK
    @given(SHARDS, st.integers(1, 40))
    def test_unshuffled_is_the_order_of_the_shards(self, shards, window):
        order = EpochOrder(shards, window, False, 0, 4)
        assert visit(order, shards, 0, order.rows) == every_row(shards)

    @QUICK
    @given(SHARDS, st.integers(1, 40), st.integers(0, 9), st.integers(0, 9))
    def test_another_process_computes_the_same_order(self, shards, window, seed, epoch):
        one, two = (EpochOrder(shards, window, True, seed, epoch) for _ in range(2))
        assert visit(one, shards, 0, one.rows) == visit(two, shards, 0, two.rows)

    def test_each_epoch_and_each_seed_has_its_own_order(self):
        shards = [40, 0, 25, 60]
        seen = {
            tuple(visit(EpochOrder(shards, 16, True, seed, epoch), shards, 0, 125))
            for seed in range(3)
            for epoch in range(3)
        }
        assert len(seen) == 9

    def test_rows_of_one_shard_are_shuffled_too(self):
        order = EpochOrder([100], 100, True, 0, 0)
        rows = [row for _, row in visit(order, [100], 0, 100)]
        assert rows != list(range(100))

    def test_windows_are_not_all_permuted_alike(self):
        order = EpochOrder([64], 16, True, 0, 0)
        permutations = {tuple(order.permutation(window)) for window in range(4)}
        assert len(permutations) == 4

    @QUICK
    @given(SHARDS, st.integers(1, 40), st.booleans(), st.data())
    def test_slices_cover_exactly(self, shards, window, shuffle, data):
        order = EpochOrder(shards, window, shuffle, 1, 1)
        start = data.draw(st.integers(0, order.rows))
        stop = data.draw(st.integers(start, order.rows))
        slices = order.slices(start, stop)
        assert sum(part.stop - part.start for part in slices) == stop - start
        assert all(0 <= part.start < part.stop <= shards[part.shard] for part in slices)
        before = [
            (part.shard, row)
            for part in order.slices(0, start)
            for row in range(part.start, part.stop)
        ]
        here = [(part.shard, row) for part in slices for row in range(part.start, part.stop)]
        assert not set(before) & set(here)

    def test_slices_across_empty_shards(self):
        order = EpochOrder([2, 0, 0, 3], 10, False, 0, 0)
        assert order.slices(1, 4) == [Slice(0, 1, 2), Slice(3, 0, 2)]

    @QUICK
    @given(st.integers(1, 40), st.integers(0, 200), st.integers(0, 200))
    def test_windows_cover_exactly(self, window, start, length):
        assume(length > 0)
        stop = start + length
        order = EpochOrder([stop + 7], window, True, 0, 0)
        positions = []
        for number, first, last in order.windows(start, stop):
            assert 0 <= first < last <= window
            positions.extend(range(number * window + first, number * window + last))
        assert positions == list(range(start, stop))

    def test_last_window_is_as_long_as_what_is_left(self):
        order = EpochOrder([10], 4, True, 0, 0)
        assert [order.window_bounds(i) for i in range(3)] == [(0, 4), (4, 8), (8, 10)]
        assert sorted(order.permutation(2)) == [0, 1]

    def test_feed_without_shards_has_no_rows(self):
        order = EpochOrder([], 4, True, 0, 0)
        assert (order.rows, order.slices(0, 0), order.windows(0, 0)) == (0, [], [])

    @QUICK
    @given(SHARDS, st.integers(1, 40), st.booleans(), st.data())
    def test_part_is_those_rows_and_no_others(self, shards, window, shuffle, data):
        first = data.draw(st.integers(0, sum(shards)))
        last = data.draw(st.integers(first, sum(shards)))
        order = EpochOrder(shards, window, shuffle, 5, 1, (first, last))
        assert order.rows == last - first
        assert sorted(visit(order, shards, 0, order.rows)) == every_row(shards)[first:last]


class TestShare:
    """Which rows each of several processes in step takes."""

    SIZES = (st.integers(0, 300), st.integers(1, 9), st.integers(1, 20))

    @QUICK
    @given(*SIZES)
    def test_every_row_is_in_one_share_and_shares_are_even(self, rows, replicas, batch):
        shares = [range(*share(rows, replica, replicas)) for replica in range(replicas)]
        assert [row for each in shares for row in each] == list(range(rows))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1

    @QUICK
    @given(*SIZES)
    def test_all_steps_but_the_last_are_full(self, rows, replicas, batch):
        """So a position in the epoch says how far every replica is."""
        shares = [range(*share(rows, replica, replicas)) for replica in range(replicas)]
        steps = -(-rows // (replicas * batch))
        for step in range(steps):
            taken = [len(each[step * batch : (step + 1) * batch]) for each in shares]
            assert sum(taken) == min(replicas * batch, rows - step * replicas * batch)
            if step < steps - 1:
                assert set(taken) == {batch}
        assert all(len(each[steps * batch :]) == 0 for each in shares)


def positions(ranges):
    return [position for start, stop in ranges for position in range(start, stop)]


class TestLeft:
    """What is left of an epoch that several processes in step, and then others, have begun."""

    # (replicas, batch_size, steps) in turn
    TURNS = st.lists(st.tuples(st.integers(1, 7), st.integers(1, 9), st.integers(0, 6)), max_size=6)

    def take(self, rows, position, replicas, batch, steps):
        """Lets processes make steps as they do: (positions taken in each step, where they are)."""
        takes, start = position.resumed_by(replicas)
        sequence = positions(left(rows, takes))
        shares = [share(len(sequence), replica, replicas) for replica in range(replicas)]
        made, stop = [], start
        while len(made) < steps and stop < len(sequence):
            begins = [first + stop // replicas for first, _ in shares]
            ends = [min(at + batch, last) for at, (_, last) in zip(begins, shares, strict=True)]
            batches = positions(zip(begins, ends, strict=True))
            made.append([sequence[at] for at in batches])
            stop = min(stop + replicas * batch, len(sequence))
        return made, Position(0, (*takes, (replicas, stop)) if stop else takes)

    @QUICK
    @given(st.integers(0, 200), TURNS)
    def test_every_row_is_taken_once_or_left(self, rows, turns):
        position, taken = Position(), []
        for turn in turns:
            made, position = self.take(rows, position, *turn)
            for step in made[:-1]:
                assert len(step) == turn[0] * turn[1]
            taken += [at for step in made for at in step]
            rest = positions(left(rows, position.takes))
            assert rest == sorted(rest)
            assert sorted(taken + rest) == list(range(rows))
        # whoever comes then ends it
        made, position = self.take(rows, position, 3, 5, rows)
        taken += [at for step in made for at in step]
        assert sorted(taken) == list(range(rows))
        assert left(rows, position.takes) == []

    @QUICK
    @given(st.integers(0, 200), TURNS)
    def test_ranges_are_as_few_as_processes(self, rows, turns):
        position = Position()
        for turn in turns:
            _, position = self.take(rows, position, *turn)
        assert len(left(rows, position.takes)) <= 1 + sum(replicas for replicas, *_ in turns)

    def test_as_many_processes_keep_their_shares(self):
        position = Position(2, ((3, 12), (2, 8)))
        assert position.resumed_by(2) == (((3, 12),), 8)
        assert position.resumed_by(4) == (((3, 12), (2, 8)), 0)
        assert Position(2).resumed_by(1) == ((), 0)

    def test_shares_that_were_begun(self):
        # shares [0, 13) [13, 27) [27, 41), of which each has lost a batch of 4
        assert left(41, [(3, 12)]) == [(4, 13), (17, 27), (31, 41)]
        # 29 rows are left: 14 and 15 of them are the shares of two, which take 2 each
        assert left(41, [(3, 12), (2, 4)]) == [(6, 13), (17, 22), (24, 27), (31, 41)]

    @QUICK
    @given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=5), st.data())
    def test_positions_in_ranges(self, gaps, data):
        ranges, at = [], 0
        for gap, length in gaps:
            ranges.append((at + gap, at + gap + length))
            at += gap + length
        whole = positions(ranges)
        start = data.draw(st.integers(0, len(whole)))
        stop = data.draw(st.integers(start, len(whole)))
        assert positions(within(ranges, start, stop)) == whole[start:stop]
        with pytest.raises(ValueError, match=f"of the {len(whole)} that are left"):
            within(ranges, start, len(whole) + 1)


class TestWindowRows:
    @pytest.mark.parametrize(
        ("rows", "size", "expected"),
        [
            (10**9, 10**9, WINDOW_ROWS),
            (1000, 1000 * (WINDOW_BYTES // 16), 16),
            (10, 10 * WINDOW_BYTES * 2, 1),
            (0, 0, WINDOW_ROWS),
        ],
    )
    def test_is_bounded_by_rows_and_bytes(self, rows, size, expected):
        assert window_rows(rows, size) == expected


def test_permutation_is_of_the_windows_rows():
    permutation = EpochOrder([7, 9], 16, True, 2, 3).permutation(0)
    assert np.array_equal(np.sort(permutation), np.arange(16))


class TestOrderOfArrival:
    """Of a feed that is still being written: no window goes beyond its shard."""

    @QUICK
    @given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 30)), max_size=6), st.booleans())
    def test_what_arrives_later_changes_nothing(self, both, shuffle):
        shards, windows = [[pair[i] for pair in both] for i in range(2)]
        whole = visit(EpochOrder(shards, windows, shuffle, 3, 0), shards, 0, sum(shards))
        assert sorted(whole) == every_row(shards)
        for count in range(len(shards)):
            here = shards[:count]
            order = EpochOrder(here, windows[:count], shuffle, 3, 0)
            assert visit(order, here, 0, sum(here)) == whole[: sum(here)]

    def test_windows_end_with_their_shard(self):
        order = EpochOrder([50, 0, 60], [40, 7, 60], True, 3, 0)
        bounds = [order.window_bounds(i) for i in range(5)]
        assert bounds == [(0, 40), (40, 50), (50, 110), (110, 110), (110, 110)]
        assert order.windows(30, 110) == [(0, 30, 40), (1, 0, 10), (2, 0, 60)]

    def test_rows_are_permuted_inside_their_window(self):
        shards = [50, 60]
        rows = visit(EpochOrder(shards, [20, 60], True, 3, 0), shards, 0, 110)
        assert sorted(rows[:20]) == [(0, row) for row in range(20)] != rows[:20]
        assert sorted(rows[50:]) == [(1, row) for row in range(60)] != rows[50:]


@pytest.mark.parametrize("window", [4, [2, 9]])
def test_rows_behind_the_last_one(window):
    order = EpochOrder([3, 5], window, True, 0, 0)
    assert order.windows(6, 8)
    with pytest.raises(ValueError, match="rows up to 9 of an epoch of 8"):
        order.windows(6, 9)
