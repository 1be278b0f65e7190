"""Sizes of the buffers in which processes exchange slices."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tfos.training.collectives import buffer_size

COUNTS = st.one_of(st.integers(1, 100), st.integers(1, 1 << 30))


@given(COUNTS)
def test_buffer_is_large_enough_and_hardly_larger(count):
    size, number = (int(value) for value in buffer_size(count))
    assert count <= size <= max(count + 1, count * 9 / 8)
    assert 0 < number < 512


@given(COUNTS, COUNTS)
def test_each_size_has_a_number_of_its_own(one, other):
    (size, number), (other_size, other_number) = buffer_size(one), buffer_size(other)
    assert (int(size) == int(other_size)) == (int(number) == int(other_number))
