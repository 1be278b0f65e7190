"""TFEstimator and TFModel as pyspark.ml knows them: Params, copies, arguments. No Spark runs."""

from __future__ import annotations

import collections
import types

import pytest
from pyspark.sql.types import StringType, StructField, StructType

import tfos
from tfos.driver.arguments import check_is_app
from tfos.errors import AppError, UsageError
from tfos.ml import TFEstimator, TFModel
from tfos.spec.result import Result
from tfos.training.model_function import TrainModel

TEXT = StringType()


class App(tfos.TFOnSparkApp):
    def train(self, ctx):
        pass

    def run(self, spark=None, args=None, **job):
        self.called = {"spark": spark, "args": args, **job}
        App.last = self
        return Result(
            "r", "succeeded", model="/lake/run/model" if job["params"]["export"] else None
        )


class Frame:
    sparkSession = "the session"  # noqa: N815

    columns = ("a", "b", "label", "y", "w", "net.delay")

    def __init__(self) -> None:
        self.selected = None

    def select(self, *columns):
        self.selected = columns
        return self


def make(**options) -> TFEstimator:
    params = {"epochs": 2, "export": True, **options.pop("params", {})}
    return TFEstimator(App, params=params, **options)


class TestEstimator:
    def test_run_gets_arguments_params_and_data(self):
        estimator, frame = make(args=["--rank", "3"], num_workers=3, lake="/lake"), Frame()
        model = estimator.fit(frame)
        assert App.last.called == {
            "spark": "the session",
            "args": ["--rank", "3"],
            "params": {"epochs": 2, "export": True},
            "num_workers": 3,
            "lake": "/lake",
        }
        assert App.last.fit_data is frame
        assert frame.selected is None
        assert (model.uri, model.uid) == ("/lake/run/model", estimator.uid)
        assert model.getPredictionCol() == "prediction"

    def test_param_map_reaches_the_run_and_nothing_else(self):
        estimator = make(predictionCol="p")
        model = estimator.fit(Frame(), {estimator.epochs: 7, estimator.predictionCol: "q"})
        assert App.last.called["params"]["epochs"] == 7
        assert model.getPredictionCol() == "q"
        assert estimator.getOrDefault("epochs") == 2
        assert estimator.getPredictionCol() == "p"

    @pytest.mark.parametrize(
        ("options", "fed"),
        [
            ({"featuresCols": ["a", "b"]}, ("`a`", "`b`", "`label`")),
            ({"featuresCols": ["a"], "labelCol": "y", "weightCol": "w"}, ("`a`", "`y`", "`w`")),
            ({"featuresCols": ["net.delay", "s.field"]}, ("`net.delay`", "s.field", "`label`")),
        ],
    )
    def test_columns_that_are_fed(self, options, fed):
        frame = Frame()
        make(**options).fit(frame)
        assert frame.selected == fed

    def test_instance_is_copied_for_each_fit(self):
        app = App()
        app.size = 3
        TFEstimator(app, params={"export": True}).fit(Frame())
        assert App.last is not app
        assert App.last.size == 3
        assert app.fit_data is None

    def test_copy_has_params_of_its_own(self):
        estimator = make()
        copied = estimator.copy({estimator.epochs: 9})
        assert copied.getOrDefault("epochs") == 9
        assert estimator.getOrDefault("epochs") == 2
        assert copied.uid == estimator.uid

    def test_train_that_exports_nothing(self):
        with pytest.raises(AppError, match=r"train\(\) of App exported no model"):
            make(params={"export": False}).fit(Frame())

    @pytest.mark.parametrize("name", ["run_id", "resume"])
    def test_each_fit_is_a_new_run(self, name):
        with pytest.raises(UsageError, match=rf"TFEstimator\({name}=.*leave it out"):
            make(**{name: "x"})

    @pytest.mark.parametrize("name", ["fit", "labelCol", "uid", "not a name"])
    def test_name_of_a_hyperparameter(self, name):
        with pytest.raises(UsageError, match=f"names '{name}'"):
            make(params={name: 1})

    def test_hyperparameters_are_params(self):
        estimator = make()
        assert {"epochs", "export", "labelCol"} <= {param.name for param in estimator.params}
        assert "ctx.params['epochs']" in estimator.explainParam("epochs")

    def test_arguments_make_the_same_estimator(self):
        estimator = make(num_workers=3, args=["--x"])
        again = TFEstimator._from_arguments(estimator._arguments())
        assert again._arguments() == estimator._arguments()
        again.fit(Frame())
        assert App.last.called["num_workers"] == 3


def make_model(ctx):
    return ctx


