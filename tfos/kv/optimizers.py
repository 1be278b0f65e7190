"""What a table's optimizer is: its arguments, the slots that it keeps in a row, its numbers.

The same as those of tfos.optimizers by name, arguments and formula; the formulas are in updates.py.
Pure: what is here travels over the wire as JSON.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

# numbers that an update gets: the rate, then what each class says
NUMBERS = 6


@dataclass(frozen=True)
class Optimizer:
    """learning_rate: what a push that names none is applied with.

    kind: which branch of updates.update() it is. Raises ValueError for arguments out of range.
    """

    kind: ClassVar[int]
    # arguments that must be below 1, and those that must be above 0
    _below_1: ClassVar[tuple[str, ...]] = ()
    _above_0: ClassVar[tuple[str, ...]] = ()
    # whether there is no formula for a learning rate of 0: it then updates nothing
    divides_by_rate: ClassVar[bool] = False

    learning_rate: float = 0.01

    def __post_init__(self) -> None:
        for field in fields(self):
            value, name = getattr(self, field.name), f"{type(self).__name__}'s {field.name}"
            if isinstance(value, bool) != (field.type == "bool") or not isinstance(
                value, (int, float)
            ):
                raise ValueError(f"{name} is {value!r}: use a {field.type}")
            if not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"{name} is {value}: use 0 or more")
            if field.name in self._below_1 and not value < 1:
                raise ValueError(f"{name} is {value}: use less than 1")
            if field.name in self._above_0 and not value > 0:
                raise ValueError(f"{name} is {value}: use more than 0")

    def slots(self, width: int) -> list[float]:
        """The initial values of what a row of `width` weights keeps beside them."""
        return []

    def numbers(self, rate: float, step: int) -> list[float]:
        """NUMBERS numbers for updates.update(). step: of the table, from 1 on."""
        return self._padded(rate)

    @staticmethod
    def _padded(*numbers: float) -> list[float]:
        return [*numbers, *[0.0] * (NUMBERS - len(numbers))]

    def to_json(self) -> dict[str, Any]:
        return {"name": type(self).__name__, **asdict(self)}


@dataclass(frozen=True)
class SGD(Optimizer):
    """w -= rate * g; with momentum m = momentum * m - rate * g and w += m, or with nesterov
    w += momentum * m - rate * g (Sutskever et al. 2013)."""

    kind = 0
    _below_1 = ("momentum",)

    momentum: float = 0.0
    nesterov: bool = False

    def slots(self, width: int) -> list[float]:
        return [0.0] * width if self.momentum else []

    def numbers(self, rate: float, step: int) -> list[float]:
        return self._padded(rate, self.momentum, float(self.nesterov))


@dataclass(frozen=True)
class Adagrad(Optimizer):
    """n += g**2; w -= rate * g / (sqrt(n) + epsilon) (Duchi et al. 2011)."""

    kind = 1

    initial_accumulator_value: float = 0.1
    epsilon: float = 1e-7

    def slots(self, width: int) -> list[float]:
        return [self.initial_accumulator_value] * width

    def numbers(self, rate: float, step: int) -> list[float]:
        return self._padded(rate, self.epsilon)


@dataclass(frozen=True)
class Adam(Optimizer):
    """Kingma and Ba 2015, the form of the end of section 2, lazy: a row's moments change when it is
    used, and the correction of the bias counts all pushes to the table."""

    kind = 2
    _below_1 = ("beta_1", "beta_2")

    learning_rate: float = 0.001
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7

    def slots(self, width: int) -> list[float]:
        return [0.0] * (2 * width)

    def numbers(self, rate: float, step: int) -> list[float]:
        scale = rate * math.sqrt(1 - self.beta_2**step) / (1 - self.beta_1**step)
        return self._padded(scale, 1 - self.beta_1, 1 - self.beta_2, self.epsilon)


@dataclass(frozen=True)
class FTRL(Optimizer):
    """FTRL-proximal (McMahan et al. 2013, algorithm 1); learning_rate is the paper's alpha."""

    kind = 3
    divides_by_rate = True

    learning_rate: float = 0.05
    beta: float = 1.0
    l1: float = 0.0
    l2: float = 0.0
    initial_accumulator_value: float = 0.0

    def slots(self, width: int) -> list[float]:
        return [self.initial_accumulator_value] * width + [0.0] * width

    def numbers(self, rate: float, step: int) -> list[float]:
        return self._padded(rate, self.l1, self.l2 + self.beta / rate)


@dataclass(frozen=True)
class ProximalAdagrad(Optimizer):
    """n += g**2; r = rate / sqrt(n); u = w - r * g; then
    w = sign(u) * max(|u| - r * l1, 0) / (1 + r * l2) (Duchi and Singer 2009)."""

    kind = 4
    divides_by_rate = True
    _above_0 = ("initial_accumulator_value",)

    l1: float = 0.0
    l2: float = 0.0
    initial_accumulator_value: float = 0.1

    def slots(self, width: int) -> list[float]:
        return [self.initial_accumulator_value] * width

    def numbers(self, rate: float, step: int) -> list[float]:
        return self._padded(rate, self.l1, self.l2)


@dataclass(frozen=True)
class GroupFTRL(Optimizer):
    """FTRL-proximal with a group lasso, a row being a group; the formula is in tfos.optimizers."""

    kind = 5
    divides_by_rate = True

    learning_rate: float = 0.05
    beta: float = 1.0
    l1: float = 0.0
    l2: float = 0.0
    l21: float = 0.0

    def slots(self, width: int) -> list[float]:
        return [0.0] * (width + 1)

    def numbers(self, rate: float, step: int) -> list[float]:
        return self._padded(rate, self.l1, self.l2, self.l21, self.beta)


_BY_NAME = {kind.__name__: kind for kind in (SGD, Adagrad, Adam, FTRL, ProximalAdagrad, GroupFTRL)}


def optimizer_from_json(value: Any) -> Optimizer:
    """Raises ValueError for what to_json() cannot have made."""
    if not isinstance(value, dict) or value.get("name") not in _BY_NAME:
        raise ValueError(f"{value!r} is no optimizer: use one of {', '.join(_BY_NAME)}")
    kind = _BY_NAME[value["name"]]
    arguments = {name: argument for name, argument in value.items() if name != "name"}
    try:
        return kind(**arguments)
    except TypeError as error:
        raise ValueError(f"{kind.__name__}: {error}") from None
