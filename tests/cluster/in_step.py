"""One of several processes that train in step, without Spark: in_step.py INDEX PORT,PORT,... DIR

Runs every scenario on the feeds in DIR and leaves what came of each in DIR/<scenario>.<index>.npz.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from zoo import Newest

from tfos import optimizers
from tfos.errors import UsageError
from tfos.fault.checkpoint.checkpointer import Checkpointer
from tfos.fault.checkpoint.store import CheckpointStore
from tfos.feeding.dataset import FeedDataset
from tfos.feeding.ledger import Ledger
from tfos.feeding.reader import FeedReader
from tfos.feeding.reads import serve_reads
from tfos.lake.run_directory import RunDirectory
from tfos.layers import Embedding
from tfos.strategies.multi_worker.backend import MultiWorkerRunner
from tfos.strategies.train import check_agreement
from tfos.training.custom import mean
from tfos.training.fit import Fit, FitOptions
from tfos.training.loop import Loop
from tfos.training.program import Program
from tfos.training.step import prepare

BATCH = 4


def dense(optimizer: Any = "adam", **compiled: Any) -> keras.Model:
    inputs = {"x": keras.Input([3], name="x")}
    hidden = keras.layers.Dense(4, activation="tanh", kernel_regularizer="l2")(inputs["x"])
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(hidden))
    compiled.setdefault("metrics", [keras.metrics.AUC(name="auc"), "mae"])
    model.compile(optimizer=optimizer, loss="binary_crossentropy", **compiled)
    return model


def embedding(optimizer: Any) -> keras.Model:
    inputs = {"id": keras.Input([], dtype="int64", name="id")}
    rows = keras.layers.Embedding(7, 3)(inputs["id"])
    model = keras.Model(inputs, keras.layers.Dense(1)(rows))
    model.compile(optimizer=optimizer, loss="mse", metrics=["mae"])
    return model


def flat() -> keras.Model:
    """Outputs of [rows], as ratings are, beside a penalty."""
    inputs = {"id": keras.Input([], dtype="int64", name="id")}
    rows = keras.layers.Embedding(7, 1, embeddings_regularizer="l2")(inputs["id"])
    model = keras.Model(inputs, keras.layers.Reshape(())(rows))
    # "mae" is a mean over batches here, in Keras, and so depends on how many there are
    metrics = [keras.metrics.RootMeanSquaredError(name="rmse")]
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse", metrics=metrics)
    return model


def clipped() -> keras.Model:
    return dense(keras.optimizers.Adam(0.05, global_clipnorm=0.05))


def momentum() -> keras.Model:
    return embedding(keras.optimizers.SGD(0.1, momentum=0.9))


def adagrad() -> keras.Model:
    return embedding(keras.optimizers.Adagrad(0.3, clipnorm=0.2))


def lazy() -> keras.Model:
    return embedding(optimizers.Adam(0.1, clipnorm=0.5, weight_decay=0.1))


def sparse() -> keras.Model:
    return embedding(optimizers.GroupFTRL(0.3, l1=0.01, l21=0.01))


def bagged() -> keras.Model:
    """With tfos's own table, of which a step looks up another number of rows each time."""
    inputs = {"tags": keras.Input([None], dtype="int64", name="tags", ragged=True)}
    rows = Embedding(5, 3, combiner="mean")(inputs["tags"])
    model = keras.Model(inputs, keras.layers.Dense(1)(rows))
    model.compile(optimizer=optimizers.Adagrad(0.3), loss="mse")
    return model


def averaged() -> keras.Model:
    return embedding(keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.8))


def constrained() -> keras.Model:
    """Its weights are assigned, after each step and in each."""
    inputs = {"x": keras.Input([3], name="x")}
    layer = keras.layers.Dense(4, kernel_constraint=keras.constraints.UnitNorm())
    hidden = keras.layers.SpectralNormalization(layer)(inputs["x"])
    model = keras.Model(inputs, keras.layers.Dense(1)(hidden))
    model.compile(optimizer=keras.optimizers.Adam(0.05), loss="mse")
    return model


