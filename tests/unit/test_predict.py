"""tfos.predict without Spark: what is derived on the driver, and what a task does with batches."""

from __future__ import annotations

import json
import tempfile
import types
from pathlib import Path

import keras
import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from helpers import one_struct, structs
from pyspark.ml.linalg import VectorUDT
from pyspark.sql import types as T  # noqa: N812

import tfos
from tfos.errors import DamagedError, FeedError, LakeError, UsageError
from tfos.feeding.schema import Column
from tfos.inference.inputs import check_passable, input_layout
from tfos.inference.predict import output_schema
from tfos.inference.signature import SIGNATURE, Output, Signature
from tfos.inference.worker import load_model, rebatch
from tfos.lake.committed import CommittedStorage
from tfos.lake.run_directory import RunDirectory
from tfos.training.export import export_model
from tfos.training.serving import ServedFeatures

pytest_plugins = ["s3"]
ROWS = 25
USERS = 7
COLUMNS = [Column("user", "int64"), Column("x", "float32", 2), Column("tags", "int32", -1)]
SCHEMA = T.StructType(
    [
        T.StructField("id", T.IntegerType()),
        T.StructField("user", T.LongType()),
        T.StructField("x", T.ArrayType(T.FloatType())),
        T.StructField("tags", T.ArrayType(T.IntegerType())),
    ]
)
ARROW = pa.schema(
    {
        "id": pa.int32(),
        "user": pa.int64(),
        "x": pa.list_(pa.float32()),
        "tags": pa.list_(pa.int32()),
    }
)


