"""An archive of the environment where there is no Python: a bare root, the nodes of a YARN."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import textwrap
import venv
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from conftest import ROOT, SparkCluster, start_submit
from hadoop_cluster import HadoopCluster
from hadoop_fixtures import from_edge
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tfos.client.handle import Run

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.full,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can hide this machine's Python"),
]
IMPORTS = (
    "tensorflow, keras, pyspark, pyarrow, pandas, kazoo, tfos, hdfs_native,"
    " ssl, sqlite3, ctypes, lzma, bz2, zlib, readline, curses, uuid, hashlib, decimal, zoneinfo"
)
APP = """
import sys
import tfos

class Where(tfos.TFOnSparkApp):
    def pre_train(self, spark):
        print("driver's Python is", sys.prefix, "with", tfos.__file__)
        return spark.range(100)

    def train(self, ctx):
        print("chief's Python is", sys.prefix, "with", tfos.__file__)
"""


PROGRAMS = {"pl_submit": "tfos.cli.main:entry_point", "hdfsn": "hdfs_native.cli:main"}


class Edge:
    """The environment of a user on an edge node: tfos[hdfs], without what tests need.

    home: the user's, where it is in tfos/.
    """

    def __init__(self, home: Path) -> None:
        self.home, home = home, home / "tfos"
        venv.create(home, with_pip=False, symlinks=True)
        (site,) = home.glob("lib/python*/site-packages")
        for name in requirements("tfos", "hdfs"):
            for file in metadata.files(name) or ():
                target = Path(os.path.normpath(site / file))
                # programs name the Python that they were installed for
                if os.path.exists(file.locate()) and target.parent != home / "bin":
                    target.parent.mkdir(parents=True, exist_ok=True)
                    os.link(os.path.realpath(file.locate()), target)
        self.python = str(home / "bin" / "python")
        for name, main in PROGRAMS.items():
            module, _, function = main.partition(":")
            program = home / "bin" / name
            program.write_text(f"#!{self.python}\nfrom {module} import {function}\n{function}()\n")
            program.chmod(0o755)

    def start(self, *argv: object) -> subprocess.Popen[str]:
        """Starts pl_submit there."""
        return start_submit(
            *argv, where=lambda program, *words: [self.python, "-m", "tfos.cli", *words]
        )


def requirements(name: str, *extras: str) -> set[str]:
    found: set[str] = set()
    todo = [(name, extra) for extra in ("", *extras)]
    while todo:
        name, extra = todo.pop()
        found.add(canonicalize_name(name))
        for each in map(Requirement, metadata.requires(name) or ()):
            is_wanted = each.marker is None or each.marker.evaluate({"extra": extra})
            if is_wanted and canonicalize_name(each.name) not in found:
                todo += [(each.name, more) for more in ("", *each.extras)]
    return found


@pytest.fixture(scope="module")
def user() -> Iterator[Edge]:
    with tempfile.TemporaryDirectory(dir=ROOT) as folder:  # where files can be linked
        yield Edge(Path(folder))


@pytest.fixture(scope="module")
def packed(user: Edge, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("packed") / "env.tar.gz"
    process = user.start("--pack", path)
    _, stderr = process.communicate(timeout=400)
    assert process.returncode == 0, stderr
    yield path
    path.unlink()


def test_it_runs_in_a_root_of_glibc_and_bash_alone(packed, tmp_path):
    """... from another place than it was made at."""
    root, place = tmp_path / "root", "opt/some where/else"
    bash = shutil.which("bash")
    assert bash is not None
    of_glibc = r"lib(c|m|dl|pthread|rt|util|resolv)\.so\.\d"
    libraries = Path("/lib").glob("*-linux-gnu/lib*.so.*")
    of_bash = [bash, *linked(bash)]
    for file in (*of_bash, *(each for each in libraries if re.fullmatch(of_glibc, each.name))):
        copy(file, root)
    for folder in ("proc", "dev", "tmp", place):
        (root / folder).mkdir(parents=True, exist_ok=True)
    subprocess.run(["tar", "-xf", packed, "-C", root / place], check=True, timeout=300)
    mounts = (
        'cd "$1" && mount -t proc proc proc && for d in null urandom zero; do touch dev/$d &&'
        ' mount --bind /dev/$d dev/$d || exit 1; done; shift; exec chroot . "$@"'
    )
    code = (
        f"import {IMPORTS}; import sys; from importlib.metadata import entry_points;"
        "assert all(p.startswith(sys.prefix) for p in sys.path if p), sys.path;"
        "names = {e.name for e in entry_points(group='tfos.strategies')};"
        "assert {'ps', 'single', 'multi-worker'} <= names, names;"
        "assert ssl.create_default_context().cert_store_stats()['x509_ca'] > 50;"
        "zoneinfo.ZoneInfo('Europe/Berlin');"
        "assert int(tensorflow.reduce_sum(tensorflow.range(5))) == 10;"
        "print(sys.prefix, tfos.__file__)"
    )
    ran = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "bash", "-c", mounts, "bash", root]
        + [bash, "-c", '! type python3 && exec "$@"', "bash"]
        + [f"/{place}/bin/python", "-c", code],
        capture_output=True, text=True, timeout=200, env={"PATH": "/bin:/usr/bin:/sbin:/usr/sbin"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert ran.stdout.splitlines()[-1].startswith(f"/{place} /{place}/lib/")


def copy(file: Path | str, root: Path) -> None:
    target = root / str(file).lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(file, target)


def linked(program: str) -> list[str]:
    """The shared libraries of a program, and the loader."""
    said = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    return [word for line in said.splitlines() for word in line.split() if word.startswith("/")]


def test_executors_of_a_standalone_cluster_unpack_it_where_they_run(user, packed, tmp_path):
    app, home = tmp_path / "where.py", tmp_path / "standalone"
    app.write_text(APP)
    home.mkdir()
    cluster = SparkCluster(home)
    try:
        cluster.add_worker("a", 2)
        process = user.start(
            "--master", cluster.url, "--pack", packed, "--strategy", "single", "--lake",
            tmp_path / "lake", "--run-id", "where", app,
        )  # fmt: skip
        _, stderr = process.communicate(timeout=400)
    finally:
        cluster.close()
    assert process.returncode == 0, stderr
    run = Run(str(tmp_path / "lake"), "where")
    (line,) = [line for line in run.logs("chief:0") if "Python is" in line]
    assert re.search(rf"Python is {home}/work/app-[^/]+/\d+/environment with", line), line
    assert f"{ROOT}/" not in line
    assert f"driver's Python is {user.home}/tfos with" in stderr


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HadoopCluster]:
    """A cluster whose nodes have no Python."""
    cluster = HadoopCluster(tmp_path_factory.mktemp("hadoop"), has_python=False)
    yield cluster
    cluster.close()


@pytest.fixture
def edge(bare: HadoopCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[HadoopCluster]:
    yield from from_edge(bare, monkeypatch)


def on_yarn(packed: Path, run_id: str) -> list[object]:
    """A node that has to unpack it may take its time for that."""
    return [
        "--master", "yarn", "--pack", packed, "--start-timeout-secs", 400, "--lake",
        "hdfs:///runs", "--run-id", run_id,
    ]  # fmt: skip


def test_the_nodes_have_no_python(bare):
    look = 'type -a python python3 python3.11; ls "$@"'
    told = subprocess.run(
        bare.on_a_node("bash", "-c", look, "bash", str(ROOT), "/usr/lib/python3"),
        capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert told.stderr.count("not found") == 3, told
    assert not [line for line in told.stdout.splitlines() if line and not line.endswith(":")]


def test_driver_and_roles_are_in_their_containers(edge, user, packed, tmp_path):
    app = tmp_path / "where.py"
    app.write_text(APP)
    process = user.start(*on_yarn(packed, "where"), "--deploy-mode", "cluster", app)
    _, stderr = process.communicate(timeout=600)
    assert process.returncode == 0, stderr
    assert f"{packed} has this environment already" in stderr
    run = Run("hdfs:///runs", "where")
    for log in ("driver", "chief:0"):
        (line,) = [line for line in run.logs(log) if "Python is" in line]
        assert edge.nodes in line
        assert f"{ROOT}/" not in line


def test_the_ten_commands_of_the_page(edge, user, packed, tmp_path):
    """But for the first two, which make the environment: that is here already."""
    script = page_commands("From an edge node to a trained model")
    head, export, rest = script.partition("export PATH")
    assert head == "python3 -m venv ~/tfos\n~/tfos/bin/pip install '.[hdfs]'\n"
    assert len(re.sub(r"\\\n", "", script).splitlines()) == 10
    conf = edge.environment["HADOOP_CONF_DIR"]
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    os.link(packed, tmp_path / "env.tar.gz")
    ran = subprocess.run(
        ["bash", "-e", "-c", (export + rest).replace("/etc/hadoop/conf", conf)],
        cwd=tmp_path, env={**os.environ, "HOME": str(user.home)}, capture_output=True, text=True,
        timeout=700,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "env.tar.gz has this environment already" in ran.stderr
    assert "succeeded: hdfs://" in ran.stderr
    facts = dict(line.split(maxsplit=1) for line in ran.stdout.splitlines() if " " in line)
    assert facts["run"] == "nightly"
    assert facts["state"].startswith("succeeded")
    assert "Total params" in ran.stdout


def page_commands(title: str) -> str:
    """The first block of code under a title of docs/YARN.md."""
    text = (ROOT / "docs" / "YARN.md").read_text().partition(f"## {title}\n")[2]
    block = re.search(r"(?:^    .*\n)+", text, re.MULTILINE)
    assert block is not None
    return textwrap.dedent(block[0])
