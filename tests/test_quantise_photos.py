"""Folders of photos to calibrate with, with and without classes."""

import errno
import os
from pathlib import Path

import pytest
from PIL import Image

from mnv2_tvm.errors import UserError
from mnv2_tvm.quantise.photos import Photos, find_photos


def folder_of(root: Path, *names: str) -> Path:
    """With an image for each name; of `a/` an empty folder."""
    for name in names:
        path = root / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            Image.new("RGB", (8, 8)).save(path)
    return root


def test_images_right_in_the_folder_have_no_class(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "b10.png", "b2.png", "old/c.png")
    (folder / "notes.txt").write_text("not an image")
    assert find_photos(folder, 1) == Photos((folder / "b2.png", folder / "b10.png"))


def test_subfolders_are_classes_where_there_are_as_many(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "dog/1.png", "cat/2.png", "cat/1.jpg", ".cache/3.png")
    paths = (folder / "cat/1.jpg", folder / "cat/2.png", folder / "dog/1.png")
    assert find_photos(folder, 2) == Photos(paths, (0, 0, 1))
    assert find_photos(folder, 1000) == Photos(paths, None)


def test_folders_without_images_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"the folder {tmp_path} holds no image"):
        find_photos(tmp_path, 2)
    with pytest.raises(UserError, match="dog holds no image"):
        find_photos(folder_of(tmp_path, "cat/1.png", "dog/"), 2)
    with pytest.raises(UserError, match="is no folder"):
        find_photos(tmp_path / "absent", 2)
    with pytest.raises(UserError, match="is no folder"):
        find_photos(tmp_path / "cat/1.png", 2)


def test_a_folder_that_cannot_be_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(UserError, match=r"cannot be read \(Permission denied\)"):
        find_photos(tmp_path, 2)
