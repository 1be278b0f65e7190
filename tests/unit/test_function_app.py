"""tfos.run: a function in the place of an app, before Spark has anything to do."""

from __future__ import annotations

import functools
import pickle

import pytest

import tfos
from tfos.app import FunctionApp
from tfos.driver.arguments import check_is_app, parse_args
from tfos.driver.pickled import pickled
from tfos.spec.job import app_stem


def fit(ctx, rate=1):
    return {"rate": rate, "ctx": ctx}


class Trainer:
    def __call__(self, ctx):
        return 3


class TestFunctionApp:
    def test_is_an_app(self):
        app = FunctionApp(fit, {"train": 1})
        check_is_app(app)
        assert app.pre_train(None) == {"train": 1}
        assert app.train("ctx") == {"rate": 1, "ctx": "ctx"}
        assert vars(parse_args(app, ())) == {}

    @pytest.mark.parametrize(
        ("function", "name", "stem"),
        [
            (fit, "fit", "fit"),
            (functools.partial(functools.partial(fit, rate=2), rate=3), "fit", "fit"),
            (Trainer(), "Trainer", "trainer"),
            (lambda ctx: None, "<lambda>", "lambda"),
        ],
    )
    def test_is_named_after_the_function_and_shipped_with_it(self, function, name, stem):
        app = FunctionApp(function, None)
        assert (app._run_name, app_stem(app._run_name), app._code_module) == (name, stem, __name__)

    def test_code_of_a_function_of_ours(self):
        app = FunctionApp(tfos.predict, None, code=fit)
        assert (app._run_name, app._code_module) == ("fit", __name__)

    def test_travels_without_its_data_and_a_run_that_is_resumed_has_the_new_function(self):
        rate = 7
        record = pickled(FunctionApp(lambda ctx: rate, object))
        app = pickle.loads(record["app"])
        assert app.train(None) == 7
        assert app.fit_data is None
        assert pickle.loads(record["state"]) == {}


class TestRefused:
    @pytest.mark.parametrize(
        ("train", "told"),
        [("fit", "not 'fit'"), (Trainer, r"call Trainer\(\)\.run\(\)"), (None, "not None")],
    )
    def test_what_is_no_function(self, train, told):
        with pytest.raises(tfos.UsageError, match=told):
            tfos.run(train, None)

    @pytest.mark.parametrize(
        ("data", "told"), [([1], "given list: it takes a DataFrame"), ({}, "given an empty dict")]
    )
    def test_what_is_no_data(self, data, told):
        with pytest.raises(tfos.TFOSError, match=rf"tfos.run\(\) was {told}"):
            tfos.run(fit, data)
