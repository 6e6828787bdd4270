"""Images that would take too much memory or time: bombs, large photos, long texts, pipes."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import run_python
from PIL import ExifTags, Image, PngImagePlugin
from test_images import photo, save

from mnv2_tvm import picture
from mnv2_tvm.errors import UserError
from mnv2_tvm.images import load_image


def test_a_jpeg_above_the_bound_is_decoded_smaller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "photo.jpg", photo(320, 480))
    whole = load_image(path, 32)
    monkeypatch.setattr(picture, "MAX_BYTES", 320 * 480 * 4)
    np.testing.assert_array_equal(load_image(path, 32), whole)
    monkeypatch.setattr(picture, "MAX_BYTES", 320 * 480 * 4 - 1)
    smaller = load_image(path, 32)
    assert (smaller != whole).any()
    np.testing.assert_allclose(smaller, whole, rtol=0, atol=0.1)
    monkeypatch.setattr(picture, "MAX_BYTES", 320 * 480 // 20)
    with pytest.raises(UserError, match=r"photo\.jpg .*pixels"):
        load_image(path, 32)


@pytest.mark.parametrize(("options", "each"), [({}, 4), ({"progressive": True}, 4 + 3)])
def test_a_progressive_jpeg_holds_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, bool], each: int
) -> None:
    path = tmp_path / "photo.jpg"
    Image.fromarray(photo(320, 480)).save(path, subsampling="4:2:0", **options)
    with Image.open(path) as image, path.open("rb") as stream:
        monkeypatch.setattr(image, "draft", None)  # calling it fails
        monkeypatch.setattr(picture, "MAX_BYTES", 320 * 480 * each + 1000)
        picture._bound(image, stream, "photo.jpg")
        monkeypatch.setattr(picture, "MAX_BYTES", 320 * 480 * each - 1000)
        with pytest.raises(TypeError):
            picture._bound(image, stream, "photo.jpg")


def test_a_jpeg_of_too_many_scans(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    Image.fromarray(photo(64, 64)).save(path, progressive=True)
    content = path.read_bytes()
    first = content.index(b"\xff\xda")
    path.write_bytes(content[:first] + content[first:-2] * 100 + content[-2:])
    with pytest.raises(UserError, match=r"photo\.jpg .*1000 scans"):
        load_image(path, 32)


def test_texts_of_any_length_in_a_png(tmp_path: Path) -> None:
    pixels = photo(50, 60)
    right = load_image(save(tmp_path / "plain.png", pixels), 32)
    path = tmp_path / "texts.png"
    for count, length, packed in ((1, 2_000_000, True), (80, 1_000_000, True)):
        texts = PngImagePlugin.PngInfo()
        for index in range(count):
            texts.add_text(f"history {index}", "x" * length, zip=packed)
        Image.fromarray(pixels).save(path, pnginfo=texts)
        np.testing.assert_array_equal(load_image(path, 32), right)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"texts\.png is truncated"):
        load_image(path, 32)


def rotated_bomb(path: Path, side: int, rows: int) -> None:
    """RGBA in some 100 kB, to be turned by EXIF."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    small = io.BytesIO()
    Image.new("RGBA", (1, 1)).save(small, "PNG", exif=exif)
    packer, row = zlib.compressobj(1), bytes(1 + 4 * side)
    data = b"".join(packer.compress(row) for _ in range(rows)) + packer.flush()
    chunks, content = [], small.getvalue()[8:]
    while content:
        length = int.from_bytes(content[:4], "big")
        kind, body, content = content[4:8], content[8 : 8 + length], content[12 + length :]
        body = data if kind == b"IDAT" else body
        if kind == b"IHDR":
            body = struct.pack(">II", side, side) + body[8:]
        chunks.append(struct.pack(">I", len(body)) + kind + body)
        chunks.append(struct.pack(">I", zlib.crc32(kind + body)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def test_memory_of_large_images(tmp_path: Path) -> None:
    """A phone's 108 megapixels; and a picture that is turned is not copied to turn it."""
    made = run_python(
        "-c",
        "import sys; from PIL import Image; "
        "Image.new('RGB', (12000, 9000), (9, 200, 99)).save(sys.argv[1], quality=30)",
        tmp_path / "phone.jpg",
    )
    assert made.returncode == 0, made.stderr
    rotated_bomb(tmp_path / "bomb.png", 5000, rows=5000)
    program = (
        "import re, sys; from pathlib import Path; from mnv2_tvm.images import load_image\n"
        "def most():\n"
        "    status = Path('/proc/self/status').read_text()\n"
        "    return 1000 * int(re.search(r'VmHWM:\\s*(\\d+)', status)[1])\n"
        "python = most()\n"
        "load_image(Path(sys.argv[1]), 224)\n"
        "print(most() - python)"
    )
    for name, bound in (("phone.jpg", 4 * 12000 * 9000 / 4), ("bomb.png", 4 * 5000 * 5000)):
        done = run_python("-c", program, tmp_path / name)
        assert done.returncode == 0, done.stderr
        assert int(done.stdout) < 1.5 * bound, name


def test_more_pixels_than_any_photo(tmp_path: Path) -> None:
    path = tmp_path / "bomb.gif"
    Image.new("P", (9, 9)).save(path)
    content = bytearray(path.read_bytes())
    for width, height in ((65535, 65535), (19000, 19000)):
        content[6:10] = struct.pack("<HH", width, height)
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"bomb\.gif .*pixels"):
            load_image(path, 32)


def test_a_tile_larger_than_its_picture(tmp_path: Path) -> None:
    """16 x 16 pixels in one tile of 400 megapixels, which libtiff would unpack."""
    path = tmp_path / "tile.tiff"
    tile = zlib.compress(bytes(1000))
    tags = {256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 277: 1, 322: 20_000, 323: 20_000}
    tags |= {324: 8, 325: len(tile)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = b"II*\0" + struct.pack("<I", 8 + len(tile)) + tile
    path.write_bytes(head + struct.pack("<H", len(tags)) + entries + bytes(4))
    with pytest.raises(UserError, match=r"tile\.tiff .* takes 1600 MB"):
        load_image(path, 32)


def test_an_icon_larger_than_it_says(tmp_path: Path) -> None:
    rotated_bomb(tmp_path / "bomb.png", 11_000, rows=1)
    content = (tmp_path / "bomb.png").read_bytes()
    entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(content), 22)
    (tmp_path / "bomb.ico").write_bytes(struct.pack("<HHH", 0, 1, 1) + entry + content)
    with pytest.raises(UserError, match=r"bomb\.ico .*pixels"):
        load_image(tmp_path / "bomb.ico", 32)


def test_pillow_keeps_its_own_limit(tmp_path: Path) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    load_image(save(tmp_path / "good.png", photo(50, 60)), 32)
    (tmp_path / "bad.png").write_bytes(b"")
    with pytest.raises(UserError):
        load_image(tmp_path / "bad.png", 32)
    assert limit == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("where", ["fifo", "/dev/zero"])
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, where: str) -> None:
    path = tmp_path / where
    if where == "fifo":
        os.mkfifo(path)
    with pytest.raises(UserError, match="not an ordinary file"):
        load_image(path, 32)


def test_narrow_image_is_not_blown_up(tmp_path: Path) -> None:
    path = save(tmp_path / "line.png", np.zeros((1, 9000, 3), np.uint8))
    with pytest.raises(UserError, match=r"line\.png of 9000 x 1 pixels is too narrow.*crop it"):
        load_image(path, 224)
