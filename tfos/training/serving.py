"""What an exported model computes: from the columns that serving gives to outputs that have names.

Serving gives the columns of the feed as they are. What the dataset's map() made of them before the
model saw them is part of what is served.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfos.compat.keras import all_layers
from tfos.errors import TFOSError, UsageError
from tfos.feeding.dataset import FeedDataset
from tfos.feeding.schema import Column
from tfos.feeding.tensors import component_specs, tensor_of, tensor_spec
from tfos.inference.signature import PREDICTIONS, input_names
from tfos.training.graphs import reached
from tfos.training.step import has_call

# parts of the names of operations that give other values each time
_RANDOM = ("Random", "Multinomial", "Rng", "StatefulStandardNormal", "StatefulUniform")

_log = logging.getLogger(__name__)


class ServedFeatures:
    """What a model is given when it is served.

    columns: what serving gives, as the feed has them.
    functions: what the dataset's map() calls on them.
    arrange: the tensors of the columns -> what the model is given. In a tf.function.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        arrange: Callable[[list[Any]], Any] | None = None,
        functions: Sequence[Callable[..., Any]] = (),
    ) -> None:
        self.columns = list(columns)
        self.functions = list(functions)
        self.arrange = arrange or self._by_name

    def _by_name(self, tensors: list[Any]) -> dict[str, Any]:
        return {c.name: tensor for c, tensor in zip(self.columns, tensors, strict=True)}

    @classmethod
    def of(cls, dataset: FeedDataset) -> ServedFeatures:
        """Those of a dataset, after its map()."""
        arrange = functools.partial(_mapped, dataset)
        return cls(dataset.feature_columns, arrange, dataset.functions)


def serving_specs(columns: Sequence[Column]) -> dict[str, tf.TensorSpec]:
    """The inputs of the serving signature, by name.

    A dense feature is one tensor, [batch] or [batch, k] or [batch, k, l]. TF Serving has no others:
    a ragged or sparse feature is several, those of convert.components() under input_names().
    """
    return {
        name: tf.TensorSpec(spec.shape, spec.dtype, name=name)
        for column, names in zip(columns, input_names(columns), strict=True)
        for name, spec in zip(names, component_specs(column), strict=True)
    }


def serving_function(model: keras.Model, features: ServedFeatures) -> Any:
    """The concrete function of serving_specs() that gives `model`'s outputs, a dict of tensors.

    They are "predictions" for a model with one output, or have the model's own names for them:
    those of a dict, Keras's output_names, or output_0, output_1, ... Raises UsageError for what
    cannot be served: see _mapped(); a model that cannot be called on the features alone; outputs
    that are no dense tensors.
    """
    if not has_call(model):
        raise UsageError(
            f"model {model.name!r} has no call(), which says what it makes of the features, and so"
            " it cannot be served: give it a call(self, inputs), or export the part of it that"
            " predicts, as in ctx.export(model.decoder, dataset=...)"
        )
    columns = features.columns
    names = input_names(columns)

    def serve(**inputs: Any) -> dict[str, Any]:
        tensors = [
            tensor_of(column, [inputs[name] for name in of_column], True)
            for column, of_column in zip(columns, names, strict=True)
        ]
        return _named(model, model(features.arrange(tensors), training=False))

    try:
        return tf.function(serve, autograph=False).get_concrete_function(**serving_specs(columns))
    except TFOSError:
        raise
    except Exception as error:  # of the user's code, or of Keras about it
        raise UsageError(
            f"model {model.name!r} cannot be called on the features {[c.name for c in columns]},"
            f" as the exported model would be: {type(error).__name__}: {str(error).strip()[:400]}"
        ) from error


def warn_of_export(model: keras.Model, features: ServedFeatures) -> None:
    """Says in the log when a model cannot be served, while its training has not begun.

    The model has been built: where a layer has not, it would be built in this process alone, and
    nothing is said.
    """
    if has_call(model) and not all(layer.built for layer in all_layers(model)):
        return
    try:
        serving_function(model, features)
    except UsageError as error:
        _log.warning("ctx.export() of this model will fail: %s", error)


def _named(model: keras.Model, outputs: Any) -> dict[str, Any]:
    """The outputs by name. Raises UsageError for one that is no dense tensor."""
    flat = keras.tree.flatten(outputs)
    if isinstance(outputs, dict) and len(flat) == len(outputs):
        named = {str(name): value for name, value in outputs.items()}
    elif len(flat) == 1:
        named = {PREDICTIONS: flat[0]}
    else:
        names = getattr(model, "output_names", None) or []
        if len(set(names)) != len(flat):
            names = [f"output_{number}" for number in range(len(flat))]
        named = dict(zip(names, flat, strict=True))
    for name, value in named.items():
        if not isinstance(value, tf.Tensor):
            raise UsageError(
                f"output {name!r} of model {model.name!r} is a {type(value).__name__}, which a"
                " served model cannot give: export a model that ends with a dense tensor, e.g."
                " output.to_tensor()"
            )
    return named


