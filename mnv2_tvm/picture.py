"""The picture in an image file, decoded within a bound on memory."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

from PIL import ExifTags, Image, UnidentifiedImageError, features

from mnv2_tvm.errors import UserError, printable
from mnv2_tvm.png import without_texts

# Those of Pillow's formats that it decodes itself, in compiled code, and knows by their first
# bytes; for EPS it would start Ghostscript.
FORMATS = tuple(
    name
    for name in (
        *("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "PSD", "SGI", "TIFF"),
        "WEBP",
    )
    if name not in ("AVIF", "WEBP") or features.check(name.lower())
)
MAX_BYTES = 400_000_000  # to hold for one image; as many pixels of one byte
# What Pillow holds while it decodes a pixel, beside the pixel itself: measured on 16 megapixels.
_WORK_BYTES = {"AVIF": 6, "GIF": 2, "JPEG2000": 16, "SGI": 3, "WEBP": 12}
_WORK_BYTES |= {"bmp_rle": 2, "ppm": 4, "ppm_plain": 4}  # by decoder: these are in Python
_STRIP = 1 << 22  # pixels that are turned upright and scaled at once
_MAX_SCANS = 200  # of a progressive JPEG; common encoders make 10

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS, _FROM_THE_END = (5, 6, 7, 8), (3, 4, 7, 8)


@dataclass(frozen=True)
class Picture:
    """A decoded image as it lies in the file, and how it is to be turned."""

    image: Image.Image
    orientation: int  # EXIF's: 1 is upright

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the upright picture."""
        width, height = self.image.size
        return (height, width) if self.orientation in _SIDEWAYS else (width, height)

    def scaled(self, size: tuple[int, int]) -> Image.Image:
        """The upright RGB picture in another size, to the bit as Pillow scales it at once.

        Pillow scales the rows and then the columns, with 8 bits between: so the rows can be turned
        and scaled by strips, and no second copy of a large picture is made.
        """
        width, height = self.size
        rows = Image.new("RGB", (size[0], height))
        step = max(1, _STRIP // width)
        for top in range(0, height, step):
            strip = self._upright(top, min(top + step, height))
            strip = strip.resize((size[0], strip.height), Image.Resampling.BILINEAR)
            rows.paste(strip, (0, top))
        return rows.resize(size, Image.Resampling.BILINEAR)

    def _upright(self, top: int, bottom: int) -> Image.Image:
        """These rows of the upright picture."""
        width, height = self.image.size
        if self.orientation in _FROM_THE_END:
            length = self.size[1]
            top, bottom = length - bottom, length - top
        sideways = self.orientation in _SIDEWAYS
        box = (top, 0, bottom, height) if sideways else (0, top, width, bottom)
        strip = self.image.crop(box).convert("RGB")
        turn = _TURNS.get(self.orientation)
        return strip if turn is None else strip.transpose(turn)


@contextmanager
def pillow(name: str) -> Iterator[None]:
    """Pillow with our limits in place of its own, and its errors as UserErrors about `name`."""
    before = Image.MAX_IMAGE_PIXELS
    # It warns above and raises above twice this: a JPEG may be decoded at a fraction.
    Image.MAX_IMAGE_PIXELS = MAX_BYTES // 2
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of metadata, and up to twice the limit
            yield
    except UserError:
        raise
    except Image.DecompressionBombError as error:
        raise UserError(
            f"image {name} has more than {MAX_BYTES} pixels; scale it down first"
        ) from error
    except UnidentifiedImageError as error:
        raise UserError(
            f"{name} is not an image that can be read; give a file of {', '.join(FORMATS)}"
        ) from error
    except Exception as error:  # a damaged file raises whatever its next byte leads to
        raise UserError(
            f"image {name} is truncated or damaged ({printable(error)}); copy or download it again"
        ) from error
    finally:
        Image.MAX_IMAGE_PIXELS = before


def decode(stream: BinaryIO, name: str) -> Picture:
    """The picture in a stream that can be searched. Call it inside `pillow(name)`.

    Raises UserError for more than 8 bits a channel, and where it would take more than MAX_BYTES;
    a JPEG above that is decoded at a half, a quarter or an eighth of its size.
    """
    try:
        return _decode(stream, name)
    except ValueError as error:
        # Pillow bounds the texts in a PNG, but the pixels are whole.
        if "too large" not in str(error) and "Too much memory" not in str(error):
            raise
        stream.seek(0)
        return _decode(io.BytesIO(without_texts(stream)), name)


def _decode(stream: BinaryIO, name: str) -> Picture:
    image: Any = Image.open(stream, formats=FORMATS)
    if image.mode.startswith(("I", "F")):  # Pillow would clip these to white
        raise UserError(
            f"image {name} has more than 8 bits a channel (mode {image.mode}); save it with 8"
        )
    _bound(image, stream, name)
    Image.MAX_IMAGE_PIXELS = MAX_BYTES // 8  # what lies inside: a PNG in an icon, a TIFF's tiles
    image.load()
    turned = image.format == "TIFF"  # Pillow turns these as it reads them
    orientation = 1 if turned else image.getexif().get(ExifTags.Base.Orientation, 1)
    return Picture(image, orientation if orientation in _TURNS else 1)


def _bound(image: Any, stream: BinaryIO, name: str) -> None:
    """Have the image decoded at a size that fits, or raise UserError."""
    pixels = image.width * image.height
    held = sum(len(value) for value in image.info.values() if isinstance(value, str | bytes))
    decoders = {tile[0] for tile in image.tile}
    each = 1 if len(image.getbands()) == 1 else 4
    if image.format == "TIFF":
        held += _tile_bytes(image) if "libtiff" in decoders else 0
        each *= 1 if image.tag_v2.get(ExifTags.Base.Orientation, 1) == 1 else 2  # turns a copy
    each += max(_WORK_BYTES.get(name, 0) for name in {image.format, *decoders})
    if image.format in ("JPEG", "MPO"):
        held += _coefficient_bytes(stream, name, pixels)
    for scale in (1, 2, 4, 8) if image.format in ("JPEG", "MPO", "JPEG2000") else (1,):
        if held + each * pixels // scale**2 <= MAX_BYTES:
            if image.format == "JPEG2000":
                image.reduce = scale.bit_length() - 1
            elif scale > 1:
                image.draft(None, (image.width // scale, image.height // scale))
            return
    raise UserError(
        f"image {name} of {image.width} x {image.height} pixels takes "
        f"{(held + each * pixels) / 1e6:.0f} MB to decode and may take {MAX_BYTES / 1e6:.0f}; "
        "scale it down first"
    )


def _tile_bytes(image: Any) -> int:
    """What one tile or strip of a TIFF takes, which may be larger than the picture."""
    width, height = (image.tag_v2.get(tag) for tag in (322, 323))  # TileWidth, TileLength
    if width is None or height is None:
        width, height = image.width, min(image.height, image.tag_v2.get(278) or image.height)
    return int(width) * int(height) * 4


def _coefficient_bytes(stream: BinaryIO, name: str, pixels: int) -> int:
    """What a JPEG decoder holds of all the picture, beside it: that of one in several scans."""
    stream.seek(2)
    sampling: list[int] = []  # pixels of each channel in a block of the picture
    several = False
    while (marker := stream.read(2)) and marker[0] == 0xFF:
        if marker[1] == 0xFF:  # filling
            stream.seek(-1, io.SEEK_CUR)
            continue
        segment = stream.read(int.from_bytes(stream.read(2), "big") - 2)
        if 0xC0 <= marker[1] <= 0xCF and marker[1] not in (0xC4, 0xC8, 0xCC):  # start of frame
            several = marker[1] & 3 == 2
            sampling = [(factors >> 4) * (factors & 15) for factors in segment[7::3]]
        if marker[1] == 0xDA:  # start of scan
            several = several or segment[0] < len(sampling)
            break
    if not several or not sampling:
        return 0
    scans = stream.read().count(b"\xff\xda") + 1
    if scans > _MAX_SCANS:
        raise UserError(f"image {name} is a JPEG of {scans} scans; save it as an ordinary one")
    return 2 * pixels * sum(sampling) // max(*sampling, 1)
