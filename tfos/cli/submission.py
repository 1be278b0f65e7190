"""A command line of pl_submit as a spark-submit command."""

from __future__ import annotations

import os
import re
import secrets
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from tfos.cli.parser import SPARK_OPTIONS, parser
from tfos.cli.pod import Pod
from tfos.driver import allocation
from tfos.driver.shipping import archive_of, sources
from tfos.errors import PreflightError, UsageError
from tfos.lake.hdfs import check_access, is_hdfs
from tfos.lake.run_directory import upload_of
from tfos.lake.storage import absolute
from tfos.packing.conda import conda_prefix
from tfos.runtime.java import spark_home
from tfos.runtime.roles import all_tasks, local_master
from tfos.spec.job import (
    PARAM_PREFIX,
    RUN_ID,
    SUBMISSION_CONF,
    app_stem,
    job_spec,
    new_run_id,
    options,
)
from tfos.spec.options import conf_key

_RUNNER = Path(__file__).with_name("script.py")
# where Spark unpacks an environment, below the directory that a driver or executor begins in
_ENVIRONMENT = "environment"
_UPLOAD = "spark.kubernetes.file.upload.path"
_TOKENS_FOR = "spark.kerberos.access.hadoopFileSystems"
# its earlier names, which it hides
_TOKENS_ONCE = ("spark.yarn.access.hadoopFileSystems", "spark.yarn.access.namenodes")
_WAITS = (
    "spark.yarn.submit.waitAppCompletion",
    "spark.kubernetes.submission.waitAppCompletion",
)


