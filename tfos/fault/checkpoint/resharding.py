"""Tables in a checkpoint: whole, whatever shards they have while they are trained.

The shards of a table, and those of each optimizer slot that has as many rows, are slices of one
value in TensorFlow's checkpoint, which can be read in other slices. So what was written with P
parameter servers is restored with Q.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import keras

from tfos.compat.keras import own_trainable_variables
from tfos.compat.tensorflow import sharded_variable
from tfos.errors import UsageError


def trackable(value: Any) -> Any:
    """What TensorFlow saves of an object that is to be in a checkpoint.

    Of a Keras model, layer or optimizer it is a list of its variables, in their order. A model's
    metrics are left out: what they count is not the model's, and where processes train in step
    their variables cannot be read by one process alone. Of a list or dict it is one of that.

    Raises UsageError for a layer, model or optimizer that is not built, whose variables would be
    missing, or when two of an optimizer's tables that are divided have one name.
    """
    if isinstance(value, dict):
        return {key: trackable(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [trackable(each) for each in value]
    if isinstance(value, keras.Layer):
        if not value.built:
            raise UsageError(
                f"layer {value.name} is not built, so its weights would be in no checkpoint: call"
                " it, or build(), first"
            )
        return _whole((weight, "", weight) for weight in value.weights)
    if isinstance(value, keras.optimizers.Optimizer):
        if not value.built:
            raise UsageError(
                f"optimizer {value.name} is not built, so its slots would be in no checkpoint: call"
                " optimizer.build(model.trainable_variables) first"
            )
        return _whole(_slots(value))
    return value


def _slots(optimizer: Any) -> Iterator[tuple[Any, str, Any]]:
    """(variable, name of the slot, weight that it is kept for) of each variable of an optimizer.

    Keras names a slot after the weight. Only weights of tables that are divided count here.
    """
    weights = [w for w in own_trainable_variables(optimizer) if hasattr(w, "slice_of")]
    shards = Counter(id(weight.slice_of) for weight in weights)
    prefixes: dict[str, Any] = {}
    for weight in weights:
        if shards[id(weight.slice_of)] > 1:
            prefix = f"{weight.path.replace('/', '_')}_"
            if prefix in prefixes:
                raise UsageError(
                    f"two tfos.layers.Embedding have the weight {weight.path}: give the layers"
                    " different names"
                )
            prefixes[prefix] = weight
    for variable in optimizer.variables:
        own = [prefix for prefix in prefixes if variable.name.startswith(prefix)]
        weight = prefixes[own[0]] if own else None
        if weight is not None and variable.shape[:1] == weight.shape[:1]:
            yield variable, variable.name.removeprefix(own[0]), weight
        else:
            yield variable, variable.name, None


def _whole(variables: Iterable[tuple[Any, str, Any]]) -> list[Any]:
    """The variables, with the slices of one table put together where the first of them is."""
    groups: dict[Any, list[Any]] = {}
    for variable, name, weight in variables:
        table = getattr(weight, "slice_of", variable)
        groups.setdefault((name, id(table)), []).append(variable.value)
    return [sharded_variable()(group) if len(group) > 1 else group[0] for group in groups.values()]
