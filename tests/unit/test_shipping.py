"""Which of the user's modules travel to the executors."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import pytest

from tfos.driver.shipping import _namespaces, _source_root, archive_of, sources, tell_of_missing


@pytest.fixture
def project(tmp_path):
    """An app beside a module, a package with a package in it, and what is no code."""
    for name in (
        "app.py",
        "features.py",
        "lib/__init__.py",
        "lib/deep/__init__.py",
        "lib/deep/model.py",
        "data/rows.csv",
        "data/notes.py",
        "README.md",
    ):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")
    return tmp_path


def test_sources_are_modules_and_packages_and_nothing_else(project):
    found = [str(file.relative_to(project)) for file in sources(project)]
    assert sorted(found) == [
        "app.py",
        "features.py",
        "lib/__init__.py",
        "lib/deep/__init__.py",
        "lib/deep/model.py",
    ]


def shipped(project, imported=()):
    return {file.relative_to(project).as_posix() for file in sources(project, imported)}


class TestFolderWithoutInit:
    """A package by PEP 420, where somebody imports it."""

    @pytest.fixture(autouse=True)
    def folders(self, project):
        for name in ("towers/two.py", "towers/deep/er.py", "blocks/mlp.py", "other/deep/x.py"):
            file = project / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("")
        (project / "towers" / "not-a-name").mkdir()
        (project / "towers" / "not-a-name" / "z.py").write_text("")

    @pytest.mark.parametrize(
        "line",
        [
            "import towers.two",
            "from towers.two import tower",
            "from towers import two",
            "def train():\n    import towers.two as t",
        ],
    )
    @pytest.mark.parametrize("where", ["app.py", "features.py", "lib/deep/model.py"])
    def test_that_a_module_imports(self, project, where, line):
        before = shipped(project)
        (project / where).write_text(line)
        assert shipped(project) - before == {"towers/two.py", "towers/deep/er.py"}

    def test_that_one_of_its_kind_imports(self, project):
        (project / "app.py").write_text("import towers.two")
        (project / "towers" / "deep" / "er.py").write_text("from blocks.mlp import block")
        assert {"towers/two.py", "blocks/mlp.py"} <= shipped(project)
        assert "other/deep/x.py" not in shipped(project)

    def test_that_this_process_has_imported_somehow(self, project, monkeypatch):
        monkeypatch.syspath_prepend(str(project))
        assert "towers/two.py" not in shipped(project, _namespaces(project))
        __import__("towers.two")
        monkeypatch.delitem(sys.modules, "towers.two")
        assert "towers/two.py" in shipped(project, _namespaces(project))
        monkeypatch.delitem(sys.modules, "towers")

    def test_a_relative_import_is_none_of_it(self, project):
        (project / "lib" / "deep" / "model.py").write_text("from . import towers")
        assert "towers/two.py" not in shipped(project)

    def test_a_module_that_is_none(self, project):
        (project / "features.py").write_text("print 'Python 2'")
        (project / "app.py").write_text("import towers")
        assert "towers/two.py" in shipped(project)

    def test_python_imports_it_from_the_archive(self, project, tmp_path_factory):
        (project / "app.py").write_text("import towers.deep.er, towers.two, lib.deep.model")
        archive = tmp_path_factory.mktemp("elsewhere") / "app.zip"
        archive.write_bytes(archive_of(project, sources(project)))
        code = f"import sys; sys.path.insert(0, {str(archive)!r}); import app"
        subprocess.run([sys.executable, "-c", code], check=True, cwd=archive.parent, timeout=60)


class Executors:
    """As much of a SparkSession as is asked for a small job, on executors with this module path."""

    def __init__(self, *path):
        self.path, self.jobs = list(path), 0
        self.sparkContext = self

    def parallelize(self, items, slices):
        return self

    def mapPartitions(self, task):
        self.task = task
        return self

    def collect(self):
        self.jobs += 1
        code = "import sys, pickle; task = pickle.load(sys.stdin.buffer); print(*task(None))"
        from pyspark import cloudpickle

        done = subprocess.run(
            [sys.executable, "-c", code], input=cloudpickle.dumps(self.task), check=True,
            capture_output=True, timeout=60, cwd="/", env={"PYTHONPATH": ":".join(self.path)},
        )  # fmt: skip
        return done.stdout.decode().split()


class TestModuleFromElsewhere:
    @pytest.fixture
    def elsewhere(self, tmp_path_factory, monkeypatch):
        folder = tmp_path_factory.mktemp("elsewhere")
        (folder / "nets_from_elsewhere.py").write_text("def net(): pass")
        monkeypatch.syspath_prepend(str(folder))
        __import__("nets_from_elsewhere")
        yield folder
        sys.modules.pop("nets_from_elsewhere", None)

    @staticmethod
    def told(executors, app_module):
        app = type("App", (), {"__module__": app_module})()
        lines = []
        tell_of_missing(executors, type(app).__module__, lines.append)
        return lines

    def test_is_told_of_where_executors_do_not_find_it(self, project, module, elsewhere):
        (project / "app.py").write_text("import json, pytest\nfrom nets_from_elsewhere import net")
        (line,) = self.told(Executors(), module("app", project / "app.py"))
        assert "'nets_from_elsewhere'" in line
        assert str(elsewhere) in line
        assert "--py-files" in line

    def test_not_where_they_do(self, project, module, elsewhere):
        (project / "app.py").write_text("from nets_from_elsewhere import net")
        assert not self.told(Executors(str(elsewhere)), module("app", project / "app.py"))

    def test_of_a_notebook(self, module, elsewhere):
        notebook = module("__main__", None)
        sys.modules[notebook].make = sys.modules["nets_from_elsewhere"].net
        assert len(self.told(Executors(), notebook)) == 1

    def test_nothing_is_asked_where_all_is_shipped_or_installed(self, project, module):
        (project / "app.py").write_text("import json, pytest, features, lib, tfos, nowhere")
        executors = Executors()
        assert not self.told(executors, module("app", project / "app.py"))
        assert not executors.jobs


@pytest.fixture
def module(monkeypatch):
    """Makes a module of some name and file the imported one."""

    def make(name, file):
        made = types.ModuleType(name)
        if file is not None:
            made.__file__ = str(file)
        monkeypatch.setitem(sys.modules, name, made)
        return name

    return make


class TestSourceRoot:
    def test_of_a_module_is_its_directory(self, project, module):
        assert _source_root(module("app", project / "app.py")) == project

    def test_of_a_script_is_its_directory(self, project, module):
        assert _source_root(module("__main__", project / "app.py")) == project

    def test_of_a_module_in_a_package_is_beside_the_package(self, project, module):
        name = module("lib.deep.model", project / "lib" / "deep" / "model.py")
        assert _source_root(name) == project

    def test_of_a_package_itself_is_beside_it(self, project, module):
        assert _source_root(module("lib", project / "lib" / "__init__.py")) == project

    @pytest.mark.parametrize("folder", ["site-packages", "dist-packages"])
    def test_installed_module_has_none(self, tmp_path, module, folder):
        file = tmp_path / folder / "pkg.py"
        file.parent.mkdir()
        file.write_text("")
        assert _source_root(module("pkg", file)) is None

    def test_notebook_has_none(self, module):
        assert _source_root(module("__main__", None)) is None
        assert _source_root(module("__main__", Path("/tmp/ipykernel_1/2.py"))) is None
