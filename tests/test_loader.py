"""The loader: whatever is wrong with a folder or an array is named, and nothing wrong is opened."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from built_folder import edit_manifest
from conftest import ODD, BuildOnce, Built

from mnv2_tvm import UserError, load
from mnv2_tvm.deploy.loader import LIBRARY
from mnv2_tvm.deploy.manifest import MANIFEST
from mnv2_tvm.target import Target


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"missing holds no manifest.json; build it with"):
        load(tmp_path / "missing")


def test_the_library_instead_of_its_folder(tiny_copy: Path) -> None:
    with pytest.raises(UserError, match=r"libmnv2.so is a file; give the folder that holds it"):
        load(tiny_copy / LIBRARY)


def test_missing_library_is_named(tiny_copy: Path) -> None:
    (tiny_copy / LIBRARY).unlink()
    with pytest.raises(UserError, match="holds no library; build it again"):
        load(tiny_copy)


@pytest.mark.parametrize("place", [0, 0.5, -1])
def test_damaged_library_is_never_opened(tiny_copy: Path, place: float) -> None:
    content = bytearray((tiny_copy / LIBRARY).read_bytes())
    content[int(place * len(content)) if place > 0 else int(place)] ^= 1
    (tiny_copy / LIBRARY).write_bytes(content)
    with pytest.raises(UserError, match=r"libmnv2.so is damaged: its SHA-256"):
        load(tiny_copy)


def test_cut_library_is_never_opened(tiny_copy: Path) -> None:
    os.truncate(tiny_copy / LIBRARY, 4096)
    with pytest.raises(UserError, match="is damaged"):
        load(tiny_copy)


def test_manifest_of_another_build_is_refused(tiny_copy: Path, build_once: BuildOnce) -> None:
    shutil.copy(build_once(ODD).folder / MANIFEST, tiny_copy / MANIFEST)
    with pytest.raises(UserError, match="SHA-256 is not the manifest's"):
        load(tiny_copy)


def test_manifest_of_another_workspace_is_refused(tiny_copy: Path) -> None:
    """Its workspace would be too small: the library would write past it."""
    edit_manifest(tiny_copy, workspace_bytes=64)
    with pytest.raises(UserError, match="is not of the library beside it"):
        load(tiny_copy)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "null", "{}"])
def test_file_that_is_no_manifest_is_named(tiny_copy: Path, text: str) -> None:
    (tiny_copy / MANIFEST).write_text(text)
    with pytest.raises(UserError, match=r"manifest.json .*build it with python -m mnv2_tvm.build"):
        load(tiny_copy)


@pytest.mark.parametrize("changes", [{"dtype": ...}, {"format": 2}])
def test_manifest_of_another_version_is_named(tiny_copy: Path, changes: dict[str, object]) -> None:
    edit_manifest(tiny_copy, **changes)
    with pytest.raises(UserError, match=r"manifest.json .*(`dtype`|format 2)"):
        load(tiny_copy)


def test_a_key_of_a_later_version_is_ignored(tiny_copy: Path) -> None:
    edit_manifest(tiny_copy, colour="red")
    load(tiny_copy)


def test_library_for_another_machine_is_refused(tiny_copy: Path) -> None:
    edit_manifest(tiny_copy, machine="riscv64", target="sifive")
    with pytest.raises(UserError) as error:
        load(tiny_copy)
    here = os.uname().machine
    assert f"was built for sifive; this host lacks a CPU of kind riscv64 (this is {here})" in str(
        error.value
    )


def test_library_for_a_later_machine_is_refused(tiny_copy: Path, here: Target) -> None:
    """Rather than end in an illegal instruction."""
    edit_manifest(tiny_copy, cpu_features=[*here.host.features, "avx4096"])
    with pytest.raises(UserError, match=r"this host lacks avx4096\. Build for this host with"):
        load(tiny_copy)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([[1.0]], "the input is list"),
        (None, "the input is NoneType"),
        (np.zeros((1, 32, 32, 3), np.uint8), "the input is uint8"),
        (np.zeros((1, 32, 32, 3), bool), "the input is bool"),
        (np.zeros((32, 32, 3), np.float32), r"shape \[32, 32, 3\]"),
        (np.zeros((1, 3, 32, 32), np.float32), r"shape \[1, 3, 32, 32\]"),
        (np.zeros((1, 33, 32, 3), np.float32), r"shape \[1, 33, 32, 3\]"),
        (np.zeros((1, 1, 32, 32, 3), np.float32), r"shape \[1, 1, 32, 32, 3\]"),
    ],
)
def test_other_arrays_are_refused(tiny: Built, images: Any, message: str) -> None:
    network = load(tiny.folder)
    with pytest.raises(UserError, match=message) as error:
        network(images)
    assert "the network takes float32 [m, 32, 32, 3]" in str(error.value)
