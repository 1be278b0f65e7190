"""Metrics of one's own, whose values are to be those of Keras's own fit on the same rows."""

from __future__ import annotations

from typing import Any

import keras
import pytest
from worlds import Interrupted, assert_same_history, interrupt
from zoo import EVAL, ROWS, TRAIN, as_tf_data, functional

pytest_plugins = ["world_fixtures"]
pytestmark = pytest.mark.usefixtures("quick_tensorflow")


class Kept(keras.metrics.Metric):
    """A metric that has one variable, and gives the variable itself, or several, as its result."""

    start = 0.0

    def __init__(self, several: bool = False) -> None:
        super().__init__(name="kept")
        self.kept = self.add_weight(
            name="kept", initializer=keras.initializers.Constant(self.start)
        )
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


class Other(Kept):
    """Gives a value, as Keras reads what is a variable after the validation, too."""

    def result(self) -> Any:
        return 1.0 * self.kept


class Largest(Other):
    start = float("-inf")

    def updated(self, seen: Any) -> Any:
        return keras.ops.maximum(self.kept, seen)


class Smallest(Other):
    def updated(self, seen: Any) -> Any:
        return keras.ops.minimum(self.kept, -seen)


class Newest(Other):
    def updated(self, seen: Any) -> Any:
        return seen


class Moving(Other):
    def updated(self, seen: Any) -> Any:
        return 0.7 * self.kept + 0.3 * seen


OTHERS = [Largest, Smallest, Newest, Moving]


@pytest.mark.parametrize("metric", OTHERS, ids=lambda metric: metric.__name__.lower())
@pytest.mark.parametrize("unit_steps", [1, 3, 100])
def test_state_of_any_kind_is_that_of_keras_however_many_steps_a_unit_has(
    world, metric, unit_steps
):
    ours, theirs = (functional(metrics=[metric(), "mae"]) for _ in range(2))
    history = world.fit(ours, 2, validation=world.dataset("eval"), steps_per_execution=unit_steps)
    rows, held = as_tf_data(TRAIN), as_tf_data(EVAL)
    expected = theirs.fit(rows, epochs=2, validation_data=held, verbose=0)
    assert_same_history(history, expected)
    assert len(set(history.history["kept"])) == 2  # each epoch begins anew


@pytest.mark.parametrize("metric", OTHERS, ids=lambda metric: metric.__name__.lower())
def test_state_of_any_kind_goes_on_in_an_epoch_that_was_interrupted(world, metric):
    with pytest.raises(Interrupted):
        callbacks = [interrupt(on_train_batch_end=5)]
        world.fit(functional(metrics=[metric()]), every_secs=0.0, callbacks=callbacks)
    world.saver.wait()
    history = world.fit(functional(metrics=[metric()]))
    assert world.trained == {"train": [ROWS]}
    expected = functional(metrics=[metric()]).fit(as_tf_data(TRAIN), verbose=0)
    assert_same_history(history, expected)


@pytest.mark.parametrize("several", [False, True], ids=["a variable", "a dict of them"])
def test_result_that_is_a_variable_has_its_value(world, several):
    ours, theirs = (functional(metrics=[Added(several)]) for _ in range(2))
    history = world.fit(ours, 2)
    assert_same_history(history, theirs.fit(as_tf_data(TRAIN), epochs=2, verbose=0))
    evaluated = world.context().evaluate(ours, world.dataset("eval"))
    expected = theirs.evaluate(as_tf_data(EVAL), verbose=0, return_dict=True)
    assert evaluated == pytest.approx(expected, rel=1e-5)
    assert evaluated["twice" if several else "kept"] > 1
