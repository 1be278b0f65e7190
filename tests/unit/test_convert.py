"""Arrow to canonical columns and on to NumPy, against a slow reference in plain Python."""

from __future__ import annotations

import datetime
import decimal
import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spark_types import VECTOR, VECTOR_TYPE, array, map_of, struct

from tfos.errors import FeedError
from tfos.feeding.convert import (
    canonical,
    components,
    concat_rows,
    copy_rows,
    inspect,
    pieces,
    take_rows,
    to_numpy,
)
from tfos.feeding.layout import layout_of
from tfos.feeding.schema import Column, resolve_lengths

EPOCH = datetime.datetime(1970, 1, 1)


def batch_of(rows, types):
    """A record batch of columns name -> (values, Arrow type), a slice of a longer one."""
    arrays = [pa.array([v[0], *v, v[-1]], types[name])[1:-1] for name, v in rows.items()]
    return pa.RecordBatch.from_arrays(arrays, list(rows))


def plain(arrays, column):
    """What components() gives for one column, as one Python value per row."""
    values, *rest = arrays
    if column.sparse:
        indices, (values, shape) = values, rest
        assert (indices.dtype, values.dtype, shape.dtype) == (np.int64, np.float64, np.int64)
        assert indices.shape == (len(values), 2)
        assert shape[1] == column.length
        rows = [{} for _ in range(shape[0])]
        assert indices.tolist() == sorted(indices.tolist())
        for (row, index), value in zip(indices.tolist(), values.tolist(), strict=True):
            rows[row][index] = value
        return rows
    assert values.dtype == np.dtype(object if column.dtype == "string" else column.dtype)
    rows = values.tolist()
    for splits in reversed(rest):
        assert (splits.dtype, splits[0]) == (np.int64, 0)
        rows = [rows[a:b] for a, b in itertools.pairwise(splits.tolist())]
    return rows


def resolved(layout, batch):
    (columns,) = resolve_lengths(
        {"f": layout.columns}, {"f": inspect(batch, layout).spans}
    ).values()
    return columns


def convert(layout, batch):
    """Column -> values of all rows of a batch, through every function of the module."""
    whole = pa.Table.from_batches([canonical(piece, layout) for piece in pieces(batch, layout)])
    (joined,) = whole.combine_chunks().to_batches()
    return {
        column.name: plain(components(to_numpy(whole.column(column.name), column), column), column)
        for column in resolved(layout, joined)
    }


# Each kind of value: Spark's type, Arrow's, values, and what a slow Python makes of one of them.
INTS = st.integers(-(2**31), 2**31 - 1)
FLOATS = st.floats(allow_nan=False, width=64)
TEXT = st.text(max_size=5)
SCALARS = [
    ("byte", pa.int8(), st.integers(-128, 127), lambda v: v),
    ("long", pa.int64(), st.integers(-(2**63), 2**63 - 1), lambda v: v),
    ("double", pa.float64(), FLOATS, lambda v: v),
    ("boolean", pa.bool_(), st.booleans(), lambda v: v),
    ("string", pa.string(), TEXT, lambda v: v.encode()),
    ("string", pa.large_string(), TEXT, lambda v: v.encode()),
    ("binary", pa.binary(), st.binary(max_size=5), lambda v: v),
    ("date", pa.date32(), st.dates(), lambda v: (v - EPOCH.date()).days),
    (
        "timestamp_ntz",
        pa.timestamp("us"),
        st.datetimes(),
        lambda v: (v - EPOCH) // datetime.timedelta(microseconds=1),
    ),
    (
        "timestamp",
        pa.timestamp("us", "Asia/Tokyo"),
        st.datetimes(timezones=st.just(datetime.timezone.utc)),
        lambda v: (v.replace(tzinfo=None) - EPOCH) // datetime.timedelta(microseconds=1),
    ),
    ("decimal(12,0)", pa.decimal128(12, 0), INTS.map(decimal.Decimal), int),
    (
        "decimal(12,3)",
        pa.decimal128(12, 3),
        st.decimals(-1000, 1000, places=3),
        lambda v: pytest.approx(float(v), rel=1e-15),
    ),
]
FILLS = {"boolean": True, "string": "fill", "binary": b"fill"}


