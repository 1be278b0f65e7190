"""One process of a small cluster with parameter servers, without Spark: under_ps.py TASK PORTS DIR

The servers serve until they are killed. The chief runs every scenario on the feeds in DIR and
leaves what came of each in DIR/<scenario>.npz, or what was raised in DIR/<scenario>.txt.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.distribute.coordinator.values import RemoteValueImpl
from worlds import World
from zoo import CASES, Case, Newest, autoencoder, functional, rivals, task, two_towers

from tfos import optimizers
from tfos.context import TrainContext
from tfos.errors import UsageError
from tfos.fault.checkpoint import chunked
from tfos.feeding.reader import FeedReader
from tfos.feeding.reads import serve_reads
from tfos.lake.run_directory import RunDirectory
from tfos.layers import Embedding
from tfos.strategies.ps.coordinator import ParameterServerRunner


def adapted() -> keras.Model:
    """Layers that have seen the rows before the training."""
    keras.utils.set_random_seed(7)
    words = keras.layers.StringLookup()
    words.adapt(np.array(["green", "red", "red"]))
    normal = keras.layers.Normalization()
    normal.adapt(np.array([[1.0, 2.0, 3.0], [0.0, 2.0, 5.0]]))
    inputs = {"x": keras.Input([3], name="x"), "word": keras.Input([], dtype="string", name="word")}
    parts = [normal(inputs["x"]), keras.layers.Embedding(3, 2)(words(inputs["word"]))]
    output = keras.layers.Dense(1, activation="sigmoid")(keras.layers.Concatenate()(parts))
    model = keras.Model(inputs, output)
    model.compile(keras.optimizers.SGD(0.1), "binary_crossentropy", metrics=["accuracy"])
    return model


def lazy() -> keras.Model:
    return two_towers(optimizers.Adam(0.05, clipnorm=0.5, weight_decay=0.1))


def sparse() -> keras.Model:
    return two_towers(optimizers.GroupFTRL(0.3, l1=0.01, l21=0.01))


def tables() -> keras.Model:
    """Tables on both servers, of single ids and of bags."""
    keras.utils.set_random_seed(7)
    ids = keras.Input([], dtype="int64", name="id")
    x = keras.Input([3], name="x")
    kinds = keras.ops.cast(keras.ops.abs(10 * x), "int64")
    parts = [
        Embedding(3000, 4, ids="hash")(ids),
        Embedding(5000, 2, combiner="sqrtn")(kinds, weights=keras.ops.cast(kinds + 1, "float32")),
    ]
    output = keras.layers.Dense(1, activation="sigmoid")(keras.layers.Concatenate()(parts))
    model = keras.Model({"id": ids, "x": x}, output)
    model.compile(optimizers.Adam(0.05), "binary_crossentropy", metrics=["accuracy"])
    return model


def whole_weights(model: keras.Model) -> list[np.ndarray]:
    """The model's weights, each table whole whatever shards it has."""
    tables: dict[int, list[np.ndarray]] = {}
    for weight in model.weights:
        tables.setdefault(id(getattr(weight, "slice_of", weight)), []).append(weight.numpy())
    return [np.concatenate(parts) if len(parts) > 1 else parts[0] for parts in tables.values()]


# so small that the tables are saved in several
PIECE_BYTES = 4096

TASKS = (("chief", 0), ("ps", 0), ("ps", 1), ("worker", 0))

# scenario -> what is trained
FITS = {
    **{
        name: CASES[name]
        for name in ("two towers", "ragged", "strings", "normalized", "constrained")
    },
    "adapted": Case(adapted, {"features": ["x", "word"], "label": "y"}),
    "lazy": Case(lazy, CASES["two towers"].columns),
    "sparse": Case(sparse, CASES["two towers"].columns),
    "tables": Case(tables, {"features": ["id", "x"], "label": "y"}),
    "class weight": CASES["weighted"],
    # with the update that several workers need
    "atomic": Case(two_towers, CASES["two towers"].columns),
}
# models with steps of their own, which predict nothing
OWN_STEPS = {
    "autoencoder": Case(autoencoder, {"features": "x", "label": None}),
    "task": Case(task, {"features": ["id", "x"], "label": "y"}),
    "rivals": Case(rivals, {"features": "x", "label": "y"}),
}
CLASS_WEIGHT = {0: 0.5, 1: 2.0}


def outside_of_the_scope(context: TrainContext) -> keras.Model:
    return functional()


def optimizer_outside_of_the_scope(context: TrainContext) -> keras.Model:
    optimizer = keras.optimizers.SGD(0.1)
    with context.strategy.scope():
        return functional(optimizer=optimizer)


def python_in_the_model(context: TrainContext) -> keras.Model:
    def call(x: Any) -> Any:
        return tf.ensure_shape(tf.numpy_function(lambda x: x + 1, [x], tf.float32), [None, 4])

    with context.strategy.scope():
        return functional(keras.layers.Lambda(call, output_shape=(4,)))


def accumulating(context: TrainContext) -> keras.Model:
    with context.strategy.scope():
        return CASES["accumulated"].make()


def scaling(context: TrainContext) -> keras.Model:
    with context.strategy.scope():
        return CASES["scaled"].make()


def no_sum(context: TrainContext) -> keras.Model:
    with context.strategy.scope():
        return functional(metrics=[Newest()])


REFUSED: dict[str, Callable[[TrainContext], keras.Model]] = {
    "outside": outside_of_the_scope,
    "optimizer outside": optimizer_outside_of_the_scope,
    "python": python_in_the_model,
    "accumulating": accumulating,
    "scaling": scaling,
    "no sum": no_sum,
}


