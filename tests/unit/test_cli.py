"""pl_submit's command line: what it makes of it, and how it refuses it."""

from __future__ import annotations

import json
import re
import shlex
import sys
import tempfile
import zipfile

import pytest

from tfos.cli import main as cli
from tfos.cli.submission import _properties
from tfos.spec.job import SUBMISSION_CONF, JobSpec
from tfos.spec.result import Result
from tfos.version import __version__


@pytest.fixture(autouse=True)
def no_java_needed(monkeypatch):
    monkeypatch.setattr(cli, "find_java", lambda: "java")


@pytest.fixture
def app(tmp_path):
    file = tmp_path / "my_app.py"
    file.write_text("import tfos\n")
    return file


class Command:
    """A spark-submit command, taken apart."""

    def __init__(self, words):
        self.program = words[0]
        runner = next(i for i, word in enumerate(words) if word.endswith("script.py"))
        self.after_runner = words[runner + 1 :]
        self.options: dict[str, str] = {}
        self.conf: dict[str, str] = {}
        self.alone: list[str] = []
        rest = words[1:runner]
        while rest:
            name = rest.pop(0)
            if name == "--conf":
                key, _, value = rest.pop(0).partition("=")
                assert key not in self.conf, f"{key} is given twice"
                self.conf[key] = value
            elif name == "--verbose":
                self.alone.append(name)
            else:
                assert name not in self.options, f"{name} is given twice"
                self.options[name] = rest.pop(0)


@pytest.fixture
def dry_run(capsys):
    def run(*argv):
        assert cli.main(["--dry-run", *map(str, argv)]) == 0
        out = capsys.readouterr().out
        assert len(out.splitlines()) == 1
        return Command(shlex.split(out))

    return run


@pytest.fixture
def refused(capsys):
    """Runs pl_submit on a bad command line; returns the message."""

    def run(*argv):
        assert cli.main(list(map(str, argv))) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.startswith("tfos: ")
        return said.err

    return run


