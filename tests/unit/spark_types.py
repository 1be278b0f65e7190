"""Spark's types as a schema's JSON has them, and vectors as Arrow gets them."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

VECTOR = {"type": "udt", "class": "org.apache.spark.ml.linalg.VectorUDT"}
VECTOR_TYPE = pa.struct(
    [
        pa.field("type", pa.int8(), nullable=False),
        pa.field("size", pa.int32()),
        pa.field("indices", pa.list_(pa.field("element", pa.int32(), nullable=False))),
        pa.field("values", pa.list_(pa.field("element", pa.float64(), nullable=False))),
    ]
)


def array(element: Any) -> dict[str, Any]:
    return {"type": "array", "elementType": element, "containsNull": True}


def map_of(key: Any, value: Any) -> dict[str, Any]:
    return {"type": "map", "keyType": key, "valueType": value, "valueContainsNull": True}


def struct(**fields: Any) -> dict[str, Any]:
    listed = [{"name": n, "type": t, "nullable": True} for n, t in fields.items()]
    return {"type": "struct", "fields": listed}
