"""Where the roles' processes come from: forked with what the app preloads, or started."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import fork_servers, poll, submit

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("no_leaks"), pytest.mark.timeout(300)]
APP = """
import os, sys
import tfos

class App(tfos.TFOnSparkApp):
    preload = ["heavy"]

    def pre_train(self, spark):
        return spark.range(8)

    def train(self, ctx):
        by = sys.modules["heavy"].PID
        return {"imported": True, "by": by, "pid": os.getpid()}
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """An app with a module beside it that knows which process imported it."""
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "heavy.py").write_text("import os\nPID = os.getpid()\n")
    return tmp_path / "app.py"


def test_forked_process_has_what_another_imported(app, tmp_path):
    ended = submit("--json", "--lake", tmp_path / "lake", "--spare", "on", app)
    assert ended.status == 0, ended.stderr
    metrics = ended.result["metrics"]
    assert metrics["imported"]
    assert metrics["by"] != metrics["pid"]
    assert "warning: --spare has no effect any more" in ended.stderr
    poll(lambda: not fork_servers(), 15, "the fork server has ended with its executor")


@pytest.mark.parametrize("why", ["--fork off", "a thread"])
def test_started_process_imports_it(app, tmp_path, why):
    options = why.split() if why.startswith("--") else []
    if not options:
        source = "import os, threading\nPID = os.getpid()\n"
        thread = "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        (tmp_path / "heavy.py").write_text(source + thread)
    ended = submit("--json", "--lake", tmp_path / "lake", "--run-id", "r", *options, app)
    assert ended.status == 0, ended.stderr
    metrics = ended.result["metrics"]
    assert metrics["imported"]
    assert metrics["by"] == metrics["pid"]
    log = (tmp_path / "lake" / "r" / "logs" / "1" / "chief-0.log").read_text()
    told = (
        "this process is started, not forked: importing 'heavy', which the app preloads, starts 1"
    )
    assert (told in log) == (not options), log


def test_preload_that_is_not_there_is_the_root_cause(app, tmp_path):
    (tmp_path / "heavy.py").unlink()
    ended = submit("--json", "--lake", tmp_path / "lake", app)
    assert ended.status == 1
    assert ended.result["error"]["message"] == "ModuleNotFoundError: No module named 'heavy'"
    assert ended.result["attempts"] == 1


def test_preload_that_is_no_list(app, tmp_path):
    app.write_text(APP.replace('preload = ["heavy"]', 'preload = "heavy"'))
    ended = submit("--json", "--lake", tmp_path / "lake", app)
    assert ended.status == 1
    assert "App.preload is 'heavy': give a list of names of modules" in ended.last_words
