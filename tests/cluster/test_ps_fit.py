"""fit, evaluate and predict with two parameter servers and one worker: what one process gives."""

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
from under_ps import (
    CLASS_WEIGHT,
    FITS,
    OWN_STEPS,
    PIECE_BYTES,
    REFUSED,
    TASKS,
    whole_weights,
)
from zoo import BATCH, COLUMNS, EVAL, EVAL_ROWS, ROWS, TRAIN, as_lists, as_tf_data, functional

from tfos.fault.checkpoint import chunked
from tfos.fault.checkpoint.checkpointer import Checkpointer
from tfos.fault.checkpoint.store import CheckpointStore
from tfos.lake.run_directory import RunDirectory
from tfos.training.atomic import make_atomic

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The directory with what the chief left."""
    root = tmp_path_factory.mktemp("under-ps")
    for name, rows, shards in (("train", TRAIN, [20, 30]), ("eval", EVAL, [EVAL_ROWS])):
        write_feed(RunDirectory(str(root), "run"), name, COLUMNS, as_lists(rows), shards)
    ports = ",".join(str(free_port()) for _ in TASKS)
    tests = ROOT / "tests"
    path = os.pathsep.join(map(str, [ROOT, tests / "cluster", tests / "unit"]))
    env = {**os.environ, "PYTHONPATH": path, "GRPC_FAIL_FAST": "use_caller"}
    processes = {}
    for task in (f"{role}-{index}" for role, index in reversed(TASKS)):
        with open(root / f"{task}.log", "wb") as log:
            processes[task] = subprocess.Popen(
                [sys.executable, str(tests / "cluster" / "under_ps.py"), task, ports, str(root)],
                env=env,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
    try:
        status = processes["chief-0"].wait(500)
        assert status == 0, (root / "chief-0.log").read_text()[-5000:]
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
    yield root


def result(left: Path, name: str) -> dict[str, np.ndarray]:
    with np.load(left / f"{name}.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize("name", FITS)
def test_training_is_that_of_one_process(left: Path, name: str) -> None:
    case, found = FITS[name], result(left, name)
    model = case.make()
    model.set_weights([found[f"b{n}"] for n in range(len(model.weights))])
    if name == "atomic":
        make_atomic(model.optimizer, 2)
    columns = dict(case.columns)
    weight = columns.pop("weight", None)
    if name == "class weight":
        weight = TRAIN[weight] * np.vectorize(CLASS_WEIGHT.get)(TRAIN["y"]).astype("float32")
    rows = as_tf_data(TRAIN, **columns, weight=weight)
    validation = as_tf_data(EVAL, **case.columns)
    history = model.fit(rows, epochs=2, validation_data=validation, verbose=0).history
    for n, variable in enumerate(model.weights):
        np.testing.assert_allclose(found[f"w{n}"], variable, 1e-5, 1e-5, err_msg=variable.path)
    changed = [
        not np.array_equal(found[f"w{n}"], found[f"b{n}"]) for n in range(len(model.weights))
    ]
    assert any(changed)
    for metric, values in history.items():
        np.testing.assert_allclose(found[metric], values, 1e-5, 1e-5, err_msg=metric)
    for metric, value in model.evaluate(validation, verbose=0, return_dict=True).items():
        np.testing.assert_allclose(found[f"evaluated {metric}"], value, 1e-5, 1e-5, err_msg=metric)
    for n, array in enumerate(keras.tree.flatten(model.predict(validation, verbose=0))):
        np.testing.assert_allclose(found[f"predicted {n}"], array, 1e-5, 1e-5)


@pytest.mark.parametrize("name", OWN_STEPS)
def test_steps_of_a_models_own_are_those_of_one_process(left: Path, name: str) -> None:
    case, found = OWN_STEPS[name], result(left, name)

    def rows(values: Any) -> tf.data.Dataset:
        columns = {**case.columns, "label": case.columns["label"] or "y"}
        batches = as_tf_data(values, **columns)
        return batches if case.columns["label"] else batches.map(lambda x, y: x)

    model = case.make()
    history = model.fit(rows(TRAIN), epochs=2, validation_data=rows(EVAL), verbose=0).history
    for n, variable in enumerate(model.weights):
        np.testing.assert_allclose(found[f"w{n}"], variable, 1e-5, 1e-5, err_msg=variable.path)
    for metric, values in history.items():
        np.testing.assert_allclose(found[metric], values, 1e-5, 1e-5, err_msg=metric)


def test_tables_are_on_all_servers(left: Path) -> None:
    found, model = result(left, "tables"), FITS["tables"].make()
    # made where they are, row by row, they are what one process makes
    for n, weight in enumerate(whole_weights(model)):
        np.testing.assert_array_equal(found[f"b{n}"], weight)
    servers = [device.split("/")[3] for device in found["devices"]]
    assert set(servers[:2]) == set(servers[2:4]) == {"task:0", "task:1"}


def test_checkpoint_of_two_servers_is_restored_in_one_process(
    left: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunked, "PIECE_BYTES", PIECE_BYTES)
    found, model = result(left, "tables"), FITS["tables"].make()
    model.optimizer.build(model.trainable_variables)
    lake = RunDirectory(str(left / "worlds" / "tables" / "lake"), "run")
    saver = Checkpointer(CheckpointStore(lake), str(left), 1000)
    assert saver.restore("fit0", model=model, optimizer=model.optimizer)
    saver.close()
    for n, weight in enumerate(whole_weights(model)):
        np.testing.assert_array_equal(found[f"w{n}"], weight)
    assert int(model.optimizer.iterations) > 0


def test_checkpoint_is_restored_on_the_servers(left: Path) -> None:
    saved, restored = result(left, "tables"), result(left, "restored")
    assert len(saved["w0"]) == 3000
    for name in restored:
        np.testing.assert_array_equal(restored[name], saved[name])


def test_callbacks_do_what_they_do_in_one_process(left: Path) -> None:
    found = result(left, "callbacks")
    model = functional(optimizer=keras.optimizers.SGD(2.0), metrics=["mae"])
    history = model.fit(
        as_tf_data(TRAIN),
        epochs=8,
        validation_data=as_tf_data(EVAL),
        callbacks=[
            keras.callbacks.EarlyStopping(min_delta=0.02, patience=1, restore_best_weights=True),
            keras.callbacks.ReduceLROnPlateau(factor=0.5, patience=1),
        ],
        verbose=0,
    ).history
    assert len(history["loss"]) < 8
    for metric, values in history.items():
        np.testing.assert_allclose(found[metric], values, 1e-4, 1e-4, err_msg=metric)
    for n, variable in enumerate(model.weights):
        np.testing.assert_allclose(found[f"w{n}"], variable, 1e-4, 1e-4)
        np.testing.assert_array_equal(found[f"w{n}"], found[f"b{n}"])  # ModelCheckpoint's best
    run = left / "worlds" / "callbacks" / "lake" / "run"
    assert len((run / "output" / "log.csv").read_text().splitlines()) == 1 + len(history["loss"])
    assert {path.parent.name for path in run.glob("events/*/*")} == {"train", "validation"}


def test_step_of_ones_own_is_that_of_one_process(left: Path) -> None:
    weight, losses = np.ones(3), []
    for _ in range(2):
        total = 0.0
        for at in range(0, ROWS, BATCH):
            x, y = TRAIN["x"][at : at + BATCH], TRAIN["y"][at : at + BATCH]
            error = x @ weight - y
            total += float((error**2).sum())
            weight = weight - 0.1 * 2 * (error @ x) / len(x)
        losses.append(total / ROWS)
    found = result(left, "custom")
    np.testing.assert_allclose(found["weight"], weight, 1e-5)
    np.testing.assert_allclose(found["losses"], losses, 1e-5)


def test_result_that_is_lost_with_its_worker_is_made_again(left: Path) -> None:
    found = result(left, "lost")
    assert list(found["rows_trained"]) == list(found["rows_due"]) == [ROWS, ROWS]
    repeated = list(found["rows_repeated"])
    assert 0 < repeated[0] < ROWS and repeated[1] == 0


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("outside", "variable dense.*/kernel of model .* is not the strategy's"),
        ("optimizer outside", "variable sgd.*/iteration of model .* is not the strategy's"),
        ("accumulating", "gradient_accumulation_steps=3, which only --strategy single can do"),
        ("no sum", "metric state newest/value of model .* is no sum"),
        ("scaling", "scales the loss, for mixed_float16"),
        ("python", r"calls Python \(tf.py_function or tf.numpy_function"),
    ],
)
def test_model_that_cannot_be_run_is_refused(left: Path, name: str, words: str) -> None:
    assert name in REFUSED
    assert re.search(words, (left / f"{name}.txt").read_text())
