"""Which images a user means: files, folders, patterns, and `-` for standard input."""

import glob
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from mnv2_tvm.errors import UserError
from mnv2_tvm.images import FORMATS

STDIN = "-"
_LARGEST = 2**28  # bytes of standard input: they are held beside the picture


@dataclass(frozen=True)
class Found:
    """The images in their order, and how many other files the folders among them hold."""

    paths: tuple[str, ...]
    others: int = 0


def find_images(words: Iterable[str]) -> Found:
    """What the words name, whether it can be read or not.

    A folder stands for the images right in it, in natural order. Raises UserError for a folder
    without any, and for a pattern that nothing matches.
    """
    paths: list[str] = []
    others = 0
    for word in words:
        if word != STDIN and Path(word).is_dir():
            files = [path for path in Path(word).iterdir() if path.is_file()]
            images = [str(path) for path in files if path.suffix.lower() in _suffixes()]
            if not images:
                raise UserError(f"the folder {word} holds no image; give one with image files")
            paths += sorted(images, key=_natural)
            others += len(files) - len(images)
        elif glob.has_magic(word) and not Path(word).exists():
            matches = sorted(glob.glob(word, recursive=True), key=_natural)  # noqa: PTH207 - as typed
            if not matches:
                raise UserError(f"no file matches {word}")
            # Of `photos/*` the notes beside the photos are not meant; of `scan*` nothing else is.
            images = [match for match in matches if Path(match).suffix.lower() in _suffixes()]
            paths += images or matches
            others += len(matches) - len(images or matches)
        else:
            paths.append(word)
    return Found(tuple(paths), others)


def read_stdin() -> bytes:
    """The image on standard input. Raises UserError where it is too large or empty."""
    data = sys.stdin.buffer.read(_LARGEST + 1)
    if not 0 < len(data) <= _LARGEST:
        raise UserError("standard input is empty or larger than 256 MiB; send one image to it")
    return data


def _suffixes() -> frozenset[str]:
    return frozenset(
        suffix for suffix, kind in Image.registered_extensions().items() if kind in FORMATS
    )


def _natural(path: str) -> tuple[tuple[int, int, str], ...]:
    """cat2 before cat10."""
    parts = re.split("([0-9]{1,18})", path)
    return tuple((0, int(p), p) if p.isascii() and p.isdigit() else (1, 0, p) for p in parts)