def normalized() -> keras.Model:
    inputs = {"x": keras.Input([3], name="x")}
    hidden = keras.layers.BatchNormalization(momentum=0.5)(inputs["x"])
    hidden = keras.layers.Dropout(0.2, seed=3)(hidden)
    model = keras.Model(inputs, keras.layers.Dense(1)(hidden))
    model.compile(optimizer="sgd", loss="mse")
    return model


def adapted(rows: Any) -> keras.Model:
    """Has layers that have learned from rows: [rows, 3] batches."""
    inputs = {"x": keras.Input([3], name="x")}
    scale = keras.layers.Normalization(axis=None)
    bins = keras.layers.Discretization(num_bins=3, output_mode="one_hot")
    scale.adapt(rows)
    bins.adapt(rows)
    parts = [scale(inputs["x"]), keras.layers.Flatten()(bins(inputs["x"]))]
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Concatenate()(parts)))
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
    return model


def with_vocabulary(words: list[int]) -> keras.Model:
    inputs = {"id": keras.Input([], dtype="int64", name="id")}
    rows = keras.layers.Embedding(5, 2)(keras.layers.IntegerLookup(vocabulary=words)(inputs["id"]))
    model = keras.Model(inputs, keras.layers.Dense(1)(rows))
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
    return model


def through(function: Callable[[Any], Any], rate: float = 0.1) -> keras.Model:
    """Does what `function` does with its features."""
    inputs = {"x": keras.Input([3], name="x")}
    changed = keras.layers.Lambda(function, output_shape=(3,))(inputs["x"])
    model = keras.Model(inputs, keras.layers.Dense(1)(changed))
    model.compile(optimizer=keras.optimizers.SGD(rate), loss="mse")
    return model


class Bags(keras.Model):
    """Sums the embeddings of a ragged feature: each step has another number of slices."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = keras.layers.Embedding(5, 2, name="tags")
        self.dense = keras.layers.Dense(1)

    def build(self, shapes: Any) -> None:
        self.embedding.build([None])
        self.dense.build([None, 2])

    def call(self, features: Any) -> Any:
        tags = features["tags"]
        embedded = tags.with_flat_values(self.embedding(tags.flat_values))
        return self.dense(tf.reshape(tf.reduce_sum(embedded, axis=1), [-1, 2]))


class Positions(keras.Model):
    """Looks up the same rows in every step, whatever the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = keras.layers.Embedding(5, 1, "ones", name="weights")

    def build(self, shapes: Any) -> None:
        self.embedding.build([None])

    def call(self, features: Any) -> Any:
        weights = self.embedding(tf.constant([0, 1, 3]))
        return tf.matmul(features["x"], weights)


class Rivals(keras.Model):
    """A step of its own: no call(), two optimizers, a table, and a log that is no metric's."""

    def __init__(self) -> None:
        super().__init__()
        table = keras.layers.Embedding(7, 2)
        self.maker = keras.Sequential([keras.Input([], dtype="int64"), table])
        self.critic = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
        self.makers = keras.optimizers.Adagrad(0.3, global_clipnorm=0.1)
        self.critics = keras.optimizers.SGD(0.1, momentum=0.9)
        self.seen = keras.metrics.Mean(name="seen")

    @property
    def metrics(self) -> list[Any]:
        return [self.seen]

    def train_step(self, data: Any) -> Any:
        features, y = data
        with tf.GradientTape(persistent=True) as tape:
            judged = self.critic(self.maker(features["id"]))[:, 0]
            made, critical = tf.reduce_mean((judged - 1) ** 2), tf.reduce_mean((judged - y) ** 2)
        for loss, part, optimizer in (
            (critical, self.critic, self.critics),
            (made, self.maker, self.makers),
        ):
            gradients = tape.gradient(loss, part.trainable_weights)
            optimizer.apply(gradients, part.trainable_weights)
        self.seen.update_state(judged)
        return {"judged": self.seen.result(), "critic_loss": critical}


def rivals() -> keras.Model:
    model = Rivals()
    model.compile()
    return model


