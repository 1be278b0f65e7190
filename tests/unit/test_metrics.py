"""Metrics of one's own, whose values are to be those of Keras's own fit on the same rows."""

from __future__ import annotations

from typing import Any

import keras
import pytest
from worlds import assert_same_history
from zoo import EVAL, TRAIN, as_tf_data, functional

pytest_plugins = ["world_fixtures"]
pytestmark = pytest.mark.usefixtures("quick_tensorflow")


class Kept(keras.metrics.Metric):
    """A metric that has one variable, and gives the variable itself, or several, as its result."""

    def __init__(self, several: bool = False) -> None:
        super().__init__(name="kept")
        self.kept = self.add_weight(name="kept", initializer="zeros")
        self._several = several

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.kept.assign(self.updated(keras.ops.mean(y_pred)))

    def updated(self, seen: Any) -> Any:
        raise NotImplementedError

    def result(self) -> Any:
        return {"one": self.kept, "twice": 2 * self.kept} if self._several else self.kept


class Added(Kept):
    def updated(self, seen: Any) -> Any:
        return self.kept + seen


@pytest.mark.parametrize("several", [False, True], ids=["a variable", "a dict of them"])
def test_result_that_is_a_variable_has_its_value(world, several):
    ours, theirs = (functional(metrics=[Added(several)]) for _ in range(2))
    history = world.fit(ours, 2)
    assert_same_history(history, theirs.fit(as_tf_data(TRAIN), epochs=2, verbose=0))
    evaluated = world.context().evaluate(ours, world.dataset("eval"))
    expected = theirs.evaluate(as_tf_data(EVAL), verbose=0, return_dict=True)
    assert evaluated == pytest.approx(expected, rel=1e-5)
    assert evaluated["twice" if several else "kept"] > 1
