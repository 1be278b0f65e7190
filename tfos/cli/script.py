"""What pl_submit gives to spark-submit: finds the app in app.py and runs it.

    script.py [--class NAME] [--log LAKE RUN_ID] app.py [app args]

An app.py with an `if __name__ == "__main__":` block is executed as the script that it is, and is
expected to call run(); without one it is imported as a module, and its TFOnSparkApp is run.
--log: in cluster mode; what the driver writes goes to the log in that run's directory as well.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import os
import signal
import sys
import traceback
import types
import warnings
from pathlib import Path
from typing import NoReturn

if __name__ == "__main__":
    sys.path.pop(0)  # this directory: its modules must not stand in for the user's

from tfos.app import TFOnSparkApp
from tfos.compat import horovod
from tfos.driver.own_log import kept
from tfos.driver.run import DRIVER_PID, runs
from tfos.errors import AppError, LakeError, Terminated, TFOSError
from tfos.fault.failures import Failure
from tfos.lake.run_directory import RunDirectory, upload_of
from tfos.lake.storage import Storage
from tfos.runtime.scratch import use_container
from tfos.spec.result import RESULT_FILE_ENV, Result, write_result_file

_EXAMPLE = """write one, e.g.

    import tfos

    class App(tfos.TFOnSparkApp):
        def pre_train(self, spark): ...   # returns a DataFrame
        def train(self, ctx): ...         # TensorFlow code"""


def has_main_block(source: str) -> bool:
    """Whether a module does something when it is run as a script."""
    return any(
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Compare)
        and {"__name__", "'__main__'"}
        <= {ast.unparse(node.test.left)} | {ast.unparse(other) for other in node.test.comparators}
        for node in ast.parse(source).body
    )


def find_app(module: types.ModuleType, name: str | None) -> type[TFOnSparkApp]:
    """The TFOnSparkApp subclass that `module` defines. Raises AppError when it is not one."""
    found = {
        value.__name__: value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, TFOnSparkApp)
        and value is not TFOnSparkApp
        and value.__module__ == module.__name__
    }
    file = getattr(module, "__file__", module.__name__)
    if name is not None:
        if name not in found:
            raise AppError(
                f"--class {name}: {file} has no such TFOnSparkApp; it has {sorted(found)}"
            )
        return found[name]
    if not found:
        raise AppError(f"{file} has no subclass of tfos.TFOnSparkApp: {_EXAMPLE}")
    if len(found) > 1:
        raise AppError(
            f"{file} has several TFOnSparkApps, {sorted(found)}: choose with --class NAME"
        )
    return next(iter(found.values()))


def load(path: Path) -> types.ModuleType:
    """Executes app.py, as a script or as a module; see the module's docstring."""
    if not path.is_file():
        raise AppError(f"app.py not found: there is no file {path}")
    source = path.read_text()
    sys.path.insert(0, str(path.parent))
    if path.stem.isidentifier() and not has_main_block(source):
        module = importlib.import_module(path.stem)
        if Path(getattr(module, "__file__", None) or "").resolve() != path:
            raise AppError(
                f"{path} cannot be imported, since Python has another module named {path.stem!r}:"
                " rename the file"
            )
        return module
    module = types.ModuleType("__main__")
    module.__file__ = str(path)
    sys.modules["__main__"] = module
    exec(compile(source, str(path), "exec"), vars(module))
    return module


def _terminate(signum: int, frame: object) -> NoReturn:
    raise Terminated


def main(argv: list[str]) -> int:
    use_container()
    signal.signal(signal.SIGTERM, _terminate)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if RESULT_FILE_ENV in os.environ:
        Path(os.environ[RESULT_FILE_ENV]).with_name(DRIVER_PID).write_text(str(os.getpid()))
    name = None
    if argv[0] == "--class":
        name, argv = argv[1], argv[2:]
    if argv[0] == "--log":
        lake = RunDirectory(argv[1], argv[2])
        # they are on the path already, from where YARN has put them
        warnings.filterwarnings("ignore", "Failed to add file .*spark.submit.pyFiles")
        with kept(lake):
            _forget_upload(lake)
            return _run(name, argv[3:], lake)
    return _run(name, argv, None)


def _forget_upload(lake: RunDirectory) -> None:
    """Removes what pl_submit has put there for a pod: Spark has fetched all of it by now.

    pl_submit may not be there any more when the run ends. It removes what is another user's.
    """
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        with contextlib.suppress(LakeError):
            Storage(lake.url).remove(upload_of(lake.run_id))


def _run(name: str | None, argv: list[str], lake: RunDirectory | None) -> int:
    """lake: the run's directory, where no file was named for the result of a run without one."""
    path = Path(argv[0]).resolve()
    sys.argv = [str(path), *argv[1:]]
    try:
        with horovod.explained():
            module = load(path)
        if not runs:
            find_app(module, name)().run(args=argv[1:])
    except SystemExit as error:
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException as error:
        result = runs[-1] if runs else _failed_result(error, lake.run_id if lake else None)
        if not runs:
            write_result_file(result)
        has_failed_after = result.status == "succeeded"
        if lake is not None and (has_failed_after or not _is_told(lake, result)):
            print(_in_words(error), file=sys.stderr)
        elif RESULT_FILE_ENV not in os.environ or has_failed_after:
            raise  # nobody else tells of it
        return 130 if isinstance(error, KeyboardInterrupt) else 1
    return 0


def _in_words(error: BaseException) -> str:
    is_ours = isinstance(error, TFOSError)
    return f"tfos: {error}" if is_ours else "".join(traceback.format_exception(error))


def _is_told(lake: RunDirectory, result: Result) -> bool:
    """Whether the run's directory has this result; writes it where there is nothing yet."""
    try:
        if not lake.has_begun():
            lake.write_result(result.as_json())
            return False  # all of it
        return lake.result() == result.as_json()
    except LakeError:
        return False


def _failed_result(error: BaseException, run_id: str | None) -> Result:
    """The result of a run that failed before it began."""
    if isinstance(error, TFOSError):
        failure = Failure.of_driver(str(error))
    else:
        failure = Failure.of_driver(f"{type(error).__name__}: {error}", traceback.format_exc())
    return Result.not_started(failure.as_error(), run_id)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
