"""TFEstimator and TFModel: a training as a stage of pyspark.ml, in pipelines and tuning."""

from __future__ import annotations

import base64
import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pyspark import cloudpickle
from pyspark.ml import Estimator, Model
from pyspark.ml.functions import array_to_vector
from pyspark.ml.param import Param, Params, TypeConverters
from pyspark.ml.param.shared import HasLabelCol, HasPredictionCol, HasWeightCol
from pyspark.ml.util import (
    DefaultParamsReader,
    DefaultParamsWriter,
    MLReadable,
    MLReader,
    MLWritable,
    MLWriter,
)
from pyspark.sql import functions as F  # noqa: N812
from pyspark.sql.types import ArrayType, BooleanType, DataType, NumericType

from tfos.app import FunctionApp, TFOnSparkApp
from tfos.errors import AppError, UsageError
from tfos.feeding.feed import quoted
from tfos.inference.predict import check_is_new, predict
from tfos.spec.result import Result
from tfos.training.model_function import TrainModel

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


# of an estimator with model_fn: name -> (default, converter, text)
_TRAINING = {
    "batchSize": (1024, TypeConverters.toInt, "rows of one step of one worker"),
    "epochs": (1, TypeConverters.toInt, "how often all rows are trained on"),
    "validationSplit": (
        0.0, TypeConverters.toFloat, "the part of the rows that is kept for the validation",
    ),
}  # fmt: skip


class _Writer(MLWriter):
    """Writes a stage's Params, and beside them what its __init__ needs."""

    def __init__(self, stage: _Stage) -> None:
        super().__init__()
        self._stage = stage

    def saveImpl(self, path: str) -> None:  # noqa: N802 - pyspark's name
        extra = {"tfos": self._stage._arguments()}
        DefaultParamsWriter.saveMetadata(self._stage, path, self.sc, extraMetadata=extra)


class _Reader(MLReader):
    def __init__(self, kind: type[_Stage]) -> None:
        super().__init__()
        self._kind = kind

    def load(self, path: str) -> _Stage:
        metadata = DefaultParamsReader.loadMetadata(path, self.sc)
        stage = self._kind._from_arguments(metadata["tfos"])
        stage._resetUid(metadata["uid"])
        DefaultParamsReader.getAndSetParams(stage, metadata)
        return stage


class _Stage(MLReadable, MLWritable):
    """A stage that is saved as its Params and the JSON-able arguments of its __init__."""

    def _arguments(self) -> dict[str, Any]:
        raise NotImplementedError

    @classmethod
    def _from_arguments(cls, arguments: Mapping[str, Any]) -> Any:
        return cls(**arguments)

    def write(self) -> _Writer:
        return _Writer(self)

    @classmethod
    def read(cls) -> _Reader:
        return _Reader(cls)


class _HasOutputCols(HasPredictionCol):
    """The columns of a model's output. probabilityCol has no default, other than in pyspark.ml."""

    probabilityCol = Param(  # noqa: N815 - pyspark's style
        Params._dummy(),  # type: ignore[attr-defined]
        "probabilityCol",
        "the column of the numbers of which predictionCol has the largest one's index",
        TypeConverters.toString,
    )


