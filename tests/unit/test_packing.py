"""Archives of environments: what is in them, and that they run elsewhere."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import venv
from pathlib import Path

import pytest
from conftest import poll

import tfos
from tfos.errors import PreflightError
from tfos.packing import packages as packages_module
from tfos.packing.archive import about, fingerprint
from tfos.packing.bytecode import compiled
from tfos.packing.elf import needs
from tfos.packing.files import tree
from tfos.packing.gzip_writer import GzipWriter
from tfos.packing.interpreter import certificates
from tfos.packing.packages import packages

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="archives are for Linux"),
]
PACK = "import sys; from tfos.cli.main import main; sys.exit(main(['--pack', sys.argv[1]]))"


class Environment:
    """A small one, with tfos as pip has installed it into that of these tests, and `extra.py`."""

    def __init__(self, home):
        venv.create(home, with_pip=False, symlinks=True)
        (self.site,) = home.glob("lib/python*/site-packages")
        for name in (f"tfos-{tfos.__version__}.dist-info", "tfos"):
            if (installed := self._installed() / name).exists():
                shutil.copytree(installed, self.site / name)
        for file in self._installed().glob("__editable__*tfos*"):
            shutil.copy(file, self.site)
        self.extra = self.site / "extra.py"
        self.extra.write_text("VALUE = 1\n")
        self.home = home

    @staticmethod
    def _installed():
        (folder,) = {
            Path(path)
            for path in sys.path
            if Path(path, f"tfos-{tfos.__version__}.dist-info").exists()
        }
        return folder

    def start(self, target):
        return subprocess.Popen(
            [self.home / "bin" / "python", "-c", PACK, target],
            # what pl_submit needs, and is not in it
            env={
                **os.environ,
                "PYTHONPATH": str(self._installed()),
                "PATH": os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]]),
            },
            text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def pack(self, target):
        """The exit status, and what it says."""
        process = self.start(target)
        _, said = process.communicate(timeout=100)
        return process.returncode, said


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    return Environment(tmp_path_factory.mktemp("packing") / "venv")


@pytest.fixture(scope="module")
def archive(environment, tmp_path_factory):
    path = tmp_path_factory.mktemp("packed") / "env.tar.gz"
    status, said = environment.pack(path)
    assert status == 0, said
    assert f"tfos: {path}: " in said.splitlines()[-1]
    assert "with glibc 2." in said
    return path


@pytest.fixture(scope="module")
def unpacked(archive, tmp_path_factory):
    place = tmp_path_factory.mktemp("else where")
    subprocess.run(["tar", "-xzf", archive, "-C", place], check=True, timeout=60)
    return place


def run(python, *argv):
    """What it prints, in an environment that tells it nothing."""
    ended = subprocess.run(
        [python, *argv], env={}, cwd="/", capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


class TestUnpacked:
    def test_it_is_found_from_where_it_lies(self, unpacked):
        code = "import extra, os, sys, tfos; print(sys.prefix, sys.executable, tfos.__file__,"
        code += " extra.__file__, os.__file__, *filter(None, sys.path), sep='\\n')"
        paths = run(unpacked / "bin" / "python", "-c", code).splitlines()
        assert paths[:2] == [str(unpacked), str(unpacked / "bin" / "python")]
        assert not [path for path in paths if not Path(path).is_relative_to(unpacked)]

    def test_the_supervisors_bare_python_starts(self, unpacked):
        assert run(unpacked / "bin" / "python", "-I", "-S", "-c", "print(1)") == "1"

    def test_nothing_is_loaded_from_the_system_but_glibc(self, unpacked):
        code = (
            "import ssl, sqlite3, ctypes, lzma, bz2, zlib, readline, hashlib, uuid, decimal\n"
            "lines = [x.split(maxsplit=5) for x in open('/proc/self/maps') if '.so' in x]\n"
            "print(*{words[5].strip() for words in lines}, sep='\\n')"
        )
        loaded = run(unpacked / "bin" / "python", "-c", code).splitlines()
        foreign = {Path(path).name for path in loaded if not path.startswith(str(unpacked))}
        assert foreign <= {
            "libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1",
            "libutil.so.1", "libresolv.so.2", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1",
        }  # fmt: skip

    def test_tfos_is_an_ordinary_package_with_its_entry_points(self, unpacked):
        code = "from importlib.metadata import distribution as d; t = d('tfos'); print(t.version,"
        code += " t.read_text('direct_url.json'), *sorted(e.name for e in t.entry_points))"
        said = run(unpacked / "bin" / "python", "-c", code)
        assert (
            said
            == f"{tfos.__version__} None between-graph gang kv multi-worker pl_submit ps single"
        )

    def test_compiled_code_holds_whatever_time_its_source_gets(self, unpacked):
        (source,) = unpacked.rglob("extra.py")
        os.utime(source, (1, 1))
        cached = Path(importlib.util.cache_from_source(str(source)))
        before = cached.stat().st_mtime_ns
        assert run(unpacked / "bin" / "python", "-c", "import extra; print(extra.VALUE)") == "1"
        assert cached.stat().st_mtime_ns == before

    def test_certificates_are_found(self, unpacked):
        code = "import ssl; print(ssl.create_default_context().cert_store_stats()['x509_ca'])"
        assert int(run(unpacked / "bin" / "python", "-c", code)) >= 0


class TestReuse:
    def test_of_the_same_environment_it_is_left_alone(self, environment, archive):
        before = archive.stat()
        status, said = environment.pack(archive)
        assert (status, said) == (0, f"tfos: {archive} has this environment already\n")
        assert archive.stat() == before

    def test_of_another_one_it_is_made_anew(self, environment, archive, tmp_path):
        mine = tmp_path / "env.tar.gz"
        shutil.copy(archive, mine)
        environment.extra.write_text("VALUE = 22\n")
        try:
            status, said = environment.pack(mine)
        finally:
            environment.extra.write_text("VALUE = 1\n")
        assert status == 0
        assert "as it has changed" in said.splitlines()[0]
        assert about(mine)["fingerprint"] != about(archive)["fingerprint"]
        with tarfile.open(mine) as made:
            (name,) = [each for each in made.getnames() if each.endswith("/extra.py")]
            assert made.extractfile(name).read() == b"VALUE = 22\n"
        assert os.listdir(tmp_path) == ["env.tar.gz"]

    def test_what_it_did_not_make_stays(self, environment, tmp_path):
        mine = tmp_path / "mine.tar.gz"
        mine.write_bytes(gzip.compress(b"my own"))
        status, said = environment.pack(mine)
        assert status == 2
        assert "name another one, or remove it" in said
        assert gzip.decompress(mine.read_bytes()) == b"my own"


class TestBadTargets:
    @pytest.mark.parametrize(
        ("name", "why"),
        [("env.zip", "must end with .tar.gz"), ("none/env.tar.gz", "there is no folder")],
    )
    def test_bad_names_are_refused(self, environment, tmp_path, name, why):
        status, said = environment.pack(tmp_path / name)
        assert status == 2
        assert why in said and str(tmp_path / name) in said
        assert os.listdir(tmp_path) == []

    def test_a_folder_that_takes_no_files(self, environment):
        status, said = environment.pack("/proc/env.tar.gz")
        assert status == 1
        assert said.splitlines()[-1].startswith(
            "tfos: --pack /proc/env.tar.gz: it cannot be written"
        )

    def test_a_full_disk(self, environment, archive, tmp_path):
        disk = tmp_path / "disk"
        disk.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], capture_output=True
        )
        if mounted.returncode != 0:
            pytest.skip("only root can mount the small filesystem that this test fills")
        try:
            status, said = environment.pack(disk / "env.tar.gz")
            left = os.listdir(disk)
        finally:
            subprocess.run(["umount", "-l", str(disk)], check=True)
        assert status == 1
        assert "env.tar.gz: it cannot be written: No space left on device (" in said
        assert left == []

    @pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
    def test_one_that_is_interrupted_leaves_nothing(self, environment, tmp_path, signum):
        process = environment.start(tmp_path / "env.tar.gz")
        assert "packing" in process.stderr.readline()
        # it is at the archive, which takes a second or more
        poll(lambda: str(tmp_path) in str(open_files(process.pid)), 30, "the archive is begun")
        process.send_signal(signum)
        _, said = process.communicate(timeout=30)
        assert process.returncode == {signal.SIGKILL: -9}.get(signum, 130)
        assert "Traceback" not in said
        assert os.listdir(tmp_path) == []


def open_files(pid):
    folder = Path(f"/proc/{pid}/fd")
    return [os.readlink(each) for each in folder.iterdir() if each.is_symlink()]


class TestPackages:
    """What is in a folder of installed packages."""

    @pytest.fixture
    def site(self, tmp_path, monkeypatch):
        folder = tmp_path / "site-packages"
        folder.mkdir()
        monkeypatch.syspath_prepend(str(folder))
        return folder

    @staticmethod
    def install(site, name, project, files, top_level=""):
        """An editable install, as backends of today leave it."""
        info = site / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        url = {"url": project.as_uri(), "dir_info": {"editable": True}}
        (info / "direct_url.json").write_text(json.dumps(url))
        if top_level:
            (info / "top_level.txt").write_text(f"{top_level}\n")
        for file, text in files.items():
            (site / file).write_text(text)
        own = [f"{info.name}/{file}" for file in ("METADATA", "direct_url.json", "RECORD")]
        recorded = [*files, *own]
        (info / "RECORD").write_text("".join(f"{file},,\n" for file in recorded))

    @staticmethod
    def project(folder, *files):
        for file in files:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text(f"# {file}\n")
        return folder

    def test_a_folder_that_is_linked_to(self, site, tmp_path, monkeypatch):
        src = self.project(
            tmp_path / "project" / "src", "alpha/__init__.py", "alpha/data.bin", "beta.py",
            "space/deep/gamma.py", "notes/readme.txt", "alpha/.hidden/x.py",
        )  # fmt: skip
        self.install(site, "alpha", tmp_path / "project", {"_alpha.pth": f"{src}\n"})
        monkeypatch.syspath_prepend(str(src))
        found = packages([site], "lib/site-packages")
        paths = {path.removeprefix("lib/site-packages/") for path in found}
        assert paths == {
            "alpha/__init__.py", "alpha/data.bin", "beta.py", "space/deep/gamma.py",
            "alpha-1.0.dist-info/METADATA",
        }  # fmt: skip

    def test_those_that_an_import_hook_finds(self, site, tmp_path, monkeypatch):
        root = self.project(tmp_path / "project", "delta/__init__.py", "other/__init__.py")
        self.install(site, "delta", root, {"_delta.pth": "import _hook\n", "_hook.py": ""}, "delta")
        monkeypatch.syspath_prepend(str(root))  # as the hook would
        found = packages([site], "at")
        assert set(found) == {
            "at/delta/__init__.py",
            "at/delta-1.0.dist-info/METADATA",
            "at/delta-1.0.dist-info/top_level.txt",
        }

    def test_one_that_tells_nothing_is_refused(self, site, tmp_path):
        project = self.project(tmp_path / "project", "epsilon.py")
        self.install(site, "epsilon", project, {"_epsilon.pth": "import _hook\n", "_hook.py": ""})
        with pytest.raises(
            PreflightError, match=rf"epsilon is installed as editable from {project}"
        ):
            packages([site], "at")

    def test_other_pth_files_are_kept(self, site, tmp_path):
        (site / "inner").mkdir()
        (site / "some.pth").write_text("# why\nimport sys\ninner\n/no/such/folder\n")
        found = packages([site], "at")
        assert found["at/some.pth"] == b"import sys\ninner\n"

    def test_folders_of_packages_stay_apart(self, site, tmp_path):
        """The second one is the system's, whose versions are others."""
        system = self.project(tmp_path / "system", "zeta/__init__.py", "zeta/old.py")
        self.project(site, "zeta/__init__.py")
        found = packages([site, system], "lib/site-packages")
        assert "lib/site-packages/zeta/old.py" not in found
        assert found["lib/site-packages-1/zeta/old.py"] == system / "zeta/old.py"
        assert b"site-packages-1" in found["lib/site-packages/other-site-packages.pth"]

    def test_what_is_never_imported_is_left_out(self, site):
        self.project(site, "tensorflow/__init__.py", "tensorflow/include/a.h", "pyspark/jars/a.jar")
        assert set(packages([site], "at")) == {"at/tensorflow/__init__.py"}

    def test_the_folders_are_those_of_this_process(self):
        folders = packages_module.site_folders()
        assert Path(pytest.__file__).parents[1].resolve() in folders


