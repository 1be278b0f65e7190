"""A feed with a column of every type that can be fed; train() reports what came of each."""

import tfos

ROWS = 6
WIDE = 1_000_000

COLUMNS = """
    id,
    cast(id as byte) as a_byte,
    cast(-id as short) as a_short,
    cast(id * 1000 as int) as an_int,
    cast(id / 2 as float) as a_float,
    cast(id as double) / 3 as a_double,
    id % 2 = 0 as a_boolean,
    concat('é', id) as a_string,
    unhex(concat('ff0', id)) as a_binary,
    cast(id + 0.25 as decimal(10, 2)) as a_decimal,
    cast(id * 1000000000000 as decimal(20, 0)) as an_integer,
    date_add(date'1970-01-01', cast(id as int) - 2) as a_date,
    timestamp_micros(id * 1000001 - 3) as a_timestamp,
    timestamp_ntz'1969-12-31 23:59:59.5' + make_dt_interval(0, 0, 0, id) as an_ntz,
    if(id = 1, null, id) as filled,
    array(id, -id) as fixed,
    slice(array('a', 'b', 'c', 'd', 'e'), 1, cast(id as int)) as varying,
    if(id = 1, null, array(date_add(date'1970-01-01', cast(id as int)))) as dates,
    array(array(id, 1, 2), array(3, 4, id)) as grid,
    transform(slice(array(1, 2, 3, 4, 5), 1, cast(id as int)),
              n -> slice(array(id, -1L), 1, n % 3)) as deep,
    named_struct('x', id, 'inner', named_struct('names', array(concat('n', id), 'm'))) as struct,
    if(id = 1, null, named_struct('x', id)) as maybe,
    if(id = 1, null, map_from_arrays(slice(array('a', 'b', 'c'), 1, cast(id % 4 as int)),
                    slice(array(id, id * 10, id * 100), 1, cast(id % 4 as int)))) as map,
    map('price', cast(id + 0.5 as decimal(5, 2))) as prices,
    cast(id as double) as one, 0D as two, 0D as three, 0D as four, if(id < 3, 0D, id * 2D) as five,
    if(id < 3, 0D, id * 3D) as six
"""


class Columns(tfos.TFOnSparkApp):
    def pre_train(self, spark):
        from pyspark.ml.feature import VectorAssembler
        from pyspark.ml.linalg import Vectors, VectorUDT
        from pyspark.sql.types import LongType, StructField, StructType

        # the session's time zone must not show in a tensor
        spark.conf.set("spark.sql.session.timeZone", "America/New_York")
        numbers = ["one", "two", "three", "four", "five", "six"]
        rows = spark.range(0, ROWS, 1, 2).selectExpr(*split_columns(COLUMNS))
        rows = VectorAssembler(inputCols=numbers, outputCol="vector").transform(rows).drop(*numbers)
        wide = [(i, Vectors.sparse(WIDE, {i: 1.0, WIDE - 1: 2.0})) for i in range(ROWS)]
        schema = StructType([StructField("id", LongType()), StructField("wide", VectorUDT())])
        rows = rows.join(spark.createDataFrame(wide, schema), "id").selectExpr(
            "*", "vector as vector_sparse", "if(id = 1, null, vector) as vector_filled"
        )
        feed = tfos.Feed(
            rows,
            fill={
                "filled": -1,
                "dates": [7],
                "maybe.x": -2,
                "map": {"none": 0},
                "vector_filled": [1, 2, 3, 4, 5, 6],
            },
            decimal={"a_decimal": "float64", "an_integer": "int64", "prices.values": "float32"},
            sparse=["wide", "vector_sparse"],
        )
        return {"train": feed, "plain": rows.select("id", "fixed", "varying")}

    def train(self, ctx):
        dataset = ctx.dataset("train", 4, shuffle=False)
        found = {}
        for batch in dataset:
            for name, tensor in batch.items():
                column = found.setdefault(name, {"rows": []})
                column["kind"] = type(tensor).__name__.removeprefix("Eager")
                column["dtype"] = tensor.dtype.name
                column["rank"] = getattr(tensor, "ragged_rank", None) or tensor.shape.rank
                column["rows"] += rows_of(tensor)
        with ctx.strategy.scope():
            model = make_model()
            model.compile(optimizer="sgd", loss="mse")
        features = ["wide", "vector", "deep", "map.values", "grid"]
        history = ctx.fit(model, ctx.dataset("train", 2, features, "a_float"), epochs=2)
        ctx.export(model)
        return {"columns": found, "loss": history.history["loss"][-1]}


def split_columns(text):
    """The expressions between the commas that are in no parentheses."""
    parts, depth = [""], 0
    for sign in text:
        depth += (sign == "(") - (sign == ")")
        if sign == "," and not depth:
            parts.append("")
        else:
            parts[-1] += sign
    return parts


def rows_of(tensor):
    """A batch's rows as JSON-able values; a sparse row as {index: value}, bytes as latin-1."""
    import tensorflow as tf

    if isinstance(tensor, tf.SparseTensor):
        rows = [{} for _ in range(int(tensor.dense_shape[0]))]
        for (row, index), value in zip(tensor.indices.numpy(), tensor.values.numpy(), strict=True):
            rows[row][str(index)] = float(value)
        return rows
    return plain(
        tensor.to_list() if isinstance(tensor, tf.RaggedTensor) else tensor.numpy().tolist()
    )


def plain(value):
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value.decode("latin-1") if isinstance(value, bytes) else value


def make_model():
    import keras
    import tensorflow as tf

    class Model(keras.Model):
        """Linear in a sparse vector, a dense one, and sums of what is ragged."""

        def __init__(self):
            super().__init__()
            self.kernel = self.add_weight(shape=(WIDE, 1), initializer="zeros", name="kernel")
            self.dense = keras.layers.Dense(1, kernel_initializer="zeros")

        def call(self, features):
            deep = tf.reduce_sum(features["deep"], axis=[1, 2])
            parts = [deep, tf.reduce_sum(features["map.values"], 1), features["grid"][:, 0, 0]]
            sums = tf.stack([tf.cast(part, tf.float32) for part in parts], 1)
            dense = self.dense(tf.concat([features["vector"], sums], 1) / 1000)
            return dense + tf.sparse.sparse_dense_matmul(features["wide"], self.kernel)

    return Model()