class TFEstimator(_Stage, Estimator, HasLabelCol, HasWeightCol, _HasOutputCols):
    """Trains an app or a model on a DataFrame: fit(df) is a run of its own, in df's Spark session.

    app: a subclass of TFOnSparkApp, or an instance. Its pre_train() finds the DataFrame as
    self.fit_data; an app without pre_train() gets it as the feed "train". The model that train()
    exports, or the only one that it gives to ctx.fit(), becomes that of the TFModel.
    model_fn: in place of an app, a function that is called as model_fn(ctx), in the strategy's
    scope, with train()'s ctx, and returns a compiled Keras model with an input for each column that
    is fed, of its name. It is fitted to the DataFrame and exported.
    batchSize, epochs, validationSplit: Params, with model_fn: rows of one step of one worker, how
    often all are trained on, and the part that is kept for the validation; 1024, 1 and 0.
    featuresCols: the columns that are fed, beside labelCol and weightCol; when not given, all are.
    labelCol, weightCol: columns that are fed as well where featuresCols is given.
    predictionCol, probabilityCol: the columns that the model adds, see TFModel.
    params: the app's hyperparameters, in train() as ctx.params. Each is a Param of this estimator,
    as which a ParamMap sets it: params={"epochs": 3} makes est.epochs.
    args: the app's own command line.
    job: what TFOnSparkApp.run() takes, such as lake="..." and num_workers=3.
    Raises UsageError.
    """

    featuresCols = Param(  # noqa: N815 - pyspark's style
        Params._dummy(),  # type: ignore[attr-defined]
        "featuresCols",
        "the columns that are fed, beside labelCol and weightCol",
        TypeConverters.toListString,
    )

    def __init__(
        self,
        app: TFOnSparkApp | type[TFOnSparkApp] | None = None,
        featuresCols: Sequence[str] | None = None,  # noqa: N803
        labelCol: str = "label",  # noqa: N803
        weightCol: str | None = None,  # noqa: N803
        predictionCol: str = "prediction",  # noqa: N803
        probabilityCol: str | None = None,  # noqa: N803
        params: Mapping[str, Any] | None = None,
        args: Sequence[str] = (),
        model_fn: Callable[[Any], Any] | None = None,
        batchSize: int | None = None,  # noqa: N803
        epochs: int | None = None,
        validationSplit: float | None = None,  # noqa: N803
        **job: Any,
    ) -> None:
        super().__init__()
        if (app is None) == (model_fn is None):
            raise UsageError("TFEstimator takes an app or model_fn=..., one of the two")
        for name in ("run_id", "resume"):
            if name in job:
                raise UsageError(
                    f"TFEstimator({name}=...): each fit() is a run of its own; leave it out"
                )
        self._app, self._model_fn, self._args, self._job = app, model_fn, list(args), job
        training = {"batchSize": batchSize, "epochs": epochs, "validationSplit": validationSplit}
        training = {name: value for name, value in training.items() if value is not None}
        if model_fn is not None:
            _check_model_fn(model_fn)
            for name, (_, converter, text) in _TRAINING.items():
                setattr(self, name, Param(self, name, text, converter))
        elif training:
            name = next(iter(training))
            raise UsageError(
                f"TFEstimator({name}=...) is for model_fn=...; train() of an app finds what it is"
                f" to use in ctx.params: params={{{name!r}: {training[name]!r}}}"
            )
        self._hyperparameters = list(params or {})
        for name in self._hyperparameters:
            if not name.isidentifier() or hasattr(self, name):
                raise UsageError(
                    f"TFEstimator(params=...) names {name!r}: use an identifier that the estimator"
                    " does not have already"
                )
            setattr(self, name, Param(self, name, f"ctx.params[{name!r}] in train()"))
        self._params = None  # the list that Params made before there were these
        if model_fn is not None:
            self._setDefault(**{name: default for name, (default, *_) in _TRAINING.items()})
        self._set(labelCol=labelCol, predictionCol=predictionCol, **training, **(params or {}))
        if featuresCols is not None:
            self._set(featuresCols=featuresCols)
        if weightCol is not None:
            self._set(weightCol=weightCol)
        if probabilityCol is not None:
            self._set(probabilityCol=probabilityCol)

    def _fit(self, dataset: DataFrame) -> TFModel:
        app = self._app_for(self._fed(dataset))
        app._exports_by_itself = True
        params = {name: self.getOrDefault(name) for name in self._hyperparameters}
        result = app.run(dataset.sparkSession, self._args, params=params, **self._job)
        if result.model is None:
            raise AppError(
                f"train() of {type(app).__name__} exported no model, which TFEstimator needs, and"
                " ctx.fit() was not given exactly one: call ctx.export(model)"
            )
        # with the estimator's uid, as models have it: a ParamMap means both
        model = TFModel(result.model)._resetUid(self.uid)
        model.result = result
        return self._copyValues(model)  # type: ignore[no-any-return]

    def _app_for(self, data: DataFrame) -> TFOnSparkApp:
        if self._model_fn is not None:
            value = self.getOrDefault
            train = TrainModel(
                self._model_fn,
                value("featuresCols") if self.isDefined(self.featuresCols) else None,
                self.getLabelCol(),
                self.getWeightCol() if self.isDefined(self.weightCol) else None,
                value("batchSize"),
                value("epochs"),
                value("validationSplit"),
            )
            return FunctionApp(train, data, code=self._model_fn)
        assert self._app is not None
        app = self._app() if isinstance(self._app, type) else copy.copy(self._app)
        app.fit_data = data
        return app

    def _fed(self, dataset: DataFrame) -> DataFrame:
        if not self.isDefined(self.featuresCols):
            return dataset
        weight = [self.getWeightCol()] if self.isDefined(self.weightCol) else []
        names = [*self.getOrDefault("featuresCols"), self.getLabelCol(), *weight]
        # of what is no column as it stands select() knows more: "a.b" may be a field
        return dataset.select(*(quoted(n) if n in dataset.columns else n for n in names))

    def _arguments(self) -> dict[str, Any]:
        # an importable class by name, one of a script or notebook with its code
        word, code = ("app", self._app) if self._model_fn is None else ("model_fn", self._model_fn)
        text = base64.b64encode(cloudpickle.dumps(code)).decode()
        params = {name: self.getOrDefault(name) for name in self._hyperparameters}
        return {word: text, "params": params, "args": self._args, **self._job}

    @classmethod
    def _from_arguments(cls, arguments: Mapping[str, Any]) -> TFEstimator:
        word = "app" if "app" in arguments else "model_fn"
        code = cloudpickle.loads(base64.b64decode(arguments[word]))
        return cls(**{**arguments, word: code})


