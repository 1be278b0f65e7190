"""Which metrics only add to their state."""

from __future__ import annotations

import inspect
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfos.errors import UsageError
from tfos.training.sums import check_sums

ops = keras.ops
# what a metric needs to be made; and those that are no metrics by themselves
ARGUMENTS: dict[str, dict[str, Any]] = {
    "IoU": {"num_classes": 3, "target_class_ids": [0, 2]},
    "OneHotIoU": {"num_classes": 3, "target_class_ids": [0]},
    "MeanIoU": {"num_classes": 3, "ignore_class": 2},
    "OneHotMeanIoU": {"num_classes": 3},
    "MeanMetricWrapper": {"fn": keras.losses.mean_squared_error},
    "PrecisionAtRecall": {"recall": 0.5},
    "RecallAtPrecision": {"precision": 0.5},
    "SensitivityAtSpecificity": {"specificity": 0.5},
    "SpecificityAtSensitivity": {"sensitivity": 0.5},
}
KERAS = {
    name: each
    for name, each in vars(keras.metrics).items()
    if inspect.isclass(each) and issubclass(each, keras.metrics.Metric)
    and each is not keras.metrics.Metric
}  # fmt: skip
SPARSE = {"SparseCategoricalAccuracy", "SparseCategoricalCrossentropy",
          "SparseTopKCategoricalAccuracy", "MeanIoU", "IoU"}  # fmt: skip
OTHER_FORMS = [
    keras.metrics.AUC(multi_label=True, num_labels=3),
    keras.metrics.AUC(from_logits=True, curve="PR", summation_method="majoring"),
    keras.metrics.F1Score(average="macro", threshold=0.5),
    keras.metrics.Precision(thresholds=[0.2, 0.8]),
    keras.metrics.Recall(top_k=2, class_id=1),
    keras.metrics.R2Score(class_aggregation="variance_weighted_average", num_regressors=1),
    keras.metrics.Mean(dtype="float16"),
]


def checked(metric: keras.metrics.Metric, *values: Any) -> None:
    """Traces one update, as a step does, and looks at it."""
    metric.update_state(*(tf.constant(value) for value in values))  # makes what is made late
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.mine = metric
    variables = [v for each in model.metrics for v in each.variables]
    assert metric.variables and {id(v) for v in metric.variables} <= {id(v) for v in variables}

    @tf.function
    def step(state: Any, batch: Any) -> Any:
        pairs = list(zip(variables, state, strict=True))
        with keras.StatelessScope(state_mapping=pairs) as scope:
            metric.update_state(*batch)
        after = [scope.get_current_value(variable) for variable in variables]
        check_sums(model, state, after)
        return after

    specs = [tf.TensorSpec([None, *np.shape(v)[1:]], np.asarray(v).dtype) for v in values]
    step.get_concrete_function([tf.TensorSpec(v.shape, v.dtype) for v in variables], specs)


def batch_for(name: str) -> tuple[Any, ...]:
    predicted = np.full([6, 3], 1 / 3, "float32")
    if name in ("Mean", "Sum"):
        return (predicted,)
    if name in SPARSE:
        seen = predicted if name.startswith("Sparse") else np.ones([6], "int32")
        return np.array([0, 1, 2, 0, 1, 2], "int32"), seen
    return np.eye(3, dtype="float32")[[0, 1, 2, 0, 1, 2]], predicted


@pytest.mark.parametrize("name", KERAS)
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
def test_those_of_keras_do(name: str, weighted: bool) -> None:
    metric = KERAS[name](**ARGUMENTS.get(name, {}))
    shape = [6, 3] if name == "BinaryIoU" else [6]
    weights = [np.ones(shape, "int32" if "IoU" in name else "float32")] if weighted else []
    checked(metric, *batch_for(name), *weights)


@pytest.mark.parametrize("metric", OTHER_FORMS, ids=lambda m: m.name)
def test_those_of_keras_do_with_other_arguments(metric: keras.metrics.Metric) -> None:
    checked(metric, *batch_for("Mean" if type(metric) is keras.metrics.Mean else ""))