class TestFiles:
    def test_links_are_followed_and_circles_are_not(self, tmp_path):
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "x").write_text("1")
        (tmp_path / "a" / "__pycache__").mkdir()
        (tmp_path / "a" / "__pycache__" / "x.pyc").write_text("1")
        (tmp_path / "a" / "up").symlink_to("..")
        (tmp_path / "b").symlink_to("a")
        (tmp_path / "dead").symlink_to("nowhere")
        assert [path for path, _ in tree(tmp_path, "at")] == ["at/a/x", "at/b/x"]

    def test_a_fingerprint_is_of_names_sizes_and_times(self, tmp_path):
        file = tmp_path / "x"
        file.write_text("1")
        prints = [
            fingerprint({"at": file}),
            fingerprint({"to": file}),
            fingerprint({"at": file}, 2),
        ]
        os.utime(file, (5, 5))
        prints.append(fingerprint({"at": file}))
        assert len(set(prints)) == 4
        assert fingerprint({"at": file}) == prints[-1]


class TestElf:
    def test_a_library_says_what_it_needs(self):
        import _ctypes

        found = needs(Path(_ctypes.__file__))
        linked = subprocess.run(["ldd", _ctypes.__file__], capture_output=True, text=True).stdout
        assert found is not None
        assert found.libraries and all(name in linked for name in found.libraries)
        assert (2, 0) < found.glibc < (3, 0)

    def test_other_files_say_nothing(self, tmp_path):
        import _ctypes

        file = tmp_path / "x.so"
        for data in (b"", b"text", Path(_ctypes.__file__).read_bytes()[:100]):
            file.write_bytes(data)
            assert needs(file) is None