class Tagged(keras.Model):
    """w[user] + sum(x) + sum(tags): [batch]."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.table = keras.layers.Embedding(USERS, 1)
        self.table.build(None)
        self.table.embeddings.assign(scale * np.arange(USERS, dtype=np.float32)[:, np.newaxis])
        self.built = True

    def call(self, features):
        tags = tf.cast(tf.reduce_sum(features["tags"], axis=1), tf.float32)
        return self.table(features["user"])[:, 0] + tf.reduce_sum(features["x"], axis=1) + tags


def rows(count: int = ROWS) -> list[dict]:
    return [
        {"id": i, "user": i % USERS, "x": [i / 2, 1.0], "tags": list(range(i % 3))}
        for i in range(count)
    ]


def expected(found: list[dict]) -> list[float]:
    return [row["user"] + sum(row["x"]) + sum(row["tags"]) for row in found]


class Frame:
    """As much of a DataFrame as predict() uses. run() computes one partition of it."""

    sparkSession = None  # noqa: N815

    def __init__(self, schema: T.StructType = SCHEMA) -> None:
        self.schema = schema
        self.columns = schema.names

    def toDF(self, *names):
        self.columns = list(names)
        return self

    def selectExpr(self, expression):
        return one_struct(self, expression)

    def mapInArrow(self, task, schema):
        self.task, self.schema = task, schema
        return self

    def run(self, found: list[dict], batch_rows: int = 10, schema: pa.Schema = ARROW) -> list[dict]:
        table = pa.Table.from_pylist(found, schema)
        return [
            dict(zip(self.schema.names, row, strict=True)) for row in self.values(table, batch_rows)
        ]

    def values(self, table: pa.Table, batch_rows: int = 10) -> list[tuple]:
        """The rows of one partition: Spark goes by position, not by the names in a batch."""
        table = table.rename_columns(self.columns)
        return [
            row
            for batch in self.task(structs(table.to_batches(max_chunksize=batch_rows)))
            for row in zip(*(column.to_pylist() for column in batch.columns), strict=True)
        ]


def export(lake: RunDirectory, model: keras.Model, columns=COLUMNS) -> str:
    with tempfile.TemporaryDirectory() as scratch:
        return export_model(model, ServedFeatures(columns), lake, scratch, None)


@pytest.fixture(scope="module")
def uri(tmp_path_factory) -> str:
    return export(RunDirectory(str(tmp_path_factory.mktemp("lake")), "run"), Tagged())


@pytest.fixture
def mine(tmp_path) -> tuple[RunDirectory, str]:
    """A model that a test may spoil."""
    lake = RunDirectory(str(tmp_path), "run")
    return lake, export(lake, Tagged())


def signature(*outputs: Output) -> Signature:
    return Signature(tuple(COLUMNS), outputs)


class TestSignature:
    def test_is_exported_beside_the_model(self, uri):
        found = Signature.from_json(json.loads(Path(uri, SIGNATURE).read_text()))
        assert found == signature(Output("predictions", "float32", (None,)))
        assert (
            SIGNATURE
            in RunDirectory(str(Path(uri).parent.parent), "run").committed("model")["files"]
        )

    @pytest.mark.parametrize("record", [{}, {"inputs": [{"odd": 1}], "outputs": []}])
    def test_of_another_form_is_an_error(self, record):
        with pytest.raises(LakeError, match="export the model again"):
            Signature.from_json(record)


class TestOutputSchema:
    @pytest.mark.parametrize(
        ("dtype", "shape", "kind"),
        [
            ("float32", (None,), "float"),
            ("float64", (None, 1), "double"),
            ("float32", (None, 4), "array<float>"),
            ("int64", (None, None), "array<bigint>"),
            ("float16", (None, 2, 1), "array<array<float>>"),
            ("string", (None,), "string"),
            ("bool", (None,), "boolean"),
            ("uint8", (None,), "smallint"),
        ],
    )
    def test_of_a_tensor(self, dtype, shape, kind):
        found = output_schema(SCHEMA, signature(Output("predictions", dtype, shape)), "p")
        assert found.names == [*SCHEMA.names, "p"]
        assert found["p"].dataType.simpleString() == kind

    def test_of_a_dict_is_a_struct(self):
        outputs = Output("b", "float32", (None, 1)), Output("a", "int32", (None, 3))
        found = output_schema(SCHEMA, signature(*outputs), "p")
        assert found["p"].dataType.simpleString() == "struct<b:float,a:array<int>>"

    @pytest.mark.parametrize(
        ("dtype", "shape"), [("float32", None), ("float32", ()), ("complex64", (None,))]
    )
    def test_of_what_no_column_holds(self, dtype, shape):
        with pytest.raises(UsageError, match=r"'predictions' of the model is .* no column holds"):
            output_schema(SCHEMA, signature(Output("predictions", dtype, shape)), "p")

    @pytest.mark.parametrize("name", ["user", "User"])
    def test_name_that_is_taken(self, name):
        with pytest.raises(UsageError, match=rf"output='{name}'.*df\.drop"):
            output_schema(SCHEMA, signature(Output("predictions", "float32", (None,))), name)


class TestInputs:
    def paths(self, inputs, schema, columns=None):
        layout = input_layout(schema, Signature(tuple(inputs), ()), columns or {})
        assert [column.name for column in layout.columns] == [column.name for column in inputs]
        return [(source.path, source.part) for source in layout.sources]

    def test_are_found_by_name(self):
        assert self.paths(COLUMNS, SCHEMA) == [((1,), "whole"), ((2,), "whole"), ((3,), "whole")]

    def test_may_have_other_names(self):
        inputs = [Column("who", "int64"), Column("user", "int32")]
        found = self.paths(inputs, SCHEMA, {"who": "user", "user": "id"})
        assert found == [((1,), "whole"), ((0,), "whole")]

    def test_are_parts_of_structs_maps_vectors_and_decimals(self):
        schema = T.StructType().add("a", T.LongType())
        schema.add("s", T.StructType().add("p", T.StringType()).add("q", T.DecimalType(9, 2)))
        schema.add("m", T.MapType(T.StringType(), T.FloatType())).add("v", VectorUDT())
        inputs = [
            Column("s.q", "float64"),
            Column("m.keys", "string", -1),
            Column("m.values", "float32", -1),
            Column("v", "float64", 3),
        ]
        found = self.paths(inputs, schema)
        assert found == [((1, 1), "whole"), ((2,), "keys"), ((2,), "values"), ((3,), "vector")]
        sparse = self.paths([Column("v", "float64", 3, sparse=True)], schema)
        assert sparse == [((3,), "vector")]

    def test_struct_may_have_another_name(self):
        schema = T.StructType().add("t", T.StructType().add("p", T.StringType()))
        assert self.paths([Column("s.p", "string")], schema, {"s": "t"}) == [((0, 0), "whole")]
        assert self.paths([Column("p", "string")], schema, {"p": "t.p"}) == [((0, 0), "whole")]

    def test_missing_column(self):
        with pytest.raises(FeedError, match=r"no column 'user'.*rename one of.*columns="):
            self.paths(COLUMNS, T.StructType(SCHEMA.fields[:1]))

    def test_two_columns_of_the_name(self):
        with pytest.raises(FeedError, match="2 columns 'user'"):
            self.paths(COLUMNS, T.StructType(SCHEMA.fields + SCHEMA.fields))

    @pytest.mark.parametrize(
        ("column", "wanted"),
        [
            (Column("user", "float32"), "float"),
            (Column("user", "int64", 3), "array<bigint>"),
            (Column("user", "string", -1, -1), "array<array<string>>"),
            (Column("user", "float64", 3, sparse=True), "vector"),
        ],
    )
    def test_wrong_type(self, column, wanted):
        with pytest.raises(FeedError) as caught:
            self.paths([column], SCHEMA)
        assert "'user' has type bigint" in str(caught.value)
        assert f"is {wanted}: cast it first" in str(caught.value)

    def test_remedy_for_a_wrong_type_quotes_a_column_with_a_dot(self):
        flat = T.StructType().add("a.b", T.LongType())
        with pytest.raises(FeedError, match=r"withColumn\('a\.b', df\['`a\.b`'\]\.cast\('float'"):
            self.paths([Column("a.b", "float32")], flat)
        nested = T.StructType().add("a", T.StructType().add("b", T.LongType()))
        with pytest.raises(FeedError, match=r"df\['a\.b'\]"):
            self.paths([Column("a.b", "float32")], nested)

    def test_column_with_a_dot_beside_a_struct_of_that_field(self):
        schema = T.StructType().add("a.b", T.LongType())
        schema.add("a", T.StructType().add("b", T.LongType()))
        with pytest.raises(FeedError, match=r"2 columns 'a\.b'"):
            self.paths([Column("a.b", "int64")], schema)

    def test_thousands_of_columns(self):
        """The work per input does not grow with the columns: each is looked at once."""
        looked = []

        class Name(str):
            def __eq__(self, other):
                looked.append(other)
                return str.__eq__(self, other)

            __hash__ = str.__hash__

        schema = T.StructType([T.StructField(Name(f"c{i}"), T.FloatType()) for i in range(500)])
        inputs = [Column(f"c{i}", "float32") for i in range(500)]
        assert self.paths(inputs, schema) == [((i,), "whole") for i in range(500)]
        assert len(looked) < 5000

    def test_unknown_name_in_columns(self):
        with pytest.raises(UsageError, match=r"names 'usr', but .*\['user', 'x', 'tags'\]"):
            self.paths(COLUMNS, SCHEMA, {"usr": "id"})


class TestPassable:
    @pytest.mark.parametrize(
        "kind", [T.YearMonthIntervalType(), T.CalendarIntervalType(), T.YearMonthIntervalType(1)]
    )
    def test_intervals_of_months_are_refused_on_the_driver(self, kind):
        for whole in (kind, T.ArrayType(kind)):
            schema = T.StructType([T.StructField("term", whole)])
            with pytest.raises(FeedError, match=r"'term' has type .*interval.*cast\('string'\)"):
                check_passable(schema)

    def test_others_are_passed_on(self):
        interval = T.StructField("interval", T.DayTimeIntervalType())
        check_passable(T.StructType([interval, T.StructField("x", T.LongType())]))


class TestRebatch:
    @pytest.mark.parametrize("size", [1, 3, 4, 8, 100])
    def test_cuts_and_joins_at_any_border(self, size):
        lengths = [0, 3, 5, 0, 1, 8, 4]
        numbers = iter(range(sum(lengths)))
        batches = [
            pa.RecordBatch.from_pydict(
                {"n": pa.array([next(numbers) for _ in range(length)], pa.int64())}
            )
            for length in lengths
        ]
        found = list(rebatch(batches, size))
        assert [n for batch in found for n in batch["n"].to_pylist()] == list(range(21))
        assert all(batch.num_rows == size for batch in found[:-1])
        assert 0 < found[-1].num_rows <= size

    def test_of_nothing_is_nothing(self):
        assert list(rebatch([], 3)) == []


class TestPredict:
    @pytest.mark.parametrize(("batch_size", "batch_rows"), [(1, 4), (4, 10), (10, 10), (99, 7)])
    def test_is_what_the_model_gives(self, uri, batch_size, batch_rows):
        frame = tfos.predict(Frame(), uri, batch_size=batch_size)
        found = frame.run(rows(), batch_rows)
        assert [{k: v for k, v in row.items() if k != "prediction"} for row in found] == rows()
        np.testing.assert_allclose([row["prediction"] for row in found], expected(rows()), 1e-6)

    def test_columns_may_have_any_names(self, uri):
        """Two of one name, too, where the model takes neither."""
        names = ["a.b", "user", "x", "tags", "k", "k", "`"]
        numbers = pa.array(range(ROWS))
        table = pa.Table.from_pylist(rows(), ARROW)
        for _ in range(3):
            table = table.append_column("more", numbers)
        schema = T.StructType()
        for name, field in zip(names, [*SCHEMA.fields, *SCHEMA.fields[1:2] * 3], strict=True):
            schema.add(name, field.dataType)
        frame = tfos.predict(Frame(schema), uri)
        assert frame.schema.names == [*names, "prediction"]
        found = frame.values(table)
        np.testing.assert_allclose([row[-1] for row in found], expected(rows()), 1e-6)
        assert [row[0] for row in found] == [row[-2] for row in found] == list(range(ROWS))

    def test_input_may_have_a_dot(self, tmp_path):
        x = keras.Input((), name="x")
        model = keras.Model({"net.delay": x}, keras.layers.Rescaling(2.0)(x))
        lake = RunDirectory(str(tmp_path), "run")
        uri = export(lake, model, [Column("net.delay", "float32")])
        schema = T.StructType().add("net.delay", T.FloatType())
        found = tfos.predict(Frame(schema), uri).values(pa.table({"x": pa.array([1.5], "float32")}))
        assert found == [(1.5, 3.0)]

    def test_batches_have_the_size_asked_for(self, uri, monkeypatch):
        sizes = []
        serve = tf.saved_model.load(uri).signatures["serving_default"]

        def spy(**inputs):
            sizes.append(len(inputs["user"]))
            return serve(**inputs)

        model = types.SimpleNamespace(signatures={"serving_default": spy})
        monkeypatch.setattr("tfos.inference.worker.load_model", lambda *_: model)
        tfos.predict(Frame(), uri, batch_size=8).run(rows(), 10)
        assert sizes == [8, 8, 8, 1]

    def test_partition_without_rows_loads_nothing(self, uri, monkeypatch):
        monkeypatch.setattr("tfos.inference.worker.load_model", None)
        assert tfos.predict(Frame(), uri).run([]) == []

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"user": None}, "'user' has a null"),
            ({"x": None}, "'x' has a null"),
            ({"x": [1.0, None]}, "'x' has a null"),
            ({"x": [1.0]}, "'x' has 1 values where the model takes 2"),
            ({"tags": [None]}, "'tags' has a null"),
        ],
    )
    def test_bad_row_is_named(self, uri, change, message):
        bad = rows()
        bad[17].update(change)
        with pytest.raises(FeedError, match=rf"{message} in row 17 of partition 0"):
            tfos.predict(Frame(), uri, batch_size=7).run(bad)

    def test_value_that_the_model_refuses(self, uri):
        bad = rows()
        bad[17]["user"] = USERS
        with pytest.raises(FeedError, match=r"begins with row 14 of partition 0.*\[3\] = 7 is not"):
            tfos.predict(Frame(), uri, batch_size=7).run(bad)

    def test_outputs_of_a_dict(self, tmp_path):
        x = keras.Input((2,), name="x")
        doubled = keras.layers.Rescaling(2.0)(x)
        outputs = {"sum": keras.layers.Dense(1, kernel_initializer="ones")(x), "twice": doubled}
        lake = RunDirectory(str(tmp_path), "run")
        uri = export(lake, keras.Model({"x": x}, outputs), COLUMNS[1:2])
        found = tfos.predict(Frame(), uri, output="out").run(rows(3))
        assert [row["out"] for row in found] == [
            {"sum": i / 2 + 1, "twice": [i, 2.0]} for i in range(3)
        ]

    def test_matrix_per_row(self, tmp_path):
        x = keras.Input((2,), name="x")
        model = keras.Model({"x": x}, keras.layers.Reshape((2, 1))(x))
        uri = export(RunDirectory(str(tmp_path), "run"), model, COLUMNS[1:2])
        found = tfos.predict(Frame(), uri).run(rows(3))
        assert [row["prediction"] for row in found] == [[[i / 2], [1.0]] for i in range(3)]

    def test_output_without_the_batchs_rows(self, tmp_path):
        class Sum(keras.Model):
            def call(self, features):
                return tf.reduce_sum(features["x"], axis=0)

        uri = export(RunDirectory(str(tmp_path), "run"), Sum(), COLUMNS[1:2])
        with pytest.raises(FeedError, match="2 rows for a batch of 3"):
            tfos.predict(Frame(), uri).run(rows(3))

    def test_from_another_filesystem(self):
        uri = export(RunDirectory("memory://models", "run"), Tagged())
        assert uri == "memory:///models/run/model"
        found = tfos.predict(Frame(), uri).run(rows())
        np.testing.assert_allclose([row["prediction"] for row in found], expected(rows()), 1e-6)

    def test_from_an_object_store(self, s3):
        uri = export(RunDirectory(f"s3://{s3.bucket}/runs", "run"), Tagged())
        found = tfos.predict(Frame(), uri).run(rows())
        np.testing.assert_allclose([row["prediction"] for row in found], expected(rows()), 1e-6)

    def test_file_url(self, uri):
        assert len(tfos.predict(Frame(), f"file://{uri}/").run(rows())) == ROWS

    @pytest.mark.parametrize("model", [None, {}])
    def test_no_uri(self, model):
        with pytest.raises(UsageError, match=r"ctx\.export\(model\)"):
            tfos.predict(Frame(), model)

    def test_nothing_there(self, tmp_path):
        with pytest.raises(UsageError, match="no exported model lies there"):
            tfos.predict(Frame(), tmp_path / "model")

    def test_model_of_an_older_tfos(self, tmp_path):
        source, lake = tmp_path / "source", RunDirectory(str(tmp_path), "run")
        source.mkdir()
        lake.commit_dir(str(source), "model", {})
        with pytest.raises(UsageError, match="export it again"):
            tfos.predict(Frame(), lake.uri("model"))

    def test_bad_batch_size(self, uri):
        with pytest.raises(UsageError, match="batch_size=0"):
            tfos.predict(Frame(), uri, batch_size=0)


class TestLoading:
    def test_once_for_all_partitions(self, mine):
        _, uri = mine
        load_model.cache_clear()
        for _ in range(3):
            tfos.predict(Frame(), uri).run(rows())
        assert load_model.cache_info().misses == 1

    def test_leaves_no_files(self, mine, monkeypatch, tmp_path):
        scratch = tmp_path / "spark"
        scratch.mkdir()
        monkeypatch.setenv("SPARK_LOCAL_DIRS", f"{scratch},/elsewhere")
        seen = []
        fetch = CommittedStorage.fetch_dir
        monkeypatch.setattr(
            CommittedStorage,
            "fetch_dir",
            lambda lake, *a, **k: (seen.append(a[1]), fetch(lake, *a, **k))[1],
        )
        tfos.predict(Frame(), mine[1]).run(rows())
        assert [Path(path).parent for path in seen] == [scratch]
        assert list(scratch.iterdir()) == []

    def test_new_model_at_the_same_place(self, mine):
        lake, uri = mine
        old = tfos.predict(Frame(), uri)
        before = old.run(rows())
        export(lake, Tagged(scale=10.0))
        after = tfos.predict(Frame(), uri).run(rows())
        assert after[1]["prediction"] == before[1]["prediction"] + 9
        assert old.run(rows()) == before  # what it was defined with, where that is loaded
        load_model.cache_clear()
        with pytest.raises(LakeError, match=r"another model than .*: call predict\(\) again"):
            old.run(rows())

    def test_damaged_file(self, mine):
        _, uri = mine
        frame = tfos.predict(Frame(), uri)
        (data,) = Path(uri, "variables").glob("*.data-*")
        data.write_bytes(b"\0" * data.stat().st_size)
        with pytest.raises(DamagedError, match=r"variables.*is damaged"):
            frame.run(rows())

    def test_keras_file_is_not_fetched(self, mine):
        _, uri = mine
        Path(uri, "model.keras").unlink()
        assert len(tfos.predict(Frame(), uri).run(rows())) == ROWS
