"""From Spark's types and the user's declarations to columns, and what is refused."""

from __future__ import annotations

import pytest
from spark_types import VECTOR, array, map_of, struct

from tfos.errors import FeedError
from tfos.feeding.feed import Feed
from tfos.feeding.layout import layout_of
from tfos.feeding.schema import Column

SCALARS = {
    "byte": "int8",
    "short": "int16",
    "integer": "int32",
    "long": "int64",
    "float": "float32",
    "double": "float64",
    "boolean": "bool",
    "string": "string",
    "varchar(10)": "string",
    "binary": "string",
    "date": "int64",
    "timestamp": "int64",
    "timestamp_ntz": "int64",
}
MATRIX = {"type": "udt", "class": "org.apache.spark.ml.linalg.MatrixUDT"}


def columns(**fields):
    return layout_of("train", struct(**fields)).columns


def refused(fields, **declared):
    with pytest.raises(FeedError) as caught:
        layout_of("train", struct(**fields), **declared)
    message = str(caught.value)
    assert "'train'" in message
    return message


class TestTypes:
    @pytest.mark.parametrize(("kind", "dtype"), SCALARS.items())
    def test_scalars_and_arrays_of_them(self, kind, dtype):
        assert columns(x=kind, y=array(kind), z=array(array(kind))) == (
            Column("x", dtype),
            Column("y", dtype, -1),
            Column("z", dtype, -1, -1),
        )

    def test_structs_are_flattened_in_order(self):
        layout = layout_of(
            "t", struct(b="long", s=struct(x="long", deep=struct(y=array("float"))), a="string")
        )
        assert [(s.column.name, s.path) for s in layout.sources] == [
            ("b", (0,)),
            ("s.x", (1, 0)),
            ("s.deep.y", (1, 1, 0)),
            ("a", (2,)),
        ]

    def test_map_is_two_ragged_columns(self):
        assert columns(m=map_of("string", "float"), n=map_of("long", array("double"))) == (
            Column("m.keys", "string", -1),
            Column("m.values", "float32", -1),
            Column("n.keys", "int64", -1),
            Column("n.values", "float64", -1, -1),
        )

    def test_vector_is_dense_or_sparse(self):
        layout = layout_of("t", struct(v=VECTOR, s=struct(w=VECTOR)), sparse=["s.w"])
        assert layout.columns == (
            Column("v", "float64", -1),
            Column("s.w", "float64", -1, sparse=True),
        )

    @pytest.mark.parametrize(
        ("kind", "text"),
        [
            ("interval day to second", "interval day to second"),
            ("variant", "variant"),
            ("void", "void"),
            (array("interval year to month"), "array<interval year to month>"),
            (array(array(array("integer"))), "array<array<array<int>>>"),
            (array(struct(a="long")), "array<struct<a:bigint>>"),
            (map_of("string", map_of("long", "long")), "map<string,map<bigint,bigint>>"),
            (array(VECTOR), "VectorUDT"),
            (MATRIX, "MatrixUDT"),
        ],
    )
    def test_other_types_are_refused_with_column_type_and_remedy(self, kind, text):
        message = refused({"good": "long", "bad": kind})
        for part in ("'bad", text, "cast", "bigint", "drop"):
            assert part in message

    def test_two_columns_of_one_name_are_refused(self):
        schema = struct(**{"a.b": "long", "a": struct(b="long")})
        with pytest.raises(FeedError, match=r"2 columns named 'a\.b'.*rename"):
            layout_of("train", schema)

    @pytest.mark.parametrize("schema", [struct(), struct(a=struct())])
    def test_no_columns_are_refused(self, schema):
        with pytest.raises(FeedError, match="'train' has no columns"):
            layout_of("train", schema)


class TestDecimal:
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_declared(self, dtype):
        fields = struct(p="decimal(10,2)", q=array("decimal(38,18)"), s=struct(r="decimal(3,1)"))
        layout = layout_of("t", fields, decimal=dict.fromkeys(["p", "q", "s.r"], dtype))
        assert [column.dtype for column in layout.columns] == [dtype] * 3

    def test_values_of_a_map_are_declared_by_their_column(self):
        fields = struct(m=map_of("string", "decimal(5,0)"))
        layout = layout_of("t", fields, decimal={"m.values": "int64"})
        assert layout.columns[1] == Column("m.values", "int64", -1)

    def test_undeclared_is_refused_and_told_how(self):
        message = refused({"price": "decimal(10,2)"})
        for part in ("'price'", "decimal(10,2)", "tfos.Feed(df, decimal={'price': 'float64'})"):
            assert part in message
        assert "int64" not in message

    @pytest.mark.parametrize("dtype", ["int64", "int32", "double", 64])
    def test_bad_dtype_is_refused(self, dtype):
        message = refused({"price": "decimal(10,2)"}, decimal={"price": dtype})
        for part in ("'price'", repr(dtype), "'float32' or 'float64'"):
            assert part in message
        assert ("scale 0" in message) is (dtype == "int64")

    def test_other_type_is_refused(self):
        message = refused({"x": "double"}, decimal={"x": "float32"})
        assert "decimal=" in message and "'x'" in message