class Kept(keras.metrics.Metric):
    """Keeps what `updated(before, batch)` gives."""

    def __init__(self, updated: Any, shape: Any = (), **options: Any) -> None:
        super().__init__(name="kept")
        self.kept = self.add_variable(shape, "zeros", name="state", **options)
        self._updated = updated

    def update_state(self, batch: Any) -> None:
        self.kept.assign(self._updated(self.kept, batch))

    def result(self) -> Any:
        return self.kept


@tf.function
def called(before: Any, seen: Any) -> Any:
    return before + seen


SUMS = {
    "sum": lambda s, x: s + ops.sum(x),
    "the other way round": lambda s, x: ops.sum(x) + s,
    "difference": lambda s, x: s - ops.sum(x),
    "two at once": lambda s, x: ops.sum(x) + s + ops.max(x),
    "where": lambda s, x: ops.where(ops.sum(x) > 0, s + ops.sum(x), s),
    "condition": lambda s, x: ops.cond(ops.sum(x) > 0, lambda: s + 1.0, lambda: s - 2.0),
    "function": lambda s, x: called(tf.convert_to_tensor(s), ops.sum(x)),
    "cast": lambda s, x: ops.cast(
        ops.cast(s, "float64") + ops.sum(ops.cast(x, "float64")), s.dtype
    ),
}
OTHERS = {
    "maximum": lambda s, x: ops.maximum(s, ops.max(x)),
    "minimum": lambda s, x: ops.minimum(s, ops.min(x)),
    "last value": lambda s, x: ops.mean(x),
    "moving average": lambda s, x: 0.9 * s + 0.1 * ops.mean(x),
    "doubled": lambda s, x: s + s,
    "what it differs by": lambda s, x: s + (ops.mean(x) - s) / 10,
    "taken away": lambda s, x: ops.sum(x) - s,
    "condition": lambda s, x: ops.cond(ops.sum(x) > s, lambda: ops.sum(x), lambda: s + 0.0),
    "conditional sum": lambda s, x: ops.cond(s < 9, lambda: s + ops.sum(x), lambda: s),
    "reset": lambda s, x: ops.where(ops.sum(x) > 0, s + ops.sum(x), 0.0),
    "function": lambda s, x: called(tf.convert_to_tensor(s), tf.convert_to_tensor(s)),
}


@pytest.mark.parametrize("name", SUMS)
def test_sums_of_ones_own_do(name: str) -> None:
    checked(Kept(SUMS[name]), batch_for("Mean")[0])


def test_sums_by_class_do() -> None:
    def updated(state: Any, batch: Any) -> Any:
        return tf.tensor_scatter_nd_add(
            ops.convert_to_tensor(state), [[0], [2]], ops.sum(batch, 0)[:2]
        )

    checked(Kept(updated, (3,)), batch_for("Mean")[0])


@pytest.mark.parametrize("name", OTHERS)
def test_other_metrics_do_not(name: str) -> None:
    with pytest.raises(UsageError, match=r"metric state kept/state of .* is no sum.*strategy sing"):
        checked(Kept(OTHERS[name]), batch_for("Mean")[0])


def test_one_variable_that_goes_by_another_does_not() -> None:
    class Two(keras.metrics.Metric):
        def __init__(self) -> None:
            super().__init__(name="two")
            self.seen = self.add_weight(name="seen", initializer="zeros")
            self.weighted = self.add_weight(name="weighted", initializer="zeros")

        def update_state(self, batch: Any) -> None:
            self.seen.assign_add(1.0)
            self.weighted.assign_add(self.seen * ops.sum(batch))

        def result(self) -> Any:
            return self.weighted / self.seen

    with pytest.raises(UsageError, match="two/weighted"):
        checked(Two(), batch_for("Mean")[0])


def test_the_authors_word_counts() -> None:
    with pytest.raises(UsageError, match="aggregation 'mean'"):
        checked(Kept(SUMS["sum"], aggregation="mean"), batch_for("Mean")[0])
