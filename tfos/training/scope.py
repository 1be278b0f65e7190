"""Where what a step assigns goes to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfos.compat.keras import all_layers, own_trainable_variables
from tfos.errors import UsageError
from tfos.training.step import Step


class StepScope(keras.StatelessScope):
    """One step's view of a model's variables.

    What it assigns to the metrics, and to what else the model keeps from batch to batch, is kept
    here as values. What it assigns to weights and to variables of its optimizers is written at
    once, as optimizers write most of theirs by themselves: they do it in conditions, too, out of
    which no value comes. The count of iterations is added to, so that no worker loses another's.

    step: what is made. metrics: variables of the metrics. state: their values.
    overlaps: whether other workers write the weights at the same time.
    """

    def __init__(
        self, step: Step, metrics: Sequence[Any], state: Sequence[Any], overlaps: bool
    ) -> None:
        model = self._model = step.model
        self._overlaps = overlaps
        optimizer = [variable for each in step.optimizers for variable in each.variables]
        self._counts = [v for v in optimizer if v.name == "iteration"]
        # a frozen weight is read by those who need it, and may be large: it is no state
        weights = {id(v) for layer in all_layers(model) for v in own_trainable_variables(layer)}
        others = weights | {id(v) for v in metrics}
        self._kept = [v for v in model.non_trainable_variables if id(v) not in others]
        written = [*(v for v in model.variables if id(v) in weights), *optimizer]
        self._written = {id(v): v.value for v in written}
        super().__init__(
            state_mapping=[
                *zip(metrics, state, strict=True),
                *[(v, tf.identity(v.value)) for v in [*self._kept, *self._counts]],
                *[(v, v.value) for v in model.trainable_variables],
            ],
            collect_losses=True,
        )
        self._begun = dict(self.state_mapping)
        self._values = {id(v) for v in [*metrics, *self._kept]}

    def add_update(self, update: tuple[Any, Any]) -> None:
        """Called by Keras for each assignment."""
        variable, value = update
        if id(variable) in self._values:
            super().add_update(update)
            return
        if id(variable) not in self._written:
            raise UsageError(
                f"the step of model {self._model.name!r} assigns {variable.path}, which neither the"
                " model nor its optimizer tracks: make it an attribute of the model"
            )
        if self._overlaps and variable.trainable:
            raise UsageError(
                f"the step of model {self._model.name!r} assigns {variable.path}, for a constraint"
                " or a normalization of weights, and would overwrite what other workers add to it:"
                " do without, or use --num-workers 1 or --strategy multi-worker"
            )
        # where processes train in step each has a copy, and they all write the same
        (target,) = tf.distribute.get_strategy().experimental_local_results(
            self._written[id(variable)]
        )
        if any(variable is count for count in self._counts):
            target.assign_add(1)
        else:
            target.assign(tf.cast(value, target.dtype))

    def changes(self) -> list[tuple[Any, Any]]:
        """What the step did to the state that is neither a metric's nor the optimizer's.

        As (variable, difference), for add_to().
        """
        found = []
        for variable in self._kept:
            value, begun = self.state_mapping[id(variable)], self._begun[id(variable)]
            if value is not begun:
                value = tf.cast(value, begun.dtype)
                found.append((variable, value if begun.dtype.is_bool else value - begun))
        return found


def add_to(variable: Any, difference: Any) -> None:
    """Makes a change of StepScope.changes(), so that changes of several workers add up."""
    target = variable.value
    (target.assign if target.dtype.is_bool else target.assign_add)(difference)
