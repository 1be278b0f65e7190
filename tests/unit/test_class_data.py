"""The archive of Spark's classes: when it is written, used and left alone."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tfos.cli.class_data import COMPILE_LITTLE, ClassArchive, launch_environment


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A Spark with two jars, and a java."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("jars/a.jar", "jars/b.jar", "bin/java", "lib/server/classes.jsa"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


@pytest.fixture
def archive(home):
    return lambda *extra: ClassArchive(str(home / "bin" / "java"), home, extra)


def written(options):
    """The file that the JVM is to write as it ends; None when it is to write none."""
    names = [text.partition("=")[2] for text in options if "ArchiveClassesAtExit" in text]
    return names[0] if names else None


def used(options):
    names = [text.partition("=")[2] for text in options if "SharedArchiveFile" in text]
    return names[0] if names else None


def make(archive, status=0):
    """A run whose JVM writes the archive and ends with `status`."""
    Path(written(archive.options())).write_text("classes")
    archive.close(status)


@pytest.mark.parametrize("status", [0, 1, 130])
def test_first_run_writes_it_and_the_second_uses_it(archive, status):
    first = archive()
    make(first, status)
    options = archive().options()
    assert written(options) is None
    assert Path(used(options)).read_text() == "classes"


def test_of_a_jvm_that_was_killed_is_not_kept(archive, home):
    make(archive(), -9)
    assert written(archive().options())
    assert os.listdir(home / "cache" / "tfos") == []


def test_jvm_that_wrote_none(archive):
    first = archive()
    assert written(first.options())
    first.close(0)
    assert written(archive().options())


def test_two_first_runs_at_once(archive, monkeypatch):
    one = archive()
    monkeypatch.setattr(os, "getpid", lambda: 1)
    two = archive()
    assert written(one.options()) != written(two.options())
    make(one)
    make_late = written(two.options())
    assert make_late is None
    two.close(0)
    assert used(archive().options())


@pytest.mark.parametrize("what", ["a jar", "another jar", "java", "class path"])
def test_is_made_again_for_another(archive, home, what):
    make(archive())
    extra = ()
    match what:
        case "a jar":
            os.utime(home / "jars" / "a.jar", (1, 1))
        case "another jar":
            (home / "jars" / "c.jar").touch()
        case "java":
            (home / "bin" / "java").write_text("a newer one")
        case _:
            extra = ("spark.driver.extraClassPath=x.jar",)
    assert written(archive(*extra).options())


def test_unused_ones_are_removed_when_one_is_made(archive, home):
    make(archive())
    (old,) = (home / "cache" / "tfos").iterdir()
    os.utime(old, (1, 1))
    archive().options()  # is in use again
    assert old.stat().st_mtime > time.time() - 60
    os.utime(old, (1, 1))
    make(archive("another class path"))
    assert not old.exists()
    assert len(list((home / "cache" / "tfos").iterdir())) == 1


def test_without_a_cache_there_is_none(archive, home, monkeypatch):
    (home / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "file"))
    found = archive()
    assert found.options() == []
    found.close(0)


@pytest.mark.parametrize("why", ["a space", "no archive of the JDK", "no home", "a dangling jar"])
def test_where_it_cannot_be(archive, home, monkeypatch, why):
    match why:
        case "a space":
            monkeypatch.setenv("XDG_CACHE_HOME", str(home / "a cache"))
        case "no archive of the JDK":
            (home / "lib" / "server" / "classes.jsa").unlink()
        case "no home":
            monkeypatch.delenv("XDG_CACHE_HOME")

            def no_home():
                raise RuntimeError("Could not determine home directory.")

            monkeypatch.setattr(Path, "home", no_home)
        case _:
            (home / "jars" / "c.jar").symlink_to("nowhere")
    found = archive()
    assert found.options() == []
    found.close(0)


class TestLaunchEnvironment:
    def test_options_come_after_the_users(self):
        environment = launch_environment({"A": "1", "SPARK_SUBMIT_OPTS": "-Dx=1"}, ["-XX:+Y"])
        assert environment == {
            "A": "1",
            "SPARK_SUBMIT_OPTS": "-Dx=1 -XX:+Y",
            "SPARK_LAUNCHER_OPTS": COMPILE_LITTLE,
        }

    @pytest.mark.parametrize("own", ["-XX:SharedArchiveFile=x", "-Xshare:off"])
    def test_users_own_archive_is_left_alone(self, own):
        environment = launch_environment({"SPARK_SUBMIT_OPTS": own}, ["-XX:ArchiveClassesAtExit=y"])
        assert environment["SPARK_SUBMIT_OPTS"] == own

    def test_nor_are_those_of_the_conf_and_of_java(self):
        ours = ["-XX:ArchiveClassesAtExit=y"]
        assert launch_environment({}, ours)["SPARK_SUBMIT_OPTS"] == ours[0]
        assert launch_environment({}, ours, ["-Xshare:off"])["SPARK_SUBMIT_OPTS"] == ""
        environment = {"JAVA_TOOL_OPTIONS": "-XX:+AutoCreateSharedArchive"}
        assert launch_environment(environment, ours)["SPARK_SUBMIT_OPTS"] == ""
