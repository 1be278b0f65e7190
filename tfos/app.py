"""TFOnSparkApp: the three methods that a user writes, and run()."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from tfos.errors import UsageError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from tfos.context import TrainContext
    from tfos.feeding.feed import Feed
    from tfos.spec.result import Result


class TFOnSparkApp:
    """One application: Spark ETL, TensorFlow training, and what comes after.

    Subclass it in app.py and submit it with `pl_submit app.py`, or call run() on an instance.

    preload: names of modules that the processes of the roles are to have imported before they
    begin, for what takes seconds to import: ["transformers"]. Once on each executor, beside
    pre_train(); a module that starts threads as it is imported makes each process import it.
    args: the app's own command line, parsed by add_arguments.
    result: None until the roles have ended; then what result.json will hold.
    fit_data: the DataFrame that tfos.ml.TFEstimator.fit() was given, for pre_train(), or what
    tfos.run() was; else None.
    """

    # what pre_train() has not set: a run that is resumed has its own
    _not_from_pre_train: ClassVar[tuple[str, ...]] = ("args", "result")
    # in messages, before what the feeds were to be made of
    _feeds_from: ClassVar[str] = "pre_train() returned"
    # whether there is no code of the user's that runs on the driver
    _only_trains: ClassVar[bool] = False
    # whether a train() that exports no model leaves that to tfos
    _exports_by_itself = False
    preload: Sequence[str] = ()
    args: argparse.Namespace = argparse.Namespace()
    result: Result | None = None
    fit_data: DataFrame | Feed | dict[str, DataFrame | Feed] | None = None

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Declares the app's own arguments, those after app.py. Optional."""

    def pre_train(self, spark: SparkSession) -> DataFrame | Feed | dict[str, DataFrame | Feed]:
        """Spark ETL, on the driver. Returns the training DataFrame, or named ones.

        A Feed holds a DataFrame with what tfos cannot know of its columns: see docs/COLUMNS.md. A
        single DataFrame or Feed becomes the feed "train". Attributes set on self reach train(), so
        they must be picklable.
        """
        if self.fit_data is None:
            raise NotImplementedError
        return self.fit_data

    def train(self, ctx: TrainContext) -> Any:
        """TensorFlow code, in the chief. What it returns, a JSON-able dict, is the metrics."""
        raise NotImplementedError

    def shutdown(self) -> None:
        """Releases what the app opened, on the driver. Always called, whatever happened before."""

    def run(
        self, spark: SparkSession | None = None, args: Sequence[str] | None = None, **job: Any
    ) -> Result:
        """Runs the app from Python, a notebook included. Blocks until the run has ended.

        spark: the session to run in; without it one is made, and stopped at the end.
        args: the app's own command line; sys.argv[1:] in a script, none in a notebook.
        job: what pl_submit's flags take: num_ps=1, lake="...". params={...} is ctx.params in
        train(), of what JSON can hold: numbers, text, booleans, None, lists and dicts.
        Returns what result.json holds. Raises UsageError, AppError, PreflightError,
        StartTimeout, RegistryError, LakeError or FeedError for what tfos itself found wrong,
        RunFailed for any other failure, its message the root cause.
        """
        from tfos.driver.run import run_app

        return run_app(self, spark, args, job)

    @property
    def _run_name(self) -> str:
        """What the run and the Spark application are named after."""
        return type(self).__name__

    @property
    def _code_module(self) -> str:
        """The module of the user's code, which the executors need with what lies beside it."""
        return type(self).__module__

    def _missing_methods(self) -> list[str]:
        """The methods that every app needs and this one does not define."""
        needed = ("train",) if self.fit_data is not None else ("pre_train", "train")
        return [
            method
            for method in needed
            if getattr(type(self), method) is getattr(TFOnSparkApp, method)
        ]


class FunctionApp(TFOnSparkApp):
    """An app that is a plain function; see run().

    code: the user's own function, where `function` is one of tfos that calls it.
    """

    _not_from_pre_train = (*TFOnSparkApp._not_from_pre_train, "_function", "_code")
    _feeds_from = "tfos.run() was given"
    _only_trains = True

    def __init__(
        self,
        function: Callable[[TrainContext], Any],
        data: DataFrame | Feed | dict[str, DataFrame | Feed],
        code: Callable[..., Any] | None = None,
    ) -> None:
        self._function, self.fit_data = function, data
        self._code = code or function

    def train(self, ctx: TrainContext) -> Any:
        return self._function(ctx)

    @property
    def _run_name(self) -> str:
        code = _unwrapped(self._code)
        return str(getattr(code, "__name__", type(code).__name__))

    @property
    def _code_module(self) -> str:
        return str(_unwrapped(self._code).__module__)


def _unwrapped(function: Any) -> Any:
    while isinstance(function, functools.partial):
        function = function.func
    return function


def run(
    train: Callable[[TrainContext], Any],
    data: DataFrame | Feed | dict[str, DataFrame | Feed],
    spark: SparkSession | None = None,
    params: Mapping[str, Any] | None = None,
    **job: Any,
) -> Result:
    """Trains on a DataFrame with a function and no class; blocks until the run has ended.

    train: called as train(ctx), as TFOnSparkApp.train() is; also a lambda, or one of a notebook.
    What it returns is the metrics of the result: a JSON-able dict, or a value under "returned".
    data: what pre_train() may return: a DataFrame or tfos.Feed, which becomes the feed "train", or
    a dict of named ones.
    spark: the session to run in; the data's own when not given.
    params: ctx.params. job: what pl_submit's flags take: num_ps=1, lake="...".
    Raises what TFOnSparkApp.run() does.
    """
    if isinstance(train, type) or not callable(train):
        hint = f"; call {train.__name__}().run()" if isinstance(train, type) else ""
        raise UsageError(f"tfos.run(train, ...) takes a function train(ctx), not {train!r}{hint}")
    from tfos.driver.feeds import named_feeds

    feeds = named_feeds(data, FunctionApp._feeds_from)
    spark = spark or next(iter(feeds.values())).df.sparkSession
    return FunctionApp(train, data).run(spark, (), params=params, **job)
