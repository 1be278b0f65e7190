"""What a table is asked to be. Pure: a TableSpec travels, and is kept, as JSON."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

from tfos.kv.optimizers import Optimizer, optimizer_from_json

# a row may not be larger than what a frame holds by far
MOST_WIDTH = 65_536
# counters of the sketch are of one byte
MOST_SIGHTINGS = 255
_NAME_BYTES = 255


@dataclass(frozen=True)
class Initializer:
    """The first weights of a row: a function of (seed, key) and nothing else.

    They are the same on whichever server, in whichever order rows are made, and after a row has
    expired. Raises ValueError for arguments out of range.
    """

    kind: ClassVar[int]

    def numbers(self) -> list[float]:
        """Two numbers for kernels.initial()."""
        raise NotImplementedError

    def _check(self) -> None:
        for name, value in vars(self).items():
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not is_number or not math.isfinite(value):
                raise ValueError(f"{type(self).__name__}'s {name} is {value!r}: use a number")

    def to_json(self) -> dict[str, Any]:
        return {"name": type(self).__name__, **vars(self)}


@dataclass(frozen=True)
class Constant(Initializer):
    kind = 0

    value: float = 0.0

    def __post_init__(self) -> None:
        self._check()

    def numbers(self) -> list[float]:
        return [self.value, 0.0]


@dataclass(frozen=True)
class Uniform(Initializer):
    """In [minval, maxval)."""

    kind = 1

    minval: float = -0.05
    maxval: float = 0.05

    def __post_init__(self) -> None:
        self._check()
        if not self.minval <= self.maxval:
            raise ValueError(f"Uniform's minval is {self.minval}, its maxval {self.maxval}")

    def numbers(self) -> list[float]:
        return [self.minval, self.maxval - self.minval]


@dataclass(frozen=True)
class Normal(Initializer):
    """By the transform of Box and Muller (1958)."""

    kind = 2

    mean: float = 0.0
    stddev: float = 0.05

    def __post_init__(self) -> None:
        self._check()
        if self.stddev < 0:
            raise ValueError(f"Normal's stddev is {self.stddev}: use 0 or more")

    def numbers(self) -> list[float]:
        return [self.mean, self.stddev]


_INITIALIZERS = {kind.__name__: kind for kind in (Constant, Uniform, Normal)}


@dataclass(frozen=True)
class TableSpec:
    """One table of the store, the same on all servers. Raises ValueError for bad arguments.

    width: weights of a row.
    seed: of the initializer.
    admit_after: a key gets its row at so many pushes that have it (1: at the first). Before, it is
        counted in `sketch_bytes` on each server, where keys that share counters may get theirs
        earlier, and pulled as zeros.
    expire_secs: rows that no push had for so long are removed; None: never.
    expire_below: rows all of whose weights are this near to zero are removed as well; None: never.
    is_dense: rows are parts of a dense variable, so a gradient of zero is a gradient. In others it
        is what fills up a batch, and changes nothing.
    """

    name: str
    width: int
    optimizer: Optimizer
    initializer: Initializer = field(default_factory=Constant)
    seed: int = 0
    admit_after: int = 1
    sketch_bytes: int = 16 << 20
    expire_secs: float | None = None
    expire_below: float | None = None
    is_dense: bool = False

    def __post_init__(self) -> None:
        _check(isinstance(self.name, str) and 0 < len(self.name.encode()) <= _NAME_BYTES,
               "name", self.name, f"a text of 1 to {_NAME_BYTES} bytes")  # fmt: skip
        _check_int("width", self.width, 1, MOST_WIDTH)
        _check_int("seed", self.seed, -(1 << 63), (1 << 63) - 1)
        _check_int("admit_after", self.admit_after, 1, MOST_SIGHTINGS)
        _check_int("sketch_bytes", self.sketch_bytes, 1 << 12, 1 << 40)
        _check(isinstance(self.optimizer, Optimizer), "optimizer", self.optimizer,
               "one of tfos.kv.optimizers")  # fmt: skip
        _check(type(self.initializer) in _INITIALIZERS.values(), "initializer", self.initializer,
               f"one of {', '.join(_INITIALIZERS)}")  # fmt: skip
        for name, low in (("expire_secs", 1e-3), ("expire_below", 0.0)):
            value = getattr(self, name)
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            _check(value is None or (is_number and low <= value < math.inf), name, value,
                   f"{low:g} or more, or None")  # fmt: skip
        _check(isinstance(self.is_dense, bool), "is_dense", self.is_dense, "True or False")
        if self.is_dense and type(self.optimizer).__name__ == "GroupFTRL":
            raise ValueError(
                f"table {self.name!r} is a dense variable, whose blocks are no groups: use FTRL, or"
                " a table with a row for each group, instead of GroupFTRL"
            )
        if self.is_dense and (self.admit_after > 1 or self.expires):
            raise ValueError(f"table {self.name!r} is a dense variable: all of its rows stay")

    @property
    def expires(self) -> bool:
        return self.expire_secs is not None or self.expire_below is not None

    def to_json(self) -> dict[str, Any]:
        parts = {"optimizer": self.optimizer.to_json(), "initializer": self.initializer.to_json()}
        return {**vars(self), **parts}


def table_from_json(value: Any) -> TableSpec:
    """Raises ValueError for what TableSpec.to_json() cannot have made."""
    if not isinstance(value, dict):
        raise ValueError(f"{value!r} is no table")
    arguments = dict(value)
    arguments["optimizer"] = optimizer_from_json(arguments.get("optimizer"))
    found = arguments.get("initializer")
    if not isinstance(found, dict) or found.get("name") not in _INITIALIZERS:
        raise ValueError(f"{found!r} is no initializer: use one of {', '.join(_INITIALIZERS)}")
    try:
        rest = {name: argument for name, argument in found.items() if name != "name"}
        arguments["initializer"] = _INITIALIZERS[found["name"]](**rest)
        return TableSpec(**arguments)
    except TypeError as error:
        raise ValueError(f"{value!r} is no table: {error}") from None


def _check(is_right: bool, name: str, value: Any, use: str) -> None:
    if not is_right:
        raise ValueError(f"{name} is {value!r}: use {use}")


def _check_int(name: str, value: Any, low: int, high: int) -> None:
    is_right = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
    _check(is_right, name, value, f"an integer from {low} to {high}")
