"""Keys once each, with what belongs to them summed: what a client does before it asks."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfos.kv.compiled import kernel
from tfos.kv.hashing import hash_of


def as_keys(keys: Any) -> np.ndarray:
    """int64 [n], as kernels take them. Raises TypeError for what is no list of integers of 64 bits.

    (Floating point would lose digits, and unsigned keys from 2**63 on would become negative.)
    """
    array = np.asarray(keys)
    if array.size == 0:
        array = array.astype(np.int64)
    if array.ndim != 1 or not np.can_cast(array.dtype, np.int64, "safe"):
        raise TypeError(
            f"keys are {array.dtype.name} {list(array.shape)}: use integers of 64 bits or less, [n]"
        )
    return np.require(array, np.int64, ["C", "W"])  # kernels take no read-only arrays


def distinct(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keys once each, in the order of their first, int64 [m]; the place of each of [n] there."""
    keys = as_keys(keys)
    found, place = np.empty(len(keys), np.int64), np.empty(len(keys), np.int64)
    table = np.zeros(1 << max(4, (2 * len(keys) - 1).bit_length()), np.int32)
    return found[: _distinct(keys, table, found, place)], place


def summed(keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each key once, and the sum of its float32 values, [n, width]."""
    found, place = distinct(keys)
    values = np.require(values, np.float32, ["C", "W"])
    if len(found) == len(keys):
        return found, values
    sums = np.zeros((len(found), values.shape[1]), np.float32)
    _add(place, values, sums)
    return found, sums


@kernel("i8(i8[::1], i4[::1], i8[::1], i8[::1])")
def _distinct(keys, table, found, place):
    """table: zeros, a power of two and at least twice as many as there are keys."""
    mask, count = np.uint64(table.shape[0] - 1), 0
    for i in range(keys.shape[0]):
        at = hash_of(keys[i]) & mask
        while table[at] != 0 and found[table[at] - 1] != keys[i]:
            at = (at + np.uint64(1)) & mask
        if table[at] == 0:
            found[count] = keys[i]
            count += 1
            table[at] = count
        place[i] = table[at] - 1
    return count


@kernel("void(i8[::1], f4[:,::1], f4[:,::1])")
def _add(place, values, sums):
    for i in range(place.shape[0]):
        for d in range(values.shape[1]):
            sums[place[i], d] += values[i, d]
