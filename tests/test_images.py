"""Preprocessing against numpy alone, and every file that is no image to the network."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

import mnv2_tvm
from mnv2_tvm import picture
from mnv2_tvm.errors import UserError
from mnv2_tvm.images import MEAN, STD, load_image

Array = np.ndarray[Any, Any]
SAMPLE = Path(mnv2_tvm.__file__).parent / "samples" / "cat.jpg"


def save(path: Path, pixels: Array) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def photo(height: int, width: int) -> Array:
    """Smooth in both directions, every channel of its own: uint8 [y, x, c]."""
    y, x = np.mgrid[:height, :width]
    channels = [255 * y / height, 255 * x / width, 127 + 120 * np.sin(x / 9) * np.cos(y / 7)]
    return np.stack(channels, axis=-1).astype(np.uint8)


def normalised(pixels: Array) -> Array:
    """torchvision's ToTensor and Normalize, in double: [1, y, x, c]."""
    return ((pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225])[np.newaxis]


def triangle(before: int, after: int) -> Array:
    """The matrix [after, before] of bilinear scaling along one side, smoothing when it shrinks."""
    scale = before / after
    support = max(scale, 1.0)
    centre = (np.arange(after)[:, None] + 0.5) * scale
    weights = np.maximum(0, 1 - abs(np.arange(before) + 0.5 - centre) / support)
    return weights / weights.sum(axis=1, keepdims=True)


def expected(pixels: Array, resolution: int) -> Array:
    """Resize the shorter side, crop the middle, normalise; without rounding to bytes between."""
    height, width = pixels.shape[:2]
    shorter = round(resolution * 256 / 224)
    new_height, new_width = (int(shorter * s / min(height, width)) for s in (height, width))
    rows, columns = triangle(height, new_height), triangle(width, new_width)
    scaled = np.einsum("ay,bx,yxc->abc", rows, columns, pixels.astype(float), optimize=True)
    top, left = round((new_height - resolution) / 2), round((new_width - resolution) / 2)
    return normalised(scaled[top : top + resolution, left : left + resolution])


# Wide, tall, square; shrunk and enlarged; odd margins of the crop; the exact size, not scaled.
@pytest.mark.parametrize(
    ("height", "width", "resolution"),
    [
        (300, 451, 224),
        (451, 300, 224),
        (333, 333, 192),
        (40, 61, 96),
        (47, 40, 32),
        (256, 299, 224),
    ],
)
def test_agrees_with_numpy(tmp_path: Path, height: int, width: int, resolution: int) -> None:
    pixels = photo(height, width)
    result = load_image(save(tmp_path / "photo.png", pixels), resolution)
    assert result.dtype == np.float32
    assert result.flags.c_contiguous
    # Pillow rounds to bytes after each of its two passes: at most 1 of 255, less of the deviation.
    np.testing.assert_allclose(result, expected(pixels, resolution), atol=1.01 / 255 / 0.224)


# Half a pixel of margin goes to the even side, as Python's round and so torchvision's crop do.
@pytest.mark.parametrize(("width", "left"), [(256, 16), (265, 20), (267, 22)])
def test_crop_is_exact_where_nothing_is_scaled(tmp_path: Path, width: int, left: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (256, width, 3), np.uint8)
    result = load_image(save(tmp_path / "noise.png", pixels), 224)
    cropped = normalised(pixels[16:240, left : left + 224])
    np.testing.assert_allclose(result, cropped, rtol=0, atol=1e-6)


def test_constant_colour_stays_constant(tmp_path: Path) -> None:
    colour = np.array([200, 100, 50], np.uint8)
    result = load_image(save(tmp_path / "flat.png", np.tile(colour, (70, 90, 1))), 64)
    np.testing.assert_allclose(result, np.broadcast_to(normalised(colour), (1, 64, 64, 3)), 1e-5)


def test_exif_orientation_is_undone(tmp_path: Path) -> None:
    pixels = photo(120, 80)
    turned = Image.fromarray(np.rot90(pixels).copy())  # the camera lay on its side
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees clockwise to view"
    turned.save(tmp_path / "turned.png", exif=exif)
    upright = load_image(save(tmp_path / "upright.png", pixels), 64)
    np.testing.assert_array_equal(load_image(tmp_path / "turned.png", 64), upright)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(photo(50, 60)).convert(mode)
    image.save(tmp_path / "picture.tiff")
    rgb = save(tmp_path / "rgb.png", np.asarray(image.convert("RGB")))
    np.testing.assert_array_equal(load_image(tmp_path / "picture.tiff", 32), load_image(rgb, 32))


