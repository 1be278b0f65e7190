"""Rows, and models of all kinds on them, which tfos is to train as Keras does in one process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfos.feeding.schema import Column

ROWS, EVAL_ROWS, BATCH = 50, 21, 8
WORDS = ["red", "green", "blue"]
COLUMNS = [
    Column("x", "float32", 3),
    Column("tags", "int32", -1),
    Column("word", "string"),
    Column("id", "int64"),
    Column("w", "float32"),
    Column("y", "float32"),
    Column("kind", "int64"),
    Column("hot", "float32", 3),
]


def make_values(rows: int, seed: int) -> dict[str, Any]:
    """Column -> array, or list of lists."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, 3)).astype("float32")
    kind = random.integers(0, 3, rows)
    return {
        "x": x,
        "tags": [list(range(i % 3)) for i in range(rows)],
        "word": random.choice([*WORDS, "unknown"], rows),
        "id": random.integers(0, 7, rows),
        "w": random.uniform(0.5, 2.0, rows).astype("float32"),
        "y": (x.sum(axis=1) + random.normal(size=rows) > 0).astype("float32"),
        "kind": kind,
        "hot": np.eye(3, dtype="float32")[kind],
    }


TRAIN, EVAL = make_values(ROWS, 1), make_values(EVAL_ROWS, 2)


def as_lists(values: Mapping[str, Any]) -> dict[str, list[Any]]:
    return {k: v if isinstance(v, list) else v.tolist() for k, v in values.items()}


def as_tf_data(
    values: Mapping[str, Any],
    features: Sequence[str] | str = ("x",),
    label: Sequence[str] | str = "y",
    weight: Any = None,
    shuffle: bool = False,
) -> tf.data.Dataset:
    """The batches of a feed, in order, as Keras takes them. weight: a column, or an array."""

    def column(name: str) -> Any:
        value = values[name]
        return tf.ragged.constant(value, dtype=tf.int32) if isinstance(value, list) else value

    def part(names: Sequence[str] | str) -> Any:
        return column(names) if isinstance(names, str) else {n: column(n) for n in names}

    weights = [] if weight is None else [column(weight) if isinstance(weight, str) else weight]
    rows = (part(features), part(label), *weights)
    return tf.data.Dataset.from_tensor_slices(rows).batch(BATCH)


class Largest(keras.metrics.Metric):
    """A metric of one's own: the share of predictions above the label."""

    def __init__(self, name: str = "above", **options: Any) -> None:
        super().__init__(name=name, **options)
        self.above = self.add_weight(name="above", initializer="zeros")
        self.rows = self.add_weight(name="rows", initializer="zeros")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        y_true, y_pred = tf.reshape(y_true, [-1]), tf.reshape(y_pred, [-1])
        weight = tf.ones_like(y_pred) if sample_weight is None else sample_weight
        self.above.assign_add(tf.reduce_sum(tf.where(y_pred > y_true, weight, 0)))
        self.rows.assign_add(tf.reduce_sum(weight))

    def result(self) -> Any:
        return self.above / self.rows


def functional(*extra: Any, optimizer: Any = "adam", **compiled: Any) -> keras.Model:
    """A small model of the dict {"x": ...}, with the same weights each time."""
    keras.utils.set_random_seed(7)
    inputs = {"x": keras.Input([3], name="x")}
    hidden = keras.layers.Dense(4, activation="tanh")(inputs["x"])
    for layer in extra:
        hidden = layer(hidden)
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(hidden))
    compiled.setdefault("metrics", [keras.metrics.AUC(name="auc"), "mae"])
    model.compile(optimizer=optimizer, loss="binary_crossentropy", **compiled)
    return model


def unsteady():
    """A model whose validation loss goes up and down; the best is that of the third epoch."""
    return functional(optimizer=keras.optimizers.SGD(2.0), metrics=["mae"])


def sequential() -> keras.Model:
    keras.utils.set_random_seed(7)
    layers = [keras.layers.Dense(4, kernel_regularizer="l2"), keras.layers.Dense(3, "softmax")]
    model = keras.Sequential([keras.Input([3]), *layers])
    metrics = ["accuracy", keras.metrics.TopKCategoricalAccuracy(2), keras.metrics.F1Score()]
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9), "categorical_crossentropy", metrics=metrics
    )
    return model


def weighted() -> keras.Model:
    unweighted = [Largest(), "mse"]
    every = [keras.metrics.AUC(name="auc"), "accuracy", "mse", Largest("weighted_above")]
    return functional(metrics=unweighted, weighted_metrics=every, optimizer="sgd")