class TestDryRun:
    def test_master_has_a_slot_for_each_role(self, dry_run, app):
        assert dry_run(app).options["--master"] == "local[4]"
        assert dry_run("--num-ps", 2, "--num-workers", 3, app).options["--master"] == "local[6]"
        assert dry_run("--strategy", "single", app).options["--master"] == "local[1]"

    def test_runs_the_spark_submit_of_spark_home(self, dry_run, app, monkeypatch, tmp_path):
        monkeypatch.setenv("SPARK_HOME", str(tmp_path / "spark"))
        assert dry_run(app).program == str(tmp_path / "spark" / "bin" / "spark-submit")

    def test_on_kubernetes_python_is_the_images(self, dry_run, app):
        conf = dry_run("--master", "k8s://https://api:6443", app).conf
        assert "spark.pyspark.python" not in conf
        assert conf["spark.pyspark.driver.python"] == sys.executable

    def test_in_a_pod_the_executors_are_told_of_it(self, dry_run, app, tmp_path, monkeypatch):
        key = "spark.kubernetes.driver.pod.name"
        options = ("--master", "k8s://https://api:6443")
        assert key not in dry_run(*options, app).conf
        (tmp_path / "namespace").write_text("team")
        monkeypatch.setattr("tfos.cli.pod._ACCOUNT", tmp_path)
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
        monkeypatch.setattr("socket.gethostname", lambda: "localhost")
        conf = dry_run(*options, "--conf", "spark.driver.host=me", app).conf
        assert conf[key] == "localhost"
        assert conf["spark.kubernetes.namespace"] == "team"
        assert (conf["spark.driver.host"], conf["spark.driver.bindAddress"]) == ("me", "127.0.0.1")
        assert key not in dry_run(*options, "--deploy-mode", "cluster", app).conf
        assert key not in dry_run("--master", "yarn", app).conf

    @pytest.mark.parametrize(
        ("lake", "uploaded"),
        [("/shared", "file:///shared/.submitted-r"), ("hdfs://n/l", "hdfs://n/l/.submitted-r")],
    )
    def test_on_kubernetes_the_app_goes_to_the_driver_by_the_lake(
        self, dry_run, app, lake, uploaded
    ):
        mode = ("--master", "k8s://https://api:6443", "--deploy-mode", "cluster", "--run-id", "r")
        key = "spark.kubernetes.file.upload.path"
        conf = dry_run(*mode, "--lake", lake, app).conf
        assert conf[key] == uploaded
        assert "spark.pyspark.driver.python" not in conf
        conf = dry_run(*mode, "--lake", "s3://b/l", "--conf", f"{key}=s3a://b/up", app).conf
        assert conf[key] == "s3a://b/up"

    def test_on_kubernetes_a_lake_that_hadoop_may_not_know_needs_a_word(self, app, refused):
        mode = ["--master", "k8s://https://api:6443", "--deploy-mode", "cluster"]
        said = refused(*mode, "--lake", "s3://bucket/lake", app)
        assert "spark.kubernetes.file.upload.path=URL" in said

    def test_executors_of_several_sizes_need_dynamic_allocation(self, dry_run, app, capsys):
        sized = ("--ps-memory", "32g", "--ps-cores", 4)
        conf = dry_run("--master", "yarn", *sized, app).conf
        assert conf["spark.dynamicAllocation.enabled"] == "true"
        assert (conf["spark.tfos.psMemory"], conf["spark.tfos.psCores"]) == ("32g", "4")
        assert not any("dynamicAllocation" in key for key in dry_run("--master", "yarn", app).conf)
        for options in (
            (),
            ("--master", "yarn", "--conf", "spark.dynamicAllocation.enabled=false"),
        ):
            assert cli.main([*map(str, [*options, *sized]), str(app)]) == 1
            assert "--ps-memory" in capsys.readouterr().err.splitlines()[0]

    def test_default_conf(self, dry_run, app, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        conf = dry_run(app).conf
        assert conf["spark.pyspark.python"] == sys.executable
        assert conf["spark.tfos.lake"] == str(tmp_path.resolve() / "tfos-runs")
        assert {key for key in conf if key.startswith("spark.tfos.")} == {
            "spark.tfos.lake",
            SUBMISSION_CONF,
        }

    def test_each_submission_has_a_name_of_its_own(self, dry_run, app):
        names = {dry_run(app).conf[SUBMISSION_CONF] for _ in range(3)}
        assert len(names) == 3
        assert all(len(name) == 16 for name in names)

    @pytest.mark.parametrize("named", [("--submission",), ("--conf", "spark.tfos.submission")])
    def test_a_submission_that_is_named_is_the_same_run_each_time(self, dry_run, app, named):
        *option, last = named
        words = [*option, f"{last}=1a-2b"] if option else [last, "1a-2b"]
        for _ in range(2):
            conf = dry_run(*words, app).conf
            assert (conf[SUBMISSION_CONF], conf["spark.tfos.runId"]) == ("1a-2b", "my-app-1a-2b")
        assert dry_run(*words, "--run-id", "r", app).conf["spark.tfos.runId"] == "r"

    def test_the_name_of_a_submission_that_can_be_no_runs(self, app, refused):
        said = refused("--submission", "a b", app)
        assert "--submission is 'a b'" in said
        assert "--run-id" in said

    def test_each_flag_becomes_its_conf_key(self, dry_run, app):
        conf = dry_run(
            *("--num-ps", 2, "--num-workers", 3, "--zookeeper", "a:1,b:2/c", "--resume"),
            *("--lake", "s3://b/runs/", "--run-id", "r1", "--checkpoint-secs", 0.5),
            *("--start-timeout-secs", 9, "--max-restarts", 0, "--strategy", "ps"),
            *("--hang-secs", 0, "--fork", "off"),
            app,
        ).conf
        del conf[SUBMISSION_CONF]
        assert {key: value for key, value in conf.items() if key.startswith("spark.tfos.")} == {
            "spark.tfos.numPs": "2",
            "spark.tfos.numWorkers": "3",
            "spark.tfos.zookeeper": "a:1,b:2/c",
            "spark.tfos.resume": "true",
            "spark.tfos.lake": "s3://b/runs",
            "spark.tfos.runId": "r1",
            "spark.tfos.checkpointSecs": "0.5",
            "spark.tfos.startTimeoutSecs": "9",
            "spark.tfos.maxRestarts": "0",
            "spark.tfos.hangSecs": "0",
            "spark.tfos.fork": "off",
            "spark.tfos.strategy": "ps",
        }

    def test_spark_options_are_passed_through(self, dry_run, app):
        command = dry_run(
            *("--master", "yarn", "--num-executors", 7, "--executor-memory", "4g"),
            *("--packages", "g:a:1", "--name", "nightly", "--verbose", app),
        )
        assert command.options == {
            "--master": "yarn",
            "--num-executors": "7",
            "--executor-memory": "4g",
            "--packages": "g:a:1",
            "--name": "nightly",
        }
        assert command.alone == ["--verbose"]

    def test_name_is_the_apps_when_none_is_given(self, dry_run, app):
        assert dry_run(app).options["--name"] == "my_app"

    def test_conf_is_passed_through_with_all_its_signs(self, dry_run, app):
        conf = dry_run("--conf", "spark.x=a=b c,'d'", "--conf", "spark.y=", app).conf
        assert conf["spark.x"] == "a=b c,'d'"
        assert conf["spark.y"] == ""

    def test_users_conf_wins_over_our_defaults(self, dry_run, app):
        conf = dry_run("--conf", "spark.pyspark.python=/opt/py", app).conf
        assert conf["spark.pyspark.python"] == "/opt/py"

    def test_master_of_the_conf_is_the_master(self, dry_run, app):
        command = dry_run("--conf", "spark.master=spark://h:7077", app)
        assert command.options["--master"] == "spark://h:7077"

    def test_flag_wins_over_conf(self, dry_run, app):
        command = dry_run("--conf", "spark.tfos.numWorkers=9", "--num-workers", 3, app)
        assert command.conf["spark.tfos.numWorkers"] == "3"
        assert command.options["--master"] == "local[5]"

    def test_conf_of_ours_counts_without_a_flag(self, dry_run, app):
        command = dry_run("--conf", "spark.tfos.numWorkers=9", "--conf", "spark.tfos.runId=r2", app)
        assert command.options["--master"] == "local[11]"
        assert command.conf["spark.tfos.runId"] == "r2"

    def test_params(self, dry_run, app):
        conf = dry_run("--param", "lr=0.1", "--param", "filter=a=b", app).conf
        assert conf["spark.tfos.param.lr"] == "0.1"
        assert conf["spark.tfos.param.filter"] == "a=b"

    @pytest.mark.parametrize(
        "args",
        [
            [],
            ["--num-ps", "3", "--lake", "x"],
            ["--dry-run", "--help", "--version"],
            ["--conf", "spark.x=1", "--class", "Other", "--json"],
            ["positional", "--unknown=1", "-v", "a b", "--", "--resume"],
            ["--", "--resume"],
        ],
    )
    def test_arguments_after_the_app_are_the_apps(self, dry_run, app, args):
        command = dry_run("--num-ps", 1, app, *args)
        assert command.after_runner == [str(app), *args]
        assert command.conf["spark.tfos.numPs"] == "1"

    def test_class_goes_to_the_runner(self, dry_run, app):
        command = dry_run("--class", "Second", app, "x")
        assert command.after_runner == ["--class", "Second", str(app), "x"]
        assert "--class" not in command.options

    def test_relative_app_is_found(self, dry_run, app, monkeypatch):
        monkeypatch.chdir(app.parent)
        assert dry_run("my_app.py").after_runner == [str(app.resolve())]

    def test_each_submission_has_its_own_run_id(self, dry_run, app):
        cluster = ("--master", "yarn", "--deploy-mode", "cluster")
        ids = [dry_run(*cluster, app).conf["spark.tfos.runId"] for _ in range(3)]
        assert all(re.fullmatch(r"my-app-\d{8}-\d{6}-[0-9a-f]{4}", run_id) for run_id in ids)
        assert len(set(ids)) > 1


class TestClusterMode:
    def test_app_travels_with_the_modules_beside_it(self, dry_run, app):
        (app.parent / "features.py").write_text("")
        command = dry_run(
            *("--master", "yarn", "--deploy-mode", "cluster", "--lake", "hdfs:///runs"),
            *("--py-files", "lib.zip", app),
        )
        given, *rest = command.options["--py-files"].split(",")
        assert given == "lib.zip"
        assert sorted(rest) == [str(app.parent / "features.py"), str(app)]
        log, lake, run_id, *rest = command.after_runner
        assert (log, lake, rest) == ("--log", "hdfs:///runs", ["my_app.py"])
        assert run_id == command.conf["spark.tfos.runId"]

    def test_packages_travel_in_an_archive(self, dry_run, app, tmp_path, monkeypatch):
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(scratch))
        app.write_text("import tfos\nfrom towers.deep import tower\n")
        for name in ("lib/__init__.py", "lib/nets.py", "towers/deep.py", "data/notes.py"):
            file = app.parent / name
            file.parent.mkdir(exist_ok=True)
            file.write_text("")
        cluster = ("--master", "yarn", "--deploy-mode", "cluster", "--lake", "hdfs:///runs")
        found = dry_run(*cluster, app).options["--py-files"].split(",")
        assert found[0] == str(app)
        (archive,) = found[1:]
        assert sorted(zipfile.ZipFile(archive).namelist()) == [
            "lib/", "lib/__init__.py", "lib/nets.py", "towers/", "towers/deep.py",
        ]  # fmt: skip

    def test_as_many_executors_as_the_roles_need(self, dry_run, app):
        def instances(*options):
            return dry_run("--master", "yarn", "--num-ps", 2, *options, app).conf.get(
                "spark.executor.instances"
            )

        # 2 ps, 2 workers, the chief
        assert instances("--num-workers", 2) == "5"
        assert instances("--num-workers", 2, "--executor-cores", 2) == "3"
        assert instances("--num-workers", 2, "--num-executors", 9) is None
        assert instances("--num-workers", 2, "--conf", "spark.executor.instances=8") == "8"
        # it would be so many of each size
        assert instances("--num-workers", 2, "--ps-cores", 4) is None
        assert instances("--conf", "spark.dynamicAllocation.enabled=true") is None

    def test_not_in_client_mode(self, dry_run, app):
        assert "--py-files" not in dry_run("--master", "yarn", app).options