def test_transparent_palette_is_no_warning(tmp_path: Path) -> None:
    image = Image.fromarray(photo(50, 60)).convert("P")
    image.save(tmp_path / "palette.png", transparency=bytes(range(256)))
    assert load_image(tmp_path / "palette.png", 32).shape == (1, 32, 32, 3)


def test_the_sample_is_a_picture() -> None:
    result = load_image(SAMPLE, 224)
    assert result.shape == (1, 224, 224, 3)
    assert result.std() > 0.5


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("words.jpg", b"not a picture", r"not an image that can be read; give a file of .*JPEG"),
        ("empty.png", b"", "not an image that can be read"),
        # Pillow would start Ghostscript for it.
        ("page.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image that can"),
    ],
)
def test_other_files_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name} is {message}"):
        load_image(tmp_path / name, 32)


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("name", ["half.jpg", "half.png"])
def test_truncated_image(tmp_path: Path, name: str, keep: float) -> None:
    path = tmp_path / name
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8)
    Image.fromarray(noise).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(UserError, match=rf"{name} is (truncated or damaged|not an image)"):
        load_image(path, 32)


def test_missing_image_and_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.jpg cannot be opened \(No such file"):
        load_image(tmp_path / "none.jpg", 32)
    with pytest.raises(UserError, match=r"cannot be opened \(Is a directory"):
        load_image(tmp_path, 32)


def as_pillow_does(path: Path, resolution: int) -> Array:
    """The same with a whole picture in memory at each step, as torchvision's transforms do it."""
    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened).convert("RGB")
    shorter = round(resolution * 256 / 224)
    size = [int(shorter * side / min(image.size)) for side in image.size]
    image = image.resize((size[0], size[1]), Image.Resampling.BILINEAR)
    left, top = (round((side - resolution) / 2) for side in image.size)
    pixels = image.crop((left, top, left + resolution, top + resolution))
    values = np.asarray(pixels, np.float32) / np.float32(255)
    return np.expand_dims((values - MEAN) / STD, 0)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff", "webp", "avif"])
def test_strips_change_no_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    """However the camera was held, and with as many strips as there are rows or one for all."""
    noise = np.random.default_rng(0).integers(0, 256, (97, 160, 3), np.uint8)
    path, exif = tmp_path / f"photo.{suffix}", Image.Exif()
    for orientation in range(1, 9):
        exif[ExifTags.Base.Orientation] = orientation
        Image.fromarray(noise).save(path, exif=exif)
        right = as_pillow_does(path, 48)
        for strip in (1, 1000, 1 << 22):
            monkeypatch.setattr(picture, "_STRIP", strip)
            np.testing.assert_array_equal(load_image(path, 48), right, str(orientation))


def test_the_shorter_side_can_be_set() -> None:
    """torchvision's second weights were evaluated with 232 for 224."""
    usual = load_image(SAMPLE, 224)
    np.testing.assert_array_equal(load_image(SAMPLE, 224, shorter=256), usual)
    assert (load_image(SAMPLE, 224, shorter=232) != usual).any()
    with pytest.raises(UserError, match="223"):
        load_image(SAMPLE, 224, shorter=223)


def test_bytes_in_place_of_the_file() -> None:
    read = load_image(Path("-"), 64, data=SAMPLE.read_bytes())
    np.testing.assert_array_equal(read, load_image(SAMPLE, 64))


def test_all_that_pillow_decodes(tmp_path: Path) -> None:
    pixels = photo(50, 60)
    right = load_image(save(tmp_path / "right.png", pixels), 32)
    for suffix, tolerance in {
        "bmp": 0,
        "ppm": 0,
        "sgi": 0,
        "jp2": 0,
        "avif": 0.3,
        "ico": 0.3,  # 48 x 40
    }.items():
        path = save(tmp_path / f"photo.{suffix}", pixels)
        np.testing.assert_allclose(load_image(path, 32), right, rtol=0, atol=tolerance)


def test_sixteen_bits_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "deep.png", np.full((40, 40), 30000, np.uint16))
    with pytest.raises(UserError, match=r"deep\.png has more than 8 bits a channel"):
        load_image(path, 32)
