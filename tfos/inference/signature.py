"""What an exported model takes and gives: signature.json, beside the SavedModel. Pure.

Whoever applies the model knows its columns and outputs from it, without TensorFlow.
"""

from __future__ import annotations

import itertools
import keyword
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tfos.errors import LakeError
from tfos.feeding.schema import Column

SIGNATURE = "signature.json"
KERAS_FILE = "model.keras"
# the name of a signature where nobody chose another
SERVING = "serving_default"
# the name of the output of a model whose output is no dict
PREDICTIONS = "predictions"
# no column type of Spark has these; the next one that holds all their values
_WIDER = {
    "uint8": "int16",
    "uint16": "int32",
    "uint32": "int64",
    "float16": "float32",
    "bfloat16": "float32",
}


@dataclass(frozen=True)
class Output:
    """One output tensor.

    dtype: TensorFlow's name.
    shape: with the batch's dimension; None for a size that varies, or when nothing is known of it.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None

    @property
    def column_dtype(self) -> str:
        """The dtype of the column that holds it."""
        return _WIDER.get(self.dtype, self.dtype)

    @property
    def rank(self) -> int:
        """How deep the column's arrays are nested: 0 for [batch] and [batch, 1], a scalar."""
        assert self.shape
        return 0 if self.shape[1:] == (1,) else len(self.shape) - 1


def input_names(columns: Sequence[Column]) -> list[list[str]]:
    """The tensors of the serving signature that each feature comes as: convert.components().

    TF Serving has neither ragged nor sparse tensors. A ragged feature x is x, its flat values, and
    x_row_splits, of ragged rank 2 also x_inner_row_splits; a sparse one is x_indices, x_values and
    x_dense_shape. What is neither an ASCII letter nor a digit is "_" in them: a.b is a_b. Names
    that begin with another sign than a letter, or are words of Python's, get "arg_" before them:
    TensorFlow makes them parameters. Where that makes two names one, a column that has the name
    itself keeps it, then the first one; the others get _1, _2, ... after theirs.
    """
    found: dict[int, list[str]] = {}
    taken: set[str] = set()
    stems = [_stem(column.name) for column in columns]
    # in two turns: those whose name is as it is before those whose name is made
    for at in sorted(range(len(columns)), key=lambda at: stems[at] != columns[at].name):
        for number in itertools.count():
            names = _component_names(stems[at] + (f"_{number}" if number else ""), columns[at])
            if taken.isdisjoint(names):
                break
        taken.update(names)
        found[at] = names
    return [found[at] for at in range(len(columns))]


def _stem(name: str) -> str:
    stem = re.sub(r"[^a-zA-Z0-9]", "_", name)
    reserved = keyword.iskeyword(stem) or stem == "self"
    return f"arg_{stem}" if reserved or not stem[:1].isalpha() else stem


def _component_names(name: str, column: Column) -> list[str]:
    if column.sparse:
        return [f"{name}_indices", f"{name}_values", f"{name}_dense_shape"]
    if column.is_ragged:
        return [name, f"{name}_row_splits", f"{name}_inner_row_splits"][: len(column.shape) + 1]
    return [name]


@dataclass(frozen=True)
class Signature:
    """The model's inputs, as columns of the feed it was trained on, and its outputs.

    name: of the signature in the SavedModel.
    """

    inputs: tuple[Column, ...]
    outputs: tuple[Output, ...]
    name: str = SERVING

    @property
    def is_struct(self) -> bool:
        """Whether the model's output is a dict."""
        return [output.name for output in self.outputs] != [PREDICTIONS]

    def as_json(self) -> dict[str, Any]:
        return {
            "inputs": [vars(column) for column in self.inputs],
            "outputs": [vars(output) for output in self.outputs],
            "name": self.name,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Signature:
        """Raises LakeError for what as_json() has not made."""
        try:
            outputs = [
                Output(o["name"], o["dtype"], o["shape"] and tuple(o["shape"]))
                for o in record["outputs"]
            ]
            inputs = tuple(Column(**column) for column in record["inputs"])
            # models of before there was a choice have no name
            return cls(inputs, tuple(outputs), record.get("name", SERVING))
        except (KeyError, TypeError) as error:
            raise LakeError(
                f"{SIGNATURE} is not as this tfos writes it ({error!r}): export the model again"
            ) from error