class TestFill:
    @pytest.mark.parametrize(
        ("kind", "value"),
        [
            ("byte", -128),
            ("long", 2**63 - 1),
            ("float", 1),
            ("double", float("nan")),
            ("boolean", False),
            ("string", "é"),
            ("binary", b"\xff"),
            ("date", 0),
            (array("long"), []),
            (array(array("string")), [["a"], []]),
        ],
    )
    def test_value_of_the_columns_type(self, kind, value):
        (source,) = layout_of("t", struct(x=kind), fill={"x": value}).sources
        assert source.fill is value

    @pytest.mark.parametrize(
        ("kind", "value"),
        [
            ("byte", 128),
            ("long", 2**63),
            ("long", 1.0),
            ("long", True),
            ("long", None),
            ("double", "0"),
            ("double", False),
            ("boolean", 0),
            ("string", 0),
            ("date", "1970-01-01"),
            (array("long"), 0),
            (array("long"), [None]),
            (array("string"), "ab"),
            (array(array("long")), [1]),
            (map_of("string", "long"), []),
            (map_of("string", "long"), {"a": "b"}),
            (map_of("string", "long"), {1: 1}),
            (VECTOR, 0.0),
            (VECTOR, ["a"]),
        ],
    )
    def test_other_values_are_refused(self, kind, value):
        message = refused({"x": kind}, fill={"x": value})
        for part in ("'x'", repr(value), "give"):
            assert part in message

    def test_map(self):
        schema = struct(m=map_of("string", "long"))
        keys, values = layout_of("t", schema, fill={"m": {"a": 1}}).sources
        assert (keys.fill, values.fill) == (["a"], [1])
        keys, values = layout_of("t", schema, fill={"m": {}}).sources
        assert (keys.fill, values.fill) == ([], [])

    def test_field_of_a_struct(self):
        layout = layout_of("t", struct(a=struct(b="long", c="long")), fill={"a.c": 3})
        assert [source.fill for source in layout.sources] == [None, 3]

    def test_vector(self):
        from pyspark.ml.linalg import Vectors

        def fill(value):
            return layout_of("t", struct(v=VECTOR), fill={"v": value}).sources[0].fill

        dense = {"type": 1, "values": [0.0, 2.0]}
        assert fill([0, 2]) == fill(Vectors.dense(0, 2)) == dense
        sparse = {"type": 0, "size": 3, "indices": [1], "values": [2.0]}
        assert fill(Vectors.sparse(3, {1: 2.0})) == sparse


class TestDeclarations:
    @pytest.mark.parametrize("option", ["fill", "decimal"])
    def test_unknown_column_is_refused(self, option):
        fields = {"a": "long", "p": "decimal(4,0)"}
        declared = {"decimal": {"p": "int64"}}
        declared[option] = {**declared.get(option, {}), "nope": "float64"}
        message = refused(fields, **declared)
        for part in (f"{option}=", "'nope'", "'p'"):
            assert part in message

    def test_a_struct_is_filled_by_its_fields(self):
        assert "'a.b'" in refused({"a": struct(b="long")}, fill={"a": 0})

    @pytest.mark.parametrize("name", ["nope", "x"])
    def test_sparse_is_for_vectors(self, name):
        message = refused({"x": "double", "v": VECTOR}, sparse=[name])
        for part in ("sparse=", repr(name), "['v']"):
            assert part in message

    @pytest.mark.parametrize(
        "declared", [{"sparse": "v"}, {"fill": ["v"]}, {"decimal": "float64"}, {"sparse": 3}]
    )
    def test_declarations_of_wrong_form(self, declared):
        (option, value), *_ = declared.items()
        with pytest.raises(FeedError) as caught:
            Feed(None, **declared).layout("eval")
        for part in (f"{option}=", "'eval'", repr(value), "give"):
            assert part in str(caught.value)