class TestPropertiesFile:
    @pytest.fixture
    def properties(self, tmp_path):
        def write(text):
            file = tmp_path / "spark.conf"
            file.write_text(text)
            return file

        return write

    def test_is_read_and_passed_on(self, dry_run, app, properties):
        file = properties("# a comment\n\nspark.tfos.numWorkers 5\nspark.tfos.runId=from-file\n")
        command = dry_run("--properties-file", file, app)
        assert command.options["--properties-file"] == str(file)
        assert command.options["--master"] == "local[7]"
        assert "spark.tfos.runId" not in command.conf  # spark-submit reads it there itself

    @pytest.mark.parametrize(
        "line",
        [
            "spark.tfos.numWorkers 5",
            "spark.tfos.numWorkers=5",
            "spark.tfos.numWorkers = 5",
            "  spark.tfos.numWorkers    5  ",
            "spark.tfos.numWorkers\t5",
            "spark.tfos.numWorkers:5",
            "spark.tfos.numWorkers: 5",
        ],
    )
    def test_spellings_that_spark_takes(self, dry_run, app, properties, line):
        file = properties(line + "\n")
        assert dry_run("--properties-file", file, app).options["--master"] == "local[7]"

    def test_value_keeps_its_equals_sign(self, properties):
        file = properties("spark.tfos.param.filter  a=b\nspark.tfos.param.url=jdbc:x?u=1&v=2\n")
        conf = _properties(str(file))
        assert conf["spark.tfos.param.filter"] == "a=b"
        assert conf["spark.tfos.param.url"] == "jdbc:x?u=1&v=2"

    def test_flags_and_conf_win(self, dry_run, app, properties):
        file = properties("spark.tfos.numWorkers 5\nspark.tfos.numPs 5\nspark.master yarn\n")
        command = dry_run(
            *("--properties-file", file, "--conf", "spark.tfos.numPs=2", "--num-workers", 3),
            *("--master", "local[*]", app),
        )
        assert command.conf["spark.tfos.numWorkers"] == "3"
        assert command.conf["spark.tfos.numPs"] == "2"
        assert command.options["--master"] == "local[*]"

    def test_master_and_lake_are_taken(self, dry_run, app, properties):
        file = properties("spark.master yarn\nspark.tfos.lake hdfs:///runs\n")
        command = dry_run("--properties-file", file, app)
        assert command.options["--master"] == "yarn"
        assert command.conf["spark.tfos.lake"] == "hdfs:///runs"

    def test_users_python_is_kept(self, dry_run, app, properties):
        file = properties("spark.pyspark.python /opt/py\n")
        conf = dry_run("--properties-file", file, app).conf
        assert conf.get("spark.pyspark.python", "/opt/py") == "/opt/py"

    def test_bad_value_is_refused(self, refused, app, properties):
        file = properties("spark.tfos.numPs none\n")
        assert "'none'" in refused("--properties-file", file, app)

    def test_missing_file_is_refused(self, refused, app, tmp_path):
        message = refused("--properties-file", tmp_path / "nope.conf", app)
        assert "--properties-file" in message
        assert "nope.conf" in message

    def test_defaults_of_the_installation_count_too(self, dry_run, app, tmp_path, monkeypatch):
        """spark-submit reads conf/spark-defaults.conf when no --properties-file is given."""
        (tmp_path / "conf").mkdir()
        (tmp_path / "conf" / "spark-defaults.conf").write_text(
            "spark.master yarn\nspark.tfos.lake hdfs:///runs\n"
        )
        monkeypatch.setenv("SPARK_HOME", str(tmp_path))
        monkeypatch.delenv("SPARK_CONF_DIR", raising=False)
        command = dry_run(app)
        assert command.options["--master"] == "yarn"
        assert command.conf["spark.tfos.lake"] == "hdfs:///runs"