def _mapped(dataset: FeedDataset, tensors: list[Any]) -> Any:
    """What the dataset's map() makes of the tensors of its features.

    It takes labels and weights, too, which serving has not: there are others in their place, on
    which the features may not depend. Raises UsageError when they do, or are random.
    """
    if not dataset.functions:
        return dataset.arranged(tensors)
    rows = _rows(tensors[0])
    absent = [_absent(column, rows) for column in dataset.target_columns]
    element = dataset.arranged([*tensors, *absent])
    for function in dataset.functions:
        # with AutoGraph, as tf.data calls it
        element = tf.function(function)(*element if isinstance(element, tuple) else (element,))
    features = keras.utils.unpack_x_y_sample_weight(element)[0]
    _check_maps(features, absent)
    return features


def _check_maps(features: Any, absent: list[Any]) -> None:
    instead = (
        "give export(model, dataset=...) a dataset whose map() makes the features as serving is to"
    )
    labels = {id(part) for part in tf.nest.flatten(absent, expand_composites=True)}
    for tensor in reached(tf.nest.flatten(features, expand_composites=True)):
        if id(tensor) in labels:
            raise UsageError(
                "what map() makes of the features depends on the label or the weight, which a"
                f" served model is not given: {instead}"
            )
        if any(part in tensor.op.type for part in _RANDOM):
            raise UsageError(
                f"what map() makes of the features is random ({tensor.op.type}), and so would be"
                f" what a served model predicts: {instead}"
            )


def _rows(tensor: Any) -> Any:
    """How many rows a batch has, from the tensor of one of its columns."""
    if isinstance(tensor, tf.RaggedTensor):
        return tensor.nrows()
    if isinstance(tensor, tf.SparseTensor):
        return tensor.dense_shape[0]
    return tf.shape(tensor, out_type=tf.int64)[0]


def _absent(column: Column, rows: Any) -> Any:
    """A tensor of a column that serving does not give: zeros, or nothing in each row."""
    spec = tensor_spec(column)
    if column.sparse:
        shape = tf.stack([rows, tf.constant(column.length, tf.int64)])
        return tf.SparseTensor(tf.zeros([0, 2], tf.int64), tf.zeros([0], spec.dtype), shape)
    if column.is_ragged:
        splits = [tf.zeros([rows + 1], tf.int64), *[tf.zeros([1], tf.int64)] * spec.ragged_rank]
        empty = tf.zeros([0], spec.dtype)
        return tf.RaggedTensor.from_nested_row_splits(empty, splits[: spec.ragged_rank])
    row = tf.constant("" if spec.dtype == tf.string else 0, spec.dtype, spec.shape[1:])
    return tf.repeat(row[tf.newaxis], rows, axis=0)


def resources(model: keras.Model, functions: Sequence[Callable[..., Any]]) -> list[Any]:
    """What has to be saved with a serving function besides the model's variables.

    Tables of lookup layers; and tables and variables that the dataset's map() functions refer to.
    """
    values = [value for function in functions for value in _referred(function)]
    layers = [*all_layers(model), *_layers(values)]
    inside = [value for layer in layers for value in vars(layer).values()]
    kinds = (tf.saved_model.experimental.TrackableResource, tf.Variable)
    variables = [variable.value for layer in _layers(values) for variable in layer.variables]
    return [*(v for v in [*inside, *values] if isinstance(v, kinds)), *variables]


def _layers(values: Sequence[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, keras.layers.Layer):
            yield from all_layers(value)


def _referred(function: Any) -> list[Any]:
    """The objects that a function refers to: of its closure and of its module."""
    if isinstance(function, functools.partial):
        given = [*function.args, *function.keywords.values()]
        return [*_referred(function.func), *tf.nest.flatten(given)]
    function = getattr(function, "python_function", function)
    if not inspect.isroutine(function):  # an object that can be called, a layer perhaps
        return [function, *vars(function).values()]
    found = [getattr(function, "__self__", None)]
    if inspect.isfunction(inspect.unwrap(function)):
        names = inspect.getclosurevars(function)
        found += tf.nest.flatten([*names.nonlocals.values(), *names.globals.values()])
    return found
