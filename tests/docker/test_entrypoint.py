"""The image's entrypoint, its builder and what is left out of it, without an engine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pyspark
import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "docker"))
from slim import is_foreign, slim_jars

pytestmark = pytest.mark.timeout(60)
DOCKER = ROOT / "docker"
# as Spark 4.3 sets them in an executor's pod
EXECUTOR = {
    "SPARK_DRIVER_URL": "spark://CoarseGrainedScheduler@10.1.0.1:7078",
    "SPARK_EXECUTOR_ID": "1",
    "SPARK_EXECUTOR_CORES": "2",
    "SPARK_EXECUTOR_MEMORY": "512m",
    "SPARK_APPLICATION_ID": "spark-7",
    "SPARK_EXECUTOR_POD_IP": "10.1.0.2",
    "SPARK_EXECUTOR_POD_NAME": "app-exec-1",
    "SPARK_RESOURCE_PROFILE_ID": "0",
}


@pytest.fixture
def image(tmp_path):
    """A directory whose java and spark-submit print what they were given; -> run(*argv, **env)."""
    show = "import json, os, sys\nprint(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]))"
    for name in ("java/bin/java", "spark/bin/spark-submit"):
        file = tmp_path / name
        file.parent.mkdir(parents=True)
        file.write_text(f"#!{sys.executable}\n{show}\n")
        file.chmod(0o755)
    places = {"JAVA_HOME": f"{tmp_path}/java", "SPARK_HOME": f"{tmp_path}/spark"}

    def run(*argv: str, **environment: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [DOCKER / "entrypoint", *argv],
            env={"PATH": os.environ["PATH"], **places, **environment},
            capture_output=True,
            text=True,
        )

    return run


def given(ended: subprocess.CompletedProcess) -> list[str]:
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def test_an_executor_is_sparks_backend_with_what_the_pod_was_told(image, tmp_path):
    argv = given(image("executor", **EXECUTOR, SPARK_CONF_DIR="/conf", HADOOP_CONF_DIR="/hadoop"))
    assert argv == [
        "java", "-Xms512m", "-Xmx512m", "-cp", f"/conf:/hadoop:{tmp_path}/spark/jars/*",
        "org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend",
        "--driver-url", "spark://CoarseGrainedScheduler@10.1.0.1:7078", "--executor-id", "1",
        "--cores", "2", "--app-id", "spark-7", "--hostname", "10.1.0.2",
        "--resourceProfileId", "0", "--podName", "app-exec-1",
    ]  # fmt: skip


def test_an_executors_jvm_options_keep_their_order_and_their_spaces(image):
    options = [f"-Dnumber={number}" for number in range(11)] + ["-Dtext=two words '$HOME' *"]
    named = {f"SPARK_JAVA_OPT_{number}": option for number, option in enumerate(options)}
    argv = given(image("executor", **EXECUTOR, **named))
    assert argv[1:13] == options
    assert argv[13] == "-Xms512m"


def test_extra_jars_come_before_sparks(image, tmp_path):
    argv = given(image("executor", **EXECUTOR, SPARK_CLASSPATH="/extra/*"))
    assert argv[argv.index("-cp") + 1] == f"/opt/spark/conf:/extra/*:{tmp_path}/spark/jars/*"


@pytest.mark.parametrize("name", EXECUTOR)
def test_what_a_pod_was_not_told_is_named(image, name):
    told = {key: value for key, value in EXECUTOR.items() if key != name}
    ended = image("executor", **told)
    assert ended.returncode == 1
    assert f"entrypoint: executor: the environment variable {name} is not set" in ended.stderr


def test_a_driver_is_spark_submit_in_client_mode_at_its_pods_address(image):
    options = ["--properties-file", "/opt/spark/conf/spark.properties", "--class", "a.Main"]
    argv = given(
        image("driver", *options, "local:///a b.py", "--x=1", SPARK_DRIVER_BIND_ADDRESS="10.1.0.1")
    )
    assert argv == [
        "spark-submit", "--deploy-mode", "client", "--conf", "spark.driver.bindAddress=10.1.0.1",
        "--conf", "spark.executorEnv.SPARK_DRIVER_POD_IP=10.1.0.1", *options,
        "local:///a b.py", "--x=1",
    ]  # fmt: skip


def test_a_driver_without_an_address_says_so(image):
    ended = image("driver", "local:///app.py")
    assert ended.returncode == 1
    assert "SPARK_DRIVER_BIND_ADDRESS is not set" in ended.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="another uid can be taken by root alone")
def test_a_uid_without_a_name_is_refused_with_the_remedy(image):
    # the script's text, as its file may lie where this uid may not look
    script = (DOCKER / "entrypoint").read_text()
    ended = subprocess.run(
        [
            "setpriv",
            "--reuid=54321",
            "--clear-groups",
            "bash",
            "-c",
            script,
            "entrypoint",
            "executor",
        ],
        env={"PATH": "/usr/bin:/bin", **EXECUTOR},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 1
    assert "uid 54321 has no name in /etc/passwd" in ended.stderr
    assert "runAsUser" in ended.stderr


JVM = """#!/bin/bash
# a JVM with a process of a role, which has a group of its own and takes a while
role='import signal, sys, time
def leave(*_):
    time.sleep(1)
    print("role has left", flush=True)
    sys.exit()
