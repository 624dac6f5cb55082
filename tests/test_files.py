"""duo_ext.files: a file is written whole or not at all, and what a kill leaves is swept away."""

import pytest
from fsspec.implementations.local import LocalFileSystem

from duo_ext import files


def test_what_cannot_be_written_is_one_sentence_and_the_old_file_stays(tmp_path, monkeypatch):
    path = tmp_path / "folder" / "file"
    files.write_whole(path, b"old")

    def full(self, place, content, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(LocalFileSystem, "pipe_file", full)
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


def test_only_unfinished_files_are_swept(tmp_path, monkeypatch):
    """Those of a write that was killed between its two steps, not files of like names."""
    monkeypatch.setattr(LocalFileSystem, "mv", lambda *given: None)
    files.write_whole(tmp_path / "last.ckpt", b"half")
    monkeypatch.undo()
    kept = {"last.ckpt", "notes.tmp", "a.0123.tmp"}
    for name in kept:
        (tmp_path / name).write_text("mine")
    (tmp_path / "inner").mkdir()
    assert len(list(tmp_path.iterdir())) == 5
    files.sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == kept | {"inner"}
    files.sweep(tmp_path / "missing")


def test_files_are_found_wherever_fsspec_reaches(tmp_path):
    (tmp_path / "here").touch()
    assert files.exists(str(tmp_path / "here"))
    assert not files.exists(str(tmp_path / "there"))
    assert not files.exists("memory://nothing")
