"""Exporting a trained Keras model: a SavedModel for serving, the Keras file beside it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tfos.feeding.schema import Column
from tfos.lake import Lake

MODEL = "model"


def serving_specs(columns: list[Column]) -> dict[str, tf.TensorSpec]:
    """The inputs of the serving signature, by name.

    One tensor per feature, [batch] or [batch, k]. TF Serving has no ragged tensors, so a ragged
    feature x comes as two: x, its flat values, and x_row_splits, int64 [batch + 1].
    """
    specs = {}
    for column in columns:
        dtype = tf.dtypes.as_dtype(column.dtype)
        dense = column.length is not None and not column.is_ragged
        shape = [None, column.length] if dense else [None]
        specs[column.name] = tf.TensorSpec(shape, dtype, name=column.name)
        if column.is_ragged:
            splits = f"{column.name}_row_splits"
            specs[splits] = tf.TensorSpec([None], tf.int64, name=splits)
    return specs


def export_model(
    model: keras.Model, columns: list[Column], lake: Lake, scratch: str, io_device: str | None
) -> str:
    """Writes `model` to <run>/model and returns the URI.

    Its signature "serving_default" takes the features of serving_specs(columns) and gives
    "predictions", or the model's own names when its output is a dict. model.keras beside it is
    the Keras model. Readers see all of it or nothing.
    """
    specs = serving_specs(columns)

    def serve(**inputs: Any) -> dict[str, Any]:
        features = {}
        for column in columns:
            value = inputs[column.name]
            if column.is_ragged:
                splits = inputs[f"{column.name}_row_splits"]
                value = tf.RaggedTensor.from_row_splits(value, splits)
            features[column.name] = value
        outputs = model(features, training=False)
        return outputs if isinstance(outputs, dict) else {"predictions": outputs}

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
        model.save(str(Path(local, "model.keras")))
        lake.commit_dir(local, MODEL, {"format": "saved_model"})
    return lake.uri(MODEL)