def two_towers(optimizer: Any = None) -> keras.Model:
    """Two inputs, a dict of two outputs, a loss for each."""
    keras.utils.set_random_seed(7)
    inputs = {"x": keras.Input([3], name="x"), "id": keras.Input([], dtype="int64", name="id")}
    rows = keras.layers.Embedding(7, 4)(inputs["id"])
    both = keras.layers.Concatenate()([inputs["x"], rows])
    outputs = {
        "y": keras.layers.Dense(1, activation="sigmoid", name="y")(both),
        "kind": keras.layers.Dense(3, activation="softmax", name="kind")(both),
    }
    model = keras.Model(inputs, outputs)
    model.compile(
        optimizer=optimizer or keras.optimizers.Adam(0.05),
        loss={"y": "binary_crossentropy", "kind": "sparse_categorical_crossentropy"},
        loss_weights={"y": 0.3, "kind": 2.0},
        metrics={"y": [keras.metrics.AUC(name="auc")], "kind": ["accuracy"]},
    )
    return model


@keras.saving.register_keras_serializable("tfos-tests")
class TagModel(keras.Model):
    """Sums the embeddings of a ragged feature, beside a dense one; has a loss of its own."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.embedding = keras.layers.Embedding(3, 2)
        self.dense = keras.layers.Dense(1)

    def build(self, shapes: Any) -> None:
        self.embedding.build([None])
        self.dense.build([None, 5])

    def call(self, features: Any, training: bool = False) -> Any:
        tags = features["tags"]
        embedded = tags.with_flat_values(self.embedding(tags.flat_values))
        summed = tf.reshape(tf.reduce_sum(embedded, axis=1), [-1, 2])
        output = self.dense(tf.concat([summed, features["x"]], 1))
        self.add_loss(0.01 * tf.reduce_mean(output**2))
        return output


def ragged() -> keras.Model:
    keras.utils.set_random_seed(7)
    model = TagModel()
    model.build(None)
    model.compile(keras.optimizers.Adam(0.05), "mse", metrics=["mae"])
    return model


def strings() -> keras.Model:
    keras.utils.set_random_seed(7)
    word = keras.Input([], dtype="string", name="word")
    known = keras.layers.StringLookup(vocabulary=WORDS)(word)
    hashed = keras.layers.Hashing(5)(word)
    parts = [keras.layers.Embedding(4, 2)(known), keras.layers.Embedding(5, 2)(hashed)]
    output = keras.layers.Dense(1, activation="sigmoid")(keras.layers.Concatenate()(parts))
    model = keras.Model({"word": word}, output)
    model.compile(keras.optimizers.Adam(0.05), "binary_crossentropy", metrics=["accuracy"])
    return model


def normalized() -> keras.Model:
    layers = [keras.layers.BatchNormalization(momentum=0.8), keras.layers.Dropout(0.5, seed=3)]
    return functional(*layers, optimizer=keras.optimizers.SGD(0.1))


def constrained() -> keras.Model:
    keras.utils.set_random_seed(7)
    layer = keras.layers.Dense(4, kernel_constraint=keras.constraints.UnitNorm())
    frozen = keras.layers.Dense(4, trainable=False)
    spectral = keras.layers.SpectralNormalization(keras.layers.Dense(2))
    return functional(layer, frozen, spectral)


def averaged() -> keras.Model:
    return functional(optimizer=keras.optimizers.SGD(0.3, use_ema=True, ema_momentum=0.7))


def accumulated() -> keras.Model:
    return functional(optimizer=keras.optimizers.Adam(0.05, gradient_accumulation_steps=3))


def scaled() -> keras.Model:
    """Its optimizer finds gradients that are too large, and then a scale that is too small."""
    inner = keras.optimizers.SGD(0.1)
    scaling = {"initial_scale": 2.0**127, "dynamic_growth_steps": 2}
    return functional(optimizer=keras.optimizers.LossScaleOptimizer(inner, **scaling))


class OwnStep(keras.Model):
    """A train_step of its own, as Keras's guide has it."""

    def train_step(self, data: Any) -> Any:
        x, y = data
        with tf.GradientTape() as tape:
            predicted = self(x, training=True)
            loss = self.compute_loss(y=y, y_pred=predicted)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply([2.0 * g for g in gradients], self.trainable_variables)
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss)
            else:
                metric.update_state(y, predicted)
        return {metric.name: metric.result() for metric in self.metrics}


def own_step() -> keras.Model:
    keras.utils.set_random_seed(7)
    inputs = keras.Input([3])
    model = OwnStep(inputs, keras.layers.Dense(1)(inputs))
    model.compile(keras.optimizers.SGD(0.05), "mse")
    return model


class Autoencoder(keras.Model):
    """No call() and no loss, and logs under other names than their metrics', as Keras's VAE has."""

    def __init__(self) -> None:
        super().__init__(name="autoencoder")
        self.encoder = keras.Sequential([keras.Input([3]), keras.layers.Dense(2)])
        self.decoder = keras.Sequential([keras.layers.Dense(3)])  # built by the first step
        self.total = keras.metrics.Mean(name="total_loss")
        self.far = keras.metrics.MeanAbsoluteError(name="far")

    @property
    def metrics(self) -> list[Any]:
        return [self.total, self.far]

    def _error(self, rows: Any) -> tuple[Any, dict[str, Any]]:
        found = self.decoder(self.encoder(rows))
        error = tf.reduce_mean((found - rows) ** 2)
        self.total.update_state(error, sample_weight=tf.shape(rows)[0])
        self.far.update_state(rows, found)
        return error, {"loss": self.total.result(), "far": self.far.result()}

    def train_step(self, rows: Any) -> Any:
        with tf.GradientTape() as tape:
            error, logs = self._error(rows)
        gradients = tape.gradient(error, self.trainable_weights)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))
        return logs

    def test_step(self, rows: Any) -> Any:
        return self._error(rows)[1]