signal.signal(signal.SIGTERM, leave)
print("role begins", flush=True)
while True: time.sleep(1)'
setsid {python} -c "$role" -m tfos.runtime.main chief-0 run ps &
trap 'echo jvm has left; exit 143' TERM
while :; do sleep 0.1; done
"""


def test_at_the_end_of_a_pod_the_roles_are_told_first(image, tmp_path):
    (tmp_path / "java/bin/java").write_text(JVM.format(python=sys.executable))
    process = subprocess.Popen(
        [DOCKER / "entrypoint", "executor"],
        env={
            "PATH": os.environ["PATH"],
            "JAVA_HOME": f"{tmp_path}/java",
            "SPARK_HOME": f"{tmp_path}/spark",
            **EXECUTOR,
        },
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout.readline() == "role begins\n"
    os.killpg(process.pid, signal.SIGTERM)  # as tini -g does
    assert process.stdout.read() == "role has left\njvm has left\n"
    assert process.wait() == 143


def test_how_a_jvm_ends_is_how_the_container_ends(image, tmp_path):
    for status in (0, 3):
        (tmp_path / "java/bin/java").write_text(f"#!/bin/bash\nexit {status}\n")
        assert image("executor", **EXECUTOR).returncode == status


def test_another_command_is_run_as_it_is(image):
    ended = image("echo", "a b", "$HOME")
    assert ended.stdout == "a b $HOME\n"
    assert image("false").returncode == 1


@pytest.fixture
def engines(tmp_path):
    """Engines that print their command; docker's daemon is down. -> build(*argv, **env)."""
    scripts = {
        "docker": "exit 1",
        "podman": 'echo podman "$@"; echo "index $PIP_INDEX_URL"',
        "buildah": 'echo buildah "$@"',
    }
    for name in ("bash", "dirname", "readlink"):
        (tmp_path / name).symlink_to(shutil.which(name))

    def build(*argv: str, there: tuple[str, ...], **environment: str):
        for name in scripts:
            (tmp_path / name).unlink(missing_ok=True)
        for name in there:
            (tmp_path / name).write_text(f"#!/bin/bash\n{scripts[name]}\n")
            (tmp_path / name).chmod(0o755)
        return subprocess.run(
            ["/bin/bash", DOCKER / "build", *argv],
            env={"PATH": str(tmp_path), **environment},
            capture_output=True,
            text=True,
        )

    return build


def test_the_first_engine_that_works_builds(engines):
    ended = engines("tfos:1", "--build-arg", "EXTRAS=s3", there=("docker", "podman", "buildah"))
    command = ended.stdout.splitlines()[0]
    assert command == (
        f"podman build --tag tfos:1 --file {DOCKER}/Dockerfile --build-arg EXTRAS=s3 {ROOT}"
    )


def test_buildah_keeps_its_layers_as_the_others_do(engines):
    assert "--layers" in engines("tfos:1", there=("docker", "buildah")).stdout