def positions() -> keras.Model:
    model = Positions()
    model.build(None)
    model.compile(optimizer=keras.optimizers.SGD(0.3), loss="mse")
    return model


def bags() -> keras.Model:
    model = Bags()
    model.build(None)
    model.compile(optimizer=keras.optimizers.Adagrad(0.3), loss="mse")
    return model


def two_tables(rows_mean: Callable[[Any], Any]) -> tuple[list[Any], Callable[[Any, Any], Any]]:
    """(weights, a step of one's own) with unlike numbers of slices of unlike width."""
    tables = [keras.layers.Embedding(7, 3, "ones"), keras.layers.Embedding(5, 1, "ones")]
    for table in tables:
        table.build([None])
    weights = [table.embeddings for table in tables]
    optimizer = keras.optimizers.Adagrad(0.3, global_clipnorm=0.5)
    optimizer.build(weights)

    def step(features: Any, label: Any) -> Any:
        with tf.GradientTape() as tape:
            tags = features["tags"].with_flat_values(tables[1](features["tags"].flat_values))
            both = tf.reduce_sum(tables[0](features["id"]), 1) + tf.reduce_sum(tags, [1, 2])
            loss = rows_mean((both - label) ** 2)
        optimizer.apply(tape.gradient(loss, weights), weights)
        return loss

    return weights, step


def by_place(label: Any, predicted: Any) -> Any:
    """Of shape [rows, places]."""
    return (predicted[..., 0] - label[:, None]) ** 2


def masked() -> keras.Model:
    """Has a loss for each place of a row that a mask leaves: in some rows none, in others three."""
    inputs = {"x": keras.Input([3], name="x")}
    places = keras.layers.Reshape([3, 1])(keras.layers.ReLU()(inputs["x"]))
    hidden = keras.layers.Dense(2, kernel_regularizer="l2")(keras.layers.Masking(0.0)(places))
    model = keras.Model(inputs, keras.layers.Dense(1)(hidden))
    model.compile(optimizer=keras.optimizers.SGD(0.3), loss=by_place)
    return model


def ignoring() -> keras.Model:
    """A loss that leaves out the rows of one class."""
    inputs = {"x": keras.Input([3], name="x")}
    model = keras.Model(inputs, keras.layers.Dense(2, "softmax")(inputs["x"]))
    loss = keras.losses.SparseCategoricalCrossentropy(ignore_class=0)
    model.compile(optimizer=keras.optimizers.SGD(0.3), loss=loss)
    return model


def overshooting() -> keras.Model:
    return dense(keras.optimizers.SGD(3.0))


def stopping() -> list[keras.callbacks.Callback]:
    """Callbacks that lower the learning rate and end the training."""
    return [
        keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.5, patience=1, min_delta=1e9),
        keras.callbacks.EarlyStopping("val_loss", patience=2, restore_best_weights=True),
    ]


class Here:
    """Reports nowhere."""

    def progress(self, progress: Any) -> None: ...
    def moved(self) -> None: ...

    @contextlib.contextmanager
    def quiet(self) -> Any:
        yield


def run_epoch(loop: Loop, step: Callable[..., Any], dataset: FeedDataset, epoch: int) -> float:
    return loop.run_epoch(loop.prepare_epoch(step, dataset), dataset, epoch)


class Interrupted(Exception):
    """In place of a crash."""


def go_on(
    runner: Any, reader: FeedReader, root: Path, batch: int, steps: int | None = None
) -> tuple[keras.Model, keras.callbacks.History, Ledger]:
    """One process, or all in step, go on with the epoch in which others were interrupted.

    steps: after which they are interrupted themselves; then Interrupted is raised.
    """
    ledger, lake = Ledger(), RunDirectory(str(root), "onward")
    store = CheckpointStore(lake, is_owner=runner.replica == 0)
    shared = ledger.as_json, ledger.restore
    saver = Checkpointer(store, str(root), 0.0, shared=shared)
    keras.utils.set_random_seed(7)
    with runner.strategy.scope():
        model = dense()
    made = 0

    def count(batch: int, logs: Any) -> None:
        nonlocal made
        made += 1
        if steps is not None and made > steps:
            raise Interrupted

    dataset = FeedDataset(
        reader.manifest("many"), batch, ["x"], "y", shuffle=False, replica=runner.replica,
        replicas=runner.replicas,
    )  # fmt: skip
    callback = keras.callbacks.LambdaCallback(on_train_batch_end=count)
    options = FitOptions(1, [callback], steps_per_execution=1)
    own = Loop(runner, ledger, Here(), saver.step)
    try:
        return model, Fit(own, saver, "fit0", model, dataset, None, options).run(), ledger
    finally:
        saver.wait()


