"""Whether the processes that train in step have set up the same model.

Weights come from the chief, but what a layer has learned from rows by adapt(), and whatever else
each process computes for itself before the training, does not. Processes with different models
would train on without a word.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfos.compat.keras import all_layers
from tfos.errors import UsageError
from tfos.training.runner import Runner

# (what it is, a digest of its value: an int64)
_Part = tuple[str, int]


def check_equal(runner: Runner, traced: Any, model: keras.Model | None = None) -> None:
    """Raises UsageError, in all processes in step, when a step is not the same in each of them.

    traced: the concrete function that makes the steps, in whose graph are the values that Python
    has computed before. model: whose variables and vocabularies are to be equal, too. Blocks until
    all processes are here.
    """
    if runner.replicas == 1:
        return
    state, constants = [], list(_constants(traced))
    if model is not None:
        state = [_variable(v) for v in _variables_of(model)] + list(_vocabularies(model))
    else:  # others, as a metric's, may be this process's own between two epochs
        constants += [_variable(v) for v in traced.variables if v.trainable]
    # not by their order: sets, TensorFlow's or the user's, have another one in each process
    constants.sort(key=lambda part: part[1])
    everything = [*(digest for _, digest in state), *(digest for _, digest in constants)]
    if len(set(runner.gather(_digest(np.array(everything))))) == 1:
        return
    # what is computed from a variable has no name that says more
    found = _unequal(runner, state) or _alone(runner, constants)
    whose = "" if model is None else f" of model {model.name!r}"
    raise UsageError(
        f"the processes that train in step have set up different models: they have other values of"
        f" {', '.join(found) or 'some variable or constant'}{whose}. What is computed from rows"
        " before the training must be computed from the same rows in each:"
        " layer.adapt(ctx.dataset(...).whole()) goes through all of them, where ctx.dataset(...)"
        " gives each process its share; and what is drawn by chance needs a seed"
    )


def _variables_of(model: keras.Model) -> list[Any]:
    """But for the metrics', and of the optimizer what is a number, as its learning rate is."""
    metrics = {id(v) for metric in model.metrics for v in metric.variables}
    numbers = [v for v in model.optimizer.variables if v.shape == ()] if model.optimizer else []
    return [*(v for v in model.variables if id(v) not in metrics), *numbers]


def _variable(variable: Any) -> _Part:
    return f"variable {getattr(variable, 'path', variable.name)}", _digest(variable.numpy())


def _vocabularies(model: keras.Model) -> Iterator[_Part]:
    for layer in all_layers(model):
        if hasattr(layer, "get_vocabulary"):
            words = np.array(list(layer.get_vocabulary()), object)
            yield f"the vocabulary of {layer.path}", _digest(words)


def _constants(traced: Any) -> Iterator[_Part]:
    """Values in a traced function: of its graph, of functions that it calls, and large ones.

    Integers are left out: rows are divided by them, and a process may have a seed of its own.
    """
    definition = traced.graph.as_graph_def()
    for node in [*definition.node, *(n for f in definition.library.function for n in f.node_def)]:
        if node.op == "Const" and not tf.as_dtype(node.attr["dtype"].type).is_integer:
            yield f"constant {node.name}", _digest(tf.make_ndarray(node.attr["value"].tensor))
        elif node.op == "Bucketize":
            bounds = np.array(node.attr["boundaries"].list.f)
            yield f"the boundaries in {node.name}", _digest(bounds)
    for outer, inner in traced.graph.captures:
        if outer.dtype not in (tf.resource, tf.variant) and not outer.dtype.is_integer:
            yield f"constant {inner.name}", _digest(outer.numpy())


def _digest(value: np.ndarray) -> int:
    flat = np.ascontiguousarray(value).reshape(-1)
    # numbers are not copied: it may be a large table
    data: Any = repr(flat.tolist()).encode() if flat.dtype == object else flat.view(np.uint8)
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big", signed=True)


def _unequal(runner: Runner, parts: Sequence[_Part]) -> list[str]:
    """Those that differ from the parts at the same place in other processes."""
    counts = runner.gather(len(parts))
    if len(set(counts)) > 1:
        return [f"the number of variables ({counts})"]
    return [name for name, digest in parts if len(set(runner.gather(digest))) > 1]


def _alone(runner: Runner, parts: Sequence[_Part]) -> list[str]:
    """Those of which other processes have more or less, and none of that name."""
    values = _gathered(runner, [digest for _, digest in parts])
    places = [_digest(np.array([name, digest], object)) for name, digest in parts]
    everywhere = set.intersection(*map(set, _gathered(runner, places)))
    found = [
        name
        for (name, digest), place in zip(parts, places, strict=True)
        if place not in everywhere and len({each.count(digest) for each in values}) > 1
    ]
    return list(dict.fromkeys(found))


def _gathered(runner: Runner, digests: Sequence[int]) -> list[list[int]]:
    """Those of each process."""
    counts = runner.gather(len(digests))
    # each gives as many as the one with the most, so that all of them meet
    filled = [*digests, *[0] * (max(counts) - len(digests))]
    places = [runner.gather(digest) for digest in filled]
    return [[place[n] for place in places[:count]] for n, count in enumerate(counts)]
