"""The lake: whole files, directories that exist when their marker does, errors with a remedy."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import logging
import os
import pickle
import secrets
import shutil
import subprocess
import sys
import time
from pathlib import Path

import fsspec
import pytest
import tenacity
from fsspec.implementations.memory import MemoryFileSystem

from tfos.errors import DamagedError, FencedError, LakeError
from tfos.lake import storage
from tfos.lake.run_directory import RunDirectory
from tfos.lake.storage import COMMIT, absolute
from tfos.spec.times import TIMES


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch):
    monkeypatch.setattr(TIMES, "lake_retry_secs", 0.15)
    monkeypatch.setattr(storage, "_BACKOFF", tenacity.wait_fixed(0.01))


@pytest.fixture(params=["local", "memory"])
def lake(request, tmp_path):
    if request.param == "local":
        yield RunDirectory(str(tmp_path / "lake"), "run-1")
        return
    url = f"memory://lake-{secrets.token_hex(4)}"
    yield RunDirectory(url, "run-1")
    storage = fsspec.filesystem("memory")
    if storage.exists(url):
        storage.rm(url, recursive=True)


@pytest.fixture
def local_lake(tmp_path):
    return RunDirectory(str(tmp_path / "lake"), "run-1")


@pytest.fixture
def source(tmp_path):
    """A local directory to commit: two files, one of them in a folder, one of them empty."""
    root = tmp_path / "source"
    (root / "deep").mkdir(parents=True)
    (root / "weights").write_bytes(bytes(range(256)) * 10)
    (root / "deep" / "empty").write_bytes(b"")
    return str(root)


def files_under(path):
    return sorted(str(p.relative_to(path)) for p in Path(path).rglob("*") if p.is_file())


class TestAbsolute:
    def test_relative_path_is_resolved(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert absolute("runs/x") == str(tmp_path.resolve() / "runs" / "x")

    def test_home_is_expanded(self, monkeypatch):
        monkeypatch.setenv("HOME", "/home/somebody")
        assert absolute("~/runs") == "/home/somebody/runs"

    @pytest.mark.parametrize(
        ("url", "expected"),
        [
            ("s3://bucket/runs/", "s3://bucket/runs"),
            ("memory://x", "memory://x"),
            ("simplecache::s3://b/x", "simplecache::s3://b/x"),
        ],
    )
    def test_url_stays(self, url, expected):
        assert absolute(url) == expected

    def test_root_of_a_filesystem_stays_on_it(self):
        assert not RunDirectory("memory://", "run").is_local


class TestFiles:
    def test_written_is_read(self, lake):
        lake.write("a/b.bin", b"\0one")
        assert lake.read("a/b.bin") == b"\0one"
        assert lake.exists("a/b.bin")
        assert not lake.exists("a/c.bin")

    def test_written_again_is_replaced(self, lake):
        lake.write("x", b"long before")
        lake.write("x", b"now")
        assert lake.read("x") == b"now"

    def test_json_round_trip(self, lake):
        value = {"a": [1, None, "é"], "b": {"c": 0.5}}
        lake.write_json("v.json", value)
        assert lake.read_json("v.json") == value

    def test_list_is_sorted_names(self, lake):
        for name in ("b", "c", "a"):
            lake.write(f"dir/{name}", b"")
        lake.write("dir/deep/x", b"")
        assert lake.list("dir") == ["a", "b", "c", "deep"]

    def test_list_of_nothing_is_empty(self, lake):
        assert lake.list("nothing") == []

    def test_list_sees_what_another_client_wrote(self, lake):
        lake.write("dir/a", b"")
        lake.list("dir")
        RunDirectory(lake.url, lake.run_id).write("dir/b", b"")
        assert lake.list("dir") == ["a", "b"]

    def test_upload_and_download(self, lake, tmp_path):
        (tmp_path / "up").write_bytes(b"content")
        lake.upload(str(tmp_path / "up"), "deep/er/file")
        lake.download("deep/er/file", str(tmp_path / "down"))
        assert (tmp_path / "down").read_bytes() == b"content"

    def test_remove_file_directory_and_nothing(self, lake):
        lake.write("dir/a", b"")
        lake.write("dir/deep/b", b"")
        lake.remove("dir/a")
        assert lake.list("dir") == ["deep"]
        lake.remove("dir")
        assert not lake.exists("dir")
        lake.remove("dir")

    def test_travels_by_pickle(self, lake):
        lake.write("x", b"1")
        assert pickle.loads(pickle.dumps(lake)).read("x") == b"1"

    def test_check_writable_leaves_a_marker_and_names_it(self, lake):
        name = lake.check_writable()
        assert lake.exists(name)
        assert lake.check_writable() != name

    def test_runs_do_not_see_each_other(self, lake):
        lake.write("x", b"1")
        assert not RunDirectory(lake.url, "run-2").exists("x")

    def test_paths_are_local_only_where_the_lake_is(self, tmp_path):
        local = RunDirectory(str(tmp_path), "r")
        assert local.is_local
        assert local.path("a", "b") == local.uri("a", "b") == str(tmp_path.resolve() / "r/a/b")
        remote = RunDirectory("memory://root", "r")
        assert not remote.is_local
        assert remote.uri("a") == "memory:///root/r/a"

    def test_file_url_is_local(self, tmp_path):
        assert RunDirectory(f"file://{tmp_path}", "r").path("a") == str(tmp_path / "r" / "a")


class TestWholeOrNothing:
    def test_no_part_is_left_after_success(self, local_lake):
        local_lake.write("dir/x", b"1")
        assert files_under(local_lake.path()) == ["dir/x"]

    @pytest.mark.parametrize("step", ["fsync", "replace"])
    def test_failing_write_leaves_the_old_file_and_no_part(self, local_lake, monkeypatch, step):
        local_lake.write("dir/x", b"before")

        def fail(*args):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, step, fail)
            with pytest.raises(LakeError, match="No space left"):
                local_lake.write("dir/x", b"after")
            with pytest.raises(LakeError):
                local_lake.write("dir/y", b"new")
        assert local_lake.read("dir/x") == b"before"
        assert files_under(local_lake.path()) == ["dir/x"]


class TestCommit:
    def test_fetched_is_committed(self, lake, source, tmp_path):
        lake.commit_dir(source, "model", {"step": 7})
        marker = lake.fetch_dir("model", str(tmp_path / "out"))
        assert files_under(tmp_path / "out") == files_under(source) == ["deep/empty", "weights"]
        for name in files_under(source):
            assert (tmp_path / "out" / name).read_bytes() == Path(source, name).read_bytes()
        assert marker["step"] == 7
        assert marker == lake.committed("model")

    def test_marker_holds_size_and_checksum_of_every_file(self, lake, source):
        lake.commit_dir(source, "model", {})
        content = Path(source, "weights").read_bytes()
        files = lake.committed("model")["files"]
        assert set(files) == {"weights", "deep/empty"}
        assert files["weights"] == {
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }

    def test_marker_is_written_last(self, lake, source, monkeypatch):
        order: list[str] = []
        for name in ("upload", "write"):
            original = getattr(RunDirectory, name)

            def record(self, first, second, original=original, name=name):
                order.append(second if name == "upload" else first)
                return original(self, first, second)

            monkeypatch.setattr(RunDirectory, name, record)
        lake.commit_dir(source, "model", {}, fence=lambda: order.append("fence"))
        written = ["model/deep/empty", "model/weights", f"model/{COMMIT}"]
        assert order == ["fence", "fence", written[0], "fence", written[1], "fence", written[2]]

    def test_fence_that_raises_at_first_removes_nothing(self, lake, source):
        lake.commit_dir(source, "model", {"by": "the next chief"})

        def fence():
            raise FencedError("another chief is at work")

        with pytest.raises(FencedError):
            lake.commit_dir(source, "model", {}, fence)
        assert lake.committed("model")["by"] == "the next chief"

    @pytest.mark.parametrize("files", [0, 1, 2])
    def test_one_that_was_replaced_meanwhile_leaves_the_place_to_the_other(
        self, lake, source, tmp_path, files
    ):
        """The other one commits when so many files are there; from then on nothing is touched."""
        other = tmp_path / "other"
        other.mkdir()
        (other / "weights").write_bytes(b"of the other")
        committed = []

        def fence():
            if not committed and len(lake.list("model")) == files:
                if not asked:
                    asked.append(True)  # before anything was written
                    return
                lake.commit_dir(str(other), "model", {"by": "the next chief"})
                committed.append(True)
            if committed:
                raise FencedError("another chief is at work")

        asked = [True] if files else []
        with pytest.raises(FencedError):
            lake.commit_dir(source, "model", {}, fence)
        target = tmp_path / "fetched"
        assert lake.fetch_dir("model", str(target))["by"] == "the next chief"
        assert (target / "weights").read_bytes() == b"of the other"

    def test_fence_that_fails_leaves_no_marker(self, lake, source):
        calls = iter([None, None, None, OSError("no answer")])

        def fence():
            if error := next(calls, None):
                raise error

        with pytest.raises(OSError, match="no answer"):
            lake.commit_dir(source, "model", {}, fence)
        assert not lake.exists("model")

    def test_files_are_durable_before_the_marker(self, local_lake, source, monkeypatch):
        synced = []

        def fsync(descriptor, original=os.fsync):
            original(descriptor)
            synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name.split(".")[0])

        monkeypatch.setattr(os, "fsync", fsync)
        local_lake.commit_dir(source, "model", {}, fence=lambda: synced.append("fence"))
        before = synced[: synced.index(COMMIT)]
        assert {"weights", "empty", "deep", "model", "run-1"} <= set(before)
        assert synced[-2:] == [COMMIT, "model"]

    def test_failing_upload_leaves_nothing_committed(self, lake, source, tmp_path, monkeypatch):
        lake.commit_dir(source, "model", {"version": 1})
        upload = RunDirectory.upload

        def fail(self, file, path):
            if path.endswith("weights"):
                raise LakeError("no space")
            upload(self, file, path)

        monkeypatch.setattr(RunDirectory, "upload", fail)
        with pytest.raises(LakeError):
            lake.commit_dir(source, "model", {"version": 2})
        assert lake.committed("model") is None
        with pytest.raises(LakeError, match=rf"model.*{COMMIT}"):
            lake.fetch_dir("model", str(tmp_path / "out"))

    def test_committed_again_forgets_what_was_there(self, lake, source, tmp_path):
        lake.commit_dir(source, "model", {})
        Path(source, "weights").unlink()
        Path(source, "other").write_bytes(b"o")
        lake.commit_dir(source, "model", {})
        lake.fetch_dir("model", str(tmp_path / "out"))
        assert files_under(tmp_path / "out") == ["deep/empty", "other"]
        assert not lake.exists("model/weights")

    @pytest.mark.parametrize("content", [b"", b"other content"])
    def test_damaged_file_is_found(self, lake, source, tmp_path, content):
        lake.commit_dir(source, "model", {})
        lake.write("model/weights", content)
        with pytest.raises(LakeError, match=r"weights.*damaged.*SHA-256"):
            lake.fetch_dir("model", str(tmp_path / "out"))

    def test_missing_file_is_found(self, lake, source, tmp_path):
        lake.commit_dir(source, "model", {})
        lake.remove("model/weights")
        with pytest.raises(DamagedError, match="weights is missing"):
            lake.fetch_dir("model", str(tmp_path / "out"))

    def test_every_byte_of_the_marker_counts(self, lake, source):
        lake.commit_dir(source, "model", {"step": 7})
        marker = f"model/{COMMIT}"
        whole = lake.read(marker)
        for place in range(len(whole)):
            for change in (1, 4, 128):
                data = bytearray(whole)
                data[place] ^= change
                lake._fs.pipe_file(lake.path(marker), bytes(data))
                with pytest.raises(DamagedError, match=COMMIT):
                    lake.committed("model")
            lake._fs.pipe_file(lake.path(marker), whole[:place] + whole[place + 1 :])
            with pytest.raises(DamagedError, match=COMMIT):
                lake.committed("model")

    def test_remove_drops_the_marker_first(self, lake, source, monkeypatch):
        lake.commit_dir(source, "model", {})

        def fail(*args, **kwargs):
            raise OSError("broke off")

        with monkeypatch.context() as patch:
            patch.setattr(lake._fs, "rm", fail)
            with pytest.raises(LakeError, match="broke off"):
                lake.remove("model")
        assert lake.committed("model") is None
        assert lake.exists("model/weights")

    def test_never_committed_is_none(self, lake):
        lake.write("model/weights", b"x")
        assert lake.committed("model") is None
        assert lake.committed("nothing") is None

    def test_damaged_marker_is_a_lake_error(self, lake, source):
        lake.commit_dir(source, "model", {})
        lake.write(f"model/{COMMIT}", lake.read(f"model/{COMMIT}")[:20])
        with pytest.raises(LakeError, match=COMMIT):
            lake.committed("model")


class TestErrors:
    def test_reading_what_is_not_there_names_path_and_flag(self, local_lake):
        with pytest.raises(LakeError) as caught:
            local_lake.read("spec.json")
        assert local_lake.path("spec.json") in str(caught.value)
        assert "--lake" in str(caught.value)

    def test_lake_that_is_a_file_names_path_and_flag(self, tmp_path):
        (tmp_path / "taken").write_text("not a directory")
        lake = RunDirectory(str(tmp_path / "taken"), "run")
        for attempt in (
            lambda: lake.write("x", b""),
            lambda: lake.check_writable(),
            lambda: lake.upload(str(tmp_path / "taken"), "x"),
        ):
            with pytest.raises(LakeError) as caught:
                attempt()
            assert str(tmp_path / "taken") in str(caught.value)
            assert "--lake" in str(caught.value)

    def test_unknown_protocol(self):
        with pytest.raises(LakeError, match=r"nosuchfs://x.*--lake"):
            RunDirectory("nosuchfs://x", "run").exists("y")

    @pytest.mark.parametrize(
        ("url", "package"),
        [("s3://b/x", "s3"), ("oss://b/x", "oss"), ("gs://b/x", "gcs"), ("hdfs://n/x", "hdfs")],
    )
    def test_missing_package_names_the_extra(self, monkeypatch, url, package):
        def not_installed(url):
            raise ImportError("Install it")

        monkeypatch.setattr(fsspec.core, "url_to_fs", not_installed)
        for module in ("hdfs_native", "hdfs_native.fsspec"):  # another test may have imported it
            monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(LakeError, match=rf"pip install 'tfos\[{package}\]'"):
            RunDirectory(url, "run").exists("y")

    def test_file_that_is_not_json(self, lake):
        lake.write("spec.json", b"{")
        with pytest.raises(LakeError, match=r"spec\.json"):
            lake.read_json("spec.json")


def test_marker_is_json_for_other_readers(local_lake, source):
    local_lake.commit_dir(source, "model", {"format": "saved_model"})
    marker = json.loads(Path(local_lake.path("model", COMMIT)).read_text())
    assert marker["format"] == "saved_model"


class Flaky(MemoryFileSystem):
    """Raises `failing`, one at a time, before it does what it is asked for."""

    protocol = "flaky"
    cachable = False
    failing: list[BaseException] = []  # noqa: RUF012

    def _fail(self):
        if Flaky.failing:
            raise Flaky.failing.pop(0)

    def info(self, *args, **kwargs):
        self._fail()
        return super().info(*args, **kwargs)

    def ls(self, *args, **kwargs):
        self._fail()
        return super().ls(*args, **kwargs)

    def cat_file(self, *args, **kwargs):
        self._fail()
        return super().cat_file(*args, **kwargs)

    def pipe_file(self, *args, **kwargs):
        self._fail()
        return super().pipe_file(*args, **kwargs)

    def put_file(self, *args, **kwargs):
        self._fail()
        return super().put_file(*args, **kwargs)

    def get_file(self, *args, **kwargs):
        self._fail()
        return super().get_file(*args, **kwargs)


class StorageError(Exception):
    """What a client library may raise: not an OSError."""


NO_SPACE = OSError(errno.ENOSPC, "No space left on device")
PASSING = [
    NO_SPACE,
    OSError(errno.EROFS, "Read-only file system"),
    PermissionError(errno.EACCES, "Permission denied"),
    TimeoutError(),
    StorageError("500"),
]


class TestRetries:
    @pytest.fixture
    def flaky(self):
        fsspec.register_implementation("flaky", Flaky, clobber=True)
        Flaky.failing = []
        lake = RunDirectory(f"flaky://{secrets.token_hex(4)}", "run-1")
        lake.write("x", b"1")
        yield lake
        Flaky.failing = []
        lake.remove("")

    @pytest.fixture
    def operations(self, flaky, tmp_path):
        (tmp_path / "file").write_bytes(b"2")
        return {
            "write": lambda: flaky.write("y", b"2"),
            "upload": lambda: flaky.upload(str(tmp_path / "file"), "y"),
            "read": lambda: flaky.read("x"),
            "download": lambda: flaky.download("x", str(tmp_path / "out")),
            "exists": lambda: flaky.exists("x"),
            "list": lambda: flaky.list(""),
            "remove": lambda: flaky.remove("x"),
            "committed": lambda: flaky.committed("x"),
        }

    NAMES = ("write", "upload", "read", "download", "exists", "list", "remove")

    @pytest.mark.parametrize("name", [*NAMES, "committed"])
    @pytest.mark.parametrize("error", PASSING, ids=lambda e: type(e).__name__ + str(e)[:10])
    def test_error_that_passes_is_survived(self, operations, name, error, caplog, flaky):
        wanted = None if name in ("remove",) else operations[name]()
        Flaky.failing = [error, error]
        with caplog.at_level(logging.WARNING):
            assert operations[name]() == wanted
        assert not Flaky.failing
        messages = [record.getMessage() for record in caplog.records]
        assert len(messages) == 2
        assert all(flaky.url in text and type(error).__name__ in text for text in messages)

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("error", PASSING, ids=lambda e: type(e).__name__ + str(e)[:10])
    def test_error_that_stays_is_raised_in_time(self, operations, name, error):
        Flaky.failing = [error] * 1000
        begun = time.monotonic()
        with pytest.raises(
            LakeError, match=rf"{type(error).__name__}.*tried \d+ times in \d\.\d s"
        ):
            operations[name]()
        assert time.monotonic() - begun < 5
        assert 2 <= 1000 - len(Flaky.failing) <= 20

    @pytest.mark.parametrize("error", [FileNotFoundError("x"), ValueError("x"), ImportError("x")])
    def test_what_stays_as_it_is_is_not_tried_again(self, operations, error):
        for name in ("read", "download", "write", "upload"):
            Flaky.failing = [error, error]
            with pytest.raises(LakeError) as caught:
                operations[name]()
            assert len(Flaky.failing) == 1, name
            assert "tried" not in str(caught.value)

    def test_interrupt_is_not_tried_again(self, flaky):
        Flaky.failing = [KeyboardInterrupt()]
        with pytest.raises(KeyboardInterrupt):
            flaky.read("x")

    def test_check_writable_is_not_tried_again(self, flaky, caplog):
        Flaky.failing = [NO_SPACE, NO_SPACE]
        with pytest.raises(LakeError, match="No space left"):
            flaky.check_writable()
        assert len(Flaky.failing) == 1
        assert not caplog.records

    def test_check_writable_opens_the_filesystem_once(self, monkeypatch):
        tries = []

        def refuse(url):
            tries.append(url)
            raise OSError("no Hadoop here")

        monkeypatch.setattr(fsspec.core, "url_to_fs", refuse)
        with pytest.raises(LakeError, match="no Hadoop here"):
            RunDirectory("s3://nowhere", "r").check_writable()
        assert len(tries) == 1

    def test_failing_commit_that_cannot_tidy_up_tells_the_cause(self, flaky, source):
        def fence():
            if flaky.list("model") == ["deep", "weights"]:
                Flaky.failing = [NO_SPACE] * 1000

        with pytest.raises(LakeError, match=rf"cannot write .*{COMMIT}"):
            flaky.commit_dir(source, "model", {}, fence)
        Flaky.failing = []
        assert flaky.list("model") == ["deep", "weights"]
        assert flaky.committed("model") is None

    def test_what_a_mounted_lake_does_not_permit_is_final(self, local_lake, monkeypatch):
        tried = []

        def fail(*args):
            tried.append(args)
            raise PermissionError(errno.EACCES, "Permission denied")

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", fail)
            with pytest.raises(LakeError, match="Permission denied; check --lake"):
                local_lake.write("x", b"1")
            assert "Permission denied" in local_lake.why_not_writable()
        assert len(tried) == 2
        assert local_lake.why_not_writable() == ""

    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
    @pytest.mark.parametrize("step", ["fsync", "replace"])
    def test_local_write_is_whole_when_it_is_tried_again(
        self, local_lake, tmp_path, monkeypatch, code, step
    ):
        local_lake.write("dir/x", b"before")
        (tmp_path / "file").write_bytes(b"after")
        for act in (
            lambda: local_lake.write("dir/x", b"after"),
            lambda: local_lake.upload(str(tmp_path / "file"), "dir/y"),
        ):
            failing, original = itertools.chain([1, 1], itertools.repeat(0)), getattr(os, step)

            def fail(*args, failing=failing, original=original):
                if next(failing):
                    raise OSError(code, os.strerror(code))
                return original(*args)

            with monkeypatch.context() as patch:
                patch.setattr(os, step, fail)
                act()
        assert local_lake.read("dir/x") == local_lake.read("dir/y") == b"after"
        assert files_under(local_lake.path()) == ["dir/x", "dir/y"]


@pytest.fixture
def small_disk(tmp_path):
    """A filesystem of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tfos-test", str(disk)], capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("a small tmpfs cannot be mounted: not root, or without CAP_SYS_ADMIN")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


