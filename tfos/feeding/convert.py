"""Between Arrow as Spark hands it over and the NumPy arrays that tensors are made of.

Two steps. canonical(), in the Spark task that writes a shard, makes flat columns: of numbers, of
text, of lists of these, and for a sparse vector a struct of its size, indices and values. On the
other side to_numpy() takes such a column to Rows, which can be cut, picked and joined by row, and
components() to the arrays of one tensor. Neither loops over rows in Python.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfos.errors import FeedError
from tfos.feeding.layout import Layout, Source
from tfos.feeding.schema import Column

if TYPE_CHECKING:
    from pyspark.sql import DataFrame
    from pyspark.sql.types import StructType

# values that the sparse vectors of one piece have at most when they are made dense: 64 MiB
_DENSE_VALUES = 8 << 20
_ARROW = {"float32": pa.float32(), "float64": pa.float64(), "int64": pa.int64()}
# null of a VectorUDT while its rows are computed; a mask makes it null again
_NO_VECTOR = {"type": 1, "values": []}
_ENTRY = np.dtype([("index", np.int32), ("value", np.float64)])


def map_batches(
    df: DataFrame,
    function: Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]],
    schema: StructType | str,
) -> DataFrame:
    """df.mapInArrow(function, schema), whatever its columns are called, and however many they are.

    Spark's looks each column up by its name, and takes a dot in it for a field of a struct, a
    backtick for a quotation mark, and finds two columns where two have one name. It looks through
    all of them for each. So there is one column here, a struct of all, whose fields are numbered;
    `function` is given batches of these fields.
    """
    fields = df.toDF(*(f"_{number}" for number in range(len(df.columns))))
    row = fields.selectExpr("struct(*) as row")
    return row.mapInArrow(lambda batches: function(map(_fields, batches)), schema)


def _fields(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The fields of a batch's one column, a struct without nulls. Copies nothing."""
    return pa.RecordBatch.from_struct_array(batch.column(0))