def lists(kind):
    spark, arrow, values, slow = kind
    return (
        array(spark),
        pa.list_(arrow),
        st.lists(values, max_size=3) | st.lists(values, min_size=2, max_size=2),
        lambda v: [slow(item) for item in v],
    )


@st.composite
def feeds(draw):
    """(layout, batch, expected): a feed of one column that may have nulls, which are filled."""
    kind = draw(st.sampled_from(SCALARS))
    for _ in range(draw(st.integers(0, 2))):
        kind = lists(kind)
    spark, arrow, values, slow = kind
    size = draw(st.integers(1, 12))
    rows = draw(st.lists(st.none() | values, min_size=size, max_size=size))
    leaf, depth = spark, 0
    while isinstance(leaf, dict):
        leaf, depth = leaf["elementType"], depth + 1
    fill = FILLS.get(leaf, 7)
    for _ in range(depth):
        fill = [fill, fill]
    name, top, kind, nested = "x", "x", arrow, rows
    for outer in draw(st.sampled_from(["", "s", "st"])):  # in structs, which may be null as well
        spark, kind = struct(**{top: spark}), pa.struct([(top, kind)])
        nested = [None if row is None and draw(st.booleans()) else {top: row} for row in nested]
        name, top = f"{outer}.{name}", outer
    declared = {name: "int64" if "12,0" in leaf else "float64"} if "decimal" in leaf else None
    layout = layout_of("f", struct(**{top: spark}), fill={name: fill}, decimal=declared)
    expected = [_encoded(fill) if row is None else slow(row) for row in rows]
    return layout, batch_of({top: nested}, {top: kind}), {name: expected}


def _encoded(value):
    if isinstance(value, list):
        return [_encoded(item) for item in value]
    return value.encode() if isinstance(value, str) else value


@st.composite
def maps(draw):
    key, value = draw(st.sampled_from(SCALARS[:6])), draw(st.sampled_from(SCALARS[:9]))
    if draw(st.booleans()):
        value = lists(value)
    entries = st.dictionaries(key[2], value[2], max_size=3).map(lambda d: list(d.items()))
    rows = draw(st.lists(st.none() | entries, min_size=1, max_size=8))
    layout = layout_of("f", struct(m=map_of(key[0], value[0])), fill={"m": {}})
    expected = {
        "m.keys": [[key[3](k) for k, _ in row or []] for row in rows],
        "m.values": [[value[3](v) for _, v in row or []] for row in rows],
    }
    return layout, batch_of({"m": rows}, {"m": pa.map_(key[1], value[1])}), expected


