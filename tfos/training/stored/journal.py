"""What the chief leaves with the servers, so that another one may take its place alone.

    note 0      how far the training is: what a checkpoint says, but for the weights
    note 1      the arrays that callbacks keep
    note 2 + n  what section n, a call of fit, evaluate or predict, has given

A checkpoint says how far the training was when its weights were what it has. The store has the
weights of now, and this is what belongs to them: it is written after each unit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tfos.kv.client import MOST_NOTE_BYTES, Client
from tfos.training.stored.wire import pack, unpack

_PLACE, _ARRAYS, _RESULTS = range(3)
Result = tuple[Mapping[str, Any], Sequence[np.ndarray]]


@dataclass(frozen=True)
class Place:
    """How far a training is, as JSON.

    chiefs: those that have led it, the last one last. step, sections, shared: as in a checkpoint.
    optimizers: by section, of each of its optimizers the steps that it has made, and its learning
    rate, None for a schedule. results: how many sections are over. units: those of which rows may
    have been applied that `shared` does not know of: number, and rows that it does know of.
    """

    chiefs: Sequence[str]
    step: int
    sections: Mapping[str, Any]
    shared: Any
    optimizers: Mapping[str, Sequence[tuple[int, float | None]]]
    results: int
    units: Sequence[tuple[int, int]] = ()


@dataclass(frozen=True)
class Left:
    """All of what a chief has left. arrays: by section and name."""

    place: Place
    arrays: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)
    results: Sequence[Result] = ()


class Journal:
    """Written by the chief `chief`. What cannot be told in it, ends it: see give_up()."""

    def __init__(self, client: Client, chief: str) -> None:
        self._client, self._chiefs = client, [chief]
        self._is_kept = True
        self._place: Place | None = None
        self._results = 0
        self._arrays: dict[str, Mapping[str, np.ndarray]] = {}

    def read(self) -> Left | None:
        """What a chief has left before this one; None where all begins with a checkpoint."""
        found = self._client.noted(_PLACE)
        if found is None:
            return None
        place = Place(**json.loads(found.tobytes()))
        results: list[Result] = []
        for number in range(place.results):
            result = self._client.noted(_RESULTS + number)
            assert result is not None, "it is written before the place that counts it"
            results.append(unpack(result))
        arrays: dict[str, dict[str, np.ndarray]] = {}
        packed = self._client.noted(_ARRAYS)
        if packed is not None:
            facts, values = unpack(packed)
            for (section, name), value in zip(facts["names"], values, strict=True):
                arrays.setdefault(section, {})[name] = value
        self._chiefs = [*place.chiefs, *self._chiefs]
        self._results, self._arrays = place.results, dict(arrays)
        return Left(place, arrays, results)

    def write(
        self,
        step: int,
        sections: Mapping[str, Any],
        shared: Any,
        optimizers: Mapping[str, Sequence[tuple[int, float | None]]],
        units: Sequence[tuple[int, int]],
    ) -> None:
        """See Place."""
        if self._is_kept:
            self._place = Place(
                self._chiefs, step, sections, shared, optimizers, self._results, units
            )
            self._write_place()

    def keep(self, section: str, arrays: Mapping[str, np.ndarray]) -> None:
        """The arrays of a section, for the places that are written from now on."""
        if self._is_kept and (arrays or section in self._arrays):
            self._arrays[section] = arrays
            named = [(each, name) for each, of in self._arrays.items() for name in of]
            values = [self._arrays[each][name] for each, name in named]
            self._note(_ARRAYS, pack({"names": named}, values))

    def end_section(self, number: int, result: Result) -> None:
        """What a section has given."""
        if self._is_kept:
            self._note(_RESULTS + number, pack(*result))
            self._results = number + 1
            self._write_place()

    def give_up(self) -> None:
        """From now on the training goes on from checkpoints only."""
        if self._is_kept:
            self._is_kept = False
            self._client.note(_PLACE, [])

    def _write_place(self) -> None:
        if self._is_kept and self._place is not None:
            place = replace(self._place, results=self._results)
            self._note(_PLACE, [json.dumps(vars(place)).encode()])

    def _note(self, number: int, parts: Sequence[bytes]) -> None:
        if sum(len(part) for part in parts) > MOST_NOTE_BYTES:
            self.give_up()
        else:
            self._client.note(number, parts)