class TestGzip:
    @pytest.mark.parametrize("pieces", [[], [b"x"], [os.urandom(700_000)] * 4, [b"a" * 5_000_000]])
    def test_it_is_one_member_with_all_of_it(self, tmp_path, pieces):
        path = tmp_path / "x.gz"
        with open(path, "wb") as file, GzipWriter(file) as packed:
            for piece in pieces:
                packed.write(piece)
            assert packed.tell() == sum(map(len, pieces))
        assert gzip.decompress(path.read_bytes()) == b"".join(pieces)
        assert subprocess.run(["gzip", "-t", path]).returncode == 0

    def test_one_that_fails_is_not_whole(self, tmp_path):
        path = tmp_path / "x.gz"
        with pytest.raises(ValueError), open(path, "wb") as file, GzipWriter(file) as packed:
            packed.write(b"x" * 3_000_000)
            raise ValueError
        with pytest.raises(EOFError):
            gzip.decompress(path.read_bytes())


def test_a_module_in_another_language_is_not_compiled(tmp_path):
    (tmp_path / "old.py").write_text("print 'x'\n")
    assert compiled(tmp_path / "old.py", "old.py") is None


def test_certificates_are_those_of_the_node_or_of_certifi():
    ((_, line),) = certificates("at").items()
    assert line.startswith(b"import os;") and line.count(b"\n") == 1
