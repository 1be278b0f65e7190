"""What fit needs of Keras callbacks beyond calling them.

Their state is part of a checkpoint, so that a run that was interrupted stops early, or lowers its
learning rate, when the undisturbed one would have. And where processes train in step each of them
calls the callbacks, with the same logs, so that they change models and learning rates alike; those
that write files are called in the chief alone.
"""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfos.errors import UsageError

_WRITERS = (
    keras.callbacks.ModelCheckpoint,
    keras.callbacks.TensorBoard,
    keras.callbacks.CSVLogger,
    keras.callbacks.RemoteMonitor,
)
_PLAIN = (bool, int, float, str, type(None))
# what CallbackList sets; and what Keras negates once it knows that less is better, as it will again
_NOT_STATE = ("params", "_params", "_model", "min_delta")
_ARRAYS = "arrays"
_log = logging.getLogger(__name__)


def called_in(
    callbacks: Sequence[keras.callbacks.Callback], replica: int
) -> list[keras.callbacks.Callback]:
    """The callbacks that are called in process number `replica` of those in step."""
    called = []
    for callback in callbacks:
        if isinstance(callback, keras.callbacks.BackupAndRestore):
            _log.warning("callback BackupAndRestore is left out: fit() itself does what it does")
        elif replica == 0 or not isinstance(callback, _WRITERS):
            called.append(callback)
    return called


def check_stored(callbacks: Sequence[keras.callbacks.Callback]) -> None:
    """Raises UsageError for callbacks that put weights back, which are in the store."""
    for callback in callbacks:
        if getattr(callback, "restore_best_weights", False):
            raise UsageError(
                f"{type(callback).__name__}(restore_best_weights=True) puts weights back in this"
                " process, but they are on the servers of --strategy kv: leave it out, or use"
                " --strategy ps"
            )
        if isinstance(callback, keras.callbacks.ModelCheckpoint):
            _log.warning(
                "callback ModelCheckpoint: its files lack the rows of tables, which are on the"
                " servers; ctx.export() writes them"
            )


class CallbackStates:
    """What callbacks have changed in themselves since this object was made.

    Made when on_train_begin has been called, so that what the user configures is no state: after an
    interruption training goes on with what callbacks are given then, e.g. another patience.

    An attribute that is a plain value, or a list or dict of plain values, is state, as is a list of
    arrays (the best weights of EarlyStopping); others, such as functions, are not.
    """

    def __init__(self, callbacks: Sequence[keras.callbacks.Callback]) -> None:
        seen: Counter[str] = Counter()
        # by class and place among those of the class: "EarlyStopping.0"
        self._named: dict[str, keras.callbacks.Callback] = {}
        for callback in callbacks:
            kind = type(callback).__name__
            self._named[f"{kind}.{seen[kind]}"] = callback
            seen[kind] += 1
        self._begun = {key: copy.deepcopy(_plain(each)) for key, each in self._named.items()}

    def get(self) -> tuple[dict[str, dict[str, Any]], dict[str, np.ndarray]]:
        """The state by callback and attribute, as JSON; and arrays by name, which it refers to."""
        states: dict[str, dict[str, Any]] = {}
        arrays: dict[str, np.ndarray] = {}
        for key, callback in self._named.items():
            begun = self._begun[key]
            state = {
                name: value
                for name, value in _plain(callback).items()
                if name not in begun or value != begun[name]
            }
            for name, value in vars(callback).items():
                if _is_arrays(value):
                    state[name] = {_ARRAYS: len(value)}
                    arrays.update({f"{key}.{name}.{at}": array for at, array in enumerate(value)})
            if state:
                states[key] = state
        return states, arrays

    def restore(
        self, states: Mapping[str, Mapping[str, Any]], arrays: Mapping[str, np.ndarray]
    ) -> None:
        """Gives callbacks the state that get() has seen; one that was not there begins anew."""
        for key in states.keys() - self._named.keys():
            _log.warning(
                "the checkpoint has the state of callback %s, which fit() is not given", key
            )
        for key in states.keys() & self._named.keys():
            for name, value in states[key].items():
                if isinstance(value, dict) and set(value) == {_ARRAYS}:
                    value = [arrays[f"{key}.{name}.{at}"] for at in range(value[_ARRAYS])]
                setattr(self._named[key], name, value)


def _plain(callback: keras.callbacks.Callback) -> dict[str, Any]:
    """The attributes of a callback that are plain values."""
    found = {}
    for name, value in vars(callback).items():
        if isinstance(value, np.generic):
            value = value.item()
        if name not in _NOT_STATE and _is_plain(value):
            found[name] = value
    return found


def _is_arrays(value: Any) -> bool:
    return isinstance(value, list) and value != [] and all(isinstance(v, np.ndarray) for v in value)


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_plain(each) for each in value)
    if isinstance(value, dict):
        return all(isinstance(name, str) and _is_plain(each) for name, each in value.items())
    return isinstance(value, _PLAIN)


def class_weights(weights: Mapping[int, float]) -> Callable[..., Any]:
    """A function for FeedDataset.map() that weights each row by the class that its label names.

    weights: class -> weight, as in Keras; classes that it does not name have weight 1. Labels are
    integers [batch] or [batch, 1], or one-hot [batch, classes].
    """
    if not weights or any(not isinstance(c, Integral) or c < 0 for c in weights):
        raise UsageError(
            f"class_weight is {dict(weights)}: use a dict of class numbers, from 0 on, to weights"
        )
    table = np.ones(max(weights) + 1, np.float32)
    for number, weight in weights.items():
        table[number] = weight

    def weighted(features: Any, label: Any = None, weight: Any = None) -> Any:
        if not isinstance(label, tf.Tensor) or label.shape.rank > 2:
            raise UsageError(
                "class_weight needs one label, in each row a class number or one-hot: give"
                " dataset() such a label, or weights in a column"
            )
        if label.shape.rank == 2 and label.shape[-1] != 1:
            classes = tf.argmax(label, -1)
        else:
            whole = tf.round(label) if label.dtype.is_floating else label
            classes = tf.reshape(tf.cast(whole, tf.int64), [-1])
        inside = tf.logical_and(classes >= 0, classes < len(table))
        of_class = tf.where(inside, tf.gather(table, tf.where(inside, classes, 0)), 1.0)
        if weight is not None:
            of_class *= tf.cast(weight, of_class.dtype)
        return features, label, of_class

    return weighted
