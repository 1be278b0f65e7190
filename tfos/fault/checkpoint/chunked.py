"""Large variables in a checkpoint, a piece at a time.

TensorFlow's Checkpoint reads all variables before it writes the first, and restores likewise: with
parameter servers all tables would have to fit into the chief's memory, and a second time into the
servers', which copy what is read of a table. A variable of more than PIECE_BYTES goes around it:
a few rows at a time are copied on its server, brought to the process that writes, and written as a
slice of the whole into a checkpoint file of their own, in the format of TensorFlow's (SaveV2). The
files become one checkpoint at the end. What was written as slices can be read as other slices.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from tfos.compat.tensorflow import sharded_variable
from tfos.errors import UsageError

PIECE_BYTES = 64 << 20
# pieces on their way at a time
_THREADS = 4


@dataclass(frozen=True)
class Piece:
    """Rows [first, last) of one variable, which are rows [begin + first, ...) of what is saved."""

    name: str
    variable: Any
    first: int
    last: int
    begin: int
    rows: int  # of all of what is saved

    @property
    def slice_spec(self) -> str:
        """In the form of SaveV2 and RestoreV2: the whole shape, and offset,length by axis."""
        inner = self.variable.shape[1:]
        whole = " ".join(map(str, [self.rows, *inner]))
        spans = [(self.begin + self.first, self.last - self.first), *((0, size) for size in inner)]
        return f"{whole} {':'.join(f'{at},{size}' for at, size in spans)}"

    @property
    def is_all_of_its_variable(self) -> bool:
        return self.last - self.first == self.variable.shape[0]


def without_large(name: str, value: Any, large: dict[str, list[Any]]) -> Any:
    """`value` without its large variables, or None; these are put into `large`, by name.

    value: a variable, a dict or list of such, or what else TensorFlow's Checkpoint takes.
    large: what one name stands for are shards of one value, in order.
    """
    if isinstance(value, (list, tuple)):
        value = {str(number): each for number, each in enumerate(value)}
    if isinstance(value, dict):
        left = {key: without_large(f"{name}.{key}", each, large) for key, each in value.items()}
        return {key: each for key, each in left.items() if each is not None}
    is_sharded = isinstance(value, sharded_variable())
    shards = list(value.variables) if is_sharded else [value]
    are_variables = all(isinstance(shard, tf.Variable) for shard in shards)
    if are_variables and sum(map(_bytes, shards)) > PIECE_BYTES:
        large[name] = shards
        return None
    return value


def save(prefix: str, large: Mapping[str, list[Any]], device: str | None) -> None:
    """Writes variables to a TensorFlow checkpoint at a local path. Nothing may write to them.

    device: the TensorFlow device whose machine has the path.
    """

    def write(numbered: tuple[int, Piece]) -> str:
        number, piece = numbered
        part = f"{prefix}-part-{number:06d}"
        variable = piece.variable
        with tf.device(variable.device):
            rows = tf.gather(variable, tf.range(piece.first, piece.last))
        with tf.device(device):
            tf.raw_ops.SaveV2(
                prefix=part,
                tensor_names=[piece.name],
                shape_and_slices=[piece.slice_spec],
                tensors=[rows],
            )
        return part

    if large:
        with ThreadPoolExecutor(_THREADS) as threads:
            parts = list(threads.map(write, enumerate(_pieces(large))))
        with tf.device(device):
            tf.raw_ops.MergeV2Checkpoints(
                checkpoint_prefixes=parts, destination_prefix=prefix, delete_old_dirs=False
            )


def restore(prefix: str, large: Mapping[str, list[Any]], device: str | None) -> None:
    """Reads variables that save() wrote, in these shards or others.

    Raises UsageError where the checkpoint has no such variable, or one of another shape.
    """

    def read(piece: Piece) -> None:
        variable = piece.variable
        try:
            with tf.device(device):
                (rows,) = tf.raw_ops.RestoreV2(
                    prefix=prefix,
                    tensor_names=[piece.name],
                    shape_and_slices=[piece.slice_spec],
                    dtypes=[variable.dtype],
                )
        except (tf.errors.NotFoundError, tf.errors.InvalidArgumentError) as error:
            reason = error.message.rpartition("}} ")[2].partition(" [Op:")[0]
            raise UsageError(
                f"the checkpoint has no {piece.name} of shape"
                f" {[piece.rows, *variable.shape[1:]]} ({reason}): make the model and"
                " optimizer as they were when it was saved, or use another --run-id"
            ) from error
        with tf.device(variable.device):
            if piece.is_all_of_its_variable:
                variable.assign(rows)
            else:
                places = tf.range(piece.first, piece.last)
                tf.raw_ops.ResourceScatterUpdate(
                    resource=variable.handle, indices=places, updates=rows
                )

    with ThreadPoolExecutor(_THREADS) as threads:
        list(threads.map(read, _pieces(large)))


def _pieces(large: Mapping[str, list[Any]]) -> Iterator[Piece]:
    for name, shards in large.items():
        begin, total = 0, sum(shard.shape[0] for shard in shards)
        for shard in shards:
            # where processes train in step, this one's copy
            (local,) = tf.distribute.get_strategy().experimental_local_results(shard)
            rows = local.shape[0]
            step = max(1, rows * PIECE_BYTES // max(1, _bytes(local)))
            for first in range(0, rows, step):
                yield Piece(name, local, first, min(first + step, rows), begin, total)
            begin += rows


def _bytes(variable: Any) -> int:
    # a scalar has no rows that it could be cut into
    return math.prod(variable.shape) * variable.dtype.size if variable.shape.rank else 0
