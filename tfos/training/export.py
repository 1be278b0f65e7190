"""Exporting a trained Keras model: a SavedModel for serving, the Keras file beside it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tfos.errors import UsageError
from tfos.feeding.schema import Column
from tfos.feeding.tensors import component_specs, tensor_of
from tfos.inference.signature import (
    KERAS_FILE,
    PREDICTIONS,
    SIGNATURE,
    Output,
    Signature,
    input_names,
)
from tfos.lake.run_directory import MODEL, RunDirectory


def serving_specs(columns: list[Column]) -> dict[str, tf.TensorSpec]:
    """The inputs of the serving signature, by name.

    A dense feature is one tensor, [batch] or [batch, k] or [batch, k, l]. TF Serving has no others:
    a ragged or sparse feature is several, those of convert.components() under input_names().
    Raises UsageError when two have one name.
    """
    specs: dict[str, tf.TensorSpec] = {}
    for column in columns:
        for name, spec in zip(input_names(column), component_specs(column), strict=True):
            if name in specs:
                raise UsageError(
                    f"feature {column.name!r} is {name!r} in the serving signature, as another one"
                    " is: rename one of them in pre_train"
                )
            specs[name] = tf.TensorSpec(spec.shape, spec.dtype, name=name)
    return specs


def export_model(
    model: keras.Model,
    columns: list[Column],
    lake: RunDirectory,
    scratch: str,
    io_device: str | None,
    fence: Callable[[], None] = lambda: None,
) -> str:
    """Writes `model` to <run>/model and returns the URI.

    Its signature "serving_default" takes the features of serving_specs(columns) and gives
    "predictions", or the model's own names when its output is a dict. Beside it model.keras is the
    Keras model, and signature.json says what it takes and gives. Readers see all of it or nothing.
    fence: raises when another process has taken this one's place: see Storage.commit_dir.
    """
    specs = serving_specs(columns)

    def serve(**inputs: Any) -> dict[str, Any]:
        features = {
            column.name: tensor_of(column, [inputs[name] for name in input_names(column)], True)
            for column in columns
        }
        outputs = model(features, training=False)
        return outputs if isinstance(outputs, dict) else {PREDICTIONS: outputs}

    # not the model itself: Keras would trace it once more, with inputs of its own guess
    module = tf.Module()
    module.kept = [variable.value for variable in model.variables]
    module.resources = [
        value
        for layer in model._flatten_layers()
        for value in vars(layer).values()
        if isinstance(value, tf.saved_model.experimental.TrackableResource)
    ]
    signature = tf.function(serve).get_concrete_function(**specs)
    with tempfile.TemporaryDirectory(prefix="export-", dir=scratch) as local:
        tf.saved_model.save(
            module,
            local,
            signatures={"serving_default": signature},
            options=tf.saved_model.SaveOptions(experimental_io_device=io_device),
        )
        model.save(str(Path(local, KERAS_FILE)))
        described = Signature(tuple(columns), _outputs(signature))
        Path(local, SIGNATURE).write_text(json.dumps(described.as_json(), indent=2))
        lake.commit_dir(local, MODEL, {"format": "saved_model"}, fence)
    return lake.uri(MODEL)


def _outputs(signature: Any) -> tuple[Output, ...]:
    """What a concrete function gives."""
    return tuple(
        Output(name, spec.dtype.name, None if spec.shape.rank is None else tuple(spec.shape))
        for name, spec in signature.structured_outputs.items()
    )