class TestFullDisk:
    def test_nothing_half_is_left(self, small_disk, tmp_path):
        lake = RunDirectory(str(small_disk), "run")
        lake.write("x", b"before")
        with pytest.raises(LakeError, match=r"cannot write .*/x: OSError.*No space left.*tried"):
            lake.write("x", bytes(2 << 20))
        (tmp_path / "big").mkdir()
        (tmp_path / "big/a").write_bytes(bytes(900 << 10))
        (tmp_path / "big/b").write_bytes(bytes(900 << 10))
        with pytest.raises(LakeError, match="No space left"):
            lake.commit_dir(str(tmp_path / "big"), "model", {})
        assert files_under(small_disk) == ["run/x"]
        assert lake.read("x") == b"before"

    def test_space_that_is_made_in_time_is_used(self, small_disk, monkeypatch):
        (small_disk / "junk").write_bytes(bytes(900 << 10))
        warned = []

        def tidy_up(*args):
            warned.append(args)
            (small_disk / "junk").unlink(missing_ok=True)

        monkeypatch.setattr(storage._log, "warning", tidy_up)
        RunDirectory(str(small_disk), "run").write("x", bytes(500 << 10))
        assert len(warned) == 1
        assert len((small_disk / "run/x").read_bytes()) == 500 << 10


def test_the_run_s_credential_is_for_its_owner_alone(tmp_path):
    lake = RunDirectory(str(tmp_path), "run")
    before = os.umask(0o022)
    try:
        lake.write_registry({"hosts": "h:1", "user": "run", "password": "secret"})
        lake.write_spec({})
    finally:
        os.umask(before)
    modes = {p.name: p.stat().st_mode & 0o777 for p in (tmp_path / "run").iterdir()}
    assert modes == {"registry.json": 0o600, "spec.json": 0o644}
    assert lake.registry() == {"hosts": "h:1", "user": "run", "password": "secret"}
