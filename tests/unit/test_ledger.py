"""How many rows each epoch has trained on."""

from __future__ import annotations

import json

from tfos.feeding.ledger import Ledger


def test_counts_by_feed_and_epoch():
    ledger = Ledger()
    ledger.add("train", 0, 10)
    ledger.add("train", 0, 5)
    ledger.add("train", 1, 7)
    ledger.add("other", 0, 1)
    assert ledger.as_json() == {"train": [15, 7], "other": [1]}


def test_epoch_that_was_passed_over_counts_0():
    ledger = Ledger()
    ledger.add("train", 2, 4)
    assert ledger.as_json() == {"train": [0, 0, 4]}


def test_restored_goes_on_from_what_was_saved():
    ledger = Ledger()
    ledger.add("train", 0, 10)
    saved = json.loads(json.dumps(ledger.as_json()))
    ledger.add("train", 0, 99)
    other = Ledger()
    other.add("eval", 0, 3)
    other.restore(saved)
    other.add("train", 1, 2)
    assert other.as_json() == {"train": [10, 2]}
    assert saved == {"train": [10]}


def test_what_was_saved_does_not_change_afterwards():
    ledger = Ledger()
    ledger.add("train", 0, 1)
    saved = ledger.as_json()
    ledger.add("train", 0, 1)
    assert saved == {"train": [1]}