def test_the_environments_registries_reach_the_build_and_no_password_its_command_line(engines):
    ended = engines(
        "tfos:1",
        there=("podman",),
        PIP_INDEX_URL="https://me:secret@mirror.example/simple",
        SSL_CERT_FILE="/etc/ca.pem",
    )
    command, index = ended.stdout.splitlines()
    assert "--secret id=PIP_INDEX_URL,env=PIP_INDEX_URL " in command
    assert "--secret id=ca,src=/etc/ca.pem" in command
    assert "secret@" not in command
    assert index == "index https://me:secret@mirror.example/simple"


@pytest.mark.parametrize(
    ("there", "environment", "words"),
    [
        ((), {}, "no docker with a running daemon, no podman and no buildah"),
        (("docker",), {}, "no docker with a running daemon"),
        (("docker", "podman"), {"ENGINE": "docker"}, "ENGINE=docker does not work here"),
        (("podman",), {"ENGINE": "kaniko"}, "ENGINE=kaniko does not work here"),
    ],
)
def test_no_engine_is_an_error_that_says_what_to_install(engines, there, environment, words):
    ended = engines("tfos:1", there=there, **environment)
    assert ended.returncode == 1
    assert words in ended.stderr


@pytest.mark.parametrize("argv", [(), ("--build-arg", "EXTRAS=s3")])
def test_a_build_without_a_tag_is_a_usage_error(engines, argv):
    ended = engines(*argv, there=("podman",))
    assert ended.returncode == 2
    assert ended.stderr.startswith("usage: docker/build TAG")


def test_the_dockerfile_is_as_hadolint_wants_it():
    linter = Path(sys.executable).with_name("hadolint")
    ended = subprocess.run([linter, DOCKER / "Dockerfile"], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "")


def test_what_is_pinned_is_what_tfos_needs():
    """constraints.txt has every direct dependency, of the extras too."""
    from packaging.requirements import Requirement

    metadata = (ROOT / "pyproject.toml").read_text()
    pinned = {}
    for line in (DOCKER / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, version = line.partition("==")
            pinned[name] = version
    try:
        import tomllib
    except ModuleNotFoundError:
        pytest.skip("tomllib is of Python 3.11")
    project = tomllib.loads(metadata)["project"]
    extras = project["optional-dependencies"]
    # the image's TensorFlow is none that "estimator" is for; who uses other frameworks brings them
    others = ("dev", "estimator", "torch", "jax", "xgboost", "mpi")
    wanted = [one for name in extras if name not in others for one in extras[name]]
    for requirement in map(Requirement, project["dependencies"] + wanted):
        assert requirement.specifier.contains(pinned[requirement.name]), requirement


JARS = Path(pyspark.__file__).parent / "jars"
NATIVE = (".so", ".a", ".dll", ".dylib", ".jnilib")


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("stem", ["rocksdbjni", "zstd-jni", "snappy-java", "lz4-java", "blas"])
def test_of_the_native_libraries_in_a_jar_one_stays(stem, machine):
    (jar,) = JARS.glob(f"{stem}-[0-9]*.jar")
    with zipfile.ZipFile(jar) as archive:
        libraries = [name for name in archive.namelist() if name.lower().endswith(NATIVE)]
    kept = [name for name in libraries if not is_foreign(name, machine)]
    assert len(libraries) > 5
    assert len(kept) == 1
    assert any(word in kept[0] for word in {"x86_64": ("64",), "aarch64": ("aarch64",)}[machine])


def test_what_is_no_native_library_stays_byte_for_byte(tmp_path):
    (jar,) = JARS.glob("lz4-java-*.jar")
    shutil.copy(jar, tmp_path)
    slim_jars(tmp_path, "x86_64")
    with zipfile.ZipFile(jar) as old, zipfile.ZipFile(tmp_path / jar.name) as new:
        kept = [name for name in old.namelist() if not is_foreign(name, "x86_64")]
        assert new.namelist() == kept
        assert all(old.read(name) == new.read(name) for name in kept)
    assert (tmp_path / jar.name).stat().st_size < jar.stat().st_size
