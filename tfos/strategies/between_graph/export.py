"""A SavedModel that TF1 code has written, as the model of the run."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tfos.errors import UsageError
from tfos.feeding.schema import Column
from tfos.feeding.tensors import component_specs
from tfos.inference.signature import SERVING, SIGNATURE, Output, Signature, input_names
from tfos.lake.run_directory import MODEL, RunDirectory

_GRAPH = "saved_model.pb"
# a canned Estimator's default one takes serialized tf.Examples, where it has one
_SIGNATURES = (SERVING, "predict")


def export_saved_model(
    directory: str,
    columns: Sequence[Column],
    name: str,
    lake: RunDirectory,
    scratch: str,
    fence: Callable[[], None],
) -> str:
    """Copies the SavedModel, with signature.json in it, to <run>/model; returns the URI.

    name: of the signature; "" for the first of _SIGNATURES that it has. Raises UsageError.
    """
    signatures = _signatures(directory)
    candidates = [name] if name else [each for each in _SIGNATURES if each in signatures]
    if not candidates or candidates[0] not in signatures:
        raise UsageError(
            f"ctx.export({directory!r}): the model has no signature {name or _SIGNATURES!r}, but"
            f" {sorted(signatures)}: name one by signature="
        )
    found = signatures[candidates[0]]
    _check_inputs(directory, candidates[0], found, columns)
    outputs = tuple(
        Output(key, tf.as_dtype(info.dtype).name, _shape(info))
        for key, info in sorted(found.outputs.items())
    )
    signature = Signature(tuple(columns), outputs, candidates[0])
    with tempfile.TemporaryDirectory(prefix="export-", dir=scratch) as local:
        shutil.copytree(directory, local, dirs_exist_ok=True)
        Path(local, SIGNATURE).write_text(json.dumps(signature.as_json(), indent=2))
        lake.commit_dir(local, MODEL, {"format": "saved_model"}, fence)
    return lake.uri(MODEL)


def _signatures(directory: str) -> Any:
    """The SignatureDefs of a SavedModel, by name."""
    path = Path(directory, _GRAPH)
    if not path.is_file():
        raise UsageError(
            f"ctx.export({directory!r}): there is no {_GRAPH}: pass the directory of a SavedModel"
        )
    model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    serving = [m for m in model.meta_graphs if "serve" in m.meta_info_def.tags]
    return serving[0].signature_def if serving else {}


def _check_inputs(directory: str, name: str, found: Any, columns: Sequence[Column]) -> None:
    """Raises UsageError unless the signature's inputs are what these columns come as."""
    wanted = {
        each: spec.dtype
        for column, names in zip(columns, input_names(columns), strict=True)
        for each, spec in zip(names, component_specs(column), strict=True)
    }
    takes = {each: tf.as_dtype(info.dtype) for each, info in found.inputs.items()}
    if takes != wanted:
        raise UsageError(
            f"ctx.export({directory!r}): signature {name!r} takes {_words(takes)}, but the features"
            f" of the dataset are {_words(wanted)}: name its inputs after the columns, or the"
            " columns it takes by ctx.dataset(features=[...])"
        )


def _words(dtypes: dict[str, Any]) -> str:
    return "{" + ", ".join(f"{name}: {dtypes[name].name}" for name in sorted(dtypes)) + "}"


def _shape(info: Any) -> tuple[int | None, ...] | None:
    shape = info.tensor_shape
    if shape.unknown_rank:
        return None
    return tuple(None if dim.size < 0 else dim.size for dim in shape.dim)
