"""TFOnSparkApp: the three methods that a user writes, and run()."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from tfos.context import TrainContext
    from tfos.feeding.feed import Feed
    from tfos.spec.result import Result


class TFOnSparkApp:
    """One application: Spark ETL, TensorFlow training, and what comes after.

    Subclass it in app.py and submit it with `pl_submit app.py`, or call run() on an instance.

    args: the app's own command line, parsed by add_arguments.
    result: None until the roles have ended; then what result.json will hold.
    fit_data: the DataFrame that tfos.ml.TFEstimator.fit() was given, for pre_train(); else None.
    """

    args: argparse.Namespace = argparse.Namespace()
    result: Result | None = None
    fit_data: DataFrame | None = None

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

    def _missing_methods(self) -> list[str]:
        """The methods that every app needs and this one does not define."""
        needed = ("train",) if self.fit_data is not None else ("pre_train", "train")
        return [
            method
            for method in needed
            if getattr(type(self), method) is getattr(TFOnSparkApp, method)
        ]