class TestModelFunction:
    @pytest.fixture
    def called(self, monkeypatch):
        """What FunctionApp.run() is called with."""
        called = []

        def run(app, spark=None, args=None, **job):
            called.append((app, {"spark": spark, "args": args, **job}))
            return Result("r", "succeeded", model="/lake/run/model")

        monkeypatch.setattr("tfos.app.FunctionApp.run", run)
        return called

    def make(self, **options) -> TFEstimator:
        return TFEstimator(model_fn=make_model, featuresCols=["a"], labelCol="y", **options)

    def test_is_trained_with_the_params(self, called):
        estimator, frame = self.make(params={"rate": 0.1}, epochs=3, num_workers=2), Frame()
        model = estimator.fit(frame, {estimator.batchSize: 64})
        ((app, job),) = called
        assert app._function == TrainModel(make_model, ["a"], "y", None, 64, 3, 0.0)
        assert (app.fit_data, app._run_name, app._code_module) == (frame, "make_model", __name__)
        assert frame.selected == ("`a`", "`y`")
        assert job == {
            "spark": "the session", "args": [], "params": {"rate": 0.1}, "num_workers": 2,
        }  # fmt: skip
        assert model.uri == "/lake/run/model"

    def test_defaults(self, called):
        TFEstimator(model_fn=make_model).fit(Frame())
        assert called[0][0]._function == TrainModel(make_model, None, "label", None, 1024, 1, 0.0)

    def test_arguments_and_params_make_the_same_estimator(self):
        estimator = self.make(epochs=3, params={"rate": 1}, lake="/lake")
        again = TFEstimator._from_arguments(estimator._arguments())
        assert again._arguments() == estimator._arguments()
        assert {"epochs", "batchSize", "validationSplit", "rate"} <= {p.name for p in again.params}

    @pytest.mark.parametrize(
        ("options", "told"),
        [
            ({}, "an app or model_fn"),
            ({"app": App, "model_fn": make_model}, "one of the two"),
            ({"app": App, "epochs": 3}, r"params=\{'epochs': 3\}"),
            ({"model_fn": make_model, "params": {"epochs": 3}}, "names 'epochs'"),
            ({"model_fn": lambda: None}, r"as model_fn\(ctx\): too many positional"),
            ({"model_fn": "model"}, r"as model_fn\(ctx\): 'model' is not a callable"),
        ],
    )
    def test_refused(self, options, told):
        with pytest.raises(UsageError, match=told):
            TFEstimator(**options)


class TestModel:
    def test_transform_is_predict(self, monkeypatch):
        called = []
        text = types.SimpleNamespace(schema=collections.defaultdict(lambda: StructField("", TEXT)))

        def predict(*args, **named):
            called.append((args, named))
            return text

        monkeypatch.setattr("tfos.ml.predict", predict)
        monkeypatch.setattr("tfos.ml.F.col", lambda name: name)
        model = TFModel("/lake/run/model")
        frame = types.SimpleNamespace()
        model.transform(frame)
        model.transform(frame, {model.batchSize: 10, model.predictionCol: "p"})
        assert called == [
            ((frame, "/lake/run/model"), {"batch_size": 4096, "output": "prediction"}),
            ((frame, "/lake/run/model"), {"batch_size": 10, "output": "p"}),
        ]

    @pytest.mark.parametrize("name", ["prediction", "Prediction"])
    def test_names_that_are_taken(self, name):
        model = TFModel("/lake/run/model")
        frame = types.SimpleNamespace(schema=StructType().add(name, TEXT))
        with pytest.raises(UsageError, match="has a column of this name already"):
            model.transform(frame, {model.probabilityCol: "p", model.predictionCol: name})

    def test_one_name_for_both(self):
        model = TFModel("/lake/run/model")
        with pytest.raises(UsageError, match="has a column of this name already"):
            model.transform(
                types.SimpleNamespace(schema=StructType()),
                {model.probabilityCol: "p", model.predictionCol: "P"},
            )

    def test_estimator_hands_its_columns_on(self):
        model = make(predictionCol="class", probabilityCol="p").fit(Frame())
        assert model.getPredictionCol() == "class"
        assert model.getOrDefault("probabilityCol") == "p"
        assert not make().fit(Frame()).isDefined("probabilityCol")


class TestApp:
    def test_without_pre_train_needs_data(self):
        app = App()
        with pytest.raises(AppError, match=r"does not define pre_train\(\)"):
            check_is_app(app)
        app.fit_data = Frame()
        check_is_app(app)
        assert app.pre_train(None) is app.fit_data
