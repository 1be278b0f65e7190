"""What a chief leaves with the servers, and who may still use them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from kv_servers import client, servers

from tfos.errors import StoreError
from tfos.kv.client import MOST_NOTE_BYTES, Client
from tfos.training.stored.journal import Journal, Place

pytestmark = pytest.mark.timeout(60)
SECTIONS = {"fit0": {"epoch": 2, "totals": [[1.5, float("inf")]]}}


@pytest.fixture
def started(tmp_path: Any) -> Iterator[Any]:
    from tfos.lake.storage import Storage

    with servers(2, storage=Storage(str(tmp_path))) as made:
        yield made


@pytest.fixture
def one(started: Any) -> Iterator[Client]:
    with client(started) as made:
        yield made


def write(journal: Journal, step: int = 8) -> None:
    journal.write(step, SECTIONS, {"train": {}}, {"fit0": [(8, 0.1), (8, None)]}, [(3, 0), (2, 9)])


def test_the_next_chief_finds_what_was_left_last(one):
    first = Journal(one, "1.1")
    assert first.read() is None
    write(first, 4)
    first.keep("fit0", {"Best.0.weights.0": np.arange(3.0)})
    first.end_section(0, ({"loss": 0.5}, [np.ones((2, 2), np.float32)]))
    write(first)
    second = Journal(one, "1.2")
    left = second.read()
    assert left is not None
    assert left.place == Place(
        ["1.1"], 8, SECTIONS, {"train": {}}, {"fit0": [[8, 0.1], [8, None]]}, 1, [[3, 0], [2, 9]]
    )
    assert left.arrays["fit0"]["Best.0.weights.0"].tolist() == [0, 1, 2]
    ((facts, (array,)),) = left.results
    assert (facts, array.tolist()) == ({"loss": 0.5}, [[1, 1], [1, 1]])
    second.end_section(1, ({}, []))
    write(second)
    third = Journal(one, "1.3").read()
    assert third is not None
    assert third.place.chiefs == ["1.1", "1.2"]
    assert len(third.results) == 2
    assert third.arrays["fit0"].keys() == {"Best.0.weights.0"}


def test_a_section_that_ends_is_counted_at_once(one):
    first = Journal(one, "1.1")
    write(first)
    first.end_section(0, ({}, []))
    left = Journal(one, "1.2").read()
    assert left is not None
    assert (left.place.step, left.place.results) == (8, 1)


@pytest.mark.parametrize("how", ["give_up", "result", "arrays"])
def test_what_cannot_be_told_ends_it(one, how):
    journal = Journal(one, "1.1")
    write(journal)
    large = np.zeros(MOST_NOTE_BYTES + 1, np.uint8)
    if how == "give_up":
        journal.give_up()
    elif how == "result":
        journal.end_section(0, ({}, [large]))
    else:
        journal.keep("fit0", {"large": large})
    write(journal)
    assert Journal(one, "1.2").read() is None


def test_what_was_left_goes_with_the_rows(one, started):
    write(Journal(one, "1.1"))
    one.load([])
    assert Journal(one, "1.2").read() is None


def test_who_used_rows_that_were_replaced_is_refused(one, started):
    """As a worker of a chief that is gone; not who has used none yet."""
    with client(started) as worker, client(started) as other:
        table = worker.table("t", 1)
        table.add([5], [[1.0]])
        other.status()
        one.load([], refuses=True)
        with pytest.raises(StoreError, match="all rows have been replaced"):
            table.add([5], [[1.0]])
        with pytest.raises(StoreError, match="all rows have been replaced"):
            worker.table("t", 1)
        assert other.table("t", 1).pull([5]).tolist() == [[0]]
        one.load([])
        other.table("t", 1).add([5], [[1.0]])
