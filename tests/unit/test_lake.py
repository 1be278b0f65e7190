"""The lake: whole files, directories that exist when their marker does, errors with a remedy."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import secrets
from pathlib import Path

import fsspec
import pytest

from tfos.errors import LakeError
from tfos.lake import COMMIT, Lake, absolute


@pytest.fixture(params=["local", "memory"])
def lake(request, tmp_path):
    if request.param == "local":
        yield Lake(str(tmp_path / "lake"), "run-1")
        return
    url = f"memory://lake-{secrets.token_hex(4)}"
    yield Lake(url, "run-1")
    storage = fsspec.filesystem("memory")
    if storage.exists(url):
        storage.rm(url, recursive=True)


@pytest.fixture
def local_lake(tmp_path):
    return Lake(str(tmp_path / "lake"), "run-1")


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
        assert not Lake("memory://", "run").is_local


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
        Lake(lake.url, lake.run_id).write("dir/b", b"")
        assert lake.list("dir") == ["a", "b"]

    def test_open_new(self, lake):
        with lake.open_new("feed/train/0.arrow") as file:
            file.write(b"abc")
        assert lake.read("feed/train/0.arrow") == b"abc"

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
        assert not Lake(lake.url, "run-2").exists("x")

    def test_paths_are_local_only_where_the_lake_is(self, tmp_path):
        local = Lake(str(tmp_path), "r")
        assert local.is_local
        assert local.path("a", "b") == local.uri("a", "b") == str(tmp_path.resolve() / "r/a/b")
        remote = Lake("memory://root", "r")
        assert not remote.is_local
        assert remote.uri("a") == "memory:///root/r/a"

    def test_file_url_is_local(self, tmp_path):
        assert Lake(f"file://{tmp_path}", "r").path("a") == str(tmp_path / "r" / "a")


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
        order = []
        for name in ("upload", "write"):
            original = getattr(Lake, name)

            def record(self, first, second, original=original, name=name):
                order.append(second if name == "upload" else first)
                return original(self, first, second)

            monkeypatch.setattr(Lake, name, record)
        lake.commit_dir(source, "model", {})
        assert sorted(order[:-1]) == ["model/deep/empty", "model/weights"]
        assert order[-1] == f"model/{COMMIT}"

    def test_failing_upload_leaves_nothing_committed(self, lake, source, tmp_path, monkeypatch):
        lake.commit_dir(source, "model", {"version": 1})
        upload = Lake.upload

        def fail(self, file, path):
            if path.endswith("weights"):
                raise LakeError("no space")
            upload(self, file, path)

        monkeypatch.setattr(Lake, "upload", fail)
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
        with pytest.raises(LakeError, match="weights"):
            lake.fetch_dir("model", str(tmp_path / "out"))

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
        lake = Lake(str(tmp_path / "taken"), "run")
        for attempt in (
            lambda: lake.write("x", b""),
            lambda: lake.open_new("x"),
            lambda: lake.upload(str(tmp_path / "taken"), "x"),
        ):
            with pytest.raises(LakeError) as caught:
                attempt()
            assert str(tmp_path / "taken") in str(caught.value)
            assert "--lake" in str(caught.value)

    def test_unknown_protocol(self):
        with pytest.raises(LakeError, match=r"nosuchfs://x.*--lake"):
            Lake("nosuchfs://x", "run").exists("y")

    def test_file_that_is_not_json(self, lake):
        lake.write("spec.json", b"{")
        with pytest.raises(LakeError, match=r"spec\.json"):
            lake.read_json("spec.json")


def test_marker_is_json_for_other_readers(local_lake, source):
    local_lake.commit_dir(source, "model", {"format": "saved_model"})
    marker = json.loads(Path(local_lake.path("model", COMMIT)).read_text())
    assert marker["format"] == "saved_model"
