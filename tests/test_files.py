"""duo_ext.files: a file is written whole or not at all, and what a kill leaves is swept away."""

import functools
import zipfile

import pytest
from fsspec.implementations.local import LocalFileSystem

from duo_ext import Refused, files


def test_what_cannot_be_written_is_one_sentence_and_the_old_file_stays(tmp_path, monkeypatch):
    path = tmp_path / "folder" / "file"
    files.write_whole(path, b"old")

    def full(*given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError) as refused:
        files.write_whole(path, b"new")
    wanted = f"{path} cannot be written: No space left on device; what was there is kept"
    assert str(refused.value) == wanted
    assert [(p.name, p.read_bytes()) for p in path.parent.iterdir()] == [("file", b"old")]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="file/inside/x cannot be written: "):
        files.write_whole(tmp_path / "file" / "inside" / "x", b"new")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_is_no_file_to_replace(tmp_path):
    with pytest.raises(OSError, match=f"{tmp_path} cannot be written: it is a folder"):
        files.write_whole(tmp_path, b"new")
    assert list(tmp_path.iterdir()) == []


def test_what_was_kept_before_may_be_the_same_file(tmp_path):
    """A kill between the two moves of a save leaves one file of two names."""
    last, previous = tmp_path / "last", tmp_path / "previous"
    last.write_text("old")
    previous.hardlink_to(last)
    files.write_whole(last, b"new", previous)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "last": "new",
        "previous": "old",
    }


def test_only_unfinished_files_are_swept(tmp_path, monkeypatch):
    """Those of a write that was killed between its two steps, not files of like names."""
    for step in ("mv", "rm"):
        monkeypatch.setattr(LocalFileSystem, step, lambda *given: None)
    files.write_whole(tmp_path / "last.ckpt", b"half")
    monkeypatch.undo()
    kept = {"last.ckpt", "notes.tmp", "a.0123.tmp"}
    for name in kept:
        (tmp_path / name).write_text("mine")
    (tmp_path / "inner").mkdir()
    export = tmp_path / f"hub.{'0' * 32}.tmp"
    export.mkdir()
    (export / "config.json").write_text("half")
    assert len(list(tmp_path.iterdir())) == 6
    files.sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == kept | {"inner"}
    files.sweep(tmp_path / "missing")


def test_a_folder_is_made_once_and_whole(tmp_path):
    target = tmp_path / "new" / "folder"

    def broken(folder):
        (folder / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.made_once(target, broken)
    assert list(target.parent.iterdir()) == []
    files.made_once(target, lambda folder: (folder / "whole").touch())
    files.made_once(target, broken)
    assert [path.name for path in target.iterdir()] == ["whole"]
    assert list(target.parent.iterdir()) == [target]


def test_files_are_found_wherever_fsspec_reaches(tmp_path):
    (tmp_path / "here").touch()
    assert files.exists(str(tmp_path / "here"))
    assert not files.exists(str(tmp_path / "there"))
    assert not files.exists("memory://nothing")


NAMES = ("a::b", "zip::x", "a://b", "x y=1,[0-9]%20#f", "w?*", "'q' \"é\\", "~x", "file:x")


@pytest.mark.parametrize("name", NAMES)
def test_a_local_name_is_taken_letter_by_letter(tmp_path, monkeypatch, name):
    """Whether it is given from the root, from the working directory or behind file://."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wx").mkdir()
    (tmp_path / "wx" / "file").write_text("another's")
    relative = f"./{name}" if files.is_url(name) else name  # as a shell's user would have to say
    for number, folder in enumerate((f"{tmp_path}/{name}", relative, f"file://{tmp_path}/{name}")):
        path = f"{folder}/r/file{number}"
        assert not files.exists(path)
        files.write_whole(path, b"mine")
        assert (
            files.exists(path) and (tmp_path / name / "r" / f"file{number}").read_bytes() == b"mine"
        )
        left = tmp_path / name / "r" / f"file.{'0' * 32}.tmp"
        left.write_text("half")
        files.sweep(f"{folder}/r")
        assert not left.exists()
        with files.opened(path) as file:
            assert file.read() == b"mine"
    assert (tmp_path / "wx" / "file").read_text() == "another's"
    assert {path.name for path in tmp_path.iterdir()} == {
        "wx",
        (tmp_path / name).relative_to(tmp_path).parts[0],
    }


def test_a_chain_of_urls_is_one(tmp_path):
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as outer:
        outer.writestr("inner", "text")
    with files.opened(f"zip://inner::file://{tmp_path}/outer.zip") as file:
        assert file.read() == b"text"


def test_the_home_folder_has_its_short_name(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    files.write_whole("~/file", b"mine")
    assert (tmp_path / "file").read_bytes() == b"mine"


def test_an_unknown_protocol_is_refused():
    write = functools.partial(files.write_whole, content=b"")
    for use in (files.located, files.exists, files.sweep, write):
        with pytest.raises(Refused, match="'foo://x' cannot be opened: Protocol not known: foo"):
            use("foo://x")
