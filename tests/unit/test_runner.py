"""Finding the app in app.py."""

from __future__ import annotations

import os
import signal
import sys
import types

import pytest

from tfos.app import TFOnSparkApp
from tfos.cli import script
from tfos.driver.run import DRIVER_PID
from tfos.errors import AppError
from tfos.spec.result import RESULT_FILE_ENV

APP = """
import tfos

class {0}(tfos.TFOnSparkApp):
    def pre_train(self, spark): ...
    def train(self, ctx): ...
"""


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    """What load() and main() change in this process is put back."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delenv(RESULT_FILE_ENV, raising=False)
    before = dict(sys.modules)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for name in set(sys.modules) - set(before):
        del sys.modules[name]
    sys.modules.update(before)
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


class TestHasMainBlock:
    @pytest.mark.parametrize(
        "source",
        [
            'if __name__ == "__main__":\n    run()',
            "import x\nif '__main__' == __name__:\n    run()\nelse:\n    pass",
        ],
    )
    def test_with(self, source):
        assert script.has_main_block(source)

    @pytest.mark.parametrize(
        "source",
        [
            "",
            "x = __name__",
            'if __name__ == "other":\n    run()',
            "if True:\n    run()",
            'TEXT = """\nif __name__ == "__main__":\n    run()\n"""',
            '# if __name__ == "__main__": run()',
            'def f():\n    if __name__ == "__main__":\n        run()',
        ],
    )
    def test_without(self, source):
        assert not script.has_main_block(source)


class TestFindApp:
    def module(self, *names, **others):
        module = types.ModuleType("user_app")
        module.__file__ = "/x/user_app.py"
        module.TFOnSparkApp = TFOnSparkApp
        for name in names:
            setattr(module, name, type(name, (TFOnSparkApp,), {"__module__": "user_app"}))
        vars(module).update(others)
        return module

    def test_the_only_one(self):
        module = self.module("App")
        assert script.find_app(module, None) is module.App

    def test_none_is_refused_with_an_example(self):
        with pytest.raises(AppError) as caught:
            script.find_app(self.module(), None)
        assert "/x/user_app.py" in str(caught.value)
        assert "def pre_train(self, spark)" in str(caught.value)

    def test_several_are_listed(self):
        with pytest.raises(AppError, match=r"\['First', 'Second'\].*--class"):
            script.find_app(self.module("Second", "First"), None)

    def test_class_chooses(self):
        module = self.module("First", "Second")
        assert script.find_app(module, "Second") is module.Second

    def test_class_that_is_not_there_lists_those_that_are(self):
        with pytest.raises(AppError, match=r"--class Third.*\['First', 'Second'\]"):
            script.find_app(self.module("First", "Second"), "Third")

    def test_imported_apps_do_not_count(self):
        imported = type("Base", (TFOnSparkApp,), {"__module__": "library"})
        module = self.module("App", Base=imported)
        assert script.find_app(module, None) is module.App

    def test_two_names_of_one_class_are_one(self):
        module = self.module("App")
        module.Alias = module.App
        assert script.find_app(module, None) is module.App


class TestLoad:
    def test_module_is_imported_under_its_name(self, write):
        module = script.load(write("some_user_app.py", APP.format("App")))
        assert module.__name__ == "some_user_app"
        assert sys.modules["some_user_app"] is module
        assert script.find_app(module, None).__name__ == "App"

    def test_modules_beside_it_can_be_imported(self, write):
        write("some_user_features.py", "VALUE = 7")
        module = script.load(write("some_user_app.py", "from some_user_features import VALUE"))
        assert module.VALUE == 7

    def test_script_with_a_main_block_is_executed(self, write):
        text = 'seen = []\nif __name__ == "__main__":\n    seen.append(__file__)\n'
        file = write("script.py", text)
        module = script.load(file)
        assert module.seen == [str(file)]
        assert sys.modules["__main__"] is module

    def test_file_whose_name_is_no_identifier_is_executed(self, write):
        module = script.load(write("my-app.2.py", APP.format("App")))
        assert script.find_app(module, None).__module__ == "__main__"

    def test_file_with_the_name_of_an_imported_module_is_still_the_one_loaded(self, write):
        """Such as json.py or test.py: whatever is done, it is not Python's own module."""
        file = write("json.py", APP.format("App"))
        try:
            module = script.load(file)
        except AppError as error:
            assert "json" in str(error)
        else:
            assert module.__file__ == str(file)

    def test_missing_file(self, tmp_path):
        with pytest.raises(AppError, match=r"nope\.py"):
            script.load(tmp_path / "nope.py")

    def test_error_in_the_app_is_the_apps(self, write):
        with pytest.raises(ZeroDivisionError):
            script.load(write("some_user_app.py", "1 / 0"))


class TestMain:
    @pytest.fixture(autouse=True)
    def no_runs_yet(self, monkeypatch):
        """What other tests ran in this process is not of this script."""
        monkeypatch.setattr(script, "runs", [])

    @pytest.fixture
    def runs(self, monkeypatch):
        """The calls of TFOnSparkApp.run, as (class name, keywords)."""
        calls = []
        monkeypatch.setattr(
            TFOnSparkApp, "run", lambda self, **kw: calls.append((type(self).__name__, kw))
        )
        return calls

    def test_app_is_run_with_its_arguments(self, write, runs):
        file = write("some_user_app.py", APP.format("App"))
        assert script.main([str(file), "--rows", "5"]) == 0
        assert runs == [("App", {"args": ["--rows", "5"]})]
        assert sys.argv == [str(file), "--rows", "5"]

    def test_class_is_chosen(self, write, runs):
        file = write("some_user_app.py", APP.format("A") + APP.format("B"))
        assert script.main(["--class", "B", str(file)]) == 0
        assert runs == [("B", {"args": []})]

    def test_app_error_becomes_the_result(self, write, tmp_path, monkeypatch):
        result = tmp_path / "result.json"
        monkeypatch.setenv(RESULT_FILE_ENV, str(result))
        assert script.main([str(write("some_user_app.py", "x = 1"))]) == 1
        assert "no subclass of tfos.TFOnSparkApp" in result.read_text()
        assert (tmp_path / DRIVER_PID).read_text() == str(os.getpid())

    def test_error_in_the_module_becomes_the_result_with_its_traceback(
        self, write, tmp_path, monkeypatch
    ):
        result = tmp_path / "result.json"
        monkeypatch.setenv(RESULT_FILE_ENV, str(result))
        assert script.main([str(write("some_user_app.py", "def f(:\n"))]) == 1
        assert "SyntaxError" in result.read_text()

    def test_without_pl_submit_an_error_is_raised(self, write):
        with pytest.raises(AppError):
            script.main([str(write("some_user_app.py", "x = 1"))])

    def test_exit_0_of_a_script_is_success(self, write):
        text = 'import sys\nif __name__ == "__main__":\n    sys.exit(0)\n'
        assert script.main([str(write("script.py", text))]) == 0