# scenario -> (feed, columns, model, epochs): those that one process can be compared with
FITS: dict[str, tuple[str, str, Callable[[], keras.Model], int]] = {
    "dense": ("many", "x", dense, 3),
    "clipped": ("many", "x", clipped, 2),
    "flat": ("many", "id", flat, 2),
    "momentum": ("many", "id", momentum, 2),
    "adagrad": ("many", "id", adagrad, 2),
    "lazy": ("many", "id", lazy, 2),
    "sparse": ("many", "id", sparse, 2),
    "bagged": ("many", "tags", bagged, 2),
    "averaged": ("many", "id", averaged, 2),
    "constrained": ("many", "x", constrained, 2),
    "two_rows": ("two", "x", dense, 2),
    "one_row": ("one", "id", momentum, 2),
    "weighted": ("many", "x", dense, 1),
    "positions": ("many", "x", positions, 2),
    "bags": ("many", "tags", bags, 2),
    "rivals": ("many", "id", rivals, 2),
    "masked": ("many", "x", masked, 2),
    "ignoring": ("many", "x", ignoring, 2),
    "ignoring_two_rows": ("two", "x", ignoring, 2),
}


def main(index: int, ports: list[str], root: Path) -> None:
    cluster = {"chief": [f"127.0.0.1:{ports[0]}"]}
    if ports[1:]:
        cluster["worker"] = [f"127.0.0.1:{port}" for port in ports[1:]]
    role = ("chief", 0) if index == 0 else ("worker", index - 1)
    runner = MultiWorkerRunner(cluster, *role, hang_secs=60)
    # it costs these tiny models more than it gains them
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    reader = FeedReader(RunDirectory(str(root), "run"), str(root))
    serve_reads(reader)
    ledgers: dict[str, Ledger] = {}

    def loop(name: str) -> tuple[Loop, Checkpointer]:
        ledgers[name] = Ledger()
        saver = Checkpointer(
            CheckpointStore(RunDirectory(str(root), name), is_owner=index == 0), str(root), 0.0
        )
        check_agreement(runner, saver.step)
        return Loop(runner, ledgers[name], Here(), saver.step), saver

    def data(feed: str, features: str | list[str], **options: Any) -> FeedDataset:
        replicas = {"replica": runner.replica, "replicas": runner.replicas}
        options = {"label": "y", "shuffle": False, **options}
        return FeedDataset(
            reader.manifest(feed), BATCH, np.atleast_1d(features).tolist(), **options, **replicas
        )

    def made(make: Callable[[], keras.Model]) -> keras.Model:
        keras.utils.set_random_seed(7 + index)  # the chief's weights must become everyone's
        with runner.strategy.scope():
            return make()

    def leave(name: str, model: Any = None, **more: Any) -> None:
        weights = {f"w{n}": v.numpy() for n, v in enumerate(model.weights)} if model else {}
        np.savez(root / f"{name}.{index}.npz", **weights, **more)

    def fit(
        name: str, model: Any, dataset: Any, validation: Any, *options: Any, **more: Any
    ) -> Any:
        own, saver = loop(name)
        try:
            wanted = FitOptions(*options, **more)
            return Fit(own, saver, "fit0", model, dataset, validation, wanted).run()
        finally:
            saver.wait()

    for name, (feed, column, make, epochs) in FITS.items():
        model = made(make)
        begun = {f"b{n}": v.numpy() for n, v in enumerate(model.weights)}
        dataset = data(feed, column, **({"weight": "w"} if name == "weighted" else {}))
        history = fit(name, model, dataset, None, epochs)
        counted = {k: v["rows_trained"] for k, v in ledgers[name].as_json().items()}
        leave(name, model, **begun, **history.history, rows=counted[feed])
        if name == "dense":
            own, _ = loop("evaluated")
            validation = data("many", "x", shuffle=True)
            step = prepare(model, validation, runner, "test_step")
            logs = own.evaluate(Program(step, validation, runner), validation)
            rows = data("many", "x", shuffle=True)
            predicted = own.predict(own.prepare_predict(model, rows), rows)
            leave("evaluated", None, **logs, predicted=predicted)

    with contextlib.suppress(Interrupted):
        go_on(runner, reader, root, BATCH, steps=1)

    model = made(normalized)
    fit("normalized", model, data("many", "x"), None, 2)
    leave("normalized", model)

    model = made(overshooting)
    begun = {f"b{n}": v.numpy() for n, v in enumerate(model.weights)}
    history = fit("stopping", model, data("many", "x"), data("two", "x"), 30, stopping())
    rate = model.optimizer.learning_rate.numpy()
    leave("stopping", model, **begun, epochs=history.epoch, rate=rate, **history.history)

    with runner.strategy.scope():
        weight = tf.Variable([1.0, 1.0, 1.0])
        optimizer = keras.optimizers.SGD(0.1)
        optimizer.build([weight])

    def step(features: Any, label: Any) -> Any:
        with tf.GradientTape() as tape:
            error = tf.linalg.matvec(features["x"], weight) - label
            loss = mean(error**2, runner.replicas)
        optimizer.apply(tape.gradient(loss, [weight]), [weight])
        return loss

    own, _ = loop("custom")
    losses = [run_epoch(own, step, data("many", "x"), epoch) for epoch in range(2)]
    leave("custom", None, weight=weight.numpy(), losses=losses)

    with runner.strategy.scope():
        weights, step = two_tables(lambda values: mean(values, runner.replicas))

    def constant_step(features: Any, label: Any) -> Any:
        return mean(label * tf.constant(float(index)), runner.replicas)

    own, _ = loop("constant_step")
    with pytest.raises(UsageError) as caught:
        run_epoch(own, constant_step, data("many", "x"), 0)
    leave("constant_step", error=str(caught.value))

    rows = data("many", "x", shuffle=True).map(lambda features, label: features["x"])
    # by name: what each process makes for itself, and the feature
    unlike: dict[str, tuple[str, Callable[[], keras.Model]]] = {
        "share": ("x", lambda: adapted(rows)),
        "whole": ("x", lambda: adapted(rows.whole())),
        "vocabulary": ("id", lambda: with_vocabulary([1, 2, 3 + index])),
        "constant": ("x", lambda: through(lambda x: x * tf.constant(1.0 + index))),
        "large_constant": ("x", lambda: through(lambda x: x + 0 * table[:1, :1])),
        "rate": ("x", lambda: through(lambda x: x, 0.1 + index)),
        "seed": ("x", lambda: through(lambda x: tf.random.stateless_uniform([3], [index, 1]) * x)),
        "no_sum": ("x", lambda: dense(metrics=[Newest()])),
    }
    table = tf.fill([20, 20], float(index))
    for name, (column, make) in unlike.items():
        model, error = made(make), ""
        try:
            fit(name, model, data("many", column), None, 1)
        except UsageError as refusal:
            error = str(refusal)
        leave(name, model, error=error)

    own, _ = loop("two_tables")
    both = data("many", ["id", "tags"])
    losses = [run_epoch(own, step, both, epoch) for epoch in range(2)]
    leave("two_tables", None, losses=losses, id=weights[0].numpy(), tags=weights[1].numpy())
    check_agreement(runner, 0)
    # none goes while another one still reads what the last operation has for it
    (root / f"{index}.over").touch()
    deadline = time.monotonic() + 60
    while len(list(root.glob("*.over"))) < runner.replicas:
        assert time.monotonic() < deadline, "another process has not come to its end"
        time.sleep(0.05)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2].split(","), Path(sys.argv[3]))
