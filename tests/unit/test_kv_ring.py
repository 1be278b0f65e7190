"""Consistent hashing: how even the shares are, and that nothing moves that need not."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfos.kv.hashing import hashes
from tfos.kv.ring import BUCKET_BITS, BUCKETS, Ring

NAMES = st.lists(
    st.text("abcxyz-0123456789", min_size=1, max_size=6), min_size=1, max_size=12, unique=True
)
QUICK = settings(max_examples=20, deadline=None)
pytestmark = pytest.mark.timeout(60)


@QUICK
@given(NAMES)
def test_shares_are_even(names):
    ring = Ring(names)
    shares = Counter(ring.owners)
    fair = BUCKETS / len(names)
    assert len(ring.owners) == BUCKETS and set(shares) == set(range(len(names)))
    assert 0.7 * fair < min(shares.values()) and max(shares.values()) < 1.35 * fair


@QUICK
@given(NAMES, st.data())
def test_a_server_that_comes_takes_its_share_and_no_other_bucket_moves(names, data):
    number = data.draw(st.integers(0, len(names) - 1))
    new, others = names[number], names[:number] + names[number + 1 :]
    if not others:
        return
    moves = Ring(others).moves(Ring(names))
    assert {after for _, after in moves.values()} == {new}
    assert {before for before, _ in moves.values()} == set(others)  # from all of them
    assert len(moves) < 1.35 * BUCKETS / len(names)
    # and the other way round
    back = Ring(names).moves(Ring(others))
    assert back == {bucket: pair[::-1] for bucket, pair in moves.items()}
    assert sorted(moves) == Ring(names).buckets(new)


@QUICK
@given(NAMES, st.randoms())
def test_the_order_of_servers_does_not_matter(names, random):
    shuffled = random.sample(names, len(names))
    assert Ring(names).moves(Ring(shuffled)) == {}


def test_it_is_the_same_for_ever():
    """Snapshots and clients of other versions rely on it."""
    ring = Ring(["ps-0", "ps-1", "ps-2"])
    assert ring.owners[:12] == (2, 2, 0, 0, 0, 0, 0, 0, 0, 2, 2, 2)
    keys = np.array([0, 1, -1, 2**62], np.int64)
    assert (hashes(keys) >> np.uint64(64 - BUCKET_BITS)).tolist() == [14472, 9282, 14646, 42]


def test_keys_in_order_are_spread_evenly():
    owners = np.array(Ring([f"ps-{i}" for i in range(8)]).owners)
    counts = np.bincount(owners[hashes(np.arange(200_000)) >> np.uint64(64 - BUCKET_BITS)])
    assert counts.min() > 0.8 * 25_000 and counts.max() < 1.2 * 25_000


@pytest.mark.parametrize("names", [[], ["a", "b", "a"]])
def test_bad_names(names):
    with pytest.raises(ValueError, match="use one or more, each once"):
        Ring(names)
