"""Whether a step only adds to the state of a metric.

What workers have added to a state, beside each other, can be added up. A maximum, a last value or a
moving average cannot: what a step makes of these depends on what they were before.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import keras

from tfos.errors import UsageError
from tfos.training.graphs import called, reached

# operations that give their first input as it is
_SAME = {"Identity", "Cast", "CheckNumerics", "EnsureShape", "PreventGradient", "StopGradient"}
_SUMS = {"Add", "AddV2", "AddN"}
# which add to their first input what the others say
_ADD_TO_FIRST = {"Sub", "TensorScatterAdd", "TensorScatterSub"}
_SELECTS = {"Select", "SelectV2"}


def check_sums(model: keras.Model, begun: Sequence[Any], after: Sequence[Any]) -> None:
    """Raises UsageError when a step does other things to a metric's state than to add to it.

    begun, after: the values of the variables of the model's metrics, in order, before and after one
    step, as tensors of one graph.
    """
    states = {id(tensor) for tensor in begun}
    variables = [variable for metric in model.metrics for variable in metric.variables]
    for variable, value, changed in zip(variables, begun, after, strict=True):
        if variable.aggregation != "sum" or not _adds(changed, {id(value)}, states):
            raise UsageError(
                f"metric state {variable.path} of model {model.name!r} (aggregation"
                f" {variable.aggregation!r}) is no sum, but a maximum, a last value, a moving"
                " average or the like, and what several workers saw can only be added up: let the"
                " metric keep sums, by assign_add(), or use --strategy single"
            )


def _adds(tensor: Any, sums: Collection[int], states: Collection[int]) -> bool:
    """Whether a tensor is one of `sums` and something that does not depend on any of `states`.

    sums, states: tensors by id.
    """

    def is_sum(other: Any) -> bool:
        return _adds(other, sums, states)

    def is_free(others: Sequence[Any]) -> bool:
        return not any(id(other) in states for other in reached(others))

    if id(tensor) in sums:
        return True
    operation = tensor.op
    inputs = list(operation.inputs)
    if operation.type in _SAME:
        return is_sum(inputs[0])
    if operation.type in _SUMS:
        return any(
            is_sum(each) and is_free(inputs[:n] + inputs[n + 1 :]) for n, each in enumerate(inputs)
        )
    if operation.type in _ADD_TO_FIRST:
        return is_sum(inputs[0]) and is_free(inputs[1:])
    if operation.type in _SELECTS:
        return is_free(inputs[:1]) and all(map(is_sum, inputs[1:]))
    bodies = list(called(operation))
    own = inputs[: len(inputs) - len(bodies[0].inputs)] if bodies else []
    if not bodies or not is_free(own):
        return False
    given = inputs[len(own) :]
    return all(
        _adds(
            body.outputs[tensor.value_index],
            {id(i) for i, outer in zip(body.inputs, given, strict=True) if is_sum(outer)},
            {id(i) for i, outer in zip(body.inputs, given, strict=True) if not is_free([outer])},
        )
        for body in bodies
    )
