"""Lengths that texts are padded to for compiled models, and the folder of compiled models."""

import os
from pathlib import Path

import pytest

from stitchwork.models.compiled_files import CompiledFiles, default_folder
from stitchwork.models.openvino_backend import bucket


def test_texts_are_padded_to_few_lengths_and_never_over_the_limit() -> None:
    lengths = range(1, 513)
    buckets = [bucket(length, 512) for length in lengths]
    assert len(set(buckets)) <= 24
    assert all(
        length <= padded <= max(length + 3, 1.25 * length)
        for length, padded in zip(lengths, buckets, strict=True)
    )
    assert [bucket(length, 100) for length in (90, 97, 100)] == [96, 100, 100]
    assert bucket(130, 100) == 130, "texts of a fixed length stay as they are"


def test_file_of_a_compiled_model_is_named_by_the_encoder_and_its_files(tmp_path: Path) -> None:
    files = CompiledFiles(tmp_path / "a" / "b", 100)
    names = {files.file(encoder, digest) for encoder in ("e", "f") for digest in ("1", "2")}
    assert len(names) == 4
    assert files.file("e", "1") == CompiledFiles(tmp_path / "a" / "b", 1).file("e", "1")
    assert files.file("e", "") is None
    assert CompiledFiles(None, 100).file("e", "1") is None


def test_models_used_longest_ago_are_deleted_over_the_maximum_size(tmp_path: Path) -> None:
    files = CompiledFiles(tmp_path, 100)
    paths = [files.file(encoder, "1") for encoder in "abc"]
    for age, path in enumerate(paths):
        assert path is not None
        path.write_bytes(b"x" * 40)
        os.utime(path, (1000 + age, 1000 + age))
    first, second, third = (path for path in paths if path)
    files.record_use(first)
    assert [path.exists() for path in (first, second, third)] == [True, False, True]
    other = tmp_path / "other"
    other.write_bytes(b"x" * 200)
    files.record_use(first)
    assert other.exists(), "only compiled models are deleted"


def test_folder_that_cannot_be_made_is_logged_and_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    files = CompiledFiles(tmp_path / "file" / "folder", 100)
    assert files.file("e", "1") is None
    files.record_use(None)
    assert [record.message for record in caplog.records] == ["compiled models not cached"]


def test_default_folder_is_in_the_cache_folder_of_the_user(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "stitchwork" / "compiled"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_folder() == Path.home() / ".cache" / "stitchwork" / "compiled"
