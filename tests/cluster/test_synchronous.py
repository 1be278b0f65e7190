"""Workers that train in step make the steps of one process with all their rows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, free_port

sys.path.insert(0, str(ROOT / "tests" / "unit"))
from helpers import write_feed
from in_step import (
    BATCH,
    FITS,
    Interrupted,
    dense,
    go_on,
    overshooting,
    stopping,
    two_tables,
)

from tfos.feeding.plan import share
from tfos.feeding.reader import FeedReader
from tfos.feeding.reads import serve_reads
from tfos.feeding.schema import Column
from tfos.lake.run_directory import RunDirectory
from tfos.training.single import SingleRunner

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
WORKERS = 3
# 41 rows are 3 full steps of 3 * 4 rows, and one of 5: two rows for two workers, one for another
SHARDS = {"many": [1, 30, 10], "two": [2], "one": [1]}


def values(rows: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(rows)
    x = random.normal(size=(rows, 3)).astype("float32")
    return {
        "x": x,
        "id": random.integers(0, 7, rows),
        "y": (x.sum(axis=1) > 0).astype("float32"),
        "w": random.uniform(0, 2, rows).astype("float32"),
        "tags": np.array([random.integers(0, 5, n % 4) for n in range(rows)], object),
    }


def tensor(values: np.ndarray) -> Any:
    """The feature of these rows of a column."""
    if values.dtype != object:
        return tf.constant(values)
    return tf.RaggedTensor.from_row_lengths(np.concatenate(values), [len(v) for v in values])


COLUMNS = [
    Column("x", "float32", 3),
    Column("id", "int64"),
    Column("y", "float32"),
    Column("w", "float32"),
    Column("tags", "int64", -1),
]


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with what the workers left."""
    root = tmp_path_factory.mktemp("in-step")
    for name, shards in SHARDS.items():
        rows = {column: array.tolist() for column, array in values(sum(shards)).items()}
        write_feed(RunDirectory(str(root), "run"), name, COLUMNS, rows, shards)
    with pytest.raises(Interrupted):
        go_on(SingleRunner(), served(root), root, 8, steps=2)
    ports = ",".join(str(free_port()) for _ in range(WORKERS))
    tests = ROOT / "tests"
    path = os.pathsep.join(map(str, [ROOT, tests / "cluster", tests / "unit"]))
    env = {**os.environ, "PYTHONPATH": path, "GRPC_FAIL_FAST": "use_caller"}
    script = str(ROOT / "tests" / "cluster" / "in_step.py")
    processes = []
    for index in range(WORKERS):
        with open(root / f"{index}.log", "wb") as log:
            processes.append(
                subprocess.Popen(
                    [sys.executable, script, str(index), ports, str(root)],
                    env=env,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )
    try:
        for index, process in enumerate(processes):
            log = root / f"{index}.log"
            assert process.wait(500) == 0, log.read_text()[-5000:]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return root


def served(root: Path) -> FeedReader:
    """Reads the feeds, in this process."""
    reader = FeedReader(RunDirectory(str(root), "run"), str(root))
    serve_reads(reader)
    return reader


def results(left: Path, name: str) -> list[dict[str, np.ndarray]]:
    found = []
    for index in range(WORKERS):
        with np.load(left / f"{name}.{index}.npz") as arrays:
            found.append(dict(arrays))
    return found


def same_rows_in_order(rows: int) -> list[np.ndarray]:
    """The rows of each step, as one process would have to be given them."""
    shares = [range(*share(rows, replica, WORKERS)) for replica in range(WORKERS)]
    steps = -(-rows // (BATCH * WORKERS))
    return [
        np.concatenate([np.array(s[at * BATCH : (at + 1) * BATCH], int) for s in shares])
        for at in range(steps)
    ]


def batches(feed: str, column: str, names: list[str]) -> tf.data.Dataset:
    """The steps' rows of a feed as Keras takes them: ({column: ...}, *names)."""
    data = values(sum(SHARDS[feed]))
    steps = same_rows_in_order(sum(SHARDS[feed]))

    def elements() -> Iterator[Any]:
        for rows in steps:
            yield {column: tensor(data[column][rows])}, *(data[name][rows] for name in names)

    specs = {
        n: tf.RaggedTensorSpec([None, None], tf.int64)
        if array.dtype == object
        else tf.TensorSpec([None, *array.shape[1:]], array.dtype)
        for n, array in data.items()
    }
    signature = ({column: specs[column]}, *(specs[name] for name in names))
    dataset = tf.data.Dataset.from_generator(elements, output_signature=signature)
    # without it Keras finds out at the end of the first epoch, and trains on in another way
    return dataset.apply(tf.data.experimental.assert_cardinality(len(steps)))


@pytest.mark.parametrize("name", FITS)
def test_weights_and_metrics_are_those_of_one_process(left: Path, name: str) -> None:
    feed, column, make, epochs = FITS[name]
    found = results(left, name)
    model = make()
    model.set_weights([found[0][f"b{n}"] for n in range(len(model.weights))])
    names = ["y", "w"] if name == "weighted" else ["y"]
    dataset = batches(feed, column, names)
    history = model.fit(dataset, epochs=epochs, verbose=0).history
    for worker in found:
        for n, variable in enumerate(model.weights):
            np.testing.assert_allclose(worker[f"w{n}"], variable, rtol=1e-5, atol=1e-5)
        for metric, expected in history.items():
            np.testing.assert_allclose(worker[metric], expected, rtol=1e-5, atol=2e-6)
        assert worker["rows"].tolist() == [sum(SHARDS[feed])] * epochs
    assert not np.allclose(found[0]["w0"], found[0]["b0"])


def test_evaluation_and_prediction_are_those_of_one_process(left: Path) -> None:
    data = values(sum(SHARDS["many"]))
    model = dense()
    trained = results(left, "dense")[0]
    model.set_weights([trained[f"w{n}"] for n in range(len(model.weights))])
    expected = model.evaluate({"x": data["x"]}, data["y"], 7, verbose=0, return_dict=True)
    for worker in results(left, "evaluated"):
        for metric, value in expected.items():
            np.testing.assert_allclose(worker[metric], value, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(
            worker["predicted"], model.predict({"x": data["x"]}, verbose=0), rtol=1e-6, atol=1e-6
        )


def test_moving_statistics_are_the_same_everywhere(left: Path) -> None:
    found = results(left, "normalized")
    for worker in found:
        for name, value in worker.items():
            assert np.isfinite(value).all()
            np.testing.assert_array_equal(value, found[0][name])
    # means of the workers' means: of the rows' own, where all have as many
    assert np.abs(found[0]["w2"] - values(41)["x"].mean(axis=0)).max() < 0.5


def test_training_stops_where_that_of_one_process_does(left: Path) -> None:
    found = results(left, "stopping")
    for worker in found:
        for name, value in worker.items():
            np.testing.assert_array_equal(value, found[0][name], err_msg=name)
    model = overshooting()
    model.set_weights([found[0][f"b{n}"] for n in range(len(model.weights))])
    held = values(2)
    history = model.fit(
        batches("many", "x", ["y"]), epochs=30, verbose=0, callbacks=stopping(),
        validation_data=({"x": held["x"]}, held["y"]),
    )  # fmt: skip
    assert found[0]["epochs"].tolist() == history.epoch
    assert len(history.epoch) < 30
    assert found[0]["rate"] < 3.0
    assert found[0]["rate"] == pytest.approx(float(model.optimizer.learning_rate.numpy()))
    np.testing.assert_allclose(found[0]["val_loss"], history.history["val_loss"], 1e-4, 1e-4)
    for n, variable in enumerate(model.weights):
        np.testing.assert_allclose(found[0][f"w{n}"], variable, rtol=1e-4, atol=1e-4)


def test_step_of_ones_own_is_that_of_one_process(left: Path) -> None:
    data = values(41)
    weight, losses = np.ones(3), []
    for _ in range(2):
        total = 0.0
        for rows in same_rows_in_order(41):
            x, y = data["x"][rows], data["y"][rows]
            error = x @ weight - y
            total += float((error**2).sum())
            weight = weight - 0.1 * 2 * (error @ x) / len(rows)
        losses.append(total / 41)
    for worker in results(left, "custom"):
        np.testing.assert_allclose(worker["weight"], weight, rtol=1e-5)
        np.testing.assert_allclose(worker["losses"], losses, rtol=1e-5)


def test_step_of_ones_own_with_two_tables_is_that_of_one_process(left: Path) -> None:
    data = values(41)
    weights, step = two_tables(tf.reduce_mean)
    losses = []
    for _ in range(2):
        total = 0.0
        for rows in same_rows_in_order(41):
            features = {name: tensor(data[name][rows]) for name in ("id", "tags")}
            total += float(step(features, data["y"][rows])) * len(rows)
        losses.append(total / 41)
    for worker in results(left, "two_tables"):
        np.testing.assert_allclose(worker["losses"], losses, rtol=1e-5)
        np.testing.assert_allclose(worker["id"], weights[0], rtol=1e-5)
        np.testing.assert_allclose(worker["tags"], weights[1], rtol=1e-5)


def test_epoch_is_divided_anew_by_whoever_goes_on(left: Path) -> None:
    """One process took 16 of 41 rows, then three a step of the rest, and one takes what is left."""
    state = RunDirectory(str(left), "onward").checkpoint_state(f"{3:012d}")
    assert state["sections"]["fit0"]["takes"] == [[1, 16], [3, 12]]
    model, history, ledger = go_on(SingleRunner(), served(left), left, 5)
    # of the shares [16, 24) [24, 32) [32, 41) each has lost four rows
    steps = [*np.split(np.arange(16), 2), np.r_[16:20, 24:28, 32:36]]
    rest = np.r_[20:24, 28:32, 36:41]
    steps += [rest[at : at + 5] for at in range(0, len(rest), 5)]
    data, loss = values(41), 0.0
    keras.utils.set_random_seed(7)
    one = dense()
    for rows in steps:
        found = one.train_on_batch({"x": data["x"][rows]}, data["y"][rows])
        loss += float(found[0]) * len(rows) / 41
    for mine, theirs in zip(model.weights, one.weights, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(history.history["loss"], [loss], rtol=1e-5, atol=1e-5)
    record = ledger.as_json()["many"]
    assert record == {
        "rows_due": [41], "rows_trained": [41], "rows_repeated": [0], "rows_read": [],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("share", "other values of variable normalization.*/mean, variable .*/variance of model"),
        ("vocabulary", "other values of the vocabulary of integer_lookup"),
        ("constant", "other values of constant .*lambda.*/Const of model"),
        ("large_constant", "other values of constant"),
        (
            "constant_step",
            r"other values of constant .*layer\.adapt\(ctx\.dataset\(\.\.\.\)\.whole",
        ),
        ("no_sum", "metric state newest/value of model .* is no sum"),
    ],
)
def test_processes_that_have_made_different_models_refuse(
    left: Path, name: str, words: str
) -> None:
    for worker in results(left, name):
        assert re.search(words, str(worker["error"]))


@pytest.mark.parametrize("name", ["whole", "seed", "rate"])
def test_processes_that_have_made_the_same_model_train(left: Path, name: str) -> None:
    found = results(left, name)
    assert [str(worker["error"]) for worker in found] == [""] * WORKERS
    if name == "whole":
        means = [float(np.ravel(w)[0]) for w in found[0].values() if w.dtype.kind == "f"]
        assert any(m == pytest.approx(values(41)["x"].mean(), abs=1e-5) for m in means)
    for worker in found:
        for n in range(sum(key.startswith("w") for key in worker)):
            np.testing.assert_array_equal(worker[f"w{n}"], found[0][f"w{n}"])


def test_only_the_chief_saves(left: Path) -> None:
    lake = RunDirectory(str(left), "dense")
    assert lake.newest_checkpoint() == f"{3 * 4:012d}"