def _key_value(text: str, source: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageError(f"{source} {text!r}: write {source} KEY=VALUE")
    return key, value


def _properties(path: str) -> dict[str, str]:
    """The settings of a Spark properties file, as spark-submit reads it."""
    conf = {}
    try:
        lines = Path(path).read_text().splitlines()
    except OSError as error:
        raise UsageError(f"--properties-file {path}: {error.strerror}") from error
    for line in lines:
        setting = re.fullmatch(r"([^=:\s]+)(?:\s*[=:]\s*|\s+)?(.*)", line.strip())
        if setting and not line.lstrip().startswith(("#", "!")):
            conf[setting.group(1)] = setting.group(2)
    return conf


def _defaults() -> dict[str, str]:
    """The settings of spark-defaults.conf, which spark-submit reads without a properties file."""
    home = os.environ.get("SPARK_CONF_DIR") or str(spark_home() / "conf")
    path = Path(home, "spark-defaults.conf")
    return _properties(str(path)) if path.exists() else {}


class Submission:
    """One command line of pl_submit, validated. Raises UsageError or PreflightError."""

    def __init__(self, argv: Sequence[str]) -> None:
        self.options = given = parser().parse_args(argv)
        if not given.app:
            raise UsageError("no app.py given; usage: pl_submit [options] app.py [app args]")
        conf = _properties(given.properties_file) if given.properties_file else _defaults()
        conf.update(_key_value(text, "--conf") for text in given.conf)
        flags = {
            option.name: value
            for option in options()
            if (value := getattr(given, option.name)) is not None
        }
        params = {
            PARAM_PREFIX + key: text
            for key, text in (_key_value(text, "--param") for text in given.param)
        }
        spec = job_spec({**conf, **params}, flags)
        self.app = Path(given.app[0]).resolve()
        if not self.app.is_file():
            raise UsageError(f"app.py not found: there is no file {self.app}")
        named = given.submission or conf.get(SUBMISSION_CONF, "")
        self.name = named or secrets.token_hex(8)
        self.run_id = spec.run_id or self._new_run_id(named)
        self.max_restarts = spec.max_restarts
        # the driver may have another working directory
        self.lake = absolute(spec.lake)
        self.is_cluster_mode = (
            given.deploy_mode or conf.get("spark.submit.deployMode")
        ) == "cluster"
        # what of it is in the lake while it runs, and no run's
        self.uploaded = ""
        self.master = given.master or conf.get("spark.master") or local_master(spec)
        defaults = {
            "spark.ui.showConsoleProgress": "false",
            "spark.log.level": "INFO" if given.verbose else "ERROR",
        }
        if self.is_on_kubernetes:  # pods have the Python of their image
            if not self.is_cluster_mode and (pod := Pod.here()):
                defaults.update(pod.settings(conf.get("spark.kubernetes.namespace")))
        else:
            defaults["spark.pyspark.python"] = sys.executable
        self._conf = {
            **{key: value for key, value in defaults.items() if key not in conf},
            **dict(_key_value(text, "--conf") for text in given.conf),
            **{conf_key(k): str(v).lower() if v is True else str(v) for k, v in flags.items()},
            **params,
            conf_key("lake"): self.lake,
            SUBMISSION_CONF: self.name,
        }
        if given.executor_cores:
            conf["spark.executor.cores"] = given.executor_cores
        settings = allocation.settings(spec, self.master, conf)
        self._conf.update(settings)
        conf.update(settings)
        allocation.check(spec, self.master, conf)
        is_dynamic = allocation.is_dynamic(self.master, conf)
        if self.master.startswith("yarn") and not given.num_executors and not is_dynamic:
            # Spark's default is two executors, of one core each
            cores = int(conf.get("spark.executor.cores", 1))
            slots = max(1, cores // int(conf.get("spark.task.cpus", 1)))
            if "spark.executor.instances" not in conf:
                count = -(-len(all_tasks(spec)) // slots)
                self._conf["spark.executor.instances"] = str(count)
        self.keytab = given.keytab or conf.get("spark.kerberos.keytab", "")
        if self.master.startswith("yarn") and is_hdfs(self.lake) and urlsplit(self.lake).netloc:
            # for which Spark gets a token, where there is Kerberos; the default one has one anyhow
            theirs = next((conf[key] for key in (_TOKENS_FOR, *_TOKENS_ONCE) if key in conf), None)
            self._conf[_TOKENS_FOR] = f"{theirs},{self.lake}" if theirs else self.lake
        self._archives = given.archives
        if given.conda and not given.pack:
            raise UsageError(
                f"--conda {given.conda} names what --pack packs: pass --pack ENV.tar.gz, too"
            )
        if given.pack:
            self._use_packed(given.pack, conf)
        for key in _WAITS:
            if conf.get(key, "true").lower() != "true":
                raise UsageError(
                    f"{key} is false, and pl_submit waits for the run to"
                    " tell how it ended: leave it out; Ctrl-C leaves the application running"
                )
        settings = {**conf, **self._conf}
        self.kubernetes = {k: v for k, v in settings.items() if k.startswith("spark.kubernetes.")}
        remote = os.environ.get("SPARK_REMOTE") or conf.get("spark.remote")
        if remote:
            raise UsageError(
                f"SPARK_REMOTE, or spark.remote, is {remote}, and pl_submit launches an application"
                " of its own: leave it out; in a session of Spark Connect call run() from Python"
            )
        if named or self.is_cluster_mode:  # it will be looked for in the lake, by this name
            self._conf[conf_key("run_id")] = self.run_id
        if self.is_cluster_mode:
            if self.is_on_kubernetes and _UPLOAD not in conf:
                self.uploaded = upload_of(self.run_id)
                self._conf[_UPLOAD] = f"{self._hadoops_lake()}/{self.uploaded}"
        else:  # the executors' Python may lie inside an archive
            of_conda = given.conda and str(conda_prefix(given.conda) / "bin" / "python")
            self._conf.setdefault("spark.pyspark.driver.python", of_conda or sys.executable)
        files = sources(self.app.parent) if self.is_cluster_mode else []
        self._modules = [file for file in files if file.parent == self.app.parent]
        self._packages = [file for file in files if file.parent != self.app.parent]
        # --py-files takes no folders
        self._archive = Path(tempfile.gettempdir(), f"tfos-app-{self.run_id}.zip")
        on_path = ("spark.driver.extraClassPath", "spark.jars")
        self.class_path = [f"{key}={conf[key]}" for key in on_path if key in conf]
        for_java = ("spark.driver.extraJavaOptions", "spark.driver.defaultJavaOptions")
        self.java_options = [conf[key] for key in for_java if key in conf]

    @property
    def is_on_kubernetes(self) -> bool:
        return self.master.startswith("k8s")

    def _new_run_id(self, named: str) -> str:
        """named: the submission, where the user names it: all that repeat it have the run."""
        app = self.options.name or self.app.stem
        if not named:
            return new_run_id(app)
        if not RUN_ID.fullmatch(named):
            raise UsageError(
                f"--submission is {named!r}: use letters, digits, '.', '_' and '-', or name"
                " the run with --run-id"
            )
        return f"{app_stem(app)}-{named}"

    def _hadoops_lake(self) -> str:
        """The lake's URL as Spark takes it, which copies app.py there for Kubernetes's drivers."""
        if "://" in self.lake and not is_hdfs(self.lake):
            raise UsageError(
                f"--deploy-mode cluster on Kubernetes takes app.py to the driver through Hadoop's"
                f" filesystems, and --lake {self.lake} may be none: name a directory, such as"
                f" s3a://BUCKET/PATH, with --conf {_UPLOAD}=URL"
            )
        return self.lake if is_hdfs(self.lake) else f"file://{self.lake}"

    def _use_packed(self, path: str, conf: Mapping[str, str]) -> None:
        """Has the executors, and the driver in cluster mode, run with a packed environment.

        conf: of the command line and of Spark's files.
        """
        if self.master.startswith("local"):
            raise UsageError(
                f"--pack is for clusters, and --master {self.master} runs everything here: pass"
                " --master, or leave app.py out to make the archive alone"
            )
        keys = ["spark.pyspark.python"]
        if self.is_cluster_mode:
            keys.append("spark.pyspark.driver.python")
        for key in keys:
            if key in conf:
                raise UsageError(f"--pack sets {key}, which is {conf[key]} here: leave one out")
            self._conf[key] = f"./{_ENVIRONMENT}/bin/python"
        # the flag hides what Spark's files say
        others = self._archives or conf.get("spark.archives", "")
        if not others and self.master.startswith("yarn"):
            others = conf.get("spark.yarn.dist.archives", "")
        if any(each.endswith(f"#{_ENVIRONMENT}") for each in others.split(",")):
            raise UsageError(f"--pack takes the name #{_ENVIRONMENT}, which has {others} already")
        packed = f"{Path(path).absolute()}#{_ENVIRONMENT}"
        self._archives = ",".join([*([others] if others else []), packed])

    def check_environment(self) -> None:
        """Raises PreflightError or LakeError where spark-submit would show a trace of Java's."""
        home = os.environ.get("SPARK_CONF_DIR") or str(spark_home() / "conf")
        is_set = {"HADOOP_CONF_DIR", "YARN_CONF_DIR"} & os.environ.keys()
        # spark-submit reads that file, which may set it
        if (
            self.master.startswith("yarn")
            and not is_set
            and not Path(home, "spark-env.sh").exists()
        ):
            raise PreflightError(
                "--master yarn needs the configuration of the Hadoop cluster: set HADOOP_CONF_DIR"
                " to the folder of its core-site.xml and yarn-site.xml, e.g. /etc/hadoop/conf"
            )
        if self.keytab:  # Spark logs in with it by itself, the client of HDFS has to be told
            os.environ.setdefault("KRB5_CLIENT_KTNAME", self.keytab)
        if self.master.startswith("yarn") and is_hdfs(self.lake):
            check_access(self.lake)

    def write_archive(self) -> Path | None:
        """Writes the packages that travel to the driver, which command() names, if there are any.

        Returns the file: spark-submit reads it while it submits.
        """
        if not self._packages:
            return None
        self._archive.write_bytes(archive_of(self.app.parent, self._packages))
        return self._archive

    def command(self) -> list[str]:
        """The spark-submit command, ready to run; see write_archive()."""
        given = self.options
        command = [str(spark_home() / "bin" / "spark-submit"), "--master", self.master]
        for name in SPARK_OPTIONS:
            value = getattr(given, name.replace("-", "_"))
            if name == "archives":
                value = self._archives
            if name == "py-files" and self.is_cluster_mode:
                # the driver is on another machine: the app travels with its modules
                packages = [self._archive] if self._packages else []
                value = ",".join([*([value] if value else []), *map(str, self._modules + packages)])
            if name == "files" and self.is_cluster_mode:
                value = ",".join([*([value] if value else []), str(self.app)])
            if name == "name":
                value = value or self.app.stem
            if value and name != "master":
                command += [f"--{name}", value]
        if given.verbose:
            command.append("--verbose")
        for key, value in self._conf.items():
            command += ["--conf", f"{key}={value}"]
        command.append(str(_RUNNER))
        if given.app_class:
            command += ["--class", given.app_class]
        if self.is_cluster_mode:
            command += ["--log", self.lake, self.run_id]
        app = self.app.name if self.is_cluster_mode else str(self.app)
        return [*command, app, *given.app[1:]]