class TestAgainstPlainPython:
    @settings(max_examples=300, deadline=None)
    @given(feeds())
    def test_scalars_and_arrays_in_structs_with_fills(self, feed):
        layout, batch, expected = feed
        assert convert(layout, batch) == expected

    @settings(deadline=None)
    @given(maps())
    def test_maps(self, feed):
        layout, batch, expected = feed
        assert convert(layout, batch) == expected

    @settings(max_examples=200, deadline=None)
    @given(
        st.lists(
            st.none()
            | st.tuples(
                st.booleans(), st.lists(st.sampled_from([0.0, 1.5, -2.0]), min_size=4, max_size=4)
            ),
            min_size=1,
        ),
        st.booleans(),
        st.booleans(),
    )
    def test_vectors_of_mixed_rows(self, rows, sparse, fill_sparse):
        """A row is (stored as sparse, its values). Stored zeros of sparse rows are kept."""
        fill = [9.0, 0.0, 0.0, 1.0]
        stored = [None if row is None else vector(*row, zeros=(1,)) for row in rows]
        layout = layout_of("f", struct(v=VECTOR), fill={"v": fill}, sparse=["v"] * sparse)
        batch = batch_of({"v": stored}, {"v": VECTOR_TYPE})
        wanted = [fill if row is None else row[1] for row in rows]
        if sparse:
            wanted = [
                {
                    i: value
                    for i, value in enumerate(values)
                    if value or (row is not None and row[0] and i == 1)
                }
                for row, values in zip(rows, wanted, strict=True)
            ]
        assert convert(layout, batch) == {"v": wanted}

    @settings(deadline=None)
    @given(feeds(), st.data())
    def test_rows_are_cut_picked_and_joined(self, feed, data):
        layout, batch, expected = feed
        batch = canonical(batch, layout)
        (column,), (values,) = resolved(layout, batch), expected.values()
        rows, count = to_numpy(batch.column(0), column), len(values)
        first = data.draw(st.integers(0, count))
        last = data.draw(st.integers(first, count))
        which = data.draw(st.lists(st.integers(0, count - 1), max_size=20))
        cut, picked = copy_rows(rows, first, last), take_rows(rows, np.array(which, np.int64))
        joined = concat_rows([cut, picked, rows])
        wanted = [*values[first:last], *(values[i] for i in which), *values]
        assert plain(components(joined, column), column) == wanted


def vector(is_sparse, values, zeros=()):
    """A vector as Spark stores it; a sparse one also stores the zeros at these indices."""
    if not is_sparse:
        return {"type": 1, "size": None, "indices": None, "values": values}
    indices = [i for i, value in enumerate(values) if value or i in zeros]
    stored = [values[i] for i in indices]
    return {"type": 0, "size": len(values), "indices": indices, "values": stored}


def column_of(values, kind, spark, **declared):
    """The canonical column x of these values."""
    batch = pa.RecordBatch.from_arrays([pa.array(values, kind)], ["x"])
    layout = layout_of("train", struct(x=spark), **declared)
    return layout, canonical(batch, layout)


class TestCopies:
    @pytest.mark.parametrize(
        ("kind", "spark", "value"),
        [
            (pa.int64(), "long", 1),
            (pa.string(), "string", "a"),
            (pa.list_(pa.float32()), array("float"), [1.0]),
            (pa.timestamp("us", "UTC"), "timestamp", 1),
        ],
    )
    def test_what_needs_no_change_is_not_copied(self, kind, spark, value):
        values = pa.array([value] * 10, kind)
        batch = pa.RecordBatch.from_arrays([values], ["x"])
        result = canonical(batch, layout_of("f", struct(x=spark))).column(0)
        before, after = values.buffers()[-1], result.buffers()[-1]
        assert before.address == after.address

    def test_sparse_vectors_are_never_dense(self):
        wide = {"type": 0, "size": 1_000_000, "indices": [3, 999_999], "values": [1.0, 2.0]}
        rows, declared = [wide] * 20_000, {"sparse": ["x"]}
        before = pa.default_memory_pool().max_memory()
        layout, batch = column_of(rows, VECTOR_TYPE, VECTOR, **declared)
        assert pa.default_memory_pool().max_memory() - before < 8 << 20
        assert batch.nbytes < 1 << 20
        assert inspect(batch, layout).spans == {"x": [(1_000_000, 1_000_000)]}
        indices, values, shape = components(
            to_numpy(batch.column(0), column := Column("x", "float64", 1_000_000, sparse=True)),
            column,
        )
        assert shape.tolist() == [20_000, 1_000_000]
        assert (indices[-1].tolist(), values[-1]) == ([19_999, 999_999], 2.0)

    def test_wide_vectors_are_made_dense_a_few_rows_at_a_time(self):
        wide = {"type": 0, "size": 1_000_000, "indices": [3], "values": [1.0]}
        layout = layout_of("f", struct(n="long", x=VECTOR))
        arrays = [pa.array(range(20)), pa.array([wide] * 20, VECTOR_TYPE)]
        batch = pa.RecordBatch.from_arrays(arrays, ["n", "x"])
        cut = list(pieces(batch, layout))
        assert [piece.num_rows for piece in cut] == [8, 8, 4]
        assert pa.Table.from_batches(cut).column("n").to_pylist() == list(range(20))
        assert canonical(cut[-1], layout).column(1).nbytes < 33 << 20

    def test_other_batches_are_one_piece(self):
        layout = layout_of("f", struct(n="long", x=VECTOR))
        arrays = [pa.array(range(20)), pa.array([vector(False, [1.0])] * 20, VECTOR_TYPE)]
        assert len(list(pieces(pa.RecordBatch.from_arrays(arrays, ["n", "x"]), layout))) == 1


