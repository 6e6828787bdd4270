"""An image file as the network's input, preprocessed as for ImageNet."""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mnv2_tvm.deploy.loader import Floats
from mnv2_tvm.errors import UserError

# Of the RGB channels in 0..1, over ImageNet's training images:
# https://docs.pytorch.org/vision/stable/models/generated/torchvision.models.mobilenet_v2.html
MEAN: Floats = np.array((0.485, 0.456, 0.406), np.float32)
STD: Floats = np.array((0.229, 0.224, 0.225), np.float32)
# Formats that Pillow decodes itself; for EPS it would start Ghostscript.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


def load_image(path: Path, resolution: int) -> Floats:
    """Read one image, crop its middle and normalise it: float32 [1, resolution, resolution, 3].

    The steps and their rounding are torchvision's: Resize(resolution * 256 / 224), CenterCrop,
    ToTensor, Normalize. Transparency is dropped and of an animation the first frame is taken.
    Raises UserError if the file is missing, damaged, no image, of more than 8 bits a channel, or
    too large or too narrow to be scaled.
    """
    image = _resize(path, _decode(path), round(resolution * 256 / 224))
    left, top = (round((side - resolution) / 2) for side in image.size)
    image = image.crop((left, top, left + resolution, top + resolution))
    pixels: Floats = np.asarray(image, np.float32) / np.float32(255)  # [y, x, c]
    return np.expand_dims((pixels - MEAN) / STD, 0)


def _decode(path: Path) -> Image.Image:
    """The upright RGB picture in a file."""
    try:
        with path.open("rb") as stream, warnings.catch_warnings():
            # Pillow only warns up to twice its limit; its other warnings concern metadata.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return _upright_rgb(path, Image.open(stream, formats=FORMATS))
    except UserError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(
            f"image {path} is larger than Pillow's limit of {Image.MAX_IMAGE_PIXELS} pixels; "
            "scale it down first"
        ) from error
    except UnidentifiedImageError as error:
        raise UserError(
            f"{path} is not an image that can be read; give a file of {', '.join(FORMATS)}"
        ) from error
    except Exception as error:  # a damaged file raises whatever its next byte leads to
        if isinstance(error, OSError) and error.errno is not None:  # from the file system
            raise UserError(
                f"image {path} cannot be opened ({error.strerror}); check the path and the "
                "permissions of the file"
            ) from error
        raise UserError(
            f"image {path} is truncated or damaged ({error}); copy or download it again"
        ) from error


def _upright_rgb(path: Path, image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):  # Pillow would clip these to white
        raise UserError(
            f"image {path} has more than 8 bits a channel (mode {image.mode}); save it with 8"
        )
    return ImageOps.exif_transpose(image).convert("RGB")


def _resize(path: Path, image: Image.Image, shorter: int) -> Image.Image:
    """Scale the shorter side to `shorter` pixels; the longer one is cut off, not rounded."""
    size = [int(shorter * side / min(image.size)) for side in image.size]
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and size[0] * size[1] > limit:
        raise UserError(
            f"image {path} of {image.width} x {image.height} pixels is too narrow: scaled to "
            f"{size[0]} x {size[1]} it passes Pillow's limit of {limit} pixels; crop it first"
        )
    return image.resize((size[0], size[1]), Image.Resampling.BILINEAR)
