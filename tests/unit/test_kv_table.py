"""A table of the store: rows by key, growing, threads at once, admission, expiry, copies."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfos.kv import rows
from tfos.kv.hashing import hashes
from tfos.kv.optimizers import FTRL, SGD, Adagrad
from tfos.kv.spec import Constant, Normal, TableSpec, Uniform
from tfos.kv.table import Rows, Table, now_ms

pytestmark = pytest.mark.timeout(60)
EXTREMES = [0, -1, 1, np.iinfo(np.int64).min, np.iinfo(np.int64).max]


def make(width: int = 3, optimizer: Any = None, stripe_bits: int = 2, **options: Any) -> Table:
    spec = TableSpec("t", width, optimizer or SGD(1.0), **options)
    return Table(spec, stripe_bits=stripe_bits)


def int64(*keys: int) -> np.ndarray:
    return np.array(keys, np.int64)


def full(keys: Any, value: float, width: int = 3) -> np.ndarray:
    return np.full((len(keys), width), value, np.float32)


def everything(table: Table, **options: Any) -> dict[int, list[float]]:
    found: dict[int, list[float]] = {}
    for part in table.scans(**options):
        for key, values in zip(part.keys.tolist(), part.values.tolist(), strict=True):
            assert key not in found
            found[key] = values
    return found


class TestRows:
    def test_any_int64_is_a_key(self):
        table, keys = make(), int64(*EXTREMES)
        table.push(keys, -np.arange(15, dtype=np.float32).reshape(5, 3))
        np.testing.assert_array_equal(table.pull(keys).ravel(), np.arange(15))
        assert len(table) == 5 and everything(table).keys() == set(EXTREMES)

    @settings(max_examples=60, deadline=None)
    @given(
        st.integers(0, 3),
        st.lists(
            st.tuples(
                st.sampled_from(["push", "add", "put", "pull", "make"]),
                st.lists(
                    st.integers(-40, 40) | st.sampled_from(EXTREMES), max_size=70, unique=True
                ),
                st.integers(-3, 3),
            ),
            max_size=12,
        ),
    )
    def test_it_is_a_dictionary(self, stripe_bits, requests):
        table = make(1, SGD(1.0), stripe_bits, initializer=Constant(7))
        expected: dict[int, float] = {}
        for operation, keys, value in requests:
            values = full(keys, value, 1)
            if operation in ("pull", "make"):
                found = table.pull(int64(*keys), make=operation == "make")
                assert found.ravel().tolist() == [expected.get(key, 7) for key in keys]
                if operation == "make":
                    expected.update({key: expected.get(key, 7) for key in keys})
                continue
            getattr(table, operation)(int64(*keys), values)
            for key in keys:
                if operation == "put":
                    expected.setdefault(key, value)
                elif operation == "add" or value:
                    expected[key] = expected.get(key, 7) + (value if operation == "add" else -value)
        assert everything(table) == {key: [value] for key, value in expected.items()}
        assert len(table) == len(expected)

    def test_growing_keeps_every_row(self):
        table = make(2, Adagrad(), initializer=Uniform())
        keys = hashes(np.arange(50_000)).view(np.int64)
        first = table.pull(keys)
        for part in np.split(keys, 50):
            table.pull(part, make=True)
        assert len(table) == len(keys)
        np.testing.assert_array_equal(table.pull(keys), first)
        np.testing.assert_array_equal(table.pull(keys[::-1]), first[::-1])

    def test_memory_of_a_row(self):
        table = make(8, Adagrad(), stripe_bits=6)
        table.pull(np.arange(1_000_000), make=True)
        assert table.nbytes / 1_000_000 <= 1.35 * 64 + 16

    def test_gradient_of_zero_makes_and_changes_no_row(self):
        for optimizer in (SGD(1.0), SGD(1.0, momentum=0.9), Adagrad(), FTRL()):
            table = make(optimizer=optimizer)
            table.push(int64(1, 2), np.array([[0, 0, 0], [0, 1, 0]], np.float32))
            assert everything(table).keys() == {2}
            before = everything(table, slots=True)
            table.push(int64(2), full([2], 0))
            assert everything(table, slots=True) == before

    def test_dense_variable_knows_gradients_of_zero(self):
        table = make(optimizer=SGD(1.0, momentum=0.5), is_dense=True)
        table.push(int64(1), full([1], 1))
        table.push(int64(1), full([1], 0))
        np.testing.assert_allclose(table.pull(int64(1)), full([1], -1.5))

    def test_arrays_may_be_read_only(self):
        table, keys, gradients = make(), int64(1, 2), full([1, 2], -1)
        for array in (keys, gradients):
            array.flags.writeable = False
        table.push(keys, gradients)
        np.testing.assert_array_equal(table.pull(keys), full(keys, 1))

    @pytest.mark.parametrize(
        "keys", [[1.0, 2.0], np.array([1, 2], np.uint64), [[1, 2]], ["a"], np.array(3)]
    )
    def test_keys_are_integers(self, keys):
        with pytest.raises(TypeError, match=r"keys are .*: use integers of 64 bits or less"):
            make().pull(keys)

    def test_wrong_shapes_are_refused_and_change_nothing(self):
        table = make()
        for values in (full([1], 1), full([1, 2], 1, 2), np.array(1, np.float32)):
            with pytest.raises(ValueError, match=r"use \[2, 3\]"):
                table.push(int64(1, 2), values)
        with pytest.raises(ValueError, match="learning_rate is -1"):
            table.push(int64(1), full([1], 1), rate=-1)
        assert len(table) == 0 and table.steps == 0


class TestInitializers:
    @pytest.mark.parametrize("initializer", [Constant(2), Uniform(-1, 3), Normal(1, 2)])
    def test_a_function_of_seed_and_key(self, initializer):
        keys = int64(*EXTREMES, *range(100, 120))
        one, other = (make(initializer=initializer, seed=3, stripe_bits=bits) for bits in (0, 3))
        other.push(keys[::-1], full(keys, 1))
        np.testing.assert_array_equal(one.pull(keys) - 1, other.pull(keys))
        np.testing.assert_array_equal(one.pull(keys), one.pull(keys, make=True))
        if not isinstance(initializer, Constant):
            values = one.pull(keys)
            assert len(np.unique(values)) == values.size
            assert not np.isin(make(initializer=initializer, seed=4).pull(keys), values).any()

    @pytest.mark.parametrize(
        ("initializer", "mean", "stddev"),
        [(Uniform(-1, 3), 1, 4 / 12**0.5), (Normal(1, 2), 1, 2)],
    )
    def test_moments(self, initializer, mean, stddev):
        values = make(4, initializer=initializer).pull(np.arange(50_000)).astype(np.float64)
        assert abs(values.mean() - mean) < 0.03 and abs(values.std() - stddev) < 0.03
        assert np.abs(np.corrcoef(values.T) - np.eye(4)).max() < 0.02
        assert abs(np.corrcoef(values[:-1, 0], values[1:, 0])[0, 1]) < 0.02
        if isinstance(initializer, Uniform):
            assert values.min() >= -1 and values.max() < 3


class TestThreads:
    def test_updates_at_once_are_all_there(self):
        """Eight threads push to the same keys, while rows are made and rows are read."""
        table = make(4, SGD(1.0), stripe_bits=3)
        shared = np.arange(500)

        def work(number: int) -> None:
            for turn in range(40):
                table.push(shared, full(shared, -1, 4))
                table.pull(np.arange(1000 * (40 * number + turn + 1), 1000)[:200], make=True)
                own = 10_000 * (number + 1) + np.arange(50 * turn, 50 * turn + 50)
                table.add(own, full(own, number, 4))
                for part in table.scans():
                    assert (part.values == part.values[:, :1]).all()  # never half a row

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
        np.testing.assert_array_equal(table.pull(shared), full(shared, 320, 4))
        assert len(table) == 500 + 8 * 40 * 50 and table.steps == 320

    def test_a_visit_goes_on_where_nobody_is(self):
        """While one stripe is held, another request is served up to that stripe."""
        table = make(1, stripe_bits=3)
        keys = np.arange(2000)
        held = table._stripes[2]
        held[rows.LOCK] = 1  # as the kernels do
        pusher = threading.Thread(target=table.push, args=(keys, full(keys, -1, 1)))
        pusher.start()
        try:
            others = [table._stripes[s] for s in range(8) if s != 2]
            _until(lambda: sum(int(s[rows.LIVE]) for s in others) > 1600)
            assert held[rows.LIVE] == 0 and pusher.is_alive()
        finally:
            held[rows.LOCK] = 0
            pusher.join(20)
        assert (table.pull(keys) == 1).all()


class TestAdmission:
    def test_at_the_nth_push(self):
        table = make(admit_after=3, initializer=Constant(5))
        for expected in (0, 0, 4):
            assert (table.pull(int64(9), make=True) == (0 if len(table) == 0 else 5)).all()
            table.push(int64(9), full([9], 1))
            np.testing.assert_array_equal(table.pull(int64(9)), full([9], expected))
        table.push(int64(8, 9), full([8, 9], 1))
        assert everything(table) == {9: [3, 3, 3]}

    @settings(max_examples=30, deadline=None)
    @given(st.lists(st.integers(0, 300), min_size=1, max_size=400), st.integers(2, 6))
    def test_never_later(self, keys, admit_after):
        """The sketch may count too much, never too little."""
        table = make(1, admit_after=admit_after, sketch_bytes=1 << 14)
        for key in keys:
            table.push(int64(key), full([key], 1, 1))
        often = {key for key in keys if keys.count(key) >= admit_after}
        assert often <= everything(table).keys()

    def test_memory_is_bounded_and_most_rare_keys_stay_out(self):
        table = make(1, admit_after=2, sketch_bytes=1 << 20)
        before = table.nbytes
        for begin in range(0, 200_000, 10_000):
            keys = np.arange(begin, begin + 10_000)
            table.push(keys, full(keys, 1, 1))
        assert len(table) < 6000  # of 200,000, each seen once, with 262,144 counters in a line
        assert table.nbytes - before < 1 << 20


class TestExpiry:
    def test_what_was_not_pushed_goes(self):
        table = make(expire_secs=100.0, optimizer=Adagrad(), initializer=Constant(1))
        now = 2_000_000_000.0
        keys = np.arange(3000)
        changed = np.where(keys % 3 == 0, now - 99, now - 101).astype(np.int64) * 1000
        table.load(Rows(keys, changed, full(keys, 4, 6)))
        assert table.expire(now) == 2000
        assert everything(table).keys() == set(range(0, 3000, 3))
        np.testing.assert_array_equal(table.pull(int64(3, 4)), [[4] * 3, [1] * 3])
        # places are used again, and begin anew
        reserved = table.nbytes
        table.pull(np.arange(10_000, 12_000), make=True)
        assert table.nbytes == reserved and len(table) == 3000
        assert everything(table, slots=True)[10_001] == [1, 1, 1, *[np.float32(0.1)] * 3]
        assert everything(table).keys() == {*range(0, 3000, 3), *range(10_000, 12_000)}

    def test_a_push_keeps_a_row_and_a_pull_does_not(self):
        table = make(expire_secs=100.0)
        table.load(Rows(int64(1, 2), int64(1000, 1000), full([1, 2], 4)))
        table.push(int64(1), full([1], 1))
        table.pull(int64(2), make=True)
        assert table.expire() == 1 and everything(table).keys() == {1}

    def test_rows_near_zero_go(self):
        table = make(expire_below=0.5)
        table.put(int64(1, 2, 3), np.array([[0.5, 0, -0.5], [0, 0.6, 0], [0, np.nan, 0]], "f4"))
        assert table.expire() == 1 and everything(table).keys() == {2, 3}

    def test_nothing_goes_unasked(self):
        table = make()
        table.load(Rows(int64(1), int64(0), full([1], 0)))
        assert table.expire() == 0 and len(table) == 1


class TestCopies:
    def test_rows_with_slots_are_the_same_in_another_table(self):
        table = make(optimizer=Adagrad(), initializer=Uniform())
        keys = np.arange(700)
        table.push(keys, full(keys, 0.5))
        other = make(optimizer=Adagrad(), stripe_bits=4)
        for part in table.scans(slots=True):
            other.load(part)
        assert everything(other, slots=True) == everything(table, slots=True)
        changed = [
            {*np.concatenate([p.changed for p in t.scans()]).tolist()} for t in (table, other)
        ]
        assert changed[0] == changed[1]

    def test_only_what_was_changed_since(self):
        table = make()
        table.load(Rows(int64(1, 2, 3), int64(10, 20, 30), full([1, 2, 3], 1)))
        assert everything(table, since=20).keys() == {2, 3}

    def test_what_is_changed_after_a_copy_is_in_the_next(self):
        """Also by a request that had read the clock before the copy was made."""
        table = make(stripe_bits=0)
        table.push(int64(1, 2), full([1, 2], 1))
        later = now_ms() + 10_000
        assert len(table.scan(0, now=later).keys) == 2
        table.push(int64(2, 3), full([2, 3], 1))
        assert everything(table, since=later).keys() == {2, 3}

    def test_rows_of_another_width_are_refused(self):
        with pytest.raises(ValueError, match=r"table 't': use \[1, 6\]"):
            make(optimizer=Adagrad()).load(Rows(int64(1), int64(1), full([1], 1)))


def _until(condition: Callable[[], bool]) -> None:
    waited = threading.Event()
    for _ in range(2000):
        if condition():
            return
        waited.wait(0.005)
    raise AssertionError("not within 10 s")
