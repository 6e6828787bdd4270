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
from mnv2_tvm.build import build
from mnv2_tvm.deploy.loader import LIBRARY
from mnv2_tvm.deploy.manifest import MANIFEST, file_sha256
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


IMAGE = np.linspace(-2, 2, 32 * 32 * 3).reshape(1, 32, 32, 3)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([[1.0]], r"shape \[1, 1\]"),
        ([[1.0], [1.0, 2.0]], "a list, is no array"),
        (None, "the input is NoneType"),
        ("image.png", "the input is <U9"),
        (IMAGE.astype(np.uint8), r"the input is uint8.*pixels / 255 - mean"),
        (IMAGE.astype(np.int64).tolist(), r"the input is int64.*pixels / 255 - mean"),
        (IMAGE > 0, "the input is bool"),
        (IMAGE.astype(complex), "the input is complex128"),
        (np.full(IMAGE.shape, 1e39), "numbers that float32 cannot hold"),
        (np.ma.masked_less(IMAGE, 0), "has masked values"),
        (np.zeros((32, 32, 3), np.float32), r"shape \[32, 32, 3\].*give image\[None\]"),
        (np.zeros((1, 3, 32, 32)), r"shape \[1, 3, 32, 32\].*transpose\(0, 2, 3, 1\)"),
        (np.zeros((1, 33, 32, 3), np.float32), r"shape \[1, 33, 32, 3\]"),
        (np.zeros((1, 1, 32, 32, 3), np.float32), r"shape \[1, 1, 32, 32, 3\]"),
    ],
)
def test_other_arrays_are_refused(tiny: Built, images: Any, message: str) -> None:
    network = load(tiny.folder)
    with pytest.raises(UserError, match=message) as error:
        network(images)
    if "no array" not in message:
        assert "the network takes float32 [m, 32, 32, 3]" in str(error.value)


@pytest.mark.parametrize("kind", ["f2", ">f2", ">f4", "<f8", ">f8", np.longdouble])
def test_other_floats_are_converted(kind: Any, tiny: Built) -> None:
    network = load(tiny.folder)
    images = IMAGE.astype(kind)
    wanted = network(np.ascontiguousarray(images, np.float32))
    np.testing.assert_array_equal(network(images), wanted)
    np.testing.assert_array_equal(network(images[:, ::-1, ::-1][:, ::-1, ::-1]), wanted)


def test_other_layouts_are_converted(tiny: Built) -> None:
    network, images = load(tiny.folder), IMAGE.astype(np.float32)
    wanted = network(images)
    raw = np.zeros(images.nbytes + 1, np.uint8)
    odd = raw[1:].view(np.float32).reshape(images.shape)  # at no multiple of 4
    odd[...] = images
    assert not odd.flags.aligned
    fixed = images.copy()
    fixed.flags.writeable = False
    for other in (np.asfortranarray(images), odd, fixed, images.tolist()):
        np.testing.assert_array_equal(network(other), wanted)
    one = np.broadcast_to(np.float32(1), images.shape)  # strides of 0
    np.testing.assert_array_equal(network(one), network(np.ones(images.shape, np.float32)))
    assert network(images[:0]).shape == (0, 10)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": IMAGE}, "the input is float64"),
        ({"images": IMAGE.astype(">f4")}, "the input is >f4"),
        ({"images": IMAGE.astype("f4").tolist()}, "the input is a list"),
        ({"images": np.zeros((1, 3, 32, 32), "f4")}, r"the input has shape \[1, 3, 32, 32\]"),
        ({"images": np.asfortranarray(IMAGE.astype("f4"))}, "the input is not contiguous"),
        ({"result": np.zeros((1, 10), np.float16)}, "the result is float16"),
        ({"result": np.zeros((1, 9), np.float32)}, r"the result has shape \[1, 9\]"),
        ({"result": np.zeros((1, 20), np.float32)[:, ::2]}, "the result is not contiguous"),
        ({"result": np.broadcast_to(np.float32(0), (1, 10))}, "the result"),
        ({"result": np.frombuffer(bytes(40), np.float32)[None]}, "the result must not be written"),
    ],
)
def test_memory_is_handed_to_c_only_as_it_must_lie(
    changes: dict[str, Any], message: str, tiny: Built
) -> None:
    network = load(tiny.folder)
    arrays = {"images": IMAGE.astype("f4"), "result": np.zeros((1, 10), np.float32)} | changes
    with pytest.raises(UserError, match=message):
        network.run(**arrays)
    if "images" in changes:
        with pytest.raises(UserError, match=message):
            network.profile(changes["images"])


def test_a_file_that_the_linker_refuses_is_named(tiny_copy: Path) -> None:
    (tiny_copy / LIBRARY).write_bytes(b"no library")
    edit_manifest(tiny_copy, sha256=file_sha256(tiny_copy / LIBRARY))
    with pytest.raises(UserError, match=r"libmnv2\.so cannot be loaded \(.*build it again"):
        load(tiny_copy)


def test_every_rebuilt_library_is_loaded_anew(
    tiny_copy: Path, tiny: Built, here: Target, build_once: BuildOnce
) -> None:
    """Also where the last one came from the same path, and the first is loaded still."""
    first, images = load(tiny_copy), tiny.network.images(seed=1)
    before = first(images)
    build(here, build_once(ODD).network, tiny_copy)
    other = load(tiny_copy)
    assert other.input_shape[0] == ODD.batch
    np.testing.assert_array_equal(first(images), before)
    build(here, tiny.network, tiny_copy)
    np.testing.assert_array_equal(load(tiny_copy)(images), before)
