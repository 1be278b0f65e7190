"""How many rows each epoch has trained on."""

from __future__ import annotations

import json

import pytest

from tfos.feeding.ledger import Ledger, accounting


def trained(ledger):
    return {feed: counts["rows_trained"] for feed, counts in ledger.as_json().items()}


def repeated(ledger):
    return {feed: counts["rows_repeated"] for feed, counts in ledger.as_json().items()}


def record(due, trained, repeated, read=()):
    return {
        "rows_due": due, "rows_trained": trained,
        "rows_repeated": repeated, "rows_read": list(read),
    }  # fmt: skip


def test_counts_by_feed_and_epoch():
    ledger = Ledger()
    ledger.add("train", 0, 10, 10)
    ledger.add("train", 0, 5, 10)
    ledger.add("train", 1, 7, 10)
    ledger.add("other", 0, 1, 10)
    assert ledger.as_json() == {
        "train": record([10, 10], [15, 7], [0, 0]),
        "other": record([10], [1], [0]),
    }


def test_rows_that_are_due_may_be_known_later():
    ledger = Ledger()
    ledger.add("train", 0, 10, None)
    saved = json.loads(json.dumps(ledger.as_json()))
    assert saved["train"]["rows_due"] == [None]
    other = Ledger()
    other.restore(saved)
    other.add("train", 0, 5, 15)
    other.add("train", 1, 5, 15)
    assert other.as_json()["train"]["rows_due"] == [15, 15]


def test_epoch_that_was_passed_over_counts_0():
    ledger = Ledger()
    ledger.add("train", 2, 4, 10)
    assert trained(ledger) == {"train": [0, 0, 4]}


def test_repeated_rows_are_counted_apart():
    ledger = Ledger()
    ledger.add("train", 0, 10, 10)
    ledger.add("train", 1, 10, 10)
    ledger.repeat("train", 1, 3)
    ledger.repeat("train", 1, 1)
    assert trained(ledger) == {"train": [10, 10]}
    assert repeated(ledger) == {"train": [0, 4]}


def test_repeated_rows_of_an_early_epoch_leave_the_later_ones_0():
    ledger = Ledger()
    ledger.repeat("train", 0, 3)
    for epoch in range(3):
        ledger.add("train", epoch, 10, 10)
    assert repeated(ledger) == {"train": [3, 0, 0]}


def test_rows_that_were_only_read_are_not_trained_on():
    ledger = Ledger()
    ledger.read("train", 0, 10)
    ledger.read("other", 0, 3)
    ledger.read("other", 0, 2)
    ledger.add("train", 0, 4, 10)
    assert ledger.as_json() == {
        "train": record([10], [4], [0], read=[10]),
        "other": record([], [], [], read=[5]),
    }
    assert accounting(ledger.as_json()["other"], 5) == {
        "rows_trained": [], "rows_repeated": [], "rows_missed": [], "rows_read": [5],
    }  # fmt: skip


def test_restored_goes_on_from_what_was_saved():
    ledger = Ledger()
    ledger.add("train", 0, 10, 10)
    ledger.repeat("train", 0, 2)
    ledger.read("train", 0, 1)
    saved = json.loads(json.dumps(ledger.as_json()))
    ledger.add("train", 0, 99, 10)
    other = Ledger()
    other.add("eval", 0, 3, 10)
    other.repeat("eval", 0, 3)
    other.restore(saved)
    other.add("train", 1, 2, 10)
    other.read("train", 1, 8)
    other.repeat("train", 0, 1)
    other.repeat("train", 1, 5)
    assert other.as_json() == {"train": record([10, 10], [10, 2], [3, 5], read=[1, 8])}
    assert saved == {"train": record([10], [10], [2], read=[1])}


def test_what_was_saved_does_not_change_afterwards():
    ledger = Ledger()
    ledger.add("train", 0, 1, 10)
    ledger.repeat("train", 0, 1)
    saved = ledger.as_json()
    ledger.add("train", 0, 1, 10)
    ledger.repeat("train", 0, 1)
    assert saved == {"train": record([10], [1], [1])}


class TestAccounting:
    def test_of_a_feed_that_was_not_trained_on(self):
        names = ("rows_trained", "rows_repeated", "rows_missed", "rows_read")
        assert accounting({}, 100) == {name: [] for name in names}

    @pytest.mark.parametrize(
        ("due", "counts", "missed"),
        [
            ([100], [100], [0]),
            ([100, 100], [100, 60], [0, 40]),
            ([0, 100], [0, 100], [0, 0]),  # fit(initial_epoch=1)
            ([80], [80], [0]),  # fit(validation=0.2)
            ([100], [200], [0]),
            ([None], [40], [60]),  # stopped before the feed was complete
        ],
    )
    def test_rows_missed_of_each_epoch(self, due, counts, missed):
        of_epochs = record(due, counts, [0] * len(counts))
        assert accounting(of_epochs, 100)["rows_missed"] == missed
        assert accounting(of_epochs, 100)["rows_trained"] == counts

    def test_repeated_rows_make_up_for_no_missed_ones(self):
        assert accounting(record([100], [90], [10]), 100)["rows_missed"] == [10]

    def test_of_a_ledger(self):
        ledger = Ledger()
        ledger.add("train", 1, 8, 9)
        ledger.repeat("train", 1, 2)
        assert accounting(ledger.as_json()["train"], 9) == {
            "rows_trained": [0, 8], "rows_repeated": [0, 2], "rows_missed": [0, 1],
            "rows_read": [],
        }  # fmt: skip
