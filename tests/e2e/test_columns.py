"""Every type of column from a Spark DataFrame to a tensor, in one run."""

from __future__ import annotations

import json

import pytest
from conftest import APPS, submit

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("no_leaks"), pytest.mark.timeout(300)]
ROWS, WIDE = 6, 1_000_000
IDS = range(ROWS)


def vector(i):
    return [float(i), 0.0, 0.0, 0.0, *([2.0 * i, 3.0 * i] if i >= 3 else [0.0, 0.0])]


def keys(i):
    return ["none"] if i == 1 else ["a", "b", "c"][: i % 4]


# name: (tensor, dtype, rank, or of a ragged one its ragged rank, the value of row i)
EXPECTED = {
    "id": ("Tensor", "int64", 1, lambda i: i),
    "a_byte": ("Tensor", "int8", 1, lambda i: i),
    "a_short": ("Tensor", "int16", 1, lambda i: -i),
    "an_int": ("Tensor", "int32", 1, lambda i: i * 1000),
    "a_float": ("Tensor", "float32", 1, lambda i: i / 2),
    "a_double": ("Tensor", "float64", 1, lambda i: i / 3),
    "a_boolean": ("Tensor", "bool", 1, lambda i: i % 2 == 0),
    "a_string": ("Tensor", "string", 1, lambda i: f"é{i}".encode().decode("latin-1")),
    "a_binary": ("Tensor", "string", 1, lambda i: f"\xff{chr(i)}"),
    "a_decimal": ("Tensor", "float64", 1, lambda i: i + 0.25),
    "an_integer": ("Tensor", "int64", 1, lambda i: i * 10**12),
    "a_date": ("Tensor", "int64", 1, lambda i: i - 2),
    "a_timestamp": ("Tensor", "int64", 1, lambda i: i * 1_000_001 - 3),
    "an_ntz": ("Tensor", "int64", 1, lambda i: -500_000 + i * 1_000_000),
    "filled": ("Tensor", "int64", 1, lambda i: -1 if i == 1 else i),
    "fixed": ("Tensor", "int64", 2, lambda i: [i, -i]),
    "varying": ("RaggedTensor", "string", 1, lambda i: list("abcde"[:i])),
    "dates": ("Tensor", "int64", 2, lambda i: [7] if i == 1 else [i]),
    "grid": ("Tensor", "int64", 3, lambda i: [[i, 1, 2], [3, 4, i]]),
    "deep": ("RaggedTensor", "int64", 2, lambda i: [[i, -1][: n % 3] for n in range(1, i + 1)]),
    "struct.x": ("Tensor", "int64", 1, lambda i: i),
    "struct.inner.names": ("Tensor", "string", 2, lambda i: [f"n{i}", "m"]),
    "maybe.x": ("Tensor", "int64", 1, lambda i: -2 if i == 1 else i),
    "map.keys": ("RaggedTensor", "string", 1, keys),
    "map.values": (
        "RaggedTensor", "int64", 1,
        lambda i: [0] if i == 1 else [i * 10**n for n in range(len(keys(i)))],
    ),
    "prices.keys": ("RaggedTensor", "string", 1, lambda i: ["price"]),
    "prices.values": ("RaggedTensor", "float32", 1, lambda i: [i + 0.5]),
    "vector": ("Tensor", "float64", 2, vector),
    "vector_filled": (
        "Tensor", "float64", 2, lambda i: [1, 2, 3, 4, 5, 6] if i == 1 else vector(i)
    ),
    "vector_sparse": (
        "SparseTensor", "float64", 2, lambda i: {str(n): x for n, x in enumerate(vector(i)) if x}
    ),
    "wide": ("SparseTensor", "float64", 2, lambda i: {str(i): 1.0, str(WIDE - 1): 2.0}),
}  # fmt: skip


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    lake = tmp_path_factory.mktemp("lake")
    ended = submit("--json", "--num-workers", 1, "--run-id", "columns", "--lake", lake,
                   APPS / "columns.py")  # fmt: skip
    assert ended.status == 0, ended.stderr
    return ended.result


def test_every_column_is_the_tensor_that_the_documentation_says(result):
    found = result["metrics"]["columns"]
    assert found.keys() == EXPECTED.keys()
    ids = found["id"]["rows"]
    assert sorted(ids) == list(IDS)
    for name, (kind, dtype, rank, value) in EXPECTED.items():
        column = found[name]
        assert (column["kind"], column["dtype"], column["rank"]) == (kind, dtype, rank), name
        rows = dict(zip(ids, column["rows"], strict=True))
        assert rows == {i: value(i) for i in IDS}, name


def test_a_model_is_trained_on_them_and_exported(result):
    assert result["metrics"]["loss"] >= 0
    feed = result["feeds"]["train"]
    assert (feed["rows_trained"], feed["rows_missed"]) == ([ROWS, ROWS], [0, 0])
    assert feed["rows_read"] == [ROWS]  # by the loop of train()
    with open(f"{result['model']}/signature.json") as file:
        inputs = {column["name"]: column for column in json.load(file)["inputs"]}
    assert inputs["wide"]["length"] == WIDE and inputs["wide"]["sparse"]
    assert (inputs["grid"]["length"], inputs["grid"]["inner"]) == (2, 3)
