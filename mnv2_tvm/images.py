"""An image file as the network's input, preprocessed as for ImageNet."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from mnv2_tvm.errors import UserError
from mnv2_tvm.numbers import Floats
from mnv2_tvm.picture import FORMATS as FORMATS
from mnv2_tvm.picture import MAX_BYTES, Picture, decode, pillow
from mnv2_tvm.untrusted import open_file

# Of the RGB channels in 0..1, over ImageNet's training images:
# https://docs.pytorch.org/vision/stable/models/generated/torchvision.models.mobilenet_v2.html
MEAN: Floats = np.array((0.485, 0.456, 0.406), np.float32)
STD: Floats = np.array((0.229, 0.224, 0.225), np.float32)


def load_image(
    path: Path, resolution: int, *, shorter: int | None = None, data: bytes | None = None
) -> Floats:
    """Read one image, crop its middle and normalise it: float32 [1, resolution, resolution, 3].

    The steps and their rounding are torchvision's: Resize(resolution * 256 / 224, or `shorter`),
    CenterCrop, ToTensor, Normalize. Transparency is dropped and of an animation the first frame is
    taken. The bytes are those of the file `path`, or `data`.

    Raises UserError if the file is missing, damaged, no image, of more than 8 bits a channel, or
    too large or too narrow to be scaled within 400 MB.
    """
    shorter = shorter or round(resolution * 256 / 224)
    if shorter < resolution:
        raise UserError(f"images scaled to {shorter} pixels are smaller than the {resolution} used")
    stream = open_file(path, f"image {path}") if data is None else io.BytesIO(data)
    with stream, pillow(str(path)):
        image = _resize(str(path), decode(stream, str(path)), shorter)
        left, top = (round((side - resolution) / 2) for side in image.size)
        image = image.crop((left, top, left + resolution, top + resolution))
    pixels: Floats = np.asarray(image, np.float32) / np.float32(255)  # [y, x, c]
    return np.expand_dims((pixels - MEAN) / STD, 0)


def _resize(name: str, picture: Picture, shorter: int) -> Image.Image:
    """Scale the shorter side to `shorter` pixels; the longer one is cut off, not rounded."""
    width, height = picture.size
    size = (int(shorter * width / min(width, height)), int(shorter * height / min(width, height)))
    if 4 * size[0] * (size[1] + height) > MAX_BYTES // 4:
        raise UserError(
            f"image {name} of {width} x {height} pixels is too narrow: scaled to "
            f"{size[0]} x {size[1]} it takes more than {MAX_BYTES // 4_000_000} MB; crop it first"
        )
    return picture.scaled(size)