def autoencoder() -> keras.Model:
    keras.utils.set_random_seed(7)
    model = Autoencoder()
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9))
    return model


class Task(keras.Model):
    """compute_loss(inputs, training), and logs that are no metric's, as TensorFlow Recommenders."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = keras.layers.Embedding(7, 2)
        self.dense = keras.layers.Dense(1)
        self.error = keras.metrics.RootMeanSquaredError(name="rmse")

    @property
    def metrics(self) -> list[Any]:
        return [self.error]

    def call(self, features: Any) -> Any:
        both = tf.concat([self.embedding(features["id"]), features["x"]], axis=1)
        return tf.squeeze(self.dense(both), -1)

    def compute_loss(self, inputs: Any, training: bool = False) -> Any:
        features, y = inputs
        predicted = self(features)
        self.error.update_state(y, predicted)
        return tf.reduce_mean((predicted - y) ** 2)

    def train_step(self, inputs: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = self.compute_loss(inputs, training=True)
            penalty = 0.01 * tf.add_n([tf.nn.l2_loss(v.value) for v in self.trainable_variables])
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        logs = {metric.name: metric.result() for metric in self.metrics}
        return {**logs, "loss": loss, "penalty": penalty, "total": loss + penalty, "rate": 0.5}

    def test_step(self, inputs: Any) -> Any:
        loss = self.compute_loss(inputs)
        return {**{metric.name: metric.result() for metric in self.metrics}, "loss": loss}


def task() -> keras.Model:
    keras.utils.set_random_seed(7)
    model = Task()
    model.compile(keras.optimizers.Adagrad(0.5))
    return model


class Rivals(keras.Model):
    """Two optimizers, each of one part, and none that is compiled, as Keras's GAN has."""

    def __init__(self) -> None:
        super().__init__()
        self.maker = keras.Sequential([keras.Input([3]), keras.layers.Dense(1)])
        self.critic = keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])
        self.made = keras.metrics.Mean(name="made")

    def compile(self, makers: Any, critics: Any) -> None:
        super().compile()
        self.makers, self.critics = makers, critics

    def _judged(self, x: Any, y: Any) -> tuple[Any, Any]:
        made = self.maker(x)
        judged = self.critic(made)
        self.made.update_state(judged)
        return tf.reduce_mean((judged - 1) ** 2), tf.reduce_mean((judged - y[:, None]) ** 2)

    def train_step(self, data: Any) -> Any:
        with tf.GradientTape(persistent=True) as tape:
            made, judged = self._judged(*data)
        for loss, part, optimizer in (
            (judged, self.critic, self.critics),
            (made, self.maker, self.makers),
        ):
            gradients = tape.gradient(loss, part.trainable_weights)
            optimizer.apply(gradients, part.trainable_weights)
        return {"made": self.made.result(), "critic_loss": judged}

    def test_step(self, data: Any) -> Any:
        self._judged(*data)
        return {"made": self.made.result()}


def rivals() -> keras.Model:
    keras.utils.set_random_seed(7)
    model = Rivals()
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), keras.optimizers.Adam(0.05))
    return model


@dataclass(frozen=True)
class Case:
    """A model, and what it takes of the feed."""

    make: Callable[[], keras.Model]
    columns: Mapping[str, Any] = field(default_factory=lambda: {"features": ["x"], "label": "y"})


CASES = {
    "sequential": Case(sequential, {"features": "x", "label": "hot"}),
    "weighted": Case(weighted, {"features": ["x"], "label": "y", "weight": "w"}),
    "two towers": Case(two_towers, {"features": ["x", "id"], "label": ["y", "kind"]}),
    "ragged": Case(ragged, {"features": ["tags", "x"], "label": "y"}),
    "strings": Case(strings, {"features": ["word"], "label": "y"}),
    "normalized": Case(normalized),
    "constrained": Case(constrained),
    "averaged": Case(averaged),
    "accumulated": Case(accumulated),
    "scaled": Case(scaled),
    "own step": Case(own_step, {"features": "x", "label": "y"}),
}


class Newest(keras.metrics.Metric):
    """Keeps the last value."""

    def __init__(self) -> None:
        super().__init__(name="newest")
        self.value = self.add_weight(name="value", initializer="zeros")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.value.assign(keras.ops.mean(y_pred))

    def result(self) -> Any:
        return self.value
