"""An image file as the network's input, preprocessed as for ImageNet."""

import io
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, JpegImagePlugin, UnidentifiedImageError, features

from mnv2_tvm.deploy.loader import Floats
from mnv2_tvm.errors import UserError, printable
from mnv2_tvm.untrusted import open_file

# Of the RGB channels in 0..1, over ImageNet's training images:
# https://docs.pytorch.org/vision/stable/models/generated/torchvision.models.mobilenet_v2.html
MEAN: Floats = np.array((0.485, 0.456, 0.406), np.float32)
STD: Floats = np.array((0.229, 0.224, 0.225), np.float32)
# Formats that Pillow decodes itself; for EPS it would start Ghostscript.
FORMATS = tuple(
    name
    for name in ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
    if name not in ("AVIF", "WEBP") or features.check(name.lower())
)
# Larger pictures are scaled down by a whole number before anything else is done with them. Of
# smaller ones two copies stand in memory at a time, of at most seven bytes a pixel.
_LARGE = 34_000_000  # pixels
_LARGEST = 240_000_000  # bytes of a picture when it is decoded
_TURNS = {  # by what the camera wrote
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TEXT = (b"tEXt", b"zTXt", b"iTXt")  # chunks of a PNG that say nothing of the pixels


def load_image(
    path: Path, resolution: int, *, shorter: int | None = None, data: bytes | None = None
) -> Floats:
    """Read one image, crop its middle and normalise it: float32 [1, resolution, resolution, 3].

    The steps and their rounding are torchvision's: Resize(resolution * 256 / 224, or `shorter`),
    CenterCrop, ToTensor, Normalize. Transparency is dropped and of an animation the first frame is
    taken. A picture of more than 34 million pixels is scaled down by a whole number first. The
    bytes are those of the file `path`, or `data`.

    Raises UserError if the file is missing, damaged, no image, of more than 8 bits a channel, or
    too large or too narrow to be scaled.
    """
    shorter = shorter or round(resolution * 256 / 224)
    if shorter < resolution:
        raise UserError(f"images scaled to {shorter} pixels are smaller than the {resolution} used")
    name = f"image {path}"
    if data is None:
        with open_file(path, name) as stream:
            image = _decode(name, stream, shorter)
    else:
        image = _decode(name, io.BytesIO(data), shorter)
    image = _resize(name, image, shorter)
    left, top = (round((side - resolution) / 2) for side in image.size)
    image = image.crop((left, top, left + resolution, top + resolution))
    pixels: Floats = np.asarray(image, np.float32) / np.float32(255)  # [y, x, c]
    return np.expand_dims((pixels - MEAN) / STD, 0)


def _decode(name: str, stream: BinaryIO, shorter: int) -> Image.Image:
    """The upright RGB picture in a file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of metadata, and of sizes, which are checked here
            try:
                return _upright_rgb(name, _open(stream), shorter)
            except ValueError:
                # A long text in a PNG; Pillow has no option to pass over it.
                stream.seek(0)
                whole = stream.read(_LARGEST)
                if not whole.startswith(b"\x89PNG"):
                    raise
                return _upright_rgb(name, _open(io.BytesIO(_without_text(whole))), shorter)
    except UserError:
        raise
    except (Image.DecompressionBombError, MemoryError) as error:
        raise _too_large(name) from error
    except UnidentifiedImageError as error:
        raise UserError(
            f"{name} is not an image that can be read; give a file of {', '.join(FORMATS)}"
        ) from error
    except Exception as error:  # a damaged file raises whatever its next byte leads to
        raise UserError(
            f"{name} is truncated or damaged ({printable(error)}); copy or download it again"
        ) from error


def _open(stream: BinaryIO) -> Image.Image:
    """The picture, not decoded yet. A JPEG may have any size: it is decoded at a fraction of it."""
    try:
        return Image.open(stream, formats=FORMATS)
    except Image.DecompressionBombError:
        stream.seek(0)
        if stream.read(2) != b"\xff\xd8":
            raise
        stream.seek(0)
        return JpegImagePlugin.JpegImageFile(stream)


def _without_text(data: bytes) -> bytes:
    """A PNG without its chunks of text."""
    kept, at = [data[:8]], 8
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] not in _TEXT:
            kept.append(data[at:end])
        at = end
    return b"".join(kept)


def _upright_rgb(name: str, image: Image.Image, shorter: int) -> Image.Image:
    if image.mode.startswith(("I", "F")):  # Pillow would clip these to white
        what = f"has more than 8 bits a channel (mode {image.mode})"
        raise UserError(f"{name} {what}; save it with 8")
    if image.width * image.height > _LARGE:
        image.draft("RGB", (2 * shorter, 2 * shorter))  # JPEG alone can; others do nothing
    pixels, factor = image.width * image.height, min(image.size) // (2 * shorter)
    if pixels * len(image.getbands()) > _LARGEST or (pixels > _LARGE and factor < 2):
        raise _too_large(name)
    turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    if pixels > _LARGE:
        if image.mode == "P":
            image = image.convert("RGB")
        image = image.reduce(factor)
    image = image.convert("RGB")
    return image if turn is None else image.transpose(turn)


def _too_large(name: str) -> UserError:
    return UserError(
        f"{name} is larger than {_LARGEST // 10**6} MB when it is decoded; scale it down first"
    )


def _resize(name: str, image: Image.Image, shorter: int) -> Image.Image:
    """Scale the shorter side to `shorter` pixels; the longer one is cut off, not rounded."""
    size = [int(shorter * side / min(image.size)) for side in image.size]
    if 3 * size[0] * size[1] > _LARGEST:
        raise UserError(
            f"{name} of {image.width} x {image.height} pixels is too narrow: scaled to "
            f"{size[0]} x {size[1]} it would take more than {_LARGEST // 10**6} MB; crop it first"
        )
    return image.resize((size[0], size[1]), Image.Resampling.BILINEAR)
