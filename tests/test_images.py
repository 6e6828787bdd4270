"""Preprocessing against numpy alone, and every file that is no image to the network."""

import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import run_python
from PIL import Image, PngImagePlugin

import mnv2_tvm
from mnv2_tvm.errors import UserError
from mnv2_tvm.images import load_image

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


def test_a_picture_that_takes_too_much_memory_is_refused(tmp_path: Path) -> None:
    """By its header, before anything is decoded; above 179 megapixels Pillow refuses by itself."""
    for side in (13_000, 14_000):
        path, chunks = tmp_path / "bomb.png", b"\x89PNG\r\n\x1a\n"
        header = side.to_bytes(4, "big") * 2 + b"\x08\x06\x00\x00\x00"  # RGBA of 8 bits
        for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(b""))):
            crc = zlib.crc32(kind + data).to_bytes(4, "big")
            chunks += len(data).to_bytes(4, "big") + kind + data + crc
        path.write_bytes(chunks)
        with pytest.raises(UserError, match=r"bomb\.png is larger than"):
            load_image(path, 32)


def test_large_photos_are_scaled_down_first(tmp_path: Path) -> None:
    """A JPEG of 108 megapixels; the right picture, upright, in bounded memory."""
    small = Image.fromarray(photo(90, 120))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    path = tmp_path / "large.jpg"
    small.resize((12_000, 9_000)).save(path, quality=30, exif=exif)
    turned = tmp_path / "small.png"
    small.resize((1200, 900)).transpose(Image.Transpose.ROTATE_270).save(turned)
    code = (
        "import resource, sys, numpy\nfrom pathlib import Path\n"
        "from mnv2_tvm.images import load_image\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "image, wanted = (load_image(Path(path), 64) for path in sys.argv[1:])\n"
        "grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before\n"
        "print(float(abs(image - wanted).mean()), grown)\n"
    )
    done = run_python("-c", code, path, turned)
    error, grown_kb = done.stdout.split()
    assert float(error) < 0.1, done.stderr
    assert int(grown_kb) < 150_000


def test_a_long_text_in_a_png_is_passed_over(tmp_path: Path) -> None:
    plain, noted = tmp_path / "plain.png", tmp_path / "noted.png"
    image, notes = Image.fromarray(photo(60, 60)), PngImagePlugin.PngInfo()
    notes.add_text("history", "crop, scale; " * 120_000, zip=True)
    image.save(plain)
    image.save(noted, pnginfo=notes)
    assert np.array_equal(load_image(noted, 32), load_image(plain, 32))


def test_avif(tmp_path: Path) -> None:
    path = tmp_path / "photo.avif"
    Image.fromarray(photo(60, 60)).save(path, quality=90)
    assert load_image(path, 32).shape == (1, 32, 32, 3)


def test_another_size_before_the_crop(tmp_path: Path) -> None:
    path = save(tmp_path / "photo.png", photo(60, 60))
    assert not np.array_equal(load_image(path, 32, shorter=33), load_image(path, 32))
    with pytest.raises(UserError, match="31"):
        load_image(path, 32, shorter=31)


def test_a_pipe_is_no_image(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(UserError, match=r"pipe\.png"):
        load_image(tmp_path / "pipe.png", 32)


def test_narrow_image_is_not_blown_up(tmp_path: Path) -> None:
    path = save(tmp_path / "line.png", np.zeros((1, 9000, 3), np.uint8))
    with pytest.raises(UserError, match=r"line\.png of 9000 x 1 pixels is too narrow.*crop it"):
        load_image(path, 224)


def test_sixteen_bits_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "deep.png", np.full((40, 40), 30000, np.uint16))
    with pytest.raises(UserError, match=r"deep\.png has more than 8 bits a channel"):
        load_image(path, 32)
