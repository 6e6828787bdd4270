"""The photos of a folder, and their classes where its subfolders are classes."""

from dataclasses import dataclass
from pathlib import Path

from mnv2_tvm.errors import UserError
from mnv2_tvm.image_files import find_images


@dataclass(frozen=True)
class Photos:
    """Files of images in their order; `classes` are the right ones, None where nobody tells."""

    paths: tuple[Path, ...]
    classes: tuple[int, ...] | None = None


def find_photos(folder: Path, classes: int) -> Photos:
    """The images right in a folder, or in its subfolders, for a network with so many classes.

    As many subfolders as classes are these, in the order of their names, as torchvision's
    ImageFolder has them; fewer or more tell no class. Raises UserError where there is no image,
    or none in one of the subfolders.
    """
    try:
        return _find(folder, classes)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"the folder {folder} cannot be read ({reason})") from error


def _find(folder: Path, classes: int) -> Photos:
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; give one with images to calibrate with")
    folders = sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    if not folders or _holds_images(folder):
        return Photos(tuple(map(Path, find_images([str(folder)]).paths)))
    found = [(Path(path), number) for number, one in enumerate(folders) for path in _images(one)]
    paths, numbers = (tuple(column) for column in zip(*found, strict=True))
    return Photos(paths, numbers if len(folders) == classes else None)


def _images(folder: Path) -> tuple[str, ...]:
    return find_images([str(folder)]).paths


def _holds_images(folder: Path) -> bool:
    try:
        return bool(_images(folder))
    except UserError:
        return False