@contextlib.contextmanager
def lost_results() -> Iterator[None]:
    """The first result is lost for each thread that fetches it, as if its worker had died."""
    lost = set()
    copy = RemoteValueImpl._copy_to_local

    def lose(value: Any) -> Any:
        who = threading.current_thread().name
        if value._values is not None and who not in lost:
            lost.add(who)
            raise tf.errors.UnavailableError(None, None, "/job:worker/replica:0/task:0 is gone")
        return copy(value)

    RemoteValueImpl._copy_to_local = lose
    try:
        yield
    finally:
        RemoteValueImpl._copy_to_local = copy
    assert threading.main_thread().name in lost


def serve(role: str, index: int, cluster: dict[str, list[str]], root: Path) -> None:
    if role == "worker":
        serve_reads(FeedReader(RunDirectory(str(root), "run"), str(root)))
    tf.distribute.Server(tf.train.ClusterSpec(cluster), role, index, protocol="grpc").join()


def train(cluster: dict[str, list[str]], root: Path) -> None:
    chunked.PIECE_BYTES = PIECE_BYTES
    runner = ParameterServerRunner(cluster)
    reader = FeedReader(RunDirectory(str(root), "run"), str(root))
    serve_reads(reader)

    def begin(name: str) -> tuple[World, TrainContext]:
        (root / "worlds" / name).mkdir(parents=True)
        world = World(reader, root / "worlds" / name)
        return world, world.context(runner=runner)

    def leave(name: str, model: keras.Model | None = None, **more: Any) -> None:
        weights = {f"w{n}": w for n, w in enumerate(whole_weights(model))} if model else {}
        np.savez(root / f"{name}.npz", **weights, **more)

    for name, case in FITS.items():
        world, context = begin(name)
        runner.parallelism = 2 if name == "atomic" else 1
        with context.strategy.scope():
            model = case.make()
        begun = {f"b{n}": w for n, w in enumerate(whole_weights(model))}
        history = context.fit(
            model, world.dataset(**case.columns), 2, "eval",
            class_weight=CLASS_WEIGHT if name == "class weight" else None,
        )  # fmt: skip
        world.saver.wait()
        data = world.dataset("eval", **case.columns, shuffle=True)
        predicted = keras.tree.flatten(context.predict(model, data))
        logs = context.evaluate(model, world.dataset("eval", **case.columns))
        leave(
            name, model, **begun, **history.history,
            **{f"evaluated {metric}": value for metric, value in logs.items()},
            **{f"predicted {n}": array for n, array in enumerate(predicted)},
            devices=[v.value.device for v in model.weights],
        )  # fmt: skip
        if name == "tables":  # and another life of the chief, which finds all epochs done
            context = world.context(runner=runner)
            with context.strategy.scope():
                model = case.make()
            context.fit(model, world.dataset(**case.columns), 2)
            leave("restored", model)
    runner.parallelism = 1

    for name, case in OWN_STEPS.items():
        world, context = begin(name)
        with context.strategy.scope():
            model = case.make()
        history = context.fit(model, world.dataset(**case.columns), 2, "eval")
        world.saver.wait()
        leave(name, model, **history.history)

    world, context = begin("callbacks")
    with context.strategy.scope():
        model = functional(optimizer=keras.optimizers.SGD(2.0), metrics=["mae"])
    best = str(Path(context.output_dir, "best.keras"))
    history = context.fit(
        model, world.dataset(), 8, "eval",
        callbacks=[
            keras.callbacks.EarlyStopping(min_delta=0.02, patience=1, restore_best_weights=True),
            keras.callbacks.ReduceLROnPlateau(factor=0.5, patience=1),
            keras.callbacks.ModelCheckpoint(best, save_best_only=True),
            keras.callbacks.CSVLogger(str(Path(context.output_dir, "log.csv"))),
            keras.callbacks.TensorBoard(context.log_dir, histogram_freq=1, update_freq=3),
        ],
    )  # fmt: skip
    world.saver.wait()
    saved = keras.saving.load_model(best).get_weights()
    leave("callbacks", model, **history.history, **{f"b{n}": w for n, w in enumerate(saved)})

    world, context = begin("custom")
    with context.strategy.scope():
        weight = tf.Variable([1.0, 1.0, 1.0])
        optimizer = keras.optimizers.SGD(0.1)
        optimizer.build([weight])

    def step(features: Any, label: Any) -> Any:
        with tf.GradientTape() as tape:
            error = tf.linalg.matvec(features["x"], weight) - label
            loss = context.mean(error**2)
        optimizer.apply(tape.gradient(loss, [weight]), [weight])
        return loss

    losses = [context.run_epoch(step, world.dataset(), epoch) for epoch in range(2)]
    leave("custom", weight=weight.numpy(), losses=losses)

    world, context = begin("lost")
    with context.strategy.scope():
        model = functional()
    with lost_results():
        context.fit(model, world.dataset(), 2)
    leave("lost", **{key: list(value) for key, value in world.ledger.as_json()["train"].items()})

    for name, make in REFUSED.items():
        world, context = begin(name)
        try:
            context.fit(make(context), world.dataset())
        except UsageError as error:
            (root / f"{name}.txt").write_text(str(error))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    TASK, PORTS, ROOT = sys.argv[1], sys.argv[2].split(","), Path(sys.argv[3])
    CLUSTER: dict[str, list[str]] = {}
    for (role, _), port in zip(TASKS, PORTS, strict=True):
        CLUSTER.setdefault(role, []).append(f"127.0.0.1:{port}")
    if TASK == "chief-0":
        train(CLUSTER, ROOT)
    else:
        name, _, number = TASK.partition("-")
        serve(name, int(number), CLUSTER, ROOT)
