"""What a model's step is, known before one is made: it is traced once, and nothing is run.

Keras's own steps call the model and compute_loss(). Of a step of the model's own nothing is known
but that it takes a batch: it may use neither of them, apply several optimizers, and return whatever
it likes under any name.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import keras
import tensorflow as tf

from tfos.compat.keras import replaced
from tfos.compat.tensorflow import converted
from tfos.errors import UsageError
from tfos.feeding.dataset import FeedDataset
from tfos.training.checks import check_graph, check_model, check_optimizer
from tfos.training.runner import Runner

StepName = Literal["train_step", "test_step", "predict_step"]


@dataclass(frozen=True)
class Step:
    """A model's step, of which everything has been built that it needs.

    optimizers: those that it applies.
    results: of a step of the model's own, the name of each metric's result in its logs, and which
    one it is: the metric, and the number of the value in its result().
    None where the logs are the metrics' results under their own names.
    others: the shapes of what else is in its logs, by name.
    graphs: kept here by who made them of it, and no longer than it.
    """

    model: keras.Model
    name: StepName
    optimizers: list[Any] = field(default_factory=list)
    results: Mapping[str, tuple[Any, int]] | None = None
    others: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    graphs: list[Any] = field(default_factory=list)

    @property
    def function(self) -> Any:
        """Takes a batch."""
        return step_function(self.model, self.name)

    def logs(self) -> dict[str, Any]:
        """The metrics' results as they are now, by the step's names for them."""
        if self.results is None:
            return _flat(self.model.get_metrics_result())
        return {
            name: keras.tree.flatten(metric.result())[place]
            for name, (metric, place) in self.results.items()
        }

    def others_of(self, returned: Any) -> dict[str, Any]:
        """What the step returned and is no metric's result, float32, by name."""
        logs = _flat(returned) if self.others else {}
        return {name: tf.cast(logs[name], tf.float32) for name in self.others}

    def saved(self) -> dict[str, Any]:
        """What a checkpoint has of a training with this step, as Checkpointer.restore() takes it.

        The optimizer that was compiled has the name it always had.
        """
        model = self.model
        more = [each for each in self.optimizers if each is not model.optimizer]
        return {
            "model": model,
            **({} if len(more) == len(self.optimizers) else {"optimizer": model.optimizer}),
            **{f"optimizer{number}": each for number, each in enumerate(more, 1)},
            "seeds": _random_state(model),
        }


def step_function(model: keras.Model, name: StepName) -> Any:
    """The model's step; one of its own as tf.function would call it, which Keras does not do."""
    step = getattr(model, name)
    return converted(step) if is_own(model, name) else step


def schedule_of(optimizer: Any) -> Any:
    """The optimizer's schedule of learning rates, None where it has a rate."""
    found = optimizer._learning_rate
    is_schedule = isinstance(found, keras.optimizers.schedules.LearningRateSchedule)
    return found if is_schedule else None


def is_own(model: keras.Model, name: StepName) -> bool:
    """Whether the model has a step of its own, and not Keras's."""
    return getattr(getattr(model, name), "__func__", None) is not getattr(keras.Model, name)


def has_call(model: keras.Model) -> bool:
    """Whether the model says what it makes of its inputs."""
    return type(model).call is not keras.Model.call


def prepare(
    model: keras.Model, dataset: FeedDataset, runner: Runner, name: StepName = "train_step"
) -> Step:
    """Builds what `model` has not built yet for a step: weights, metrics and optimizer slots.

    Nothing is computed and no row is read. Raises UsageError for a model that cannot be run so.
    """
    needs_compile = name != "predict_step"
    check_model(model, runner, needs_compile)
    own = is_own(model, name)
    if not own and not has_call(model):
        raise _nothing_to_call(model, name)
    tracing = _Tracing(model)

    def own_step(batch: Any) -> None:
        with tracing:
            tracing.returned(step_function(model, name)(batch))

    def build(batch: Any) -> None:
        if own:
            # as it will be run: elsewhere a mirrored table has no gradient
            runner.strategy.run(own_step, args=(batch,))
            return
        x, y, weight = keras.utils.unpack_x_y_sample_weight(batch)
        prediction = model(x)
        if not needs_compile:
            return
        model.compute_loss(x=x, y=y, y_pred=prediction, sample_weight=weight)
        model.compute_metrics(x, y, prediction, sample_weight=weight)

    with runner.strategy.scope():
        traced = tf.function(build, autograph=False).get_concrete_function(dataset.element_spec)
        check_graph(model, traced.graph, runner)
        if own:
            tracing.build_optimizers()
        elif needs_compile and model.optimizer is not None:
            model.optimizer.build(model.trainable_variables)
    store = runner.store_of(model)
    if store is not None:
        store.name(model)
    model.reset_metrics()
    model.built = True  # also one that is never called, whose weights its step has made
    if not own:
        optimizers = [model.optimizer] if needs_compile and model.optimizer is not None else []
        return Step(model, name, optimizers)
    for optimizer in tracing.applied:
        check_optimizer(model, optimizer, runner)
    return Step(model, name, tracing.applied, tracing.results, tracing.others)


