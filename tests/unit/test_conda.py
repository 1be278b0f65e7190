"""Archives of conda environments, and that they run elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import pytest
from conda_environment import install_tfos, make_conda_environment

import tfos
from tfos.cli.main import main
from tfos.cli.submission import Submission
from tfos.errors import UsageError
from tfos.packing.archive import about
from tfos.packing.conda import conda_prefix

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="archives are for Linux"),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def environment(home):
    """One named `mine`, with tfos."""
    if "deb_system" in sysconfig.get_scheme_names():
        pytest.skip("Debian's Python looks for packages elsewhere than conda has them")
    prefix = home / "envs" / "mine"
    make_conda_environment(prefix, home)
    install_tfos(prefix)
    return prefix


@pytest.fixture(autouse=True)
def user(home, monkeypatch):
    monkeypatch.setenv("HOME", str(home))


@pytest.fixture(scope="module")
def archive(environment, home, tmp_path_factory):
    path = tmp_path_factory.mktemp("packed") / "env.tar.gz"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        assert main(["--pack", str(path), "--conda", "mine"]) == 0
    return path


def test_it_runs_elsewhere_when_the_environment_is_gone(environment, archive, tmp_path):
    place, away = tmp_path / "else where", environment.with_name("away")
    place.mkdir()
    subprocess.run(["tar", "-xzf", archive, "-C", place], check=True, timeout=60)
    code = "import sys, ssl, ctypes, tfos; print(sys.prefix, tfos.__file__, sep='\\n')"
    environment.rename(away)
    try:
        ran = subprocess.run(
            [place / "bin" / "python", "-c", code],
            env={}, cwd="/", capture_output=True, text=True, timeout=60,
        )  # fmt: skip
    finally:
        away.rename(environment)
    assert ran.returncode == 0, ran.stderr
    prefix, module = ran.stdout.splitlines()
    assert prefix == str(place)
    assert Path(module).is_relative_to(place)


def test_it_is_left_alone_until_the_environment_changes(environment, archive, tmp_path, capfd):
    mine = tmp_path / "env.tar.gz"
    shutil.copy(archive, mine)
    command = ["--pack", str(mine), "--conda", str(environment)]
    assert main(command) == 0
    assert "has this environment already" in capfd.readouterr().err
    module = environment.joinpath(install_tfos(environment), "extra.py")
    module.write_text("VALUE = 1\n")
    try:
        assert main(command) == 0
    finally:
        module.unlink()
    assert "as it has changed" in capfd.readouterr().err
    assert about(mine)["prefix"] == str(environment)
    with tarfile.open(mine) as made:
        assert any(name.endswith("/extra.py") for name in made.getnames())
    assert os.listdir(tmp_path) == ["env.tar.gz"]


def test_an_editable_install_is_refused_in_conda_packs_words(environment, tmp_path, capfd):
    install_tfos(environment, is_editable=True)
    try:
        assert main(["--pack", str(tmp_path / "env.tar.gz"), "--conda", "mine"]) == 1
    finally:
        install_tfos(environment)
    said = capfd.readouterr().err.splitlines()[-1]
    assert said.startswith(f"tfos: conda-pack cannot pack {environment}: ")
    assert said.endswith("Editable packages found: - tfos")
    assert os.listdir(tmp_path) == []


def test_one_without_tfos_is_refused(environment, tmp_path, capfd):
    site = install_tfos(environment)
    (site / "tfos").rename(site / "not-tfos")
    try:
        assert main(["--pack", str(tmp_path / "env.tar.gz"), "--conda", "mine"]) == 1
    finally:
        (site / "not-tfos").rename(site / "tfos")
    said = capfd.readouterr().err
    assert f"the conda environment {environment} cannot import tfos" in said
    assert "No module named 'tfos'" in said


class TestNames:
    def test_of_a_folder_and_of_conda(self, environment):
        assert conda_prefix("mine") == conda_prefix(str(environment)) == environment

    @pytest.mark.parametrize("name", ["other", "/no/such/folder"])
    def test_unknown_ones_are_refused(self, name):
        with pytest.raises(UsageError, match=f"--conda {name}: no conda environment"):
            conda_prefix(name)

    def test_two_of_one_name_are_refused(self, environment, home, monkeypatch):
        (home / "other" / "mine" / "conda-meta").mkdir(parents=True)
        known = home / ".conda" / "environments.txt"
        before = known.read_text()
        known.write_text(f"{before}{home / 'other' / 'mine'}\n")
        try:
            with pytest.raises(UsageError, match="there are several: "):
                conda_prefix("mine")
        finally:
            known.write_text(before)


class TestSubmissions:
    @pytest.fixture
    def app(self, tmp_path):
        app = tmp_path / "app.py"
        app.write_text("")
        return str(app)

    def test_the_driver_of_client_mode_has_its_python(self, environment, app):
        given = ["--master", "yarn", "--pack", "e.tar.gz", "--conda", "mine", app]
        command = Submission(given).command()
        assert f"spark.pyspark.driver.python={environment}/bin/python" in command
        assert "spark.pyspark.python=./environment/bin/python" in command

    def test_it_needs_an_archive(self, app):
        with pytest.raises(UsageError, match="pass --pack ENV"):
            Submission(["--master", "yarn", "--conda", "mine", app])


def test_the_version_of_tfos_has_to_be_the_same(environment, tmp_path, capfd):
    site = install_tfos(environment)
    (info,) = site.glob("tfos-*.dist-info")
    text = (info / "METADATA").read_text()
    (info / "METADATA").write_text(text.replace(f"Version: {tfos.__version__}", "Version: 9.9"))
    try:
        assert main(["--pack", str(tmp_path / "env.tar.gz"), "--conda", "mine"]) == 1
    finally:
        install_tfos(environment)
    assert f"has tfos 9.9, and this is tfos {tfos.__version__}" in capfd.readouterr().err
