"""What the chief leaves with the servers, so that another one may take its place alone.

    note 0      how far the training is: what a checkpoint says, but for the weights
    note 1, 2   the arrays that callbacks keep, in turns: the place says which
    note 3 + n  what section n, a call of fit, evaluate or predict, has given

A checkpoint says how far the training was when its weights were what it has. The store has the
weights of now, and this is what belongs to them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tfos.kv.client import MOST_NOTE_BYTES, Client
from tfos.training.stored.wire import pack, unpack

_PLACE, _ARRAYS, _RESULTS = 0, 1, 3
Result = tuple[Mapping[str, Any], Sequence[np.ndarray]]
Arrays = Mapping[str, Mapping[str, np.ndarray]]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """How far a training is, as JSON.

    step, sections, shared: as in a checkpoint. optimizers: by section, of each of its optimizers
    the steps that it has made, and its learning rate, None for a schedule. units: those of which
    rows may have been applied that `shared` does not know of: number, and rows that it knows of.
    """

    step: int
    sections: Mapping[str, Any]
    shared: Any
    optimizers: Mapping[str, Sequence[tuple[int, float | None]]]
    units: Sequence[tuple[int, int]] = ()


@dataclass(frozen=True)
class Left:
    """All of what a chief has left.

    chiefs: those that have led the training. arrays: by section and name. results: of the sections
    that are over.
    """

    place: Place
    chiefs: Sequence[str]
    arrays: Arrays = field(default_factory=dict)
    results: Sequence[Result] = ()


class Journal:
    """Written by the chief `chief`.

    is_kept: whether another chief may go on from it; not any more when something was to be told
    that is too large for it, or after give_up().
    """

    def __init__(self, client: Client, chief: str) -> None:
        self._client, self._chiefs = client, [chief]
        self.is_kept = True
        # the last place, as text
        self._place = ""
        self._results = self._result_bytes = 0
        self._arrays: dict[str, Mapping[str, np.ndarray]] = {}
        self._arrays_at = 0

    def take_over(self) -> Left | None:
        """What a chief has left before this one; None where all begins with a checkpoint."""
        found = self._client.noted(_PLACE)
        if found is None:
            return None
        told = json.loads(found.tobytes())
        results = []
        for number in range(told["results"]):
            result = self._client.noted(_RESULTS + number)
            assert result is not None, "it is written before the place that counts it"
            self._result_bytes += len(result)
            results.append(unpack(result))
        arrays: dict[str, dict[str, np.ndarray]] = {}
        if told["arrays"]:
            packed = self._client.noted(told["arrays"])
            assert packed is not None, "it is written before the place that names it"
            facts, values = unpack(packed)
            for (section, name), value in zip(facts["names"], values, strict=True):
                arrays.setdefault(section, {})[name] = value
        before = told["chiefs"]
        self._chiefs = [*before, *self._chiefs]
        self._place, self._results = json.dumps(told["place"]), told["results"]
        self._arrays, self._arrays_at = dict(arrays), told["arrays"]
        self._write()  # workers that begin under this chief are known to the next one
        return Left(Place(**told["place"]), before, arrays, results)

    def write(self, place: Place, section: str, arrays: Mapping[str, np.ndarray]) -> None:
        """arrays: of a section, as they are now."""
        kept = self._arrays.get(section, {})
        if arrays.keys() != kept.keys() or any(arrays[name] is not kept[name] for name in arrays):
            self._arrays[section] = dict(arrays)
            named = [(each, name) for each, of in self._arrays.items() for name in of]
            values = [self._arrays[each][name] for each, name in named]
            at = _ARRAYS + self._arrays_at % 2
            self._note(at, pack({"names": named}, values))
            self._arrays_at = at
        self._place = json.dumps(vars(place))
        self._write()

    def end_section(self, number: int, result: Result) -> None:
        """What a section has given."""
        if not self.is_kept:
            return
        parts = pack(*result)
        self._result_bytes += sum(len(part) for part in parts)
        if self._result_bytes > MOST_NOTE_BYTES:
            self._give_up_for(self._result_bytes)
            return
        self._note(_RESULTS + number, parts)
        self._results = number + 1
        if self._place:
            self._write()

    def give_up(self) -> None:
        """From now on the training goes on from checkpoints only."""
        if self.is_kept:
            self.is_kept = False
            for number in range(_RESULTS + self._results):
                self._client.note(number, [])

    def _write(self) -> None:
        if self.is_kept:
            facts = {"chiefs": self._chiefs, "results": self._results, "arrays": self._arrays_at}
            text = f'{json.dumps(facts)[:-1]}, "place": {self._place}}}'
            self._note(_PLACE, [text.encode()])

    def _note(self, number: int, parts: Sequence[bytes]) -> None:
        size = sum(len(part) for part in parts)
        if size > MOST_NOTE_BYTES:
            self._give_up_for(size)
        elif self.is_kept:
            self._client.note(number, parts)

    def _give_up_for(self, size: int) -> None:
        _log.warning(
            "from here on a chief that dies takes all processes back to the newest checkpoint: what"
            " another one in its place would have to know, results and what callbacks keep, has"
            " %s MiB, of %d at most", f"{size / 2**20:,.0f}", MOST_NOTE_BYTES >> 20
        )  # fmt: skip
        self.give_up()
