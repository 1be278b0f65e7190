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


def write(journal: Journal, step: int = 8, arrays: Any = None) -> None:
    optimizers = {"fit0": [(8, 0.1), (8, None)]}
    place = Place(step, SECTIONS, {"train": {}}, optimizers, [(3, 0), (2, 9)])
    journal.write(place, "fit0", arrays or {})


def test_the_next_chief_finds_what_was_left_last(one):
    first = Journal(one, "1.1")
    assert first.take_over() is None
    write(first, 4)
    best = {"Best.0.weights.0": np.arange(3.0)}
    write(first, 6, best)
    first.end_section(0, ({"loss": 0.5}, [np.ones((2, 2), np.float32)]))
    write(first, arrays=best)
    second = Journal(one, "1.2")
    left = second.take_over()
    assert left is not None
    assert left.place == Place(
        8, SECTIONS, {"train": {}}, {"fit0": [[8, 0.1], [8, None]]}, [[3, 0], [2, 9]]
    )
    assert left.chiefs == ["1.1"]
    assert left.arrays["fit0"]["Best.0.weights.0"].tolist() == [0, 1, 2]
    ((facts, (array,)),) = left.results
    assert (facts, array.tolist()) == ({"loss": 0.5}, [[1, 1], [1, 1]])
    second.end_section(1, ({}, []))
    write(second, arrays={"Best.0.weights.0": np.arange(2.0)})
    third = Journal(one, "1.3").take_over()
    assert third is not None
    assert third.chiefs == ["1.1", "1.2"]
    assert len(third.results) == 2
    assert third.arrays["fit0"]["Best.0.weights.0"].tolist() == [0, 1]


def test_a_chief_that_left_nothing_is_known_to_the_next_one(one):
    write(Journal(one, "1.1"))
    Journal(one, "1.2").take_over()
    left = Journal(one, "1.3").take_over()
    assert left is not None
    assert left.chiefs == ["1.1", "1.2"]
    assert left.place.step == 8


def test_a_section_that_ends_is_counted_at_once(one):
    first, sections = Journal(one, "1.1"), {}
    first.write(Place(8, sections, None, {}), "fit0", {})
    sections["user"] = "not of that time"
    first.end_section(0, ({}, []))
    left = Journal(one, "1.2").take_over()
    assert left is not None
    assert (left.place.step, len(left.results), left.place.sections) == (8, 1, {})


def test_arrays_and_what_refers_to_them_are_of_one_time(one, monkeypatch):
    first = Journal(one, "1.1")
    write(first, 4, {"w": np.arange(3.0)})
    monkeypatch.setattr(first, "_write", lambda: None)  # it dies between the two
    write(first, 8, {"w": np.arange(5.0)})
    left = Journal(one, "1.2").take_over()
    assert left is not None
    assert left.place.step == 4
    assert len(left.arrays["fit0"]["w"]) == 3


@pytest.mark.parametrize("how", ["give_up", "results", "arrays"])
def test_what_cannot_be_told_ends_it(one, started, how):
    journal = Journal(one, "1.1")
    write(journal)
    half = np.zeros(MOST_NOTE_BYTES // 2, np.uint8)
    if how == "give_up":
        journal.give_up()
    elif how == "results":
        journal.end_section(0, ({}, [half]))
        assert journal.is_kept
        journal.end_section(1, ({}, [half]))
    else:
        write(journal, arrays={"large": np.zeros(MOST_NOTE_BYTES, np.uint8)})
    assert not journal.is_kept
    write(journal)
    assert Journal(one, "1.2").take_over() is None
    assert not any(started[0].store.notes.values())


def test_what_was_left_goes_with_the_rows(one, started):
    write(Journal(one, "1.1"))
    one.load([])
    assert Journal(one, "1.2").take_over() is None


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
