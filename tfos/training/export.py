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
from tfos.inference.signature import KERAS_FILE, SERVING, SIGNATURE, Output, Signature
from tfos.lake.run_directory import MODEL, RunDirectory
from tfos.tables.of_model import stored_layers
from tfos.training.serving import ServedFeatures, resources, serving_function


def export_model(
    model: keras.Model,
    features: ServedFeatures,
    lake: RunDirectory,
    scratch: str,
    io_device: str | None,
    fence: Callable[[], None] = lambda: None,
) -> str:
    """Writes `model` to <run>/model and returns the URI.

    Its signature "serving_default" is serving_function(). Beside it model.keras is the Keras model,
    and signature.json says what it takes and gives. Readers see all of it or nothing. Raises
    UsageError for what cannot be served.
    fence: raises when another process has taken this one's place: see Storage.commit_dir.
    """
    signature = serving_function(model, features)
    # not the model itself: Keras would trace it once more, with inputs of its own guess
    module = tf.Module()
    module.kept = [variable.value for variable in model.variables]
    module.tables = [layer.contents for layer in stored_layers(model)]
    module.resources = resources(model, features.functions)
    with tempfile.TemporaryDirectory(prefix="export-", dir=scratch) as local:
        options = tf.saved_model.SaveOptions(experimental_io_device=io_device)
        try:
            tf.saved_model.save(module, local, {SERVING: signature}, options)
        except AssertionError as error:  # of a table or variable that nothing saved refers to
            raise UsageError(
                f"model {model.name!r}, or what map() does before it, uses a table or a variable"
                " that is not saved with it: make it an attribute of one of the model's layers"
                f" ({str(error).strip().splitlines()[0][:300]})"
            ) from error
        model.save(str(Path(local, KERAS_FILE)))
        described = Signature(tuple(features.columns), _outputs(signature))
        Path(local, SIGNATURE).write_text(json.dumps(described.as_json(), indent=2))
        lake.commit_dir(local, MODEL, {"format": "saved_model"}, fence)
    return lake.uri(MODEL)


def _outputs(signature: Any) -> tuple[Output, ...]:
    """What a concrete function gives."""
    return tuple(
        Output(name, spec.dtype.name, None if spec.shape.rank is None else tuple(spec.shape))
        for name, spec in signature.structured_outputs.items()
    )
