"""Which of the user's modules travel to the executors."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest

from tfos.driver.shipping import _source_root, sources


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