def pieces(batch: pa.RecordBatch, layout: Layout) -> Iterator[pa.RecordBatch]:
    """The rows of a batch in slices for canonical(), so that sparse vectors that are to be dense
    take about 64 MiB at a time. Copies nothing."""
    widest = 1
    for source in layout.sources:
        if source.part == "vector" and not source.column.sparse:
            sizes = pc.struct_field(_at(batch, source.path), "size")
            widest = max(widest, pc.max(sizes).as_py() or 0)
    rows = max(1, _DENSE_VALUES // widest)
    for start in range(0, batch.num_rows, rows):
        yield batch.slice(start, rows)


def canonical(batch: pa.RecordBatch, layout: Layout) -> pa.RecordBatch:
    """A batch of a feed's DataFrame as the feed's columns, in the order of the layout.

    Structs, maps and vectors are flattened; dates, timestamps and decimals are numbers; nulls are
    filled where the layout says so, and left otherwise. What needs no change is not copied.
    Raises FeedError for a decimal that its declared dtype cannot hold.
    """
    arrays = [_canonical(batch, source, layout.feed) for source in layout.sources]
    return pa.RecordBatch.from_arrays(arrays, [column.name for column in layout.columns])


def _canonical(batch: pa.RecordBatch, source: Source, feed: str) -> pa.Array:
    array = _at(batch, source.path)
    if source.part == "vector":
        return _vectors(_filled(array, source.fill), source.column.sparse)
    if source.part in ("keys", "values"):
        # rebuilt, as from_arrays() takes no mask for offsets that are a slice
        offsets = pa.array(array.offsets.to_numpy())
        items = array.keys if source.part == "keys" else array.items
        array = pa.ListArray.from_arrays(offsets, items, mask=_null_mask(array))
    try:
        return _filled(_numeric(array, source.column.dtype), source.fill)
    except pa.ArrowInvalid as error:
        raise FeedError(
            f"column {source.column.name!r} of feed {feed!r} has a value that {source.column.dtype}"
            f" cannot hold: {error}; cast it in pre_train, or declare another dtype"
        ) from error


def _at(batch: pa.RecordBatch, path: Sequence[int]) -> pa.Array:
    """A column, or a field of structs in it, which is null where one of the structs is."""
    top = batch.column(path[0])
    return pc.struct_field(top, list(path[1:])) if path[1:] else top


def _filled(array: pa.Array, fill: Any) -> pa.Array:
    if fill is None or not array.null_count:
        return array
    return pc.coalesce(array, pa.scalar(fill, array.type))


def _null_mask(array: pa.Array) -> pa.Array | None:
    return array.is_null() if array.null_count else None


def _numeric(array: pa.Array, dtype: str) -> pa.Array:
    """Dates as days, timestamps as microseconds, decimals as `dtype`, also inside lists."""
    leaf, depth = array.type, 0
    while pa.types.is_list(leaf):
        leaf, depth = leaf.value_type, depth + 1
    if pa.types.is_date(leaf):
        steps = [pa.int32(), pa.int64()]  # Arrow casts date32 to no other integer
    elif pa.types.is_timestamp(leaf):
        steps = [pa.timestamp("us", leaf.tz), pa.int64()]
    elif pa.types.is_decimal(leaf):
        steps = [_ARROW[dtype]]
    else:
        return array
    for step in steps:
        for _ in range(depth):
            step = pa.list_(step)
        array = array.cast(step)
    return array


def _vectors(array: pa.Array, sparse: bool) -> pa.Array:
    """Spark ML vectors, which rows may mix, as list<double> or as struct<size, indices, values>.

    A vector is struct<type, size, indices, values>: type 0 is sparse, type 1 is dense and has
    values alone. As a sparse one a dense row keeps the values that are not zero.
    """
    mask = _null_mask(array)
    array = _filled(array, _NO_VECTOR)
    kind, size, indices, values = (array.field(i) for i in range(4))
    is_dense = kind.to_numpy() == 1
    splits, numbers = _splits(values), values.flatten().to_numpy()
    counts = np.diff(splits)
    sizes = np.where(is_dense, counts, size.fill_null(0).to_numpy())
    if not sparse and is_dense.all():
        return _lists(splits, numbers, mask)
    rows = np.repeat(np.arange(len(array)), counts)
    places = np.arange(len(numbers)) - splits[rows]
    of_sparse = ~is_dense[rows]
    places[of_sparse] = indices.flatten().to_numpy()
    if not sparse:
        starts = _cumulated(sizes)
        dense = np.zeros(starts[-1])
        dense[starts[rows] + places] = numbers
        return _lists(starts, dense, mask)
    if is_dense.any():
        kept = of_sparse | (numbers != 0)
        numbers, places = numbers[kept], places[kept]
        splits = _cumulated(np.bincount(rows[kept], minlength=len(array)))
    return pa.StructArray.from_arrays(
        [
            pa.array(sizes.astype(np.int32)),
            _lists(splits, places.astype(np.int32)),
            _lists(splits, numbers),
        ],
        ["size", "indices", "values"],
        mask=mask,
    )


def _lists(splits: np.ndarray, values: np.ndarray, mask: pa.Array | None = None) -> pa.Array:
    offsets = pa.array(splits.astype(np.int32))
    return pa.ListArray.from_arrays(offsets, pa.array(values), mask=mask)


def _splits(array: pa.Array) -> np.ndarray:
    """Row splits of a list array into its flatten(), int64 [rows + 1]."""
    splits = array.offsets.to_numpy().astype(np.int64)
    return splits - splits[0]


def _cumulated(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


@dataclass(frozen=True)
class Facts:
    """What a canonical batch tells about its columns, by name.

    nulls: rows without a value; null_elements: nulls inside arrays. Only columns that have some.
    spans: (shortest, longest) of the arrays of a row, and for arrays of arrays of the inner ones;
    for vectors the numbers of dimensions. A dimension of which nothing is seen is left out, and so
    are maps: their columns are ragged whatever they hold.
    """

    nulls: dict[str, int]
    null_elements: dict[str, int]
    spans: dict[str, list[tuple[int, int]]]


def inspect(batch: pa.RecordBatch, layout: Layout) -> Facts:
    """The facts of a batch that canonical() made."""
    facts = Facts({}, {}, {})
    for source, array in zip(layout.sources, batch.columns, strict=True):
        name = source.column.name
        if array.null_count:
            facts.nulls[name] = array.null_count
        lengths, inner = [], 0
        if source.column.sparse:
            lengths = [array.field("size").filter(array.is_valid())]
        else:
            while pa.types.is_list(array.type):
                lengths.append(pc.list_value_length(array))
                array = array.flatten()
                inner += array.null_count
        if inner:
            facts.null_elements[name] = inner
        spans = [pc.min_max(each).as_py() for each in lengths]
        seen = [(span["min"], span["max"]) for span in spans if span["min"] is not None]
        if seen and source.part not in ("keys", "values"):
            facts.spans[name] = seen
    return facts


@dataclass(frozen=True)
class Ragged:
    """Rows of varying length: row i is values[splits[i]:splits[i + 1]].

    values: [values]; for arrays of arrays Ragged again; for sparse vectors pairs (index, value).
    splits: int64 [rows + 1], from 0.
    """

    values: Rows
    splits: np.ndarray


Rows = np.ndarray | Ragged


def to_numpy(array: pa.Array | pa.ChunkedArray, column: Column) -> Rows:
    """A canonical column without nulls as rows.

    An array [rows], [rows, k] or [rows, k, l] for a scalar or dense column, with text as bytes
    objects; Ragged for a ragged or sparse one. Numbers are not copied where Arrow allows it.
    """
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # older pyarrow
        array = array.chunk(0) if array.num_chunks == 1 else pa.concat_arrays(array.chunks)
    if column.sparse:
        indices, values = array.field("indices"), array.field("values")
        entries = np.empty(len(indices.flatten()), _ENTRY)
        entries["index"] = indices.flatten().to_numpy()
        entries["value"] = values.flatten().to_numpy()
        return Ragged(entries, _splits(indices))
    if column.is_ragged:
        values = array.flatten()
        if column.inner is None:
            return Ragged(_flat(values, column.dtype), _splits(array))
        return Ragged(
            Ragged(_flat(values.flatten(), column.dtype), _splits(values)), _splits(array)
        )
    rows = len(array)
    for _ in column.shape:
        array = array.flatten()
    return _flat(array, column.dtype).reshape(rows, *column.shape)


def _flat(array: pa.Array, dtype: str) -> np.ndarray:
    if dtype == "string":
        is_large = pa.types.is_large_string(array.type) or pa.types.is_large_binary(array.type)
        array = array.cast(pa.large_binary() if is_large else pa.binary())
        return np.asarray(array.to_numpy(zero_copy_only=False), dtype=object)
    return np.asarray(array.to_numpy(zero_copy_only=False))


def copy_rows(rows: Rows, first: int, last: int) -> Rows:
    """Rows [first, last), in memory of their own."""
    if not isinstance(rows, Ragged):
        out = _new_array(last - first, rows)
        np.copyto(out, rows[first:last])
        return out
    begin, end = rows.splits[first], rows.splits[last]
    return Ragged(copy_rows(rows.values, begin, end), rows.splits[first : last + 1] - begin)


def _new_array(count: int, like: np.ndarray) -> np.ndarray:
    """An array of `count` rows like those of another one."""
    shape = (count, *like.shape[1:])
    if like.dtype == object:
        return np.empty(shape, object)
    # in Arrow's memory, which TensorFlow takes as it is (aligned), and which is used again
    size = int(np.prod(shape)) * like.itemsize
    return np.frombuffer(pa.allocate_buffer(size), like.dtype).reshape(shape)


def take_rows(rows: Rows, which: np.ndarray) -> Rows:
    """The rows `which`, int64 [n], in that order."""
    if not isinstance(rows, Ragged):
        out = _new_array(len(which), rows)
        return rows.take(which, axis=0, out=out, mode="clip")  # "raise" would go through a copy
    starts = rows.splits[which]
    lengths = rows.splits[which + 1] - starts
    splits = _cumulated(lengths)
    # index of each value: the start of its row, plus its place in the row
    places = np.arange(splits[-1]) - np.repeat(splits[:-1], lengths)
    return Ragged(take_rows(rows.values, np.repeat(starts, lengths) + places), splits)


def concat_rows(parts: Sequence[Any]) -> Rows:
    """All rows of several Rows of one column, one after the other."""
    if not isinstance(parts[0], Ragged):
        return np.concatenate(parts)
    lengths = np.concatenate([np.diff(part.splits) for part in parts])
    return Ragged(concat_rows([part.values for part in parts]), _cumulated(lengths))


def components(rows: Rows, column: Column) -> list[np.ndarray]:
    """The arrays of which the tensor of these rows is made.

    One for a dense tensor. For a ragged one its values and row splits; of ragged rank 2 the inner
    row splits as well; splits are int64. For a sparse one indices, int64 [values, 2], values, and
    the dense shape, int64 [2].
    """
    if not isinstance(rows, Ragged):
        return [rows]
    if isinstance(rows.values, Ragged):
        return [rows.values.values, rows.splits, rows.values.splits]  # type: ignore[list-item]
    if not column.sparse:
        return [rows.values, rows.splits]
    count = len(rows.splits) - 1
    of_row = np.repeat(np.arange(count), np.diff(rows.splits))
    indices = np.stack([of_row, rows.values["index"].astype(np.int64)], axis=1)
    values = np.ascontiguousarray(rows.values["value"])
    return [indices, values, np.array([count, column.length], np.int64)]
