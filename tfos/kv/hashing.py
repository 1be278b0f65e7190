"""The hash of a key, which says its server, its stripe and its place there; random numbers by key.

Both are the output function of SplitMix64 (Steele, Lea and Flood 2014, figure 17, with Stafford's
thirteenth variant of the mixer), on a counter, so that any number of the sequence is made alone.
What is on disk depends on it: it never changes.
"""

from __future__ import annotations

import numpy as np

from tfos.kv.compiled import inlined

GOLDEN = 0x9E3779B97F4A7C15
_STEPS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


def hashes(keys: np.ndarray) -> np.ndarray:
    """uint64 [n] for int64 [n]: in NumPy what hash_of() is in kernels."""
    word = keys.astype(np.uint64) + np.uint64(GOLDEN)
    for shift, factor in _STEPS:
        word ^= word >> np.uint64(shift)
        word *= np.uint64(factor)
    return word ^ (word >> np.uint64(31))


@inlined
def hash_of(key):
    return _mixed(np.uint64(key) + np.uint64(0x9E3779B97F4A7C15))


@inlined
def _mixed(word):
    word ^= word >> np.uint64(30)
    word *= np.uint64(0xBF58476D1CE4E5B9)
    word ^= word >> np.uint64(27)
    word *= np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


@inlined
def uniform(seed, key, number):
    """The `number`-th number, from 0 on, of the stream of (seed, key): in [0, 1), float64."""
    stream = _mixed(hash_of(key) ^ hash_of(seed))
    word = _mixed(stream + np.uint64(number + 1) * np.uint64(0x9E3779B97F4A7C15))
    return np.float64(word >> np.uint64(11)) * 2.0**-53