def prepare_test(model: keras.Model, dataset: FeedDataset, runner: Runner) -> Step:
    """The test step of a model that prepare() has built for its train_step."""
    if is_own(model, "train_step") or is_own(model, "test_step"):
        return prepare(model, dataset, runner, "test_step")
    return Step(model, "test_step")  # what it takes has been built


def _nothing_to_call(model: keras.Model, name: StepName) -> UsageError:
    use, instead = {
        "train_step": ("trained", ""),
        "test_step": ("evaluated", ", or leave the validation out"),
        "predict_step": ("asked for predictions", ""),
    }[name]
    return UsageError(
        f"model {model.name!r} has no call(), so that it cannot be {use} by Keras's {name}(): give"
        f" it a call(inputs), or a {name}() of its own{instead}"
    )


class _Tracing:
    """A step of the model's own while it is traced, to find what it applies and returns.

    Its optimizers do nothing: what they do is the strategy's affair, and not known yet.
    """

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self._shown: dict[int, tuple[Any, Any, int]] = {}
        self._stack = contextlib.ExitStack()
        self.applied: list[Any] = []
        self._updated: list[Any] = []
        self.results: dict[str, tuple[Any, int]] | None = None
        self.others: dict[str, tuple[int, ...]] = {}

    def __enter__(self) -> None:
        applied, updated = self.applied, self._updated

        def apply(self: Any, grads: Any, trainable_variables: Any = None) -> None:
            if not any(self is each for each in applied):
                applied.append(self)
                updated.append(None if trainable_variables is None else list(trainable_variables))

        self._stack.enter_context(replaced("optimizers.base_optimizer:BaseOptimizer", apply=apply))
        for metric in self._model.metrics:
            self._stack.enter_context(self._watched(metric))

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    @contextlib.contextmanager
    def _watched(self, metric: Any) -> Iterator[None]:
        """Notes what the metric's result() gives, to be found again among what a step returns."""

        def result() -> Any:
            value = type(metric).result(metric)
            for place, each in enumerate(keras.tree.flatten(value)):
                self._shown[id(each)] = each, metric, place  # and holds it, as ids are used again
            return value

        # not by setattr(), as Keras looks at what is set
        metric.__dict__["result"] = result
        try:
            yield
        finally:
            del metric.__dict__["result"]

    def build_optimizers(self) -> None:
        """Builds those that were applied as Keras does: for what each was given first."""
        for optimizer, variables in zip(self.applied, self._updated, strict=True):
            if variables is not None and not optimizer.built:
                optimizer.build(variables)

    def returned(self, logs: Any) -> None:
        """Called with what the step returned. Raises UsageError for what no log can be."""
        if not isinstance(logs, Mapping):
            return
        self.results = {}
        for name, value in _flat(logs).items():
            if id(value) in self._shown:
                _, metric, place = self._shown[id(value)]
                self.results[name] = metric, place
                continue
            shape = tf.convert_to_tensor(value).shape
            if not shape.is_fully_defined():
                raise UsageError(
                    f"the step of model {self._model.name!r} returns {name!r} of shape {shape},"
                    " which depends on the batch: return a scalar, such as its mean"
                )
            self.others[name] = tuple(shape)


def _flat(logs: Mapping[str, Any]) -> dict[str, Any]:
    """Logs as Keras has them: those of a metric that has several are among the others."""
    found: dict[str, Any] = {}
    for name, value in logs.items():
        found.update(_flat(value) if isinstance(value, Mapping) else {name: value})
    return found


def _random_state(model: keras.Model) -> list[tf.Variable]:
    """The state of the model's random layers, which Keras does not count among its weights."""
    counted = [*model.weights, *(v for metric in model.metrics for v in metric.variables)]
    known = {id(variable) for variable in counted}
    return [v.value for v in model.non_trainable_variables if id(v) not in known]