class TestFacts:
    def test_nulls_of_rows_and_of_elements(self):
        layout, batch = column_of(
            [[1, None], None, [], [None]], pa.list_(pa.int32()), array("integer")
        )
        facts = inspect(batch, layout)
        assert (facts.nulls, facts.null_elements) == ({"x": 1}, {"x": 2})
        assert facts.spans == {"x": [(0, 2)]}

    def test_nulls_inside_inner_arrays(self):
        kind = pa.list_(pa.list_(pa.int32()))
        layout, batch = column_of([[[1], None], [[None]], []], kind, array(array("integer")))
        facts = inspect(batch, layout)
        assert (facts.nulls, facts.null_elements) == ({}, {"x": 2})
        assert facts.spans == {"x": [(0, 2), (1, 1)]}

    def test_null_vector_stays_null(self):
        rows = [None, vector(True, [0.0, 1.0]), vector(False, [1.0, 2.0])]
        for declared in ({}, {"sparse": ["x"]}):
            layout, batch = column_of(rows, VECTOR_TYPE, VECTOR, **declared)
            facts = inspect(batch, layout)
            assert (facts.nulls, facts.spans) == ({"x": 1}, {"x": [(2, 2)]})

    def test_null_struct_is_a_null_of_its_fields(self):
        schema = struct(s=struct(a="long", m=map_of("string", "long")))
        kind = pa.struct([("a", pa.int64()), ("m", pa.map_(pa.string(), pa.int64()))])
        batch = batch_of(
            {"s": [None, {"a": 1, "m": [("k", None)]}, {"a": None, "m": []}]}, {"s": kind}
        )
        layout = layout_of("f", schema)
        facts = inspect(canonical(batch, layout), layout)
        assert facts.nulls == {"s.a": 2, "s.m.keys": 1, "s.m.values": 1}
        assert facts.null_elements == {"s.m.values": 1}

    def test_maps_have_no_spans(self):
        kind = pa.map_(pa.string(), pa.int64())
        layout, batch = column_of([[("a", 1)]], kind, map_of("string", "long"))
        assert inspect(batch, layout).spans == {}

    def test_empty_batch(self):
        for declared in ({}, {"sparse": ["x"]}):
            layout, batch = column_of([], VECTOR_TYPE, VECTOR, **declared)
            facts = inspect(batch, layout)
            assert (facts.nulls, facts.null_elements, facts.spans) == ({}, {}, {})


class TestDecimals:
    def test_value_beyond_int64_names_column_and_value(self):
        with pytest.raises(FeedError) as caught:
            column_of(
                [decimal.Decimal(10) ** 30], pa.decimal128(38, 0), "decimal(38,0)",
                decimal={"x": "int64"},
            )  # fmt: skip
        for part in ("'x'", "'train'", "int64", "cast"):
            assert part in str(caught.value)

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_floats(self, dtype):
        values = [decimal.Decimal("0.1"), decimal.Decimal("-12345678.9")]
        declared = {"decimal": {"x": dtype}}
        _, batch = column_of(values, pa.decimal128(20, 10), "decimal(20,10)", **declared)
        result = to_numpy(batch.column(0), Column("x", dtype))
        assert result.dtype == dtype
        np.testing.assert_array_equal(result, np.array([0.1, -12345678.9], dtype))