class TestPack:
    """What --pack makes of the command; the archive itself is in test_packing.py."""

    PYTHON = "./environment/bin/python"

    @pytest.mark.parametrize("master", ["yarn", "spark://host:7077", "k8s://https://host"])
    def test_executors_have_the_archives_python(self, dry_run, app, tmp_path, master):
        command = dry_run("--master", master, "--pack", tmp_path / "e.tar.gz", app)
        assert command.options["--archives"] == f"{tmp_path}/e.tar.gz#environment"
        assert command.conf["spark.pyspark.python"] == self.PYTHON
        assert command.conf["spark.pyspark.driver.python"] == sys.executable
        assert not (tmp_path / "e.tar.gz").exists()

    def test_so_has_a_driver_on_the_cluster(self, dry_run, app, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        cluster = ("--master", "yarn", "--deploy-mode", "cluster", "--lake", "hdfs:///runs")
        command = dry_run(*cluster, "--pack", "e.tgz", app)
        assert command.options["--archives"] == f"{tmp_path}/e.tgz#environment"
        assert command.conf["spark.pyspark.python"] == self.PYTHON
        assert command.conf["spark.pyspark.driver.python"] == self.PYTHON

    @pytest.mark.parametrize(
        ("flags", "others"),
        [
            (("--archives", "a.zip#a,b.zip"), "a.zip#a,b.zip"),
            (("--conf", "spark.archives=a.zip"), "a.zip"),
            (("--conf", "spark.yarn.dist.archives=a.zip"), "a.zip"),
            (("--archives", "a.zip", "--conf", "spark.archives=b.zip"), "a.zip"),
        ],
    )
    def test_other_archives_stay(self, dry_run, app, flags, others):
        command = dry_run("--master", "yarn", *flags, "--pack", "/e.tar.gz", app)
        assert command.options["--archives"] == f"{others},/e.tar.gz#environment"

    @pytest.mark.parametrize(
        ("flags", "named"),
        [
            (("--master", "local[2]"), "--master local[2]"),
            (("--conf", "spark.pyspark.python=/opt/py"), "spark.pyspark.python, which is /opt/py"),
            (("--archives", "a.zip#environment"), "#environment, which has a.zip#environment"),
            (
                ("--deploy-mode", "cluster", "--conf", "spark.pyspark.driver.python=/py"),
                "spark.pyspark.driver.python, which is /py",
            ),
        ],
    )
    def test_what_does_not_go_with_it_is_refused(self, refused, app, flags, named):
        assert named in refused("--master", "yarn", *flags, "--pack", "e.tar.gz", app)


class TestRefusal:
    def test_unknown_flag(self, refused, app):
        message = refused("--num-pss", 1, app)
        assert "--num-pss" in message
        assert "--help" in message

    def test_flags_are_not_abbreviated(self, refused, app):
        assert "--num-work" in refused("--num-work", 1, app)

    @pytest.mark.parametrize("words", [(), ("--conf", "spark.remote=sc://host")])
    def test_spark_connect(self, refused, app, monkeypatch, words):
        if not words:
            monkeypatch.setenv("SPARK_REMOTE", "sc://host")
        assert "spark.remote, is sc://host, and pl_submit launches" in refused(*words, app)

    def test_no_app(self, refused):
        assert "app.py" in refused("--num-ps", 1)
        assert "app.py" in refused()

    def test_missing_app_is_named(self, refused, tmp_path):
        assert str(tmp_path / "nope.py") in refused(tmp_path / "nope.py")

    def test_directory_is_no_app(self, refused, tmp_path):
        assert str(tmp_path) in refused(tmp_path)

    def test_no_servers(self, refused, app):
        message = refused("--num-ps", 0, app)
        assert "--num-ps" in message
        assert "--strategy single" in message

    @pytest.mark.parametrize(
        ("flag", "value"),
        [
            ("--num-workers", "two"),
            ("--checkpoint-secs", "-1"),
            ("--strategy", "mirrored"),
            ("--run-id", "a/b"),
            ("--param", "novalue"),
            ("--conf", "novalue"),
        ],
    )
    def test_bad_value_is_named_with_its_flag(self, refused, app, flag, value):
        message = refused(flag, value, app)
        assert flag in message
        assert value in message

    def test_flag_without_value(self, refused):
        assert "--num-ps" in refused("--num-ps")

    def test_resume_without_run_id(self, refused, app):
        assert "--run-id" in refused("--resume", app)

    def test_unknown_conf_key_of_ours(self, refused, app):
        assert "spark.tfos.workers" in refused("--conf", "spark.tfos.workers=3", app)

    @pytest.mark.parametrize("before", [["--json"], ["--py-files", "lib.py", "--json"]])
    def test_json_gives_the_failure_as_the_last_line(self, capsys, app, before):
        assert cli.main([*before, "--num-ps", "0", str(app)]) == 2
        said = capsys.readouterr()
        result = json.loads(said.out.splitlines()[-1])
        assert list(result) == list(Result("r", "succeeded"))
        assert result["status"] == "failed"
        assert "--num-ps" in result["error"]["message"]
        assert "--num-ps" in said.err

    def test_json_of_the_apps_own_arguments_is_not_ours(self, capsys, app):
        assert cli.main(["--num-ps", "0", str(app), "--json"]) == 2
        assert capsys.readouterr().out == ""


class TestHelp:
    def test_help_names_every_flag_with_its_conf_key(self, capsys):
        with pytest.raises(SystemExit) as caught:
            cli.main(["--help"])
        assert caught.value.code == 0
        said = " ".join(capsys.readouterr().out.split())
        for name, value in JobSpec.of().as_json().items():
            if name != "params":
                assert f"--{name.replace('_', '-')}" in said
                if value and not isinstance(value, bool):
                    shown = f"{value:g}" if isinstance(value, float) else value
                    assert f"default {shown}]" in said or f", default {shown} [" in said
        assert "spark.tfos.numPs" in said
        assert "--executor-memory" in said

    def test_version(self, capsys):
        with pytest.raises(SystemExit) as caught:
            cli.main(["--version"])
        assert caught.value.code == 0
        assert capsys.readouterr().out == f"tfos {__version__}\n"


class TestCommands:
    @pytest.mark.parametrize("command", ["status", "logs", "cancel", "kill"])
    def test_first_word_chooses(self, command, capsys, tmp_path, monkeypatch):
        monkeypatch.setattr(cli, "find_java", lambda: pytest.fail("it needs no Java"))
        assert cli.main([command, "nightly", "--lake", str(tmp_path)]) == 1
        assert "no run nightly" in capsys.readouterr().err

    def test_bad_usage(self, refused):
        assert "RUN_ID" in refused("status")

    def test_app_comes_before_its_own_arguments(self, dry_run, app):
        assert dry_run(app, "status").after_runner[-1] == "status"

    def test_are_named_in_the_help(self, capsys):
        with pytest.raises(SystemExit):
            cli.main(["--help"])
        said = " ".join(capsys.readouterr().out.split())
        for command in ("status", "logs", "cancel"):
            assert f"pl_submit {command} RUN_ID" in said


ERROR = {"role": "worker", "index": 1, "host": "h", "message": "was killed", "traceback": ""}
FAILED = Result.not_started(ERROR)


class TestReport:
    @pytest.mark.parametrize(
        ("result", "status"),
        [
            (Result("r", "succeeded"), 0),
            (FAILED, 1),
            (FAILED.failed({**ERROR, "message": "interrupted"}), 130),
        ],
    )
    def test_exit_status(self, result, status):
        assert cli._report(result, as_json=False) == status

    def test_root_cause_is_on_stderr_and_the_result_on_stdout(self, capsys):
        cli._report(FAILED, as_json=True)
        said = capsys.readouterr()
        assert json.loads(said.out) == FAILED.as_json()
        assert said.err == "tfos: the run failed: worker 1 on h: was killed\n"