def _check_model_fn(model_fn: Any) -> None:
    """Raises UsageError, before anything is started, for what cannot be called as model_fn(ctx)."""
    try:
        inspect.signature(model_fn).bind("ctx")
    except TypeError as error:
        raise UsageError(
            f"TFEstimator(model_fn={model_fn!r}) cannot be called as model_fn(ctx): {error}"
        ) from error


class TFModel(_Stage, Model, _HasOutputCols):
    """Adds a model's predictions to a DataFrame, by tfos.predict, as the types of pyspark.ml.

    predictionCol is a double for an output of [batch] or [batch, 1], a vector for [batch, k]; text,
    deeper arrays and the struct of a model that returns a dict are as tfos.predict gives them.
    With probabilityCol the vector is that column, and predictionCol the index of its largest
    number, as a double: the class, for a model that gives one number per class.

    uri: the exported model, see tfos.predict.
    result: what TFOnSparkApp.run() returned; None for a model that was not made by fit().
    """

    batchSize = Param(  # noqa: N815
        Params._dummy(),  # type: ignore[attr-defined]
        "batchSize",
        "rows that the model is given at a time",
        TypeConverters.toInt,
    )

    def __init__(self, uri: str) -> None:
        super().__init__()
        self.uri = uri
        self.result: Result | None = None
        self._setDefault(batchSize=4096)

    def _transform(self, dataset: DataFrame) -> DataFrame:
        prediction = self.getPredictionCol()
        if not self.isDefined(self.probabilityCol):
            return _as_ml(self._predicted(dataset, prediction), prediction)
        probability = self.getOrDefault("probabilityCol")
        check_is_new(prediction, [*dataset.schema.names, probability])
        scored = self._predicted(dataset, probability)
        kind = scored.schema[probability].dataType
        if not _is_numbers(kind):
            raise UsageError(
                f"probabilityCol={probability!r}: the model gives {kind.simpleString()} for a row,"
                " which has no largest number: leave probabilityCol out"
            )
        numbers = F.col(quoted(probability))
        largest = F.array_position(numbers, F.array_max(numbers)) - 1
        return _as_ml(scored.withColumn(prediction, largest.cast("double")), probability)

    def _predicted(self, dataset: DataFrame, output: str) -> DataFrame:
        return predict(dataset, self.uri, batch_size=self.getOrDefault("batchSize"), output=output)

    def _arguments(self) -> dict[str, Any]:
        return {"uri": self.uri}


def _as_ml(frame: DataFrame, name: str) -> DataFrame:
    """The frame with one column as pyspark.ml has it: its evaluators take no floats, nor arrays."""
    kind, column = frame.schema[name].dataType, F.col(quoted(name))
    if isinstance(kind, (NumericType, BooleanType)):
        return frame.withColumn(name, column.cast("double"))
    return frame.withColumn(name, array_to_vector(column)) if _is_numbers(kind) else frame


def _is_numbers(kind: DataType) -> bool:
    return isinstance(kind, ArrayType) and isinstance(kind.elementType, NumericType)
