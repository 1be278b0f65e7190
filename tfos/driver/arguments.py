"""The app's own command line, and whether it is an app at all."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from tfos.errors import AppError, UsageError

if TYPE_CHECKING:
    from tfos.app import TFOnSparkApp


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}\n{self.format_usage().strip()}")


def parse_args(app: TFOnSparkApp, args: Sequence[str] | None) -> argparse.Namespace:
    """The app's own arguments. Raises UsageError with the app's usage."""
    module = sys.modules.get(type(app).__module__)
    is_script = type(app).__module__ == "__main__" and hasattr(module, "__file__")
    if args is None:
        args = sys.argv[1:] if is_script else []
    name = getattr(module, "__file__", None) or type(app).__name__
    parser = _Parser(prog=name.rpartition("/")[2], description=type(app).__doc__)
    app.add_arguments(parser)
    return parser.parse_args(list(args))


def check_is_app(app: TFOnSparkApp) -> None:
    """Raises AppError when a method that every app needs is missing, or `preload` is no list."""
    for method in app._missing_methods():
        raise AppError(
            f"{type(app).__name__} does not define {method}(); a TFOnSparkApp needs"
            " pre_train(self, spark) and train(self, ctx)"
        )
    names = app.preload
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise AppError(
            f"{type(app).__name__}.preload is {names!r}: give a list of names of modules, e.g."
            ' ["transformers"]'
        )
